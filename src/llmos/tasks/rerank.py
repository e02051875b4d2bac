"""Reranking: a cross-encoder reads the query with each document and says how well they match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.errors import InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.rows import Terms, check_count, rows_of, run_rows
from llmos.types import PipelineWork, Usage

RERANK_TASKS = frozenset({"rerank"})


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's number in the request and its relevance, from 0 to 1."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every document, the most relevant first; of equal ones the earlier."""

    results: list[Ranked]
    usage: Usage


async def rerank(
    context: TaskContext,
    served: Served,
    query: str,
    documents: Sequence[str],
    terms: Terms,
    *,
    truncate: bool = False,
) -> Ranking:
    """Order documents by how well they answer a query.

    Args:
        truncate: cut documents that are too long beside the query, instead of refusing them.

    Raises:
        InvalidRequestError: the query or a document is empty, or there are none or too many.
        ContextLengthError: the query with a document is longer than the model reads (``param`` is
            the query where it alone is).
        DeadlineExceededError: they were not done in time.
    """
    check_count(len(documents), "documents")
    names = [f"documents.{index}" for index in range(len(documents))]
    for text, name in zip((query, *documents), ("query", *names), strict=True):
        if not text.strip():
            raise InvalidRequestError(f"{name} is empty: give some text.", param=name)
    pairs = [(query, document) for document in documents]
    rows = await rows_of(served, pairs, names, truncate=truncate, first_name="query")
    works = [PipelineWork("classify", row.ids, type_ids=row.type_ids) for row in rows]
    outs = await run_rows(context, served, works, terms)
    # One label: the probability of a match. Two: those of no match and of a match.
    ranked = [Ranked(index, out.scores[0][-1]) for index, out in enumerate(outs)]
    ranked.sort(key=lambda one: (-one.score, one.index))
    return Ranking(ranked, Usage(sum(len(row.ids) for row in rows), 0))
