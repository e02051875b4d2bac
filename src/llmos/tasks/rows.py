"""Many rows of one request through a model: side by side, longest first, before a deadline.

Rows of like length come after each other, so that the engine pads its micro-batches little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import run_all
from llmos.tasks.tokenizers import Row
from llmos.types import PipelineOut, PipelineWork, Priority

MAX_ROWS = 2048
MAX_TOTAL_TOKENS = 300_000
"""Of one request, as OpenAI limits embeddings."""
CHUNK_CHARS = 2**18
"""Texts tokenised at a time, before their tokens are counted."""
MAX_TOKEN_CHARS = 64
"""Of a text that may be cut, what so many characters a token cannot reach is not looked at."""
MAX_IN_FLIGHT = 128
"""Rows of one request in the engine at a time, two of its largest batches; the others wait here."""
ROWS_PER_PLACE = 16
"""Rows in the engine that count as one work in the queue of their class: each is a single step."""

Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Terms:
    """How urgent a request is, whose it is, and after how long nobody wants it any more."""

    priority: Priority = Priority.STANDARD
    tenant: str = ""
    deadline_ms: int | None = None

    @property
    def deadline_s(self) -> float | None:
        return None if self.deadline_ms is None else self.deadline_ms / 1000


async def run_rows(
    context: TaskContext, served: Served, works: Sequence[PipelineWork], terms: Terms
) -> list[PipelineOut]:
    """Return the result of every work, in order; their urgency is that of ``terms``.

    Raises:
        DeadlineExceededError: they were not done in time; what is left of them is cancelled.
        OverloadedError, OutOfMemoryError, EngineError: the model cannot be run now.
    """
    longest_first = sorted(range(len(works)), key=lambda index: -len(works[index].input_ids))
    in_flight = min(MAX_IN_FLIGHT, context.settings.max_queue)
    num_places = math.ceil(min(in_flight, len(works)) / ROWS_PER_PLACE)
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant, num_works=num_places
    ) as lease:

        async def one(index: int) -> PipelineOut:
            work = works[index]
            mine = msgspec.structs.replace(work, priority=terms.priority, tenant=terms.tenant)
            return await lease.run(mine)

        outs = await run_all(longest_first, one, in_flight)
    by_index = dict(zip(longest_first, outs, strict=True))
    return [by_index[index] for index in range(len(works))]


def check_count(count: int, param: str) -> None:
    """Refuse no rows, or too many, before anything is done with them."""
    if count == 0:
        raise InvalidRequestError(f"{param} is empty: give at least one.", param=param)
    if count > MAX_ROWS:
        raise InvalidRequestError(
            f"{param} has {count} entries, but one request may have {MAX_ROWS}: send several.",
            param=param,
        )


async def rows_of(
    served: Served,
    texts: Sequence[Text],
    names: Sequence[str],
    *,
    truncate: bool,
    first_name: str = "",
) -> list[Row]:
    """Return the tokens of texts, or of pairs of them; no more is tokenised than may be run.

    Args:
        names: of the field each text came from, of a pair the second.
        first_name: of the field that the first text of each pair came from.
        truncate: whether texts that are too long are cut at their end (of a pair, the second).

    Raises:
        ContextLengthError, InvalidRequestError: see ``fitted`` and ``check_total``.
    """
    limit = served.context_tokens
    rows: list[Row] = []
    chunk: list[Text] = []
    num_chars = 0
    for text, name in zip(texts, names, strict=True):
        *first, last = (text,) if isinstance(text, str) else text
        if truncate:
            last = last[: limit * MAX_TOKEN_CHARS]
        for part in (*first, last):
            is_huge = len(part) > CHUNK_CHARS // 4  # the others are as quickly tokenised whole
            if not is_huge or (truncate and part is last):
                continue
            least = await served.tokenizer.least_tokens(part, limit)
            if least > limit:
                is_last = part is last
                raise _too_long(
                    served, f"at least {least}", name if is_last else first_name, is_last
                )
        chunk.append((first[0], last) if first else last)
        num_chars += sum(map(len, (*first, last)))
        if num_chars >= CHUNK_CHARS or len(rows) + len(chunk) == len(texts):
            made = zip(await served.tokenizer.rows(chunk), names[len(rows) :], strict=False)
            rows += [fitted(row, served, its_name, truncate, first_name) for row, its_name in made]
            check_total(rows, names[0])
            chunk, num_chars = [], 0
    return rows


def fitted(row: Row, served: Served, name: str, truncate: bool, first_name: str = "") -> Row:
    """Return a row that the model can read whole, cut if it may be.

    Args:
        name: of the field it came from, of a pair the second text.
        first_name: of the field that a pair's first text came from.

    Raises:
        ContextLengthError: it is too long, or its first text alone is.
        InvalidRequestError: it has no tokens.
    """
    cut = row.cut(served.context_tokens)
    if not row.ids:
        raise InvalidRequestError(f"{name} has no tokens: give some text.", param=name)
    if len(cut.ids) > served.context_tokens and first_name:  # whatever is cut of the second
        raise _too_long(served, str(row.parts.count(0)), first_name, can_cut=False)
    if len(row.ids) > served.context_tokens and not (truncate and cut is not row):
        raise _too_long(served, str(len(row.ids)), name, can_cut=True)
    return cut if truncate else row


def check_total(rows: Sequence[Row], name: str) -> None:
    """Refuse more tokens than one request may have; ``name`` is that of the first row."""
    total = sum(len(row.ids) for row in rows)
    if total > MAX_TOTAL_TOKENS:
        field = name.partition(".")[0]
        raise InvalidRequestError(
            f"{field} has {total} tokens or more in all, but one request may have "
            f"{MAX_TOTAL_TOKENS}: send several.",
            param=field,
        )


def _too_long(served: Served, number: str, name: str, can_cut: bool) -> ContextLengthError:
    """Return the error for a text that is too long, alone or (where it cannot be cut) in a pair."""
    of_all, advice = ("", ", or set truncate") if can_cut else (" of a pair", "")
    return ContextLengthError(
        f"{name} has {number} tokens, but {served.ref} reads at most {served.context_tokens}"
        f"{of_all}: shorten it{advice}.",
        param=name,
    )
