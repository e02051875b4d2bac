"""Datasets: files read into versions of rows, their statistics, cards and jobs. Torch-free."""
