"""Models that answer in one go: seq2seq, classifiers, cross-encoders, embeddings, micro-batched.

Padding is at the end and masked by length, so a row's result does not depend on its batch-mates
but for the order of summation. A step is one micro-batch (see ``microbatches``), or, for seq2seq,
one token of a batch's beam search.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llmos.engines import base, embedding
from llmos.engines.loading import (
    Model,
    load_pretrained,
    release_memory,
    resident_bytes,
    set_threads,
)
from llmos.engines.microbatches import Pace, Queued, take_batch
from llmos.engines.slices import Sliced
from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidModelError,
    InvalidRequestError,
    LlmosError,
    OutOfMemoryError,
    UnsupportedTaskError,
)
from llmos.types import PipelineOut, PipelineWork, Work, WorkOut

SEQ2SEQ_ROWS, SEQ2SEQ_TOKENS = 16, 2048
"""Limits of a batch that is decoded token by token."""
MAX_BATCH_ROWS, MAX_BATCH_TOKENS = 64, 8192
"""Limits of a batch that takes one forward pass, which `Pace` mostly keeps smaller."""
DEFAULT_MAX_TOKENS = 256

AUTO_CLASSES = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "classify": AutoModelForSequenceClassification,
    "token_classify": AutoModelForTokenClassification,
    "embed": AutoModel,
}
OPTION_RANGES = {
    "num_beams": (int, 1, 16),
    "no_repeat_ngram_size": (int, 0, 100),
    "length_penalty": (float, -10, 10),
    "max_tokens": (int, 1, 2**31),
    "forced_bos_token_id": (int, 0, 2**31),
}
"""What a seq2seq work may set: type, least, most."""

KEPT_SETTINGS = (
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "early_stopping",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "repetition_penalty",
)
"""What counts of a model's own generation_config.json."""


class _Pausing(StoppingCriteria):  # type: ignore[misc]
    """Lets others compute after each token; stops every row when told to."""

    def __init__(self, pause: Callable[[], bool]) -> None:
        self._pause = pause

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        is_over = self._pause()
        return torch.full((input_ids.shape[0],), is_over, device=input_ids.device)


class PipelinesEngine(base.Engine):
    """Any transformers network that is not a language model (see ``engines.base.Engine``).

    Args:
        max_rows: of a batch, fewer where the kind of work has a lower limit.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, max_rows: int = MAX_BATCH_ROWS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_rows = max_rows
        self._clock = clock
        self._pace = Pace(MAX_BATCH_TOKENS)
        self._virtual_ms: Mapping[str, float] = {}
        self._shares: dict[str, float] = {}
        self._queue: dict[str, Queued] = {}
        self._batch: list[Queued] = []
        self._search: Sliced[list[PipelineOut | EngineError]] | None = None
        self._num_arrived = 0
        self._model: Model = None
        self._kind = ""
        self._context_tokens = 0
        self._vocab_size = 0
        self._pad_id = 0
        self._num_types = 0

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> base.Estimate:
        """Return the weights' bytes at the dtype the device computes in."""
        return base.estimate({**manifest, "engine": "pipelines"}, device)

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Load the model that the directory's config names, for the manifest's task."""
        set_threads(threads)
        self._kind = "embed" if manifest.get("task") == "embed" else _kind(path)
        try:
            self._model = load_pretrained(AUTO_CLASSES[self._kind], path, manifest, device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error
        self._context_tokens = base.context_tokens(manifest)
        self._vocab_size = self._model.get_input_embeddings().weight.shape[0]
        self._num_types = _num_types(self._model)
        pad_id = self._model.config.pad_token_id
        if pad_id is None and self._kind != "embed":  # nothing to pad with: one row at a time
            self._max_rows = 1
        self._pad_id = pad_id or 0
        if self._kind == "embed":
            self._model.config.use_cache = False
        if self._kind == "seq2seq":
            self._max_rows = min(self._max_rows, SEQ2SEQ_ROWS)
            self._model.generation_config = _generation_defaults(self._model.generation_config)
        return resident_bytes(self._model)

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a row; it is computed in a next step."""
        if not isinstance(work, PipelineWork) or work.kind != self._kind:
            kind = work.kind if isinstance(work, PipelineWork) else "generate"
            raise UnsupportedTaskError(f"This model does {self._kind}, not {kind}.")
        self._check(work)
        left_s = math.inf if work.deadline_s is None else work.deadline_s
        self._queue[work_id] = Queued(work_id, work, self._num_arrived, self._clock() + left_s)
        self._num_arrived += 1

    def cancel(self, work_id: str) -> None:
        """Drop a row that is not computed yet."""
        self._queue.pop(work_id, None)

    @property
    def has_work(self) -> bool:
        return bool(self._queue or self._search)

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Compute one micro-batch, or one token of it; works past their deadline fail before."""
        begun = self._clock()
        late = [queued.id for queued in self._queue.values() if queued.deadline_at <= begun]
        failed = [(work_id, DeadlineExceededError()) for work_id in late]
        for work_id in late:
            del self._queue[work_id]
        try:
            results = self._search_on() if self._kind == "seq2seq" else self._run_batch(begun)
        except torch.AcceleratorError as error:
            raise base.DeviceLostError(f"The device failed: {error}") from error
        # Of a batch that took several steps some works may be gone.
        ended = [
            (queued.id, result)
            for queued, result in zip(self._batch, results, strict=bool(results))
            if self._queue.pop(queued.id, None)
        ]
        return [*failed, *ended]

    def _take_batch(self, max_tokens: int) -> list[PipelineWork]:
        self._batch = take_batch(self._queue.values(), self._max_rows, max_tokens, self._virtual_ms)
        works = [queued.work for queued in self._batch]
        self._shares = _shares(works)
        return works

    def _run_batch(self, begun: float) -> list[PipelineOut | EngineError]:
        """Run a batch that takes one forward pass."""
        if not (works := self._take_batch(self._pace.max_tokens)):
            return []
        results = self._forward(works)
        padded = len(works) * max(queued.num_tokens for queued in self._batch)
        self._pace.note(padded, self._clock() - begun)
        return results

    def _search_on(self) -> list[PipelineOut | EngineError]:
        """Go on with a batch's beam search, or begin the next; return its results at its end."""
        if self._search and not any(queued.id in self._queue for queued in self._batch):
            self._drop_search()
        if self._search is None:
            if not (works := self._take_batch(SEQ2SEQ_TOKENS)):
                return []
            self._search = Sliced(lambda pause: self._generate(works, pause))
        try:
            if not self._search.advance():
                return []
        except BaseException:
            self._search = None
            raise
        results, self._search = self._search.result(), None
        return results

    def _drop_search(self) -> None:
        if self._search is not None:
            self._search.abandon()
            self._search = None

    def unload(self) -> None:
        """Free the model."""
        self._drop_search()
        self._queue.clear()
        self._model = None
        release_memory()

    def last_shares(self) -> Mapping[str, float]:
        """Return each tenant's share of the last step, by tokens."""
        return self._shares

    def set_virtual_times(self, virtual_ms: Mapping[str, float]) -> None:
        """Take each tenant's virtual time: the lower goes first in its class."""
        self._virtual_ms = virtual_ms

    def _check(self, work: PipelineWork) -> None:
        ids = work.input_ids
        if not ids:
            raise InvalidRequestError("The text is empty.", param="text")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise InvalidRequestError(
                f"A token id is outside the vocabulary (0 to {self._vocab_size - 1}).", param="text"
            )
        if len(ids) > self._context_tokens:
            raise ContextLengthError(
                f"The text has {len(ids)} tokens, but the model reads at most "
                f"{self._context_tokens}: shorten it.",
                param="text",
            )
        types = work.type_ids
        if types and (len(types) != len(ids) or min(types) < 0):
            raise InvalidRequestError("There must be one type id for each token.", param="text")
        if self._kind == "embed":
            embedding.check_options(work.options, self._model.config.hidden_size)
        else:
            _check_options(work.options, self._kind, self._vocab_size)

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        """Return ``[rows, longest]``, padded at the end with ``value``."""
        longest = max(map(len, rows))
        padded = [[*row, *[value] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, device=self._model.device)

    def _inputs(self, works: Sequence[PipelineWork]) -> dict[str, Tensor]:
        """Return what the network reads. Rows of one length need no mask, which is quicker."""
        rows = [work.input_ids for work in works]
        inputs = {"input_ids": self._pad(rows, self._pad_id)}
        if len({len(row) for row in rows}) > 1 or self._kind == "seq2seq":
            inputs["attention_mask"] = self._pad([(1,) * len(row) for row in rows], 0)
        if self._num_types > 1 and any(work.type_ids for work in works):
            types = [work.type_ids or (0,) * len(work.input_ids) for work in works]
            inputs["token_type_ids"] = self._pad(types, 0).clamp(max=self._num_types - 1)
        return inputs

    @torch.inference_mode()
    def _generate(
        self, works: list[PipelineWork], pause: Callable[[], bool]
    ) -> list[PipelineOut | EngineError]:
        """Run one beam search (greedy with one beam) for all rows, with a pause at each token."""
        options = dict(works[0].options)
        max_tokens = options.pop("max_tokens", DEFAULT_MAX_TOKENS)
        rows = self._model.generate(
            **self._inputs(works),
            do_sample=False,
            max_new_tokens=min(max_tokens, self._context_tokens - 1),
            stopping_criteria=StoppingCriteriaList([_Pausing(pause)]),
            **options,
        ).tolist()
        config = self._model.generation_config
        forced = options.get("forced_bos_token_id", config.forced_bos_token_id)
        ends = {self._model.config.pad_token_id, *_as_list(config.eos_token_id)}
        return [PipelineOut(token_ids=_answer(row, forced, ends)) for row in rows]

    @torch.inference_mode()
    def _forward(self, works: list[PipelineWork]) -> list[PipelineOut | EngineError]:
        """Return vectors, or label probabilities: a row of them per work, or per token of it."""
        out = self._model(**self._inputs(works))
        if self._kind == "embed":
            lengths = [len(work.input_ids) for work in works]
            return embedding.vectors(out.last_hidden_state, lengths, works[0].options)
        logits = out.logits.float()
        if self._kind == "token_classify":
            rows = logits.softmax(dim=-1).tolist()
            return [_scored(row[: len(w.input_ids)]) for row, w in zip(rows, works, strict=True)]
        is_multi = self._model.config.problem_type == "multi_label_classification"
        is_multi = is_multi or logits.shape[-1] == 1
        scores = logits.sigmoid() if is_multi else logits.softmax(dim=-1)
        return [_scored([row]) for row in scores.tolist()]


def _kind(path: Path) -> str:
    """Return the kind of work that the model in ``path`` does, by its architecture's name."""
    try:
        config = json.loads((path / "config.json").read_bytes())
        name = str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidModelError("config.json does not name an architecture.") from error
    endings = {"ForSequenceClassification": "classify", "ForTokenClassification": "token_classify"}
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), "seq2seq")


def _num_types(model: Model) -> int:
    """Return how many kinds of text the network tells apart; 0 where it takes no type ids."""
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    return (getattr(model.config, "type_vocab_size", 0) or 0) if takes_types else 0


def _shares(works: Sequence[PipelineWork]) -> dict[str, float]:
    """Return each tenant's share of a batch's tokens."""
    tokens: Counter[str] = Counter()
    for work in works:
        tokens[work.tenant] += len(work.input_ids)
    return {tenant: count / tokens.total() for tenant, count in tokens.items()}


def _generation_defaults(theirs: GenerationConfig) -> GenerationConfig:
    """Keep what belongs to the model of its generation settings, and nothing that changes what a
    call returns or how long it may take."""
    kept = {name: getattr(theirs, name) for name in KEPT_SETTINGS}
    num_beams = min(theirs.num_beams or 1, OPTION_RANGES["num_beams"][2])
    return GenerationConfig(**kept, num_beams=num_beams)


def _check_options(options: Mapping[str, Any], kind: str, vocab_size: int) -> None:
    if kind != "seq2seq" and options:
        raise InvalidRequestError(f"{kind} takes no options, but has {', '.join(options)}.")
    for name, value in options.items():
        if name not in OPTION_RANGES:
            known = ", ".join(OPTION_RANGES)
            raise InvalidRequestError(
                f"There is no option {name!r}; there are: {known}.", param=name
            )
        of_type, least, most = OPTION_RANGES[name]
        if name == "forced_bos_token_id":
            most = vocab_size - 1
        is_number = isinstance(value, (int, of_type)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise InvalidRequestError(
                f"`{name}` is {value!r}, but must be a number from {least} to {most}.", param=name
            )


def _answer(row: Sequence[int], forced_bos: int | None, ends: set[int | None]) -> tuple[int, ...]:
    """Cut a decoder's row to the answer: without its start token, forced token, end and padding."""
    first = 2 if len(row) > 1 and row[1] == forced_bos else 1
    last = next((i for i in range(first, len(row)) if row[i] in ends), len(row))
    return tuple(row[first:last])


def _as_list(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _scored(rows: Sequence[Sequence[float]]) -> PipelineOut | EngineError:
    if not all(math.isfinite(score) for row in rows for score in row):
        return EngineError("The model computed numbers that are not finite.")
    return PipelineOut(scores=tuple(tuple(row) for row in rows))
