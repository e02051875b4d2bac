"""How good a model is: metrics, and the task evaluations that feed them."""
