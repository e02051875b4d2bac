"""Models made smaller: quantised to int8 and int4."""
