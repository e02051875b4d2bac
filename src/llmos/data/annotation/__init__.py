"""Labels that people give rows: what is asked, how far they agree, what is decided, rows of it."""
