"""The kernel: jobs, residency, memory and the processes that work; it knows no language models."""
