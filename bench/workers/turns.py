"""A worker's side of a benchmark: prompts in on stdin, times out on stdout, one JSON line each.

Workers run in the environment of what they measure, so this needs the standard library only. What
libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Generate = Callable[[list[list[int]], int], list[list[float]]]
"""(prompts as token ids, tokens to write for each) -> the moment of every token of every row."""


def decoding(times: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the seconds since every row had its first token, and the tokens written in them.

    Whatever mixture of reading and writing came before, from there on rows are only written.
    """
    begun = max(row[0] for row in times)
    ended = max(row[-1] for row in times)
    return ended - begun, sum(moment > begun for row in times for moment in row)


def take_turns(load: Callable[[dict[str, Any]], Generate]) -> None:
    """Load as the first argument (JSON) says, then answer turns until stdin closes."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begun = time.perf_counter()
    generate = load(json.loads(sys.argv[1]))
    print(json.dumps({"load_s": time.perf_counter() - begun}), file=out)
    for line in sys.stdin:
        turn = json.loads(line)
        begun = time.perf_counter()
        times = generate(turn["prompts"], turn["max_tokens"])
        answer = {"seconds": time.perf_counter() - begun, "counts": [len(row) for row in times]}
        answer["decode_s"], answer["num_decode"] = decoding(times)
        print(json.dumps(answer), file=out)
