"""Networks that transformers lacks, as models of transformers: its Auto classes load them."""
