"""Runs a finished encoder on labelled records: answers in a context, texts alike, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Ragged, encode_texts
from llmos.data.record import Alike, Question, Rated
from llmos.engines.embedding import pooled
from llmos.evaluation import metrics
from llmos.evaluation.evaluate import batches
from llmos.tasks.answer import MAX_WINDOWS, Answer, best_answer, best_span
from llmos.tasks.windows import windows_of


def answers(
    model: PreTrainedModel, tokenizer: Tokenizer, records: Sequence[Question], max_tokens: int
) -> dict[str, Any]:
    """Exact match and F1, see `metrics.answer_scores`, of answers read as the server does."""
    found = [answer_of(model, tokenizer, record, max_tokens).text for record in records]
    scores = metrics.answer_scores(found, [record.answers for record in records])
    return {**scores, "rows": len(records)}


@torch.inference_mode()
def answer_of(
    model: PreTrainedModel, tokenizer: Tokenizer, record: Question, max_tokens: int
) -> Answer:
    """What the model answers to a question."""
    (pair,) = tokenizer.encode_batch([(record.question, record.context)])
    found = []
    for window in windows_of(pair, max_tokens, MAX_WINDOWS):
        inputs = {"input_ids": torch.tensor([window.ids], device=model.device)}
        if window.type_ids and (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
            inputs["token_type_ids"] = torch.tensor([window.type_ids], device=model.device)
        out = model(**inputs)
        starts, ends = out.start_logits[0].tolist(), out.end_logits[0].tolist()
        found.append((best_span(starts, ends, window.parts), window))
    return best_answer(found, record.context) if found else Answer("", 0, 0, 1.0)


@torch.inference_mode()
def likeness(
    model: PreTrainedModel, tokenizer: Tokenizer, records: Sequence[Alike], pooling: str
) -> dict[str, Any]:
    """How near a text's own partner is among all partners, see `metrics.ranking_scores`. Partners
    that are the same text count as one."""
    partners = list(dict.fromkeys(record.positive for record in records))
    places = {text: place for place, text in enumerate(partners)}
    theirs = vectors(model, tokenizer, partners, pooling)
    ours = vectors(model, tokenizer, [record.anchor for record in records], pooling)
    cosines = ours @ theirs.T
    own = torch.tensor([places[record.positive] for record in records], device=cosines.device)
    ranks = (cosines > cosines.gather(1, own[:, None])).sum(dim=1) + 1
    return {**metrics.ranking_scores(ranks.tolist()), "rows": len(records)}


@torch.inference_mode()
def vectors(
    model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str], pooling: str
) -> Tensor:
    """The vector of each text, ``[texts, width]``, of length 1."""
    ids = Ragged.of(encoding.ids for encoding in encode_texts(tokenizer, texts))
    found = torch.zeros(len(texts), model.config.hidden_size, device=model.device)
    for rows, input_ids, mask in batches(model, ids):
        hidden = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        found[rows] = pooled(hidden, mask.sum(dim=1).tolist(), pooling)
    return F.normalize(found, dim=-1)


@torch.inference_mode()
def ratings(
    model: PreTrainedModel, tokenizer: Tokenizer, records: Sequence[Rated]
) -> dict[str, Any]:
    """How near the right numbers are, see `metrics.rating_scores`."""
    ids = Ragged.of(e.ids for e in encode_texts(tokenizer, (record.text for record in records)))
    given = [0.0] * len(records)
    for rows, input_ids, mask in batches(model, ids):
        logits = model(input_ids=input_ids, attention_mask=mask).logits[:, 0]
        for row, number in zip(rows, logits.tolist(), strict=True):
            given[row] = number
    return {**metrics.rating_scores(given, [r.score for r in records]), "rows": len(records)}
