"""What one example is, per objective: checked dataclasses made from the rows of any source."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmos.data.tagged import with_spans
from llmos.data.trees import Parsed, to_parsed
from llmos.errors import DataError
from llmos.types import Message

Row = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
_OF_TEXTS = ("text", "messages", "source", "target", "source_lang", "target_lang", "score")
_OF_SPANS = ("label", "entities", "question", "context", "answer", "start")
_OF_VECTORS = ("anchor", "positive", "negative", "a", "b", "c", "d")
_OF_RANKINGS = ("query", "documents", "relevant")
_OF_WORDS = ("tokens", "tags", "upos", "heads", "deprel")
FIELDS = frozenset((*_OF_TEXTS, *_OF_SPANS, *_OF_VECTORS, *_OF_RANKINGS, *_OF_WORDS))
"""Names that rows are read by, of what models are evaluated on."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn to continue."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text as the ids of its tokens, that of its end among them if it has any."""

    ids: array[int]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a chat; the model learns the assistant's, but for those only read."""

    messages: tuple[Message, ...]
    only_read: tuple[int, ...] = ()
    """Places of the assistant's turns that have `weight` 0."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Turns of a chat, and two answers to them."""

    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and what it becomes; languages are empty where there are none."""

    source: str
    target: str
    source_lang: str = ""
    target_lang: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its class."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A named span: characters ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Annotated:
    """A text and the entities in it, in order, not overlapping."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and where in the context its answer is: characters ``start`` to ``end``
    (exclusive), both 0 where there is none."""

    question: str
    context: str
    start: int
    end: int
    others: tuple[str, ...] = ()
    """Answers that are as right."""

    @property
    def answer(self) -> str:
        return self.context[self.start : self.end]

    @property
    def answers(self) -> tuple[str, ...]:
        """All that are right; an empty one where there is none."""
        return (self.answer, *self.others)


@dataclass(frozen=True, slots=True)
class Alike:
    """A text, one that belongs to it, and one that does not though it may seem so, or empty."""

    anchor: str
    positive: str
    negative: str = ""


@dataclass(frozen=True, slots=True)
class Rated:
    """A text and its number."""

    text: str
    score: float


Record = (
    Document
    | Tokenized
    | Conversation
    | Preference
    | Pair
    | Labelled
    | Annotated
    | Question
    | Alike
    | Rated
    | Parsed
)


def to_record(kind: str, row: Row, where: str) -> Record:
    """Make the record that is learned from out of a row.

    Args:
        kind: preferences, texts, tokens, or a task that is trained.
        row: field values by our field names.
        where: the place to name in an error ("file.jsonl, line 3").

    Raises:
        DataError: a field is missing or has the wrong shape.
    """
    return _MAKERS[kind](row, where)


def text_in(row: Row, field: str, where: str) -> str:
    """Return the text of a field. Raises DataError: it is missing, or no text."""
    value = row.get(field)
    if value is None:
        has = ", ".join(sorted(map(str, row))) or "nothing"
        raise DataError(
            f"{where} has no {field!r}, only {has}: name the field with --set data.fields.{field}=…"
        )
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {field!r} must be text, not {type(value).__name__}")
    return value


def _document(row: Row, where: str) -> Document:
    return Document(text_in(row, "text", where))


def _tokenized(row: Row, where: str) -> Tokenized:
    ids = row.get("input_ids")
    try:
        return Tokenized(array("i", ids))  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        raise DataError(f"{where} has no token ids as 'input_ids': a list of integers") from None


def _pair(row: Row, where: str) -> Pair:
    return Pair(
        text_in(row, "source", where),
        text_in(row, "target", where),
        str(row.get("source_lang") or ""),
        str(row.get("target_lang") or ""),
    )


def _labelled(row: Row, where: str) -> Labelled:
    return Labelled(text_in(row, "text", where), text_in(row, "label", where))


def _conversation(row: Row, where: str) -> Conversation:
    messages = _messages(row.get("messages"), where)
    only_read = tuple(
        place for place, turn in enumerate(row["messages"]) if _weight(turn, where) == 0
    )
    places = {place for place, message in enumerate(messages) if message.role == "assistant"}
    if not places - set(only_read):
        raise DataError(f"{where} has no assistant message to learn from")
    return Conversation(messages, only_read)


def _weight(turn: Row, where: str) -> int:
    """Whether a turn is learned from, in OpenAI's form: 1, or 0 for one that is only read."""
    weight = turn.get("weight")
    if weight is None:
        return 1
    if weight not in (0, 1) or isinstance(weight, bool) or turn.get("role") != "assistant":
        raise DataError(f"{where}: a 'weight' is 0 or 1, of a message of the assistant")
    return int(weight)


def _preference(row: Row, where: str) -> Preference:
    """``messages`` may be a ``prompt`` instead; an answer is text, or an assistant's message.
    OpenAI's form is taken too: ``{"input": {"messages"}, "preferred_output": [a message],
    "non_preferred_output": [a message]}``."""
    if "input" in row:
        row = _from_openai(row, where)
    if "messages" in row:
        messages = _messages(row["messages"], where)
    else:
        messages = (Message("user", text_in(row, "prompt", where)),)
    if messages[-1].role == "assistant":
        raise DataError(f"{where}: 'messages' end with an answer; both answers come after them")
    chosen, rejected = (_answer(row, name, where) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise DataError(f"{where}: the chosen and the rejected answer are the same")
    return Preference(messages, chosen, rejected)


def _from_openai(row: Row, where: str) -> Row:
    given = row["input"]
    if not isinstance(given, Mapping) or given.get("tools"):
        raise DataError(f"{where}: 'input' must be {{'messages': [...]}}, without tools")
    answers = {}
    for ours, theirs in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        turns = row.get(theirs)
        if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], Mapping):
            raise DataError(f"{where}: {theirs!r} must be a list of one message of the assistant")
        answers[ours] = turns[0]
    return {"messages": given.get("messages"), **answers}


def _answer(row: Row, name: str, where: str) -> Message:
    value = row.get(name)
    if isinstance(value, Mapping):
        if value.get("role") != "assistant":
            raise DataError(f"{where}: {name!r} must be text, or a message of the assistant")
        return Message("assistant", _content(value, where))
    return Message("assistant", text_in(row, name, where))


def _messages(turns: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where} has no list of 'messages'")
    messages = []
    for turn in turns:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        if role == "developer":  # OpenAI's newer name
            role = "system"
        if role not in ROLES:
            raise DataError(f"{where}: a message needs a role of {', '.join(ROLES)}")
        messages.append(Message(role, _content(turn, where)))
    return tuple(messages)


def _content(turn: Row, where: str) -> str:
    """The text of a turn, or of the text parts that it is made of."""
    for unread in ("tool_calls", "function_call"):
        if turn.get(unread):
            raise DataError(f"{where}: a message has {unread!r}, and only its text is learned from")
    parts = turn.get("content")
    if not isinstance(parts, list):
        return text_in(turn, "content", where)
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        raise DataError(f"{where}: a message has a part that is no text")
    return "".join(text_in(part, "text", where) for part in parts)


def _annotated(row: Row, where: str) -> Annotated:
    """Words and their tags will do: see `tagged`."""
    if row.get("entities") is None and row.get("tokens") is not None:
        row = with_spans(row, where)
    text = text_in(row, "text", where)
    spans = row.get("entities")
    if not isinstance(spans, list):
        raise DataError(f"{where} has no list of 'entities', nor of 'tokens' and 'tags'")
    entities, last = [], 0
    for span in sorted(spans, key=_start):
        entity = _entity(span, where)
        if not last <= entity.start < entity.end <= len(text):
            raise DataError(f"{where}: entity {span} overlaps another or lies outside the text")
        entities.append(entity)
        last = entity.end
    return Annotated(text, tuple(entities))


def _start(span: Any) -> int:
    start = span.get("start") if isinstance(span, Mapping) else None
    return start if isinstance(start, int) else -1


def _entity(span: Any, where: str) -> Entity:
    if not isinstance(span, Mapping):
        raise DataError(f"{where}: an entity must be {{start, end, label}}, not {span!r}")
    start, end, label = span.get("start"), span.get("end"), span.get("label")
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str)):
        raise DataError(f"{where}: an entity must be {{start, end, label}}, not {dict(span)}")
    return Entity(start, end, label)


def _question(row: Row, where: str) -> Question:
    """``answers`` may be SQuAD's ``{"text": [...], "answer_start": [...]}``, of which the first is
    learned."""
    question, context = text_in(row, "question", where), text_in(row, "context", where)
    answers = row.get("answers")
    others: tuple[str, ...] = ()
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text") or [""], answers.get("answer_start") or [None]
        row = {**row, "answer": texts[0], "start": starts[0]}
        others = tuple(dict.fromkeys(str(text) for text in texts[1:] if text != texts[0]))
    answer = row.get("answer") or ""
    if not answer:
        return Question(question, context, 0, 0)
    start = row.get("start")
    start = context.find(str(answer)) if start is None else start
    if type(start) is not int or start < 0 or not context.startswith(str(answer), start):
        raise DataError(f"{where}: the answer {str(answer)[:60]!r} is not at {start} in 'context'")
    return Question(question, context, start, start + len(str(answer)), others)


def _alike(row: Row, where: str) -> Alike:
    negative = text_in(row, "negative", where) if row.get("negative") else ""
    return Alike(text_in(row, "anchor", where), text_in(row, "positive", where), negative)


def _rated(row: Row, where: str) -> Rated:
    return Rated(text_in(row, "text", where), score_in(row, where))


def score_in(row: Row, where: str) -> float:
    """Return the number of the field `score`. Raises DataError: it is missing, or no number."""
    value = text_in(row, "score", where)
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{where}: 'score' must be a number, not {value[:60]!r}")
    return score


_MAKERS: dict[str, Callable[[Row, str], Record]] = {
    "generate": _document,
    "texts": _document,
    "tokens": _tokenized,
    "word_vectors": _document,
    "chat": _conversation,
    "preferences": _preference,
    "translate": _pair,
    "classify": _labelled,
    "entities": _annotated,
    "fill_mask": _document,
    "answer": _question,
    "embed": _alike,
    "rate": _rated,
    "parse": to_parsed,
}
