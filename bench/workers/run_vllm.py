"""vLLM's CPU build, called in process: see turns.py."""

from __future__ import annotations

import time
from typing import Any

from turns import Generate, take_turns


def load(options: dict[str, Any]) -> Generate:
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm = LLM(
        options["model"],
        dtype="bfloat16",
        max_model_len=options["context_tokens"],
        max_num_seqs=64,
        enable_prefix_caching=False,
        seed=0,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        engine = llm.llm_engine
        for i, prompt in enumerate(prompts):
            engine.add_request(str(i), {"prompt_token_ids": prompt}, params)
        times: list[list[float]] = [[] for _ in prompts]
        while engine.has_unfinished_requests():
            for result in engine.step():
                new = len(result.outputs[0].token_ids)
                times[int(result.request_id.split("-")[0])] += [time.perf_counter()] * new
        return times

    return generate


if __name__ == "__main__":
    take_turns(load)
