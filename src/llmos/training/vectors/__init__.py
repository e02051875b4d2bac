"""Vectors of words, learned from which words stand near each other."""
