"""The evaluate job: a dataset's rows through the model as it is served, its answers scored.

The rows are asked of the server like any client's, at the job's class, so what is measured is what
clients get: quantised weights, adapters, templates and all. Loads no torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmos.data.record import Annotated, Document, Labelled, Pair, Record, to_record
from llmos.data.sources import FileSource
from llmos.errors import DataError
from llmos.evaluation import metrics
from llmos.evaluation.asking import Ask, ask_all
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

PIECE_TOKENS = 512
"""Of a text whose perplexity is measured, so many are read at a time, each piece by itself."""
PART_CHARS = 100_000
"""Of a text that is tokenised at a time."""

Metrics = dict[str, Any]


def run(context: JobContext) -> JobResult:
    """Measure the model on the dataset.

    Raises:
        DataError: the file has no rows of the model's task.
        CorruptBlobError: the file was damaged.
        JobFailedError: the server refused a row; the message says which and why.
        CancelledError: the job was cancelled.
    """
    params = context.params
    ((shown, digest),) = params["data"].items()
    context.blobs.verify(digest)
    source = FileSource(context.blobs.path(digest), shown, fields=params["fields"])
    records = list(islice(read(source, params["task"]), params["rows"]))
    if not records:
        raise DataError(f"{shown} has no rows: there is nothing to measure")
    measure = {
        "classify": classification,
        "entities": entities,
        "translate": translation,
        "generate": perplexity,
        "chat": perplexity,
    }[params["task"]]
    found = measure(context, params["model"], records)
    return JobResult({"dataset": params["dataset"], "rows": len(records), "metrics": found})


def read(source: FileSource, task: str) -> Iterator[Record]:
    """Yield the file's records; a text file is one text. Raises DataError."""
    if source.kind() == "text":
        if task not in ("generate", "chat"):
            raise DataError(
                f"{source.shown} is plain text, and {task} is measured on rows: give .jsonl, .tsv "
                "or .csv"
            )
        yield Document(source.text())
        return
    wanted = "generate" if task == "chat" else task
    for where, row in source.rows():
        yield to_record(wanted, row, where)


def classification(context: JobContext, model: str, records: Sequence[Record]) -> Metrics:
    """Accuracy and macro F1, with the F1 of each class."""
    texts = [record for record in records if isinstance(record, Labelled)]
    asks = [Ask("/api/v1/classify", {"model": model, "text": one.text}) for one in texts]
    predicted = [str(answer["label"]) for answer in ask_all(context, asks)]
    gold = [one.label for one in texts]
    by_class = metrics.class_scores(predicted, gold)
    return {
        "accuracy": metrics.accuracy(predicted, gold),
        "f1": metrics.macro_f1(predicted, gold),
        "f1_by_class": {label: scores.f1 for label, scores in by_class.items()},
    }


def entities(context: JobContext, model: str, records: Sequence[Record]) -> Metrics:
    """Exact-span precision, recall and F1."""
    texts = [record for record in records if isinstance(record, Annotated)]
    asks = [Ask("/api/v1/entities", {"model": model, "text": one.text}) for one in texts]
    predicted = [
        {(one["start"], one["end"], one["label"]) for one in answer["entities"]}
        for answer in ask_all(context, asks)
    ]
    gold = [{(e.start, e.end, e.label) for e in one.entities} for one in texts]
    scores = metrics.span_scores(predicted, gold)
    return {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}


def translation(context: JobContext, model: str, records: Sequence[Record]) -> Metrics:
    """BLEU by direction, with its signature, and the share of exact matches."""
    pairs = [record for record in records if isinstance(record, Pair)]
    answers = ask_all(context, [_translate(model, pair) for pair in pairs])
    translated = [str(answer["text"]) for answer in answers]
    rows: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        rows[f"{pair.source_lang}_{pair.target_lang}".strip("_")].append(index)
    found: Metrics = {}
    for direction, indexes in sorted(rows.items()):
        references = [pairs[i].target for i in indexes]
        hypotheses = [translated[i] for i in indexes]
        result = metrics.bleu(hypotheses, references, pairs[indexes[0]].target_lang)
        name = f"bleu_{direction}" if direction else "bleu"
        found |= {name: result.score, f"{name}_signature": result.signature}
    exact = sum(text == pair.target for text, pair in zip(translated, pairs, strict=True))
    return found | {"exact_match": exact / len(pairs)}


def _translate(model: str, pair: Pair) -> Ask:
    body = {"model": model, "text": pair.source}
    languages = {"source_lang": pair.source_lang, "target_lang": pair.target_lang}
    return Ask("/api/v1/translate", body | {name: lang for name, lang in languages.items() if lang})


def perplexity(context: JobContext, model: str, records: Sequence[Record]) -> Metrics:
    """Mean negative log-likelihood per token in nats, over pieces that know nothing of each other
    (the first token of each is not predicted), and its exponential."""
    texts = [record.text for record in records if isinstance(record, Document)]
    parts = [
        text[start : start + PART_CHARS]
        for text in texts
        for start in range(0, len(text), PART_CHARS)
    ]
    asks = [
        Ask("/tokenize", {"model": model, "text": part, "add_special_tokens": False})
        for part in parts
    ]
    pieces: list[list[int]] = []
    for answer in ask_all(context, asks, "tokenising"):
        size, ids = min(PIECE_TOKENS, int(answer["max_model_len"])), answer["tokens"]
        pieces += [ids[start : start + size] for start in range(0, len(ids), size)]
    scored = {"model": model, "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
    wanted = [Ask("/v1/completions", scored | {"prompt": ids}) for ids in pieces if len(ids) > 1]
    total, count = 0.0, 0
    for answer in ask_all(context, wanted):
        logprobs = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
        total -= math.fsum(logprobs)
        count += len(logprobs)
    if not count:
        raise DataError("the texts are too short: nothing of them could be predicted")
    loss = total / count
    return {"loss": loss, "perplexity": metrics.perplexity(loss), "tokens": count}
