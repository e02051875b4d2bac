"""Engines: what turns token ids into tokens or scores. Text is the business of ``llmos.tasks``."""
