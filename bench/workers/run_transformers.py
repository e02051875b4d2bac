"""transformers' generate_batch (its continuous batching), called in process: see turns.py."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from turns import Generate, take_turns

PAGE_TOKENS = 32
NUM_PAGES = 1024


def load(options: dict[str, Any]) -> Generate:
    torch.set_num_threads(options["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        options["model"],
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
        local_files_only=True,
    ).eval()
    batching = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=NUM_PAGES,
        max_batch_tokens=512,
        max_requests_per_batch=64,
        allow_block_sharing=False,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        config = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        results = model.generate_batch(
            inputs=prompts,
            generation_config=config,
            continuous_batching_config=batching,
            record_timestamps=True,
            persistent_manager=True,
        )
        return [result.timestamps for result in results.values()]

    return generate


if __name__ == "__main__":
    take_turns(load)
