"""An engine of the server in the trainer's own process, and how far what it says may be off."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import msgspec
import torch

from llmos.engines.base import Engine
from llmos.errors import LlmosError
from llmos.library.manifest import Manifest
from llmos.training.publish import PublishingError
from llmos.types import TokensOut, Work, WorkOut

TOLERANCE = 1e-3
"""Of a log-probability, or of the largest logit where that is above 1: what another order of the
same sums explains in float32."""
CACHE_TOKENS = 4096
ADAPTER = "trained"
"""The key of the adapter that is compared."""


@dataclass(slots=True)
class Compared:
    """What was compared so far.

    Attributes:
        num_rows: works the engine did.
        num_tokens: positions whose numbers were compared.
        num_greedy: tokens written without chance that were the same.
        difference: the largest of log-probabilities, over the largest logit where above 1.
    """

    num_rows: int = 0
    num_tokens: int = 0
    num_greedy: int = 0
    difference: float = 0.0

    def note(self, difference: float, num_tokens: int, where: str) -> None:
        """Take a difference into account.

        Raises:
            PublishingError: it is more than the same sums in another order explain.
        """
        self.num_tokens += num_tokens
        self.difference = max(self.difference, difference)
        if not difference <= TOLERANCE:  # NaN is no agreement
            raise PublishingError(
                f"the engine's {where} differ from the trained model's by {difference:.2g}, "
                f"where {TOLERANCE:g} would do: it is not published"
            )

    def report(self) -> dict[str, Any]:
        """Return it by the keys of a card."""
        return {
            "rows": self.num_rows,
            "tokens": self.num_tokens,
            "greedy_tokens": self.num_greedy,
            "largest_difference": self.difference,
            "tolerance": TOLERANCE,
        }


@dataclass(slots=True)
class Loaded:
    """An engine that holds the version's files."""

    engine: Engine
    context_tokens: int
    adapter: str = ""

    @classmethod
    @contextmanager
    def of(
        cls, path: str, directory: Path, manifest: Manifest, device: torch.device
    ) -> Iterator[Self]:
        """Load the engine of a dotted path; it is unloaded at the end.

        Raises:
            PublishingError: it cannot load the files.
        """
        module, _, name = path.partition(":")
        engine = cast(Engine, getattr(importlib.import_module(module), name)())
        try:
            engine.load(directory, _as_float32(manifest), str(device), torch.get_num_threads())
        except LlmosError as error:
            raise PublishingError(f"the engine cannot load it: {error}") from error
        try:
            yield cls(engine, manifest.context_tokens)
        finally:
            engine.unload()

    def adapt(self, directory: Path) -> None:
        """Have all works use the adapter in a directory. Raises PublishingError."""
        try:
            self.engine.load_adapter(ADAPTER, directory)
        except LlmosError as error:
            raise PublishingError(f"the engine cannot load the adapter: {error}") from error
        self.adapter = ADAPTER

    def run(self, works: Sequence[Work]) -> list[list[WorkOut]]:
        """Return all that the engine reports of each work, all of them in one batch.

        Raises:
            PublishingError: it refuses one, or fails.
        """
        told: dict[str, list[WorkOut]] = {}
        try:
            for number, work in enumerate(works):
                told[str(number)] = []
                self.engine.submit(str(number), work)
            while self.engine.has_work:
                for key, out in self.engine.step():
                    if isinstance(out, LlmosError):
                        raise out
                    told[key].append(out)
        except LlmosError as error:
            raise PublishingError(f"the engine cannot run it: {error}") from error
        return [*told.values()]


def pieces_of(outs: Sequence[WorkOut]) -> tuple[list[Any], list[Any]]:
    """Return the pieces of a prompt, and of what was written behind it, of one work's reports."""
    tokens = [out for out in outs if isinstance(out, TokensOut)]
    prompt = [piece for out in tokens for piece in out.prompt]
    return prompt, [piece for out in tokens for piece in out.pieces]


def _as_float32(manifest: Manifest) -> Mapping[str, Any]:
    """Return the manifest of a model that computes in float32 wherever it is, in a small cache."""
    values = msgspec.to_builtins(manifest)
    per_token = 2 * manifest.kv_bytes_per_token  # stored in two bytes a number, it may double
    cache = {"kv_cache_bytes": CACHE_TOKENS * per_token} if per_token else {}
    return {**values, "dtype": "float32", "compute_dtype": "float32", **cache}
