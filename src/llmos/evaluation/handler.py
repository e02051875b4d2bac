"""The evaluate job: a dataset's rows through the model as it is served, its answers scored.

The rows are asked of the server like any client's, at the job's class, so what is measured is what
clients get: quantised weights, adapters, templates and all. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmos.data.judgements import (
    Analogy,
    Judged,
    Ranking,
    read_analogies,
    to_analogy,
    to_judged,
    to_ranking,
)
from llmos.data.record import Document, Record, to_record
from llmos.data.sources import FileSource
from llmos.errors import DataError
from llmos.evaluation import served, served_codes, served_masks, served_trees, served_vectors
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

Row = Record | Judged | Analogy | Ranking
MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "classify": served.classification,
    "entities": served.entities,
    "translate": served.translation,
    "answer": served.answers,
    "rate": served.ratings,
    "parse": served_trees.trees,
    "rerank": served.rankings,
    "generate": served.perplexity,
    "chat": served.perplexity,
    "fill_mask": served_masks.fill_mask,
    "reconstruct": served_codes.reconstruction,
}
"""What is measured, by what is asked of a model, where one kind of row says all of that."""
WHOLE_TEXTS = frozenset({"generate", "chat"})
LINES = frozenset({"fill_mask", "reconstruct"})
"""Of which a plain text file has one a line."""
OF_TEXTS = WHOLE_TEXTS | LINES


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
    kinds = {type(record) for record in records}
    if len(kinds) > 1:
        raise DataError(f"{shown} has rows with a 'score' and rows without: give one kind")
    measure = measure_for(params["task"], kinds.pop())
    found = measure(context, params["model"], records)
    return JobResult({"dataset": params["dataset"], "rows": len(records), "metrics": found})


def measure_for(task: str, kind: type) -> Callable[..., dict[str, Any]]:
    """Return what measures a model on rows of a kind."""
    if task == "word_vectors":
        is_judged = kind is Judged
        return served_vectors.word_judgements if is_judged else served_vectors.analogies
    if task == "embed":
        return served_vectors.judgements if kind is Judged else served_vectors.likeness
    return MEASURES[task]


def read(source: FileSource, task: str) -> Iterator[Row]:
    """Yield the file's records; of plain text the whole, or its lines. Raises DataError."""
    if source.kind() == "text":
        yield from _of_text(source, task)
        return
    for where, row in source.rows():
        if task in ("embed", "word_vectors") and row.get("score") is not None:
            yield to_judged(row, where)
        elif task == "word_vectors":
            yield to_analogy(row, where)
        elif task == "rerank":
            yield to_ranking(row, where)
        else:
            yield to_record("generate" if task in OF_TEXTS else task, row, where)


def _of_text(source: FileSource, task: str) -> Iterator[Row]:
    if task in WHOLE_TEXTS:
        yield Document(source.text())
    elif task in LINES:
        lines = (line.strip() for line in source.text().splitlines())
        yield from (Document(line) for line in lines if line)
    elif task == "word_vectors":
        yield from read_analogies(source.text(), source.shown)
    else:
        raise DataError(
            f"{source.shown} is plain text, and {task} is measured on rows: give .jsonl, .tsv "
            "or .csv"
        )
