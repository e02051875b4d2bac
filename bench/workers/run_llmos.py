"""llmos' native engine without a server around it: see turns.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from turns import Generate, take_turns

from llmos.engines.native.engine import NativeEngine
from llmos.types import GenerateWork, SamplingParams, TokensOut


def load(options: dict[str, Any]) -> Generate:
    """Load a directory as the server does."""
    engine = NativeEngine(speculates=False)
    engine.load(Path(options["model"]), options["manifest"], "cpu", options["threads"])

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        for i, prompt in enumerate(prompts):
            engine.submit(str(i), GenerateWork(tuple(prompt), params))
        times: list[list[float]] = [[] for _ in prompts]
        while engine.has_work:
            for work_id, out in engine.step():
                if not isinstance(out, TokensOut):
                    raise SystemExit(f"the engine answered {out!r}")
                times[int(work_id)] += [time.perf_counter()] * len(out.pieces)
        return times

    return generate


if __name__ == "__main__":
    take_turns(load)
