"""Keeps rows of tokens within a grammar: JSON, a schema, a regular expression, choices, Lark.

`Grammars` belongs to one loaded model and compiles in a thread of its own. Other rows' steps wait
neither for Python (see `vocabulary`) nor for its lock (see `matching`). For a row with a grammar
the engine

1. calls ``Grammars.start`` when the work is submitted, and plans the row once the future is done;
   its error (a GrammarError, an UnsupportedTaskError) is the work's;
2. hands the `GrammarState` to the sampler with each ``SampledRow``;
3. calls ``accept`` with the token that was picked, the end token too;
4. ends the row with "stop" if ``is_finished``, after ``accept`` and where the sampler gives None;
5. fails it with ``error`` where that is set, at the same two places.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmos.engines.grammars import Matcher, compile_grammar, reason
from llmos.engines.native import vocabulary
from llmos.engines.native.matching import matchers
from llmos.errors import GrammarError
from llmos.types import Grammar

_MAX_COMPILED = 32
"""Grammars kept per model: a batch of many rows under one schema compiles it once."""


class GrammarState:
    """Where one row is in its grammar. Used by one thread at a time.

    Attributes:
        error: set once the grammar failed midway (a limit was met), None before.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._forbidden: NDArray[np.bool_] | None = None
        self._is_at_end = False
        self.error: GrammarError | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return self.error is None and (self._is_at_end or self._matcher.is_stopped())

    def mask(self, scores: Tensor) -> None:
        """Set the tokens that cannot come next to -inf in ``scores`` ``[vocab]``, in place.

        All of them where the grammar fails (``error`` says why) or where only an end can follow
        that the model has no token for (``is_finished``).
        """
        forbidden = self._forbidden_tokens(scores.shape[-1])
        if scores.is_cpu:
            np.copyto(scores.numpy(), np.float32(-np.inf), where=forbidden)
        else:
            scores.masked_fill_(torch.from_numpy(forbidden).to(scores.device), -torch.inf)

    def accept(self, token_id: int) -> None:
        """Move past the token that was picked."""
        self._forbidden = None
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token_id):
            self._fail()

    def _forbidden_tokens(self, vocab_size: int) -> NDArray[np.bool_]:
        if self._forbidden is None or self._forbidden.size != vocab_size:
            self._forbidden = self._compute(vocab_size)
        return self._forbidden

    def _compute(self, vocab_size: int) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            self._fail()
            return np.ones(vocab_size, dtype=np.bool_)
        allowed = np.unpackbits(bits, count=vocab_size, bitorder="little")
        if not allowed.any():
            self._is_at_end = self._matcher.is_accepting()
            if not self._is_at_end:
                self.error = GrammarError("The grammar leaves no token that the model could write.")
        forbidden: NDArray[np.bool_] = allowed == 0
        return forbidden

    def _fail(self) -> None:
        self.error = self.error or GrammarError(
            f"The output could not be kept within the grammar: {reason(self._matcher)}"
        )


class Grammars:
    """Compiles the grammars of one model's rows, one after another.

    Args:
        tokenizer_file: the model's tokenizer.json; read when the first grammar comes.
        vocab_size: number of logits, which may be more than the tokenizer has tokens.
    """

    def __init__(self, tokenizer_file: Path, vocab_size: int) -> None:
        self._tokenizer_file = tokenizer_file
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")
        self._matchers: dict[tuple[int, ...], Callable[[str], Matcher]] = {}
        self._compiled: OrderedDict[tuple[Grammar, tuple[int, ...]], Matcher] = OrderedDict()

    def start(
        self, grammar: Grammar, eos_ids: Sequence[int], generated_ids: Sequence[int] = ()
    ) -> Future[GrammarState]:
        """Begin to compile; the result is at the token after ``generated_ids``.

        The future raises GrammarError where the grammar is not usable or ``generated_ids`` break
        it, UnsupportedTaskError where the model's tokenizer is of no use for this.
        """
        return self._thread.submit(self._make, grammar, tuple(eos_ids), list(generated_ids))

    def close(self) -> None:
        """Drop what waits; what is being compiled is finished unseen."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(
        self, grammar: Grammar, eos_ids: tuple[int, ...], generated_ids: list[int]
    ) -> GrammarState:
        matcher = self._matcher(grammar, eos_ids).deep_copy()
        if generated_ids and not matcher.consume_tokens(generated_ids):
            raise GrammarError(f"What was written already breaks the grammar: {reason(matcher)}")
        return GrammarState(matcher)

    def _matcher(self, grammar: Grammar, eos_ids: tuple[int, ...]) -> Matcher:
        key = (grammar, eos_ids)
        if key not in self._compiled:
            if eos_ids not in self._matchers:
                read = vocabulary.read(self._tokenizer_file, self._vocab_size, eos_ids)
                self._matchers = {eos_ids: matchers(read)}
            self._compiled[key] = compile_grammar(self._matchers[eos_ids], grammar)
            while len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]
