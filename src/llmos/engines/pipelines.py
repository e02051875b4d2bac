"""Models that answer in one go: seq2seq, classification, token classification, micro-batched.

Queued works of one kind with the same options are padded into one batch. Padding is masked by
length, so a row's result does not depend on its batch-mates but for the order of summation. A
step is one micro-batch; a seq2seq step is a whole beam search, so its batches are kept small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationConfig,
)

from llmos.engines import base
from llmos.engines.loading import (
    Model,
    load_pretrained,
    release_memory,
    resident_bytes,
    set_threads,
)
from llmos.errors import (
    ContextLengthError,
    EngineError,
    InvalidModelError,
    InvalidRequestError,
    LlmosError,
    OutOfMemoryError,
    UnsupportedTaskError,
)
from llmos.types import PipelineOut, PipelineWork, Work, WorkOut

MAX_BATCH_ROWS = 16
MAX_BATCH_TOKENS = 2048
DEFAULT_MAX_TOKENS = 256

AUTO_CLASSES = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "classify": AutoModelForSequenceClassification,
    "token_classify": AutoModelForTokenClassification,
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


@dataclass(frozen=True, slots=True)
class Queued:
    """A work in the queue; ``group`` is equal for works that may share a batch."""

    id: str
    work: PipelineWork
    arrival: int

    @property
    def rank(self) -> tuple[int, int]:
        return (self.work.priority, self.arrival)

    @property
    def group(self) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted(self.work.options.items()))


def take_batch(queue: Sequence[Queued], max_rows: int, max_tokens: int) -> list[Queued]:
    """Return the next micro-batch: the best-ranked work and those like it, in order, while the
    padded batch stays within the limits. A beam counts as a row."""
    ranked = sorted(queue, key=lambda queued: queued.rank)
    if ranked:
        max_rows = max(1, max_rows // ranked[0].work.options.get("num_beams", 1))
    batch: list[Queued] = []
    longest = 0
    for queued in ranked:
        if batch and queued.group != batch[0].group:
            continue
        longest = max(longest, len(queued.work.input_ids))
        if batch and (len(batch) >= max_rows or longest * (len(batch) + 1) > max_tokens):
            break
        batch.append(queued)
    return batch


class PipelinesEngine:
    """Any transformers encoder-decoder or classifier (see ``engines.base.Engine``)."""

    def __init__(
        self, *, max_rows: int = MAX_BATCH_ROWS, max_batch_tokens: int = MAX_BATCH_TOKENS
    ) -> None:
        self._max_rows = max_rows
        self._max_batch_tokens = max_batch_tokens
        self._queue: dict[str, Queued] = {}
        self._num_arrived = 0
        self._model: Model = None
        self._kind = ""
        self._context_tokens = 0
        self._vocab_size = 0
        self._pad_id = 0

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> base.Estimate:
        """Return the weights' bytes at the dtype the device computes in."""
        return base.estimate({**manifest, "engine": "pipelines"}, device)

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Load the model that the directory's config names."""
        set_threads(threads)
        self._kind = _kind(path)
        try:
            self._model = load_pretrained(AUTO_CLASSES[self._kind], path, manifest, device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error
        self._context_tokens = base.context_tokens(manifest)
        self._vocab_size = self._model.get_input_embeddings().weight.shape[0]
        pad_id = self._model.config.pad_token_id
        if pad_id is None:  # nothing to pad with: one row at a time
            self._max_rows = 1
        self._pad_id = pad_id or 0
        if self._kind == "seq2seq":
            self._model.generation_config = _generation_defaults(self._model.generation_config)
        return resident_bytes(self._model)

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a row; it is computed in a next step."""
        if not isinstance(work, PipelineWork) or work.kind != self._kind:
            kind = work.kind if isinstance(work, PipelineWork) else "generate"
            raise UnsupportedTaskError(f"This model does {self._kind}, not {kind}.")
        self._check(work)
        self._queue[work_id] = Queued(work_id, work, self._num_arrived)
        self._num_arrived += 1

    def cancel(self, work_id: str) -> None:
        """Drop a row that is not computed yet."""
        self._queue.pop(work_id, None)

    @property
    def has_work(self) -> bool:
        return bool(self._queue)

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Compute one micro-batch."""
        batch = take_batch(list(self._queue.values()), self._max_rows, self._max_batch_tokens)
        if not batch:
            return []
        works = [queued.work for queued in batch]
        try:
            results = self._generate(works) if self._kind == "seq2seq" else self._score(works)
        except torch.AcceleratorError as error:
            raise base.DeviceLostError(f"The device failed: {error}") from error
        for queued in batch:
            del self._queue[queued.id]
        return [(queued.id, result) for queued, result in zip(batch, results, strict=True)]

    def unload(self) -> None:
        """Free the model."""
        self._queue.clear()
        self._model = None
        release_memory()

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
        _check_options(work.options, self._kind, self._vocab_size)

    def _pad(self, works: Sequence[PipelineWork]) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask, ``[rows, longest]``, padded at the end."""
        longest = max(len(work.input_ids) for work in works)
        ids = [
            [*work.input_ids, *[self._pad_id] * (longest - len(work.input_ids))] for work in works
        ]
        mask = [[1] * len(work.input_ids) + [0] * (longest - len(work.input_ids)) for work in works]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    @torch.inference_mode()
    def _generate(self, works: list[PipelineWork]) -> list[PipelineOut | EngineError]:
        """Run one beam search (greedy with one beam) for all rows."""
        ids, mask = self._pad(works)
        options = dict(works[0].options)
        max_tokens = options.pop("max_tokens", DEFAULT_MAX_TOKENS)
        rows = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=min(max_tokens, self._context_tokens - 1),
            **options,
        ).tolist()
        config = self._model.generation_config
        forced = options.get("forced_bos_token_id", config.forced_bos_token_id)
        ends = {self._model.config.pad_token_id, *_as_list(config.eos_token_id)}
        return [PipelineOut(token_ids=_answer(row, forced, ends)) for row in rows]

    @torch.inference_mode()
    def _score(self, works: list[PipelineWork]) -> list[PipelineOut | EngineError]:
        """Return label probabilities: one row of them per work, or per token of it."""
        ids, mask = self._pad(works)
        logits = self._model(input_ids=ids, attention_mask=mask).logits.float()
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
