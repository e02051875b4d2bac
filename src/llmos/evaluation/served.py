"""How good the answers of a served model are: classes, entities, translations, answers, numbers,
rankings, and how likely it finds texts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmos.data.judgements import Ranking
from llmos.data.record import Annotated, Document, Labelled, Pair, Question, Rated
from llmos.errors import DataError
from llmos.evaluation import metrics
from llmos.evaluation.asking import Ask, ask_all

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

PIECE_TOKENS = 512
"""Of a text whose perplexity is measured, so many are read at a time, each piece by itself."""
PART_CHARS = 100_000
"""Of a text that is tokenised at a time."""

Metrics = dict[str, Any]


def classification(context: JobContext, model: str, records: Sequence[Labelled]) -> Metrics:
    """Accuracy and macro F1, with the F1 of each class."""
    asks = [Ask("/api/v1/classify", {"model": model, "text": one.text}) for one in records]
    predicted = [str(answer["label"]) for answer in ask_all(context, asks)]
    gold = [one.label for one in records]
    by_class = metrics.class_scores(predicted, gold)
    return {
        "accuracy": metrics.accuracy(predicted, gold),
        "f1": metrics.macro_f1(predicted, gold),
        "f1_by_class": {label: scores.f1 for label, scores in by_class.items()},
    }


def entities(context: JobContext, model: str, records: Sequence[Annotated]) -> Metrics:
    """Exact-span precision, recall and F1."""
    asks = [Ask("/api/v1/entities", {"model": model, "text": one.text}) for one in records]
    predicted = [
        {(one["start"], one["end"], one["label"]) for one in answer["entities"]}
        for answer in ask_all(context, asks)
    ]
    gold = [{(e.start, e.end, e.label) for e in one.entities} for one in records]
    scores = metrics.span_scores(predicted, gold)
    return {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}


def answers(context: JobContext, model: str, records: Sequence[Question]) -> Metrics:
    """Exact match and F1, see `metrics.answer_scores`."""
    asks = [
        Ask("/api/v1/answer", {"model": model, "question": one.question, "context": one.context})
        for one in records
    ]
    found = [str(answer["text"]) for answer in ask_all(context, asks)]
    return metrics.answer_scores(found, [one.answers for one in records])


def ratings(context: JobContext, model: str, records: Sequence[Rated]) -> Metrics:
    """Mean squared error and correlations, see `metrics.rating_scores`."""
    asks = [Ask("/api/v1/rate", {"model": model, "text": one.text}) for one in records]
    given = [float(answer["score"]) for answer in ask_all(context, asks)]
    return metrics.rating_scores(given, [one.score for one in records])


def rankings(context: JobContext, model: str, records: Sequence[Ranking]) -> Metrics:
    """Means over queries: nDCG of the first 10 (`metrics.ndcg`), one over the rank of the first
    document that answers (MRR), and how often that is the first of all (accuracy)."""
    asks = [
        Ask(
            "/v1/rerank",
            {
                "model": model,
                "query": one.query,
                "documents": list(one.documents),
                "return_documents": False,
                "truncate": True,
            },
        )
        for one in records
    ]
    gains, firsts = [], []
    for one, answer in zip(records, ask_all(context, asks), strict=True):
        ordered = [result["index"] in one.relevant for result in answer["results"]]
        gains.append(metrics.ndcg(ordered))
        firsts.append(1 + ordered.index(True))
    count = len(records)
    return {
        "ndcg_at_10": math.fsum(gains) / count,
        "mrr": math.fsum(1 / first for first in firsts) / count,
        "accuracy": firsts.count(1) / count,
    }


def translation(context: JobContext, model: str, records: Sequence[Pair]) -> Metrics:
    """BLEU by direction, with its signature, and the share of exact matches."""
    answered = ask_all(context, [_translate(model, pair) for pair in records])
    translated = [str(answer["text"]) for answer in answered]
    rows: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(records):
        rows[f"{pair.source_lang}_{pair.target_lang}".strip("_")].append(index)
    found: Metrics = {}
    for direction, indexes in sorted(rows.items()):
        references = [records[i].target for i in indexes]
        hypotheses = [translated[i] for i in indexes]
        result = metrics.bleu(hypotheses, references, records[indexes[0]].target_lang)
        name = f"bleu_{direction}" if direction else "bleu"
        found |= {name: result.score, f"{name}_signature": result.signature}
    exact = sum(text == pair.target for text, pair in zip(translated, records, strict=True))
    return found | {"exact_match": exact / len(records)}


def _translate(model: str, pair: Pair) -> Ask:
    body = {"model": model, "text": pair.source}
    languages = {"source_lang": pair.source_lang, "target_lang": pair.target_lang}
    return Ask("/api/v1/translate", body | {name: lang for name, lang in languages.items() if lang})


def perplexity(context: JobContext, model: str, records: Sequence[Document]) -> Metrics:
    """Mean negative log-likelihood per token in nats, over pieces that know nothing of each other
    (the first token of each is not predicted), its exponential, and the bits that a character of
    what was predicted takes, which can be compared whatever the tokens are."""
    parts = [
        one.text[start : start + PART_CHARS]
        for one in records
        for start in range(0, len(one.text), PART_CHARS)
    ]
    asks = [
        Ask("/tokenize", {"model": model, "text": part, "add_special_tokens": False})
        for part in parts
    ]
    pieces: list[list[int]] = []
    for answer in ask_all(context, asks, "tokenising"):
        size, ids = min(PIECE_TOKENS, int(answer["max_model_len"])), answer["tokens"]
        pieces += [ids[start : start + size] for start in range(0, len(ids), size)]
    wanted = [scoring(model, ids) for ids in pieces if len(ids) > 1]
    total, num_tokens, num_chars = 0.0, 0, 0
    for answer in ask_all(context, wanted):
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"]["token_logprobs"][1:]
        total -= math.fsum(logprobs)
        num_tokens += len(logprobs)
        num_chars += len(choice["text"]) - choice["logprobs"]["text_offset"][1]
    if not num_tokens:
        raise DataError("the texts are too short: nothing of them could be predicted")
    return {
        "loss": total / num_tokens,
        "perplexity": metrics.perplexity(total / num_tokens),
        "bits_per_character": metrics.bits(total) / max(1, num_chars),
        "tokens": num_tokens,
    }


def scoring(model: str, ids: Sequence[int], logprobs: int = 0) -> Ask:
    """Ask how likely each token is after those before it."""
    body = {"model": model, "prompt": list(ids), "max_tokens": 0, "echo": True, "temperature": 0}
    return Ask("/v1/completions", {**body, "logprobs": logprobs})
