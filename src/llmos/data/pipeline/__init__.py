"""Pipelines of operators over records, and what runs them as a job, shard by shard."""
