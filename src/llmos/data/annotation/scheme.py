"""What is asked of annotators: the kind of label, the fields they see, the labels to choose from;
whether a row can be shown, and whether an answer is one. Pure.

A label is plain JSON: a text of `labels`, or a list of such (classification); spans (``{"start",
"end", "label"}``, characters, the end exclusive); "first", "second" (of the scheme's fields) or
"tie" (pairs); a whole number (rating); a text.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from llmos.data.pipeline.record import ID, META, Row
from llmos.errors import DataError, InvalidRequestError

Kind = Literal["classification", "spans", "pairs", "rating", "text"]
FIRST, SECOND, TIE = "first", "second", "tie"
MAX_SPANS = 1000
"""In one label."""
MAX_TEXT_CHARS = 100_000
MAX_SCALE = 100
"""Between the least and the most of a rating."""
MAX_SHOWN_BYTES = 2**16
"""Of what is shown of a row; a larger one is no item."""
INTO = {"spans": "entities", "rating": "score", "text": "target"}
"""The field that a label becomes, where the scheme names none; of classification "label", or
"labels" where there may be several."""


class Scheme(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of each item.

    Attributes:
        fields: shown to annotators; the first is what spans are marked in; of pairs the two
            answers.
        labels: of classification and spans.
        several: a text may have any number of the labels.
        least, most: the ends of the scale of a rating.
        ties: two answers may be as good as each other.
        prompt: the field with what was asked (a text, or messages), of pairs and texts: rows for
            DPO and SFT are made with it.
        into: the field that the label becomes; empty: see `INTO`.
    """

    kind: Kind
    fields: tuple[str, ...]
    labels: tuple[str, ...] = ()
    several: bool = False
    least: int = 1
    most: int = 5
    ties: bool = True
    prompt: str = ""
    into: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The fields that annotators see, what was asked first."""
        return tuple(dict.fromkeys((self.prompt, *self.fields) if self.prompt else self.fields))

    @property
    def column(self) -> str:
        """The field that the label becomes."""
        return self.into or INTO.get(self.kind, "labels" if self.several else "label")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


def scheme_of(values: Mapping[str, Any]) -> Scheme:
    """Return a scheme that makes sense.

    Raises:
        InvalidRequestError: it does not; the message says what to do.
    """
    try:
        scheme = msgspec.convert(dict(values), Scheme)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The scheme cannot be used: {error}.") from None
    if not scheme.fields or len(set(scheme.fields)) < len(scheme.fields):
        raise _refused("fields", "name each field that annotators are to see once")
    if scheme.kind in ("classification", "spans"):
        least = 2 if scheme.kind == "classification" else 1
        if len(scheme.labels) < least or len(set(scheme.labels)) < len(scheme.labels):
            raise _refused("labels", f"{scheme.kind} needs {least} different labels or more")
        if not all(label and label == label.strip() for label in scheme.labels):
            raise _refused("labels", "a label is a text without space around it")
    elif scheme.labels:
        raise _refused("labels", f"{scheme.kind} has no labels to choose from: leave them out")
    if scheme.several and scheme.kind != "classification":
        raise _refused("several", "only classification may give several labels")
    if scheme.kind == "pairs" and (len(scheme.fields) != 2 or not scheme.prompt):
        raise _refused("fields", "pairs need two fields, the answers, and the `prompt` field")
    if scheme.prompt and scheme.kind not in ("pairs", "text"):
        raise _refused("prompt", f"{scheme.kind} makes no answers: name the field in `fields`")
    if scheme.kind == "rating" and not 1 <= scheme.most - scheme.least <= MAX_SCALE:
        raise _refused("most", f"a scale has 2 to {MAX_SCALE + 1} numbers, from least to most")
    if scheme.into and scheme.kind == "pairs":
        raise _refused("into", "pairs become chosen and rejected answers: leave it out")
    if scheme.into in (ID, META):
        raise _refused("into", f"{scheme.into} is no field for labels: name another")
    return scheme


def shown_of(scheme: Scheme, row: Row) -> dict[str, Any]:
    """Return what annotators see of a row.

    Raises:
        DataError: it lacks a field, or has something there that cannot be labelled; what stands
            before the first colon is counted as one reason.
    """
    shown = {}
    for name in scheme.shown:
        value = row.get(name)
        if value is None or value in ("", []):
            raise DataError(f"no {name}")
        is_asked = name == scheme.prompt
        marked = name == scheme.fields[0] and scheme.kind == "spans"
        if (marked or (scheme.kind == "pairs" and not is_asked)) and not isinstance(value, str):
            raise DataError(f"{name} is no text")
        if is_asked and not (isinstance(value, str) or _is_asking(value)):
            raise DataError(f"{name} is neither a text nor messages that want an answer")
        shown[name] = value
    if scheme.kind == "pairs" and shown[scheme.fields[0]] == shown[scheme.fields[1]]:
        raise DataError("the two answers are the same")
    num_bytes = len(msgspec.json.encode(shown))
    if num_bytes > MAX_SHOWN_BYTES:
        raise DataError(f"too large to show: {num_bytes} bytes, over {MAX_SHOWN_BYTES}")
    return shown


def order_of(kind: str, fields: Sequence[str], task: int, place: int) -> list[str]:
    """Return the fields of an item in the order in which they are shown: the scheme's; of about
    half of all pairs the second answer first, as who compares two leans to one of the places.

    A label says which field is the better, wherever that stood, so that it depends on nothing here.

    Args:
        task: the number of the task.
        place: of the item's row in the dataset.
    """
    drawn = hashlib.blake2b(f"{task}\x1f{place}".encode(), digest_size=1).digest()
    return list(reversed(fields) if kind == "pairs" and drawn[0] % 2 else fields)


def checked_value(scheme: Scheme, shown: Mapping[str, Any], value: Any) -> Any:
    """Return a label as it is kept: of several labels, those of the scheme in its order; spans in
    order.

    Args:
        shown: of the item.

    Raises:
        InvalidRequestError: it is no label of this scheme; the message says what is.
    """
    match scheme.kind:
        case "classification" if scheme.several:
            return _several(scheme, value)
        case "classification":
            return _one_of(value, scheme.labels)
        case "spans":
            return _spans(scheme, shown[scheme.fields[0]], value)
        case "pairs":
            return _one_of(value, (FIRST, SECOND, TIE) if scheme.ties else (FIRST, SECOND))
        case "rating":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if not is_whole or not scheme.least <= value <= scheme.most:
                raise _refused(
                    "value", f"a rating is a whole number from {scheme.least} to {scheme.most}"
                )
            return value
        case "text":
            if not isinstance(value, str) or not value.strip():
                raise _refused("value", "write a text")
            if len(value) > MAX_TEXT_CHARS:
                raise _refused("value", f"a text has at most {MAX_TEXT_CHARS} characters")
            return value


def _several(scheme: Scheme, value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > len(scheme.labels):
        raise _refused("value", "give a list of labels, empty where none fits")
    given = {_one_of(one, scheme.labels) for one in value}
    return [label for label in scheme.labels if label in given]


def _one_of(value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        shown = ", ".join(known[:20]) + ("" if len(known) <= 20 else ", …")
        raise _refused("value", f"{str(value)[:60]!r} is none of the labels: {shown}")
    return value


def _spans(scheme: Scheme, text: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > MAX_SPANS:
        raise _refused("value", f"give a list of at most {MAX_SPANS} spans, empty where none is")
    spans: list[dict[str, Any]] = []
    for one in value:
        if not isinstance(one, dict) or set(one) != {"start", "end", "label"}:
            raise _refused("value", "a span is {start, end, label}")
        start, end = one["start"], one["end"]
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
            raise _refused(
                "value",
                f"a span lies within the text's {len(text)} characters: start < end, from 0",
            )
        spans.append({"start": start, "end": end, "label": _one_of(one["label"], scheme.labels)})
    spans.sort(key=lambda span: span["start"])
    for before, after in itertools.pairwise(spans):
        if after["start"] < before["end"]:
            raise _refused("value", f"spans at {before['start']} and {after['start']} overlap")
    return spans


def _is_asking(turns: Any) -> bool:
    """Whether this is a list of messages of which the last is not the assistant's."""
    return (
        isinstance(turns, list)
        and all(isinstance(one, dict) and isinstance(one.get("content"), str) for one in turns)
        and all(one.get("role") in ("system", "user", "assistant") for one in turns)
        and turns[-1]["role"] != "assistant"
    )


def _refused(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {what}.", param=param)
