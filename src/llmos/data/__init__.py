"""Text and records in, token arrays out: sources, records, tokenizers, encoding. Torch-free."""
