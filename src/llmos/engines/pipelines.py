"""Models that answer in one go: seq2seq, classifiers, cross-encoders, embeddings, micro-batched.

Padding is at the end and masked by length, so a row's result does not depend on its batch-mates
but for the order of summation. A step is one micro-batch (see ``microbatches``), or, for seq2seq,
one token of a batch's beam search; some layers of these, where more would take too long for others.
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
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    StoppingCriteriaList,
)

from llmos.engines import base, embedding, heads, seq2seq
from llmos.engines.loading import (
    Model,
    load_pretrained,
    release_memory,
    resident_bytes,
    set_threads,
)
from llmos.engines.microbatches import Pace, Queued, take_batch
from llmos.engines.onednn import compute_by_onednn
from llmos.engines.slices import Breaks, Sliced
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
from llmos.models.multitask import MultitaskEncoder
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
    "fill_mask": AutoModelForMaskedLM,
    "answer": AutoModelForQuestionAnswering,
    "rate": AutoModelForSequenceClassification,
    "parse": AutoModel,
}
KINDS = {"entities": "token_classify"}
"""Of the work for a task, where it is not called the same."""
Results = list[PipelineOut | EngineError]


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
        self._slices: Sliced[Results] | None = None
        self._spent_s = 0.0
        """What the slices of the batch have taken so far."""
        self._breaks = Breaks(clock)
        self._step_limit_s = math.inf
        self._num_arrived = 0
        self._model: Model = None
        self._tasks: dict[str, str | None] = {}
        """Each kind of work that it does, and of a model with several heads the task of its own."""
        self._is_search = False
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
        self._tasks = _tasks(path, manifest)
        self._is_search = "seq2seq" in self._tasks
        kind = next(iter(self._tasks))
        auto_class = MultitaskEncoder if manifest.get("heads") else AUTO_CLASSES[kind]
        try:
            self._model = load_pretrained(auto_class, path, manifest, device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error
        self._context_tokens = base.context_tokens(manifest)
        self._vocab_size = self._model.get_input_embeddings().weight.shape[0]
        self._num_types = _num_types(self._model)
        pad_id = self._model.config.pad_token_id
        if pad_id is None and kind != "embed":  # nothing to pad with: one row at a time
            self._max_rows = 1
        self._pad_id = pad_id or 0
        if kind == "embed":
            self._model.config.use_cache = False
        if self._is_search:
            self._max_rows = min(self._max_rows, SEQ2SEQ_ROWS)
            config = self._model.generation_config
            self._model.generation_config = seq2seq.generation_defaults(config)
        for layers in self._model.modules():
            if isinstance(layers, torch.nn.ModuleList):
                for layer in layers:
                    layer.register_forward_pre_hook(lambda *_: self._breaks.between())
        num_bytes = resident_bytes(self._model)
        compute_by_onednn(self._model)
        return num_bytes

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a row; it is computed in a next step."""
        if not isinstance(work, PipelineWork) or work.kind not in self._tasks:
            kind = work.kind if isinstance(work, PipelineWork) else "generate"
            raise UnsupportedTaskError(f"This model does {', '.join(self._tasks)}, not {kind}.")
        self._check(work)
        left_s = math.inf if work.deadline_s is None else work.deadline_s
        self._queue[work_id] = Queued(work_id, work, self._num_arrived, self._clock() + left_s)
        self._num_arrived += 1

    def cancel(self, work_id: str) -> None:
        """Drop a row that is not computed yet."""
        self._queue.pop(work_id, None)

    @property
    def has_work(self) -> bool:
        return bool(self._queue or self._slices)

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Compute one micro-batch, or a part of it; works past their deadline fail before."""
        begun = self._clock()
        late = [queued.id for queued in self._queue.values() if queued.deadline_at <= begun]
        failed = [(work_id, DeadlineExceededError()) for work_id in late]
        for work_id in late:
            del self._queue[work_id]
        try:
            results = self._go_on()
        except torch.AcceleratorError as error:
            raise base.DeviceLostError(f"The device failed: {error}") from error
        # Of a batch that took several steps some works may be gone.
        ended = [
            (queued.id, result)
            for queued, result in zip(self._batch, results, strict=bool(results))
            if self._queue.pop(queued.id, None)
        ]
        return [*failed, *ended]

    def _go_on(self) -> Results:
        """Go on with the batch under way, or begin the next; return its results at its end."""
        if self._slices and not any(queued.id in self._queue for queued in self._batch):
            self._drop_batch()
        if self._slices is None:
            works = self._take_batch()
            if not works or self._fits_a_step():
                return self._run_whole(works)
            self._slices, self._spent_s = Sliced(lambda pause: self._run(works, pause)), 0.0
        begun = self._clock()
        self._breaks.begin(self._step_limit_s)
        try:
            has_ended = self._slices.advance()
        except BaseException:
            self._slices = None
            raise
        self._spent_s += self._clock() - begun
        if not has_ended:
            return []
        results, self._slices = self._slices.result(), None
        self._pace.note(self._num_padded, self._spent_s)
        return results

    def _take_batch(self) -> list[PipelineWork]:
        most = SEQ2SEQ_TOKENS if self._is_search else self._pace.max_tokens(self._step_limit_s)
        self._batch = take_batch(self._queue.values(), self._max_rows, most, self._virtual_ms)
        works = [queued.work for queued in self._batch]
        self._shares = _shares(works)
        return works

    def _fits_a_step(self) -> bool:
        """Whether the batch needs no slices."""
        seconds = self._pace.seconds(self._num_padded)
        return not self._is_search and seconds <= self._step_limit_s

    @property
    def _num_padded(self) -> int:
        """Tokens of the batch with its padding."""
        return len(self._batch) * max(queued.num_tokens for queued in self._batch)

    def _run_whole(self, works: list[PipelineWork]) -> Results:
        if not works:
            return []
        begun = self._clock()
        self._breaks.begin()
        results = self._forward(works)
        self._pace.note(self._num_padded, self._clock() - begun)
        return results

    def _run(self, works: list[PipelineWork], pause: Callable[[], bool]) -> Results:
        self._breaks.made_for(pause)
        return self._generate(works) if self._is_search else self._forward(works)

    def _drop_batch(self) -> None:
        if self._slices is not None:
            self._slices.abandon()
            self._slices = None

    def unload(self) -> None:
        """Free the model."""
        self._drop_batch()
        self._queue.clear()
        self._model = None
        release_memory()

    def last_shares(self) -> Mapping[str, float]:
        """Return each tenant's share of the last step, by tokens."""
        return self._shares

    def set_virtual_times(self, virtual_ms: Mapping[str, float]) -> None:
        """Take each tenant's virtual time: the lower goes first in its class."""
        self._virtual_ms = virtual_ms

    def set_step_limit(self, seconds: float) -> None:
        """Take steps, from here on, of so long at most, or of one layer where that takes longer."""
        self._step_limit_s = seconds

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
        if work.kind == "embed":
            embedding.check_options(work.options, self._model.config.hidden_size)
        elif self._is_search:
            seq2seq.check_options(work.options, self._vocab_size)
        else:
            heads.check_options(work.kind, work.options, self._vocab_size)

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        """Return ``[rows, longest]``, padded at the end with ``value``."""
        longest = max(map(len, rows))
        padded = [[*row, *[value] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, device=self._model.device)

    def _inputs(self, works: Sequence[PipelineWork]) -> dict[str, Tensor]:
        """Return what the network reads. Rows of one length need no mask, which is quicker."""
        rows = [work.input_ids for work in works]
        inputs = {"input_ids": self._pad(rows, self._pad_id)}
        if len({len(row) for row in rows}) > 1 or self._is_search:
            inputs["attention_mask"] = self._pad([(1,) * len(row) for row in rows], 0)
        if self._num_types > 1 and any(work.type_ids for work in works):
            types = [work.type_ids or (0,) * len(work.input_ids) for work in works]
            inputs["token_type_ids"] = self._pad(types, 0).clamp(max=self._num_types - 1)
        return inputs

    @torch.inference_mode()
    def _generate(self, works: list[PipelineWork]) -> Results:
        """Run one beam search (greedy with one beam) for all rows, with a pause at each token."""
        options = dict(works[0].options)
        max_tokens = options.pop("max_tokens", DEFAULT_MAX_TOKENS)
        wants_logprobs = bool(options.pop("logprobs", 0))
        out = self._model.generate(
            **self._inputs(works),
            do_sample=False,
            max_new_tokens=min(max_tokens, self._context_tokens - 1),
            stopping_criteria=StoppingCriteriaList([seq2seq.Pausing(self._breaks)]),
            return_dict_in_generate=True,
            output_logits=wants_logprobs,
            **options,
        )
        config = self._model.generation_config
        forced = options.get("forced_bos_token_id", config.forced_bos_token_id)
        ends = {self._model.config.pad_token_id, *seq2seq.as_list(config.eos_token_id)}
        results: Results = []
        for number, row in enumerate(out.sequences.tolist()):
            where = seq2seq.answer(row, forced, ends)
            scores: tuple[tuple[float, ...], ...] = ()
            if wants_logprobs:
                logits = [step[number] for step in out.logits]
                scores = (seq2seq.logprobs(row, logits, where),)
            results.append(PipelineOut(token_ids=tuple(row[where]), scores=scores))
        return results

    @torch.inference_mode()
    def _forward(self, works: list[PipelineWork]) -> Results:
        kind = works[0].kind
        task = self._tasks[kind]
        out = self._model(**self._inputs(works), **({} if task is None else {"task": task}))
        return heads.results(kind, out, works, self._model.config)


def _tasks(path: Path, manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """Return each kind of work that a model does, and of one with several heads that one's task."""
    if named := manifest.get("heads"):
        return {KINDS.get(task, task): task for task in named}
    task = manifest.get("task")
    return {task if task in ("embed", "rate") else _kind(path): None}


def _kind(path: Path) -> str:
    """Return the kind of work that the model in ``path`` does, by its architecture's name."""
    try:
        config = json.loads((path / "config.json").read_bytes())
        name = str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidModelError("config.json does not name an architecture.") from error
    endings = {
        "ForSequenceClassification": "classify",
        "ForTokenClassification": "token_classify",
        "ForMaskedLM": "fill_mask",
        "ForQuestionAnswering": "answer",
        "ForDependencyParsing": "parse",
    }
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
