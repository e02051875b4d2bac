"""Our own continuous batching over any transformers decoder: batcher, cache, runner, sampler."""
