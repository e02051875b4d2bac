"""Runs a finished model on labelled records and scores what it says.

Takes a transformers model in eval mode and the tokenizer that is served; knows no recipes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Ragged, encode_texts
from llmos.data.record import Annotated, Labelled, Pair
from llmos.evaluation import metrics
from llmos.tasks.entities import spans
from llmos.tasks.tokenizers import Encoded

ROWS = 64


def translation(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    sources: Sequence[str],
    max_tokens: int,
) -> dict[str, Any]:
    """Greedy translations against their references: BLEU by direction, with its signature.

    Args:
        sources: what the model reads for each pair: its source text with any prefix.
    """
    translated = translate(model, tokenizer, sources, max_tokens)
    by_direction: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_direction[f"{pair.source_lang}_{pair.target_lang}".strip("_")].append(index)
    found: dict[str, Any] = {}
    for direction, rows in sorted(by_direction.items()):
        target_lang = pairs[rows[0]].target_lang
        references = [pairs[i].target for i in rows]
        result = metrics.bleu([translated[i] for i in rows], references, target_lang)
        name = f"bleu_{direction}" if direction else "bleu"
        found[name] = result.score
        found[f"{name}_signature"] = result.signature
    exact = [text == pair.target for text, pair in zip(translated, pairs, strict=True)]
    return found | {"exact_match": sum(exact) / len(exact), "rows": len(exact)}


def translate(
    model: PreTrainedModel, tokenizer: Tokenizer, sources: Sequence[str], max_tokens: int
) -> list[str]:
    """The greedy output text of each source, in order."""
    ids = Ragged.of(encoding.ids for encoding in encode_texts(tokenizer, sources))
    texts = [""] * len(ids)
    for rows, input_ids, mask in batches(model, ids):
        with torch.inference_mode():
            out = model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                num_beams=1,
                do_sample=False,
            )
        for row, text in zip(rows, tokenizer.decode_batch(out.tolist()), strict=True):
            texts[row] = text.strip()
    return texts


def classification(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    records: Sequence[Labelled],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Accuracy and macro F1, with the scores of each class."""
    ids = Ragged.of(e.ids for e in encode_texts(tokenizer, (r.text for r in records)))
    predicted = [""] * len(ids)
    for rows, input_ids, mask in batches(model, ids):
        chosen = _logits(model, input_ids, mask).argmax(-1).tolist()
        for row, label in zip(rows, chosen, strict=True):
            predicted[row] = labels[label]
    gold = [record.label for record in records]
    by_class = metrics.class_scores(predicted, gold)
    return {
        "accuracy": metrics.accuracy(predicted, gold),
        "f1": metrics.macro_f1(predicted, gold),
        "f1_by_class": {label: by_class[label].f1 for label in by_class},
        "rows": len(gold),
    }


def entities(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    records: Sequence[Annotated],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Exact-span precision, recall and F1, tags read as the server reads them.

    Args:
        labels: the BIO tags of the logits.
    """
    encodings = list(encode_texts(tokenizer, (record.text for record in records)))
    ids = Ragged.of(encoding.ids for encoding in encodings)
    predicted: list[set[Any]] = [set() for _ in records]
    for rows, input_ids, mask in batches(model, ids):
        scores = _logits(model, input_ids, mask).softmax(-1).tolist()
        for row, token_scores in zip(rows, scores, strict=True):
            encoded = _encoded(encodings[row])
            token_scores = token_scores[: len(encoded.ids)]
            found = spans(records[row].text, 0, encoded, token_scores, labels)
            predicted[row] = {(e.start, e.end, e.label) for e in found}
    gold = [{(e.start, e.end, e.label) for e in record.entities} for record in records]
    result = metrics.span_scores(predicted, gold)
    return {
        "precision": result.precision,
        "recall": result.recall,
        "f1": result.f1,
        "rows": len(gold),
    }


def _encoded(encoding: Encoding) -> Encoded:
    return Encoded(
        tuple(encoding.ids),
        tuple(encoding.offsets),
        tuple(bool(flag) for flag in encoding.special_tokens_mask),
    )


@torch.inference_mode()
def _logits(model: PreTrainedModel, input_ids: Tensor, mask: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=input_ids, attention_mask=mask).logits
    return logits


def batches(model: PreTrainedModel, ids: Ragged) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Row numbers, padded ids and attention mask; the longest rows first."""
    order = (-ids.lengths).argsort(kind="stable")
    pad = model.config.pad_token_id or 0
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        values, mask = ids.padded(rows, pad)
        device = model.device
        yield (
            rows.tolist(),
            torch.from_numpy(values).to(device),
            torch.from_numpy(mask).long().to(device),
        )
