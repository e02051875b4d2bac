"""What an engine says against what the trained model says: masks, spans, vectors, numbers and
trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmos.data.record import Question
from llmos.engines.embedding import pooled
from llmos.engines.heads import MAX_FILLS, results
from llmos.models.sentinels import sentinel_ids
from llmos.tasks.windows import windows_of
from llmos.training.parity_engine import Compared, Loaded
from llmos.training.parity_outputs import MAX_ROWS, compare_seq2seq, scale, some
from llmos.training.publish import PublishingError
from llmos.training.readers import MAX_WINDOWS
from llmos.types import PipelineOut, PipelineWork

if TYPE_CHECKING:
    from llmos.training.parity import Trained

Rows = Sequence[Sequence[int]]


def compare_masks(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare what is told of masks: tokens for each, or spans, which a decoder writes.

    Raises:
        PublishingError: they differ.
    """
    if not trained.model.config.is_encoder_decoder:
        return compare_fills(trained, engine, rows)
    gone, *_ = sentinel_ids(trained.tokenizer.token_to_id)
    return compare_seq2seq(trained, engine, [_hidden(row, gone) for row in rows if row])


def compare_fills(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare the log-probabilities of the likeliest tokens for one hidden token of each text.

    Raises:
        PublishingError: they differ.
    """
    mask_id = trained.tokenizer.token_to_id(trained.specials.mask or "")
    assert mask_id is not None, "it was trained with one"
    top_k = min(MAX_FILLS, trained.manifest.vocab_size or MAX_FILLS)
    hidden = [_hidden(row, mask_id) for row in rows if row]
    options = {"mask_id": mask_id, "top_k": top_k}
    works = [PipelineWork("fill_mask", ids, options) for ids in _fitting(trained, engine, hidden)]
    compared = Compared()
    for work, out in _answers(engine, works):
        logits = _outputs(trained, work).logits[0].float().cpu()
        place = work.input_ids.index(mask_id)
        ours = logits[place].log_softmax(-1)[list(out.token_ids[:top_k])]
        _note(compared, ours, torch.tensor(out.scores[0]).log(), logits, "fills")
    return some(compared)


def compare_spans(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare the logits of where an answer starts and ends: of questions, and of texts alone.

    Raises:
        PublishingError: they differ.
    """
    works = [PipelineWork("answer", ids) for ids in _fitting(trained, engine, rows)]
    limit = min(trained.recipe.max_length, engine.context_tokens)
    for record in trained.samples:
        if isinstance(record, Question):
            pair = trained.tokenizer.encode(record.question, record.context)
            windows = windows_of(pair, limit, MAX_WINDOWS)
            works += [PipelineWork("answer", w.ids, type_ids=w.type_ids) for w in windows]
    compared = Compared()
    for work, out in _answers(engine, works):
        told = _outputs(trained, work)
        ours = torch.cat([told.start_logits, told.end_logits]).float().cpu()
        _note(compared, ours, torch.tensor(out.scores), ours, "logits of spans")
    return some(compared)


def compare_vectors(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare the vectors of texts, pooled as the version says.

    Raises:
        PublishingError: they differ.
    """
    pooling = (trained.manifest.embedding or {})["pooling"]
    options = {"pooling": pooling, "normalize": True}
    works = [PipelineWork("embed", ids, options) for ids in _fitting(trained, engine, rows)]
    compared = Compared()
    for work, out in _answers(engine, works):
        hidden = _outputs(trained, work).last_hidden_state.float().cpu()
        ours = torch.nn.functional.normalize(
            pooled(hidden, [len(work.input_ids)], pooling)[0], dim=0
        )
        theirs = torch.from_numpy(np.frombuffer(out.vector, "<f4").copy())
        _note(compared, ours, theirs, ours, "vectors")
    return some(compared)


def compare_ratings(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare the numbers of texts.

    Raises:
        PublishingError: they differ.
    """
    works = [PipelineWork("rate", ids) for ids in _fitting(trained, engine, rows)]
    compared = Compared()
    for work, out in _answers(engine, works):
        ours = _outputs(trained, work).logits.float().cpu()
        _note(compared, ours, torch.tensor(out.scores), ours, "numbers")
    return some(compared)


def compare_trees(trained: Trained, engine: Loaded, rows: Rows) -> Compared:
    """Compare the trees of texts, and the probabilities of their arcs.

    Raises:
        PublishingError: they differ.
    """
    works = [PipelineWork("parse", ids) for ids in _fitting(trained, engine, rows)]
    compared = Compared()
    for work, out in _answers(engine, works):
        (ours,) = results("parse", _outputs(trained, work), [work], trained.model.config)
        assert isinstance(ours, PipelineOut)
        if ours.token_ids != out.token_ids:
            raise PublishingError("the engine's trees differ from the trained model's")
        scores = torch.tensor(ours.scores[0])
        _note(compared, scores, torch.tensor(out.scores[0]), scores, "probabilities of arcs")
    return some(compared)


def _hidden(row: Sequence[int], mask_id: int) -> tuple[int, ...]:
    """Return a row with a mask in place of its middle token."""
    middle = len(row) // 2
    return (*row[:middle], mask_id, *row[middle + 1 :])


def _fitting(trained: Trained, engine: Loaded, rows: Rows) -> list[tuple[int, ...]]:
    """Return the rows that the model can read whole, the last ones of many."""
    limit = min(trained.recipe.max_length, engine.context_tokens)
    return [tuple(row) for row in rows if 0 < len(row) <= limit][-MAX_ROWS:]


def _answers(
    engine: Loaded, works: Sequence[PipelineWork]
) -> list[tuple[PipelineWork, PipelineOut]]:
    pairs = []
    for work, outs in zip(works, engine.run(works), strict=True):
        (out,) = outs
        assert isinstance(out, PipelineOut)
        pairs.append((work, out))
    return pairs


@torch.inference_mode()
def _outputs(trained: Trained, work: PipelineWork) -> Any:
    model = trained.model
    inputs = {"input_ids": torch.tensor([work.input_ids], device=model.device)}
    if work.type_ids and (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        inputs["token_type_ids"] = torch.tensor([work.type_ids], device=model.device)
    return model(**inputs)


def _note(compared: Compared, ours: Tensor, theirs: Tensor, logits: Tensor, what: str) -> None:
    difference = float((ours - theirs).abs().max()) / scale(logits)
    compared.note(difference, len(ours), what)
    compared.num_rows += 1
