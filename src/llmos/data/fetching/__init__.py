"""Datasets whose files lie elsewhere: on the web, on a Hugging Face hub, in S3. Torch-free."""
