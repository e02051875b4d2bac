"""How long a step takes on a simulated device, fitted to steps that were measured.

The form is the engine's own (`engines.native.predictor`): any step, each prefill token, each decode
token, each key attended to. So are the fit and its prior; only the facts are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.engines.native.predictor import (
    Predictor,
    StepCost,
    StepLoad,
    chunk_keys,
    prior_cost,
)
from llmos.simulate.clock import picoseconds, seconds

FIT_ROUNDS = 40
NUM_PARAMETERS = 494_032_768
KV_NUMBERS_PER_TOKEN = 24 * 2 * 2 * 64
"""Of the measured shape, qwen2.5-0.5b: layers, key and value, KV heads, numbers a head."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A step that was measured, or the mean of several alike. ``source`` says where."""

    load: StepLoad
    seconds: float
    source: str


def _decode(num_rows: int, context_tokens: float, step_s: float, source: str) -> Fact:
    return Fact(StepLoad(0, num_rows, num_rows * context_tokens), step_s, source)


def _prefill(num_rows: int, num_tokens: int, num_steps: int, total_s: float, source: str) -> Fact:
    keys = num_rows * chunk_keys(0, num_tokens)
    load = StepLoad(num_rows * num_tokens // num_steps, 0, keys / num_steps)
    return Fact(load, total_s / num_steps, source)


_THROUGHPUT = "bench/results/serve_throughput.json, llmos int8"
_PREFIX = "bench/results/serve_prefix.json, llmos int8, cold_s"

FACTS: tuple[Fact, ...] = (
    _decode(1, 192, 0.01341, _THROUGHPUT),
    _decode(4, 192, 0.01692, _THROUGHPUT),
    _decode(16, 192, 0.02504, _THROUGHPUT),
    _decode(32, 192, 0.03945, _THROUGHPUT),
    _prefill(1, 128, 1, 128 / 1042.4, _THROUGHPUT),
    _prefill(4, 128, 1, 512 / 1800.0, _THROUGHPUT),
    _prefill(16, 128, 1, 2048 / 1828.4, _THROUGHPUT),
    _prefill(32, 128, 2, 4096 / 1801.3, _THROUGHPUT),
    _prefill(1, 1056, 3, 0.7897, _PREFIX),
)
"""Medians of five repeats: the 0.5B shape at int8 on two cores (AMD EPYC, AVX512-VNNI). Decoding
was from 128 to 256 tokens of context, 192 on average; the prefix of 1,024 tokens and its question
were computed in three steps."""


def fit(facts: Sequence[Fact]) -> StepCost:
    """Return the coefficients that tell the facts best: least squares of the relative errors."""
    predictor = Predictor(prior_cost(NUM_PARAMETERS, KV_NUMBERS_PER_TOKEN, "cpu"))
    for _ in range(FIT_ROUNDS):  # the predictor forgets: each fact is to count as much as the last
        for fact in facts:
            predictor.observe(fact.load, fact.seconds)
    return predictor.cost


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What steps take, in whole picoseconds, so that sums are exact."""

    step_ps: int
    prefill_ps: int
    """Each token of a prompt."""
    decode_ps: int
    """Each token that is decoded."""
    half_key_ps: int
    """Half of each key: a chunk of n tokens attends to n²/2 of its own."""

    @classmethod
    def of(cls, cost: StepCost) -> StepTimes:
        """Return the nearest to fitted coefficients."""
        return cls(
            picoseconds(cost.step_s),
            picoseconds(cost.prefill_token_s),
            picoseconds(cost.decode_token_s),
            picoseconds(cost.key_s / 2),
        )

    @property
    def cost(self) -> StepCost:
        """The same as the batcher's predictor has it: here it is never wrong."""
        return StepCost(
            seconds(self.step_ps),
            seconds(self.prefill_ps),
            seconds(self.decode_ps),
            seconds(2 * self.half_key_ps),
        )

    def prefill(self, num_cached: int, num_tokens: int) -> int:
        """Return what a chunk of ``num_tokens`` after ``num_cached`` others adds to a step."""
        half_keys = num_tokens * (2 * num_cached + num_tokens)
        return self.prefill_ps * num_tokens + self.half_key_ps * half_keys

    def decode(self, num_tokens: int, times: int = 1) -> int:
        """Return what the next token of a row of ``num_tokens`` adds to a step, or as many as
        ``times`` to as many steps in a row."""
        half_keys = times * (2 * num_tokens - 1) + times * (times - 1)
        return self.decode_ps * times + self.half_key_ps * half_keys

    def decode_all(self, num_rows: int, num_tokens: int, times: int) -> int:
        """Return what `decode` adds for so many rows, which have ``num_tokens`` together."""
        half_keys = times * (2 * num_tokens - num_rows) + num_rows * times * (times - 1)
        return self.decode_ps * times * num_rows + self.half_key_ps * half_keys

    @property
    def decode_growth_ps(self) -> int:
        """How much longer a decoded token takes than the one before it."""
        return 2 * self.half_key_ps


MEASURED = StepTimes.of(fit(FACTS))
