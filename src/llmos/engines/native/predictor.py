"""Predicts how long a step takes, from the steps measured so far. Pure: the caller holds the clock.

The model is linear in what a step does (``StepLoad``), its coefficients (``StepCost``) are refitted
after every step. The batcher sizes prefill chunks by it, speculation its drafts.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

MEMORY = 0.95
"""Weight of a measured step when the next one of its kind is: about 20 steps count."""
PRIOR_WEIGHT = 0.003
"""Pull of each coefficient towards the prior's proportions, against what the steps say of it."""
SWEEPS = 8
CPU_FLOP_S = 2e-12
GPU_FLOP_S = 2e-14
"""Seconds per floating-point operation, about; only proportions and the first step depend on it."""


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step computes. A drafted token counts as a decoded one."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    keys: float = 0.0
    """Cached tokens that are attended to, counted for each token that attends to them."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step: any at all, each prefill token, each decode token, each key."""

    step_s: float = 0.0
    prefill_token_s: float = 0.0
    decode_token_s: float = 0.0
    key_s: float = 0.0

    def seconds(self, load: StepLoad) -> float:
        """Return the predicted duration of a step with this load."""
        return self.step_s + self.marginal_s(load)

    def marginal_s(self, load: StepLoad) -> float:
        """Return what this load adds to a step that is made anyway."""
        return (
            self.prefill_token_s * load.prefill_tokens
            + self.decode_token_s * load.decode_tokens
            + self.key_s * load.keys
        )

    def decode_s(self, num_tokens: int) -> float:
        """Return what one token adds that attends to ``num_tokens``."""
        return self.decode_token_s + self.key_s * num_tokens

    def prefill_s(self, num_cached: int, num_tokens: int) -> float:
        """Return what a chunk of ``num_tokens`` adds after ``num_cached`` others."""
        return self.marginal_s(StepLoad(num_tokens, 0, chunk_keys(num_cached, num_tokens)))

    def prefill_tokens_within(self, num_cached: int, seconds: float) -> float:
        """Return how long a chunk may be, after ``num_cached`` tokens, to add at most ``seconds``.

        Solves ``prefill_s(num_cached, n) = seconds`` for n.
        """
        if not 0 < seconds < math.inf:
            return max(0.0, seconds)
        linear = self.prefill_token_s + self.key_s * num_cached
        root = math.sqrt(linear * linear + 2 * self.key_s * seconds)
        return 2 * seconds / (linear + root) if root else math.inf


FREE = StepCost()


def chunk_keys(num_cached: int, num_tokens: int) -> float:
    """Return the keys that ``num_tokens`` after ``num_cached`` others attend to, all together."""
    return num_tokens * (num_cached + num_tokens / 2)


def prior_cost(num_parameters: int, kv_numbers_per_token: int, device: str) -> StepCost:
    """Return a guess for a network before any step of it was measured.

    Two operations per parameter and token. Reading is slower than computing: a step reads all
    weights, which takes as long as some ten tokens, and the numbers kept for each attended token.
    """
    flop_s = CPU_FLOP_S if device.partition(":")[0] == "cpu" else GPU_FLOP_S
    token_s = 2 * max(num_parameters, 1) * flop_s
    return StepCost(
        step_s=10 * token_s,
        prefill_token_s=token_s,
        decode_token_s=1.5 * token_s,
        key_s=100 * max(kv_numbers_per_token, 1) * flop_s,
    )


class Predictor:
    """Fits ``cost`` by least squares on relative errors, older steps weighing less.

    Steps with and without prefill are forgotten apart, so that a long run of one kind does not
    wash out what the other taught. Where the steps leave a coefficient open (a batch that never
    changes its size), the prior's proportions decide. No coefficient is negative.
    """

    def __init__(self, prior: StepCost) -> None:
        self._prior = tuple(max(value, 1e-12) for value in astuple(prior))
        self._factors: list[float] = []  # of the prior
        self._kinds = {False: _Normal(len(self._prior)), True: _Normal(len(self._prior))}
        self.cost = prior

    def observe(self, load: StepLoad, seconds: float) -> None:
        """Learn that a step with this load took so long."""
        if not 0 < seconds < math.inf:
            return
        amounts = (1.0, float(load.prefill_tokens), float(load.decode_tokens), load.keys)
        terms = [a * p / seconds for a, p in zip(amounts, self._prior, strict=True)]
        self._kinds[load.prefill_tokens > 0].add(terms)
        self._solve()
        self.cost = StepCost(*(f * p for f, p in zip(self._factors, self._prior, strict=True)))

    def _solve(self) -> None:
        """Minimise the summed squares under ``factors >= 0``, one coordinate after the other."""
        size = range(len(self._prior))
        left, right = self._kinds.values()
        matrix = [[left.matrix[i][j] + right.matrix[i][j] for j in size] for i in size]
        vector = [left.vector[i] + right.vector[i] for i in size]
        scale = sum(vector) / sum(map(sum, matrix))  # the best single factor
        factors = self._factors = self._factors or [scale for _ in size]
        for _ in range(SWEEPS):
            for i in size:
                pull = PRIOR_WEIGHT * matrix[i][i] + 1e-12
                others = sum(matrix[i][j] * factors[j] for j in size if j != i)
                best = (vector[i] - others + pull * scale) / (matrix[i][i] + pull)
                factors[i] = max(0.0, best)


class _Normal:
    """Normal equations of the steps of one kind, each new one making the others count less."""

    def __init__(self, size: int) -> None:
        self.matrix = [[0.0] * size for _ in range(size)]
        self.vector = [0.0] * size

    def add(self, terms: list[float]) -> None:
        for i, term in enumerate(terms):
            self.vector[i] = MEMORY * self.vector[i] + term
            row = self.matrix[i]
            for j, other in enumerate(terms):
                row[j] = MEMORY * row[j] + term * other
