"""Training: recipes, objectives, our own loop, checkpoints, publishing."""
