"""Starter text: sentences written for this project, from which the starter models learn.

A bilingual lexicon and templates combine into records for translation, sentiment, entities and
chat. Pure data and standard library: nothing here trains or tokenises.
"""
