"""OpenVINO GenAI's continuous batching, called in process: see turns.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino
import openvino_genai
from turns import Generate, take_turns


def load(options: dict[str, Any]) -> Generate:
    pipeline = make_pipeline(options["model"], options["threads"], is_caching=False)

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        handles = [
            pipeline.add_request(i, as_tensor(prompt), greedy(max_tokens))
            for i, prompt in enumerate(prompts)
        ]
        times: list[list[float]] = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter()
            for handle, row in zip(handles, times, strict=True):
                while handle.can_read():
                    for generated in handle.read().values():
                        row += [now] * len(generated.generated_ids)
        return times

    return generate


def make_pipeline(model: str, threads: int, *, is_caching: bool) -> Any:
    """Return a pipeline with 2 GB of cache, and the defaults for all else."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = is_caching
    properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)


def as_tensor(prompt: list[int]) -> Any:
    return openvino.Tensor(np.array([prompt], dtype=np.int64))


def greedy(max_tokens: int) -> Any:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


if __name__ == "__main__":
    take_turns(load)
