"""Named entities: per-token label scores to spans of the user's text, in characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.models.units import is_word_char
from llmos.tasks.classify import labels_of
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import Piece, pieces_of, run_all
from llmos.tasks.rows import Terms
from llmos.tasks.tokenizers import Encoded
from llmos.types import PipelineWork

ENTITIES_TASKS = frozenset({"entities"})


@dataclass(frozen=True, slots=True)
class Entity:
    """A name: ``text[start:end]`` of the whole text, and the mean probability of its label."""

    text: str
    label: str
    start: int
    end: int
    score: float


async def entities(context: TaskContext, served: Served, text: str, terms: Terms) -> list[Entity]:
    """Find the names in a text of any length, in order.

    Raises:
        InvalidRequestError: the text is empty.
        ContextLengthError: a clause alone is longer than the model reads.
    """
    labels = labels_of(served)
    pieces = await pieces_of(served, text)
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:

        async def one(piece: Piece) -> list[Entity]:
            ids = piece.encoded.ids
            work = PipelineWork("token_classify", ids, priority=terms.priority, tenant=terms.tenant)
            out = await lease.run(work)
            return spans(text, piece.start, piece.encoded, out.scores, labels)

        found = await run_all(pieces, one)
    return [entity for entities_of_piece in found for entity in entities_of_piece]


@dataclass(slots=True)
class _Open:
    """An entity being read: its kind, extent, and the scores of its tokens."""

    kind: str
    start: int
    end: int
    scores: list[float]


def spans(
    text: str,
    base: int,
    encoded: Encoded,
    scores: Sequence[Sequence[float]],
    labels: Sequence[str],
) -> list[Entity]:
    """Merge B-/I- labels of tokens into entities.

    A token inside a word takes the label of the word's first token, as most models are trained;
    an I- after another kind, or after none, begins an entity.

    Args:
        text: the whole text; the tokens' offsets count from ``base`` in it.
        scores: label probabilities of each token, special ones included.
    """
    found: list[_Open] = []
    is_open = False
    previous_end = -1
    prefix, kind, score = "O", "", 0.0
    rows = zip(encoded.offsets, encoded.special, scores, strict=True)
    for (token_start, token_end), is_special, row in rows:
        start, end = _stripped(text, base + token_start, base + token_end)
        if is_special or end <= start:
            continue
        continues_word = start == previous_end and _is_inside_word(text, start)
        same_character = start < previous_end
        if not (continues_word or same_character):
            best = max(range(len(row)), key=row.__getitem__)
            prefix, kind = _parsed(labels[best])
            score = row[best]
            starts = prefix == "B" or not is_open or not found or found[-1].kind != kind
            if prefix != "O" and starts:
                found.append(_Open(kind, start, end, []))
            is_open = prefix != "O"
        if is_open:
            found[-1].end = max(end, found[-1].end)
            found[-1].scores.append(score)
        previous_end = max(end, previous_end)
    return [
        Entity(text[e.start : e.end], e.kind, e.start, e.end, sum(e.scores) / len(e.scores))
        for e in found
    ]


def _parsed(label: str) -> tuple[str, str]:
    """Return ("B" or "I" or "O", kind); a bare label counts as I-."""
    prefix, dash, kind = label.partition("-")
    if dash and prefix in {"B", "I", "S", "E", "L", "U"}:
        return ("B" if prefix in {"B", "S", "U"} else "I"), kind
    return ("O", "") if label == "O" else ("I", label)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out white space that the tokenizer counts to the token."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _is_inside_word(text: str, at: int) -> bool:
    """Whether a word goes on at this border; Chinese and Japanese characters are words alone."""
    return at > 0 and is_word_char(text[at - 1]) and is_word_char(text[at])
