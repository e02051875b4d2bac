"""How long a model takes: from what was measured while it served, and before that from its size.

A step on a CPU or GPU that writes one token reads every weight once, so it is bound by memory; a
prompt is bound by arithmetic, about two operations per weight and token (Kaplan et al. 2020, 2.1).
These two give a first guess. Measured times replace it: tokens of a stream by their intervals; a
first token, or a whole answer of a model that does not stream, by what it took beyond (a fixed
part, added to every request) or below the guess (a higher speed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from llmos.kernel.telemetry import Histogram, ModelTally, Telemetry
from llmos.tasks.candidates import Candidate

T = TypeVar("T")

SMOOTHING = 0.2
LEAST_BYTES = 1_000_000
"""Weights of a model that does not say how large it is."""
LOAD_OVERHEAD_S = 0.2
MIN_FIRST_TOKENS = 5
"""Fewer say little: one that waited for a load would keep others from coming."""
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Machine:
    """What a device does in a second, cautiously: bytes read, operations, bytes loaded."""

    memory_bytes: float
    operations: float
    loaded_bytes: float


CPU = Machine(memory_bytes=10e9, operations=50e9, loaded_bytes=0.5e9)
GPU = Machine(memory_bytes=1e12, operations=50e12, loaded_bytes=1e9)
MAX_TOKENS_PER_S = 5000.0
"""Of writing, however small the model: each step costs something."""


class Pace(NamedTuple):
    """Seconds that every request takes, then tokens a second; seconds to load it."""

    base_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    load_s: float

    def service_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """Return what a request takes of a loaded model that has nothing else to do."""
        reading_s = prompt_tokens / self.prefill_tokens_per_s
        return self.base_s + reading_s + output_tokens / self.decode_tokens_per_s


@dataclass(slots=True)
class _Took:
    """Smoothed seconds of whole answers, and what was guessed for them."""

    actual_s: float
    guessed_s: float


class Paces:
    """The paces of one machine's models. Belongs to the event loop."""

    def __init__(self, telemetry: Telemetry, machine: Machine) -> None:
        self._telemetry = telemetry
        self._machine = machine
        self._took: dict[str, _Took] = {}
        self._load_s: dict[str, float] = {}

    def of(self, candidate: Candidate) -> Pace:
        """Return the pace of a model, by what is known of it now."""
        pace = self._guess(candidate)
        pace = pace._replace(load_s=self._load_s.get(candidate.spec.key, pace.load_s))
        if took := self._took.get(candidate.spec.key):
            base_s, faster = _fit(took.guessed_s, took.actual_s)
            prefill, decode = pace.prefill_tokens_per_s, pace.decode_tokens_per_s
            return Pace(base_s, prefill * faster, decode * faster, pace.load_s)
        tally = self._telemetry.find(candidate.spec.name)
        return pace if tally is None else _measured(pace, tally)

    def answer_tokens(self, candidates: Iterable[Candidate]) -> float | None:
        """Return how long these models' answers have been on average; None: nobody knows."""
        found = [self._telemetry.find(one.spec.name) for one in candidates]
        tallies = [tally for model in found if model is not None for tally in model.classes]
        num_answers = sum(tally.outcomes["ok"] for tally in tallies)
        num_tokens = sum(tally.generated_tokens for tally in tallies)
        return num_tokens / num_answers if num_answers and num_tokens else None

    def loaded(self, key: str, load_s: float) -> None:
        """Note how long a load took."""
        _remember(self._load_s, key, load_s)

    def took(
        self, candidate: Candidate, prompt_tokens: int, output_tokens: int, seconds: float
    ) -> None:
        """Note a whole answer of a loaded model that does not stream."""
        guessed_s = self._guess(candidate).service_s(prompt_tokens, output_tokens)
        old = self._took.get(candidate.spec.key)
        if old is None:
            _remember(self._took, candidate.spec.key, _Took(seconds, guessed_s))
            return
        old.actual_s += SMOOTHING * (seconds - old.actual_s)
        old.guessed_s += SMOOTHING * (guessed_s - old.guessed_s)

    def _guess(self, candidate: Candidate) -> Pace:
        machine = self._machine
        weights_bytes = max(candidate.weights_bytes, LEAST_BYTES)
        parameters = max(candidate.parameters, LEAST_BYTES // 2)
        decode = min(machine.memory_bytes / weights_bytes, MAX_TOKENS_PER_S)
        prefill = max(machine.operations / (2 * parameters), decode)
        load_s = LOAD_OVERHEAD_S + weights_bytes / machine.loaded_bytes
        return Pace(0.0, prefill, decode, load_s)


def _remember(kept: dict[str, T], key: str, value: T) -> None:
    kept[key] = value
    if len(kept) > MAX_REMEMBERED:
        del kept[next(iter(kept))]


def _fit(guessed_s: float, actual_s: float) -> tuple[float, float]:
    """Return the fixed part of what was measured, and how many times faster than guessed it is."""
    if actual_s >= guessed_s:
        return actual_s - guessed_s, 1.0
    return 0.0, guessed_s / max(actual_s, 1e-6)


def _measured(pace: Pace, tally: ModelTally) -> Pace:
    """Return a pace put right by what a model's streams took, of all classes together."""
    num_first = sum(sum(one.ttft_s.counts) for one in tally.classes)
    if num_first >= MIN_FIRST_TOKENS:
        guessed_s = sum(one.prompt_tokens for one in tally.classes) / num_first
        guessed_s /= pace.prefill_tokens_per_s
        base_s, faster = _fit(guessed_s, _median([one.ttft_s for one in tally.classes]))
        pace = pace._replace(base_s=base_s, prefill_tokens_per_s=pace.prefill_tokens_per_s * faster)
    num_next = sum(sum(one.itl_s.counts) for one in tally.classes)
    total_s = sum(one.itl_s.total for one in tally.classes)
    if num_next and total_s:
        decode = min(num_next / total_s, MAX_TOKENS_PER_S)
        pace = pace._replace(decode_tokens_per_s=decode)
    return pace


def _median(histograms: list[Histogram]) -> float:
    """Return the median of several histograms' values: the upper bound of its bin. Unlike the mean
    it is not moved by the few first tokens that waited for a load."""
    counts = [sum(column) for column in zip(*(one.counts for one in histograms), strict=True)]
    half, seen = sum(counts) / 2, 0
    for bound, count in zip((*histograms[0].bounds, math.inf), counts, strict=True):
        seen += count
        if seen >= half:
            return bound if math.isfinite(bound) else histograms[0].bounds[-1]
    return 0.0
