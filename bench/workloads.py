"""What the servers are asked: prompts, the lengths of real requests, and when they arrive."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shapes import FIRST_WORD_ID, Files

DATA = Path(__file__).parents[2] / "shared" / "data"
TRACE = DATA / "traces" / "azure_llm_2023_conv.csv"
"""Arrival time, prompt and output tokens of real conversations (Azure Public Dataset, CC BY)."""
LENGTH_DIVISOR = 8
MAX_PROMPT, MAX_OUTPUT = 1536, 256


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request ``at_s`` seconds after the start."""

    at_s: float
    prompt: list[int]
    max_tokens: int
    model: str = ""


class Prompts:
    """Random token ids that never repeat."""

    def __init__(self, files: Files, seed: int) -> None:
        self._dice = random.Random(seed)
        self._vocab_size = files.vocab_size

    def one(self, length: int) -> list[int]:
        return [self._dice.randrange(FIRST_WORD_ID, self._vocab_size) for _ in range(length)]

    def several(self, count: int, length: int) -> list[list[int]]:
        return [self.one(length) for _ in range(count)]


def conversation_lengths(path: Path) -> list[tuple[int, int]]:
    """Return (prompt, output) tokens of the trace's requests, an eighth as long."""
    if not path.exists():
        sys.exit(f"{path} is missing: it is Azure's public trace; --trace says where it lies")
    with path.open(newline="") as file:
        return [
            (
                min(max(int(row["ContextTokens"]) // LENGTH_DIVISOR, 1), MAX_PROMPT),
                min(max(int(row["GeneratedTokens"]) // LENGTH_DIVISOR, 2), MAX_OUTPUT),
            )
            for row in csv.DictReader(file)
        ]


def poisson(
    count: int, per_s: float, lengths: Sequence[tuple[int, int]], prompts: Prompts, seed: int
) -> list[Arrival]:
    """Return ``count`` requests that arrive independently of each other."""
    dice, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        now += dice.expovariate(per_s)
        num_prompt, num_output = dice.choice(lengths)
        arrivals.append(Arrival(now, prompts.one(num_prompt), num_output))
    return arrivals


def bursts(
    models: Sequence[str],
    duration_s: float,
    every_s: float,
    size: float,
    lengths: Sequence[tuple[int, int]],
    prompts: Prompts,
    seed: int,
) -> list[Arrival]:
    """Return requests that come in bursts: each model is asked ``size`` times within some seconds
    (half a second apart, in the mean), then not for about ``every_s``."""
    dice, arrivals = random.Random(seed), []
    for model in models:
        now = dice.expovariate(2 / every_s)
        while now < duration_s:
            for _ in range(1 + round(dice.expovariate(1 / (size - 1)))):
                num_prompt, num_output = dice.choice(lengths)
                arrivals.append(Arrival(now, prompts.one(num_prompt), num_output, model))
                now += dice.expovariate(2.0)
            now += dice.expovariate(1 / every_s)
    return sorted((one for one in arrivals if one.at_s < duration_s), key=lambda one: one.at_s)
