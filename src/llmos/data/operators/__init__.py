"""The operators of llmos: what they change in records, and which they drop. English and Chinese."""
