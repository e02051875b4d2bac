"""Personal data in what clients ask of models, hidden before any route sees it.

A key says what is hidden, and whoever has it cannot turn that off; without that a request may say
so for itself. The body is read here as plain JSON: what people write is replaced; in everything
else nothing may be found. Answers are looked at where they are made: `tasks.hidden_answers`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError

from llmos.errors import InvalidRequestError, PermissionDeniedError, TooLargeError
from llmos.sdk.key_wire import AnonymiseBody
from llmos.tasks.anonymise import MAX_CHARS, Anonymiser, Counts, told

if TYPE_CHECKING:
    from fastapi import Request

    from llmos.security.actors import Actor
    from llmos.types import Anonymise

ACTIONS = frozenset({"generate", "feedback.write"})
"""Actions whose routes take what models are to read, or to learn of what they wrote."""
FIELD = "anonymise"
HEADER = "x-llmos-anonymised"
TEXTS = frozenset(
    {
        "comment",
        "content",
        "context",
        "correction",
        "default",
        "description",
        "documents",
        "example",
        "examples",
        "input",
        "instructions",
        "output",
        "prompt",
        "prompt_cache_key",
        "query",
        "question",
        "reasoning_content",
        "refusal",
        "safety_identifier",
        "stop",
        "summary",
        "system",
        "template",
        "text",
        "thinking",
        "title",
        "tokens",
        "user",
    }
)
"""Fields with text that people write, or a list of texts."""
TOKENS = frozenset({"input", "prompt", "tokens"})
"""Of these, the ones that take token ids in place of text."""
TREES = frozenset({"arguments", "metadata", "rows"})
"""Fields with JSON of any shape that is text of theirs throughout."""
PARTS = frozenset({"content", "output", "summary"})
"""Fields whose list of parts is one text."""
EXEMPT = frozenset({"model", "logit_bias", "options.logit_bias"})
"""Fields, by where in the body they stand, that reach no model."""
_HARMLESS = re.compile(r"[A-Za-z_$-]{0,64}|https?://json-schema\.org/[a-z0-9/#-]*")
"""Words, and what a JSON schema says it is."""
_ID = re.compile(r"[a-z]{1,12}[_-](?=[0-9]*[A-Za-z])[0-9A-Za-z]{16,64}")
"""An id as servers make them, harmless in a field for one: elsewhere it may be a key."""
_GIVEN = re.compile(r"(?:^|\.)(?:const|default|enum|examples?)(?:\.|$)")
"""Where in a schema there are numbers that somebody may have; in its limits there are none."""

Kind = Literal["text", "json", "other"]
Visit = Callable[[Kind, str, str], str]
"""Takes what a text is, where in the body it stands, and the text; returns what stands there."""
log = logging.getLogger("llmos.server")


async def hide_prompt(request: Request, body: Any, is_large: bool) -> Any:
    """Return a request's body without the personal data in it, as its key or itself demands.

    Args:
        body: as JSON has it.
        is_large: walking through it would stall others.

    Raises:
        InvalidRequestError: it has some where nothing can be hidden, or token ids.
        TooLargeError: it has too much text.
        AnonymiseError, OverloadedError: it cannot be looked for.
    """
    actor = cast("Actor", request.state.actor)
    if isinstance(body, dict) and FIELD in body:
        actor = request.state.actor = _asked(actor, body[FIELD])
        body = {name: value for name, value in body.items() if name != FIELD}
    if actor.anonymise is None:
        return body
    counts: Counts = Counter()
    anonymiser: Anonymiser = request.app.state.anonymiser
    hidden = await hide_texts(anonymiser, actor, body, counts, is_large=is_large)
    anonymiser.counts.update({("prompt", kind): num for kind, num in counts.items()})
    request.state.anonymised = told(counts)
    log.info("personal data hidden in the request %s: %s", request.state.request_id, told(counts))
    return hidden


async def hide_texts(
    anonymiser: Anonymiser, actor: Actor, value: Any, counts: Counts, *, is_large: bool = False
) -> Any:
    """Return a part of a body without its personal data. Raises as `hide_prompt`."""
    how = actor.anonymise
    if how is None:
        return value
    walk = _Walk(value)
    await (asyncio.to_thread(walk.read) if is_large else _now(walk.read))
    if walk.num_chars > MAX_CHARS:
        raise TooLargeError(
            f"The request has {walk.num_chars} characters of text, but personal data is looked for "
            f"in at most {MAX_CHARS} at a time: send it in parts."
        )
    found = await anonymiser.find([text for _, text in walk.others], how, actor.owner)
    for (place, _), spans in zip(walk.others, found, strict=True):
        if spans:
            kinds = ", ".join(sorted({span.type for span in spans}))
            raise InvalidRequestError(
                f"{place} has personal data ({kinds}), which is hidden in what this key asks but "
                "cannot be there: leave it out.",
                param=place,
            )
    texts = await anonymiser.hide(walk.texts, how, actor.owner, counts)
    jsons = [await anonymiser.hide_json(one, how, actor.owner, counts) for one in walk.jsons]
    if is_large:
        return await asyncio.to_thread(walk.filled, texts, jsons)
    return walk.filled(texts, jsons)


def refuse_where_hidden(actor: Actor, why: str) -> None:
    """Refuse what cannot be done without personal data passing unseen.

    Raises:
        PermissionDeniedError: the actor's key, or its request, demands that none does.
    """
    if actor.anonymise is not None:
        raise PermissionDeniedError(f"Personal data is hidden in what this key asks: {why}.")


async def hide_answer(request: Request, actor: Actor, text: str) -> str:
    """Return a text that a model wrote without its personal data, where the actor's are hidden.
    Raises AnonymiseError, OverloadedError: it cannot be looked for."""
    how = actor.anonymise
    if how is None or not how.answers:
        return text
    counts: Counts = Counter()
    anonymiser: Anonymiser = request.app.state.anonymiser
    (hidden,) = await anonymiser.hide([text], how, actor.owner, counts)
    anonymiser.counts.update({("answer", kind): num for kind, num in counts.items()})
    log.info("personal data hidden in the answer %s: %s", request.state.request_id, told(counts))
    return hidden


def _asked(actor: Actor, given: Any) -> Actor:
    """Return the actor with what its request says is to be hidden."""
    if given is None or given is False:
        return actor
    if actor.anonymise is not None:
        raise InvalidRequestError(
            "This key says already what is hidden: leave anonymise out.", param=FIELD
        )
    try:
        how: Anonymise = AnonymiseBody.model_validate({} if given is True else given).settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, (FIELD, *wrong["loc"])))
        raise InvalidRequestError(f"{place}: {wrong['msg']}", param=place) from None
    return dataclasses.replace(actor, anonymise=how)


async def _now(read: Callable[[], None]) -> None:
    read()


class _Walk:
    """A body, the texts in it, and the body again with others in their place.

    Attributes:
        others: what is no text that people write, behind its place.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self.texts: list[str] = []
        self.jsons: list[str] = []
        self.others: list[tuple[str, str]] = []

    def read(self) -> None:
        """Note every text. Raises InvalidRequestError: there are token ids."""

        def noted(kind: Kind, place: str, text: str) -> str:
            if kind == "text":
                self.texts.append(text)
            elif kind == "json":
                self.jsons.append(text)
            elif not _is_harmless(place, text):
                self.others.append((place, text))
            return text

        _walked(self._body, noted)

    @property
    def num_chars(self) -> int:
        """How much there is to look at."""
        others = (text for _, text in self.others)
        return sum(map(len, (*self.texts, *self.jsons, *others)))

    def filled(self, texts: list[str], jsons: list[str]) -> Any:
        """Return the body with these texts, in the order in which they were noted."""
        rest = {"text": iter(texts), "json": iter(jsons)}

        def put(kind: Kind, place: str, text: str) -> str:
            return text if kind == "other" else next(rest[kind])

        return _walked(self._body, put)


def _is_harmless(place: str, text: str) -> bool:
    if place.endswith("id") and _ID.fullmatch(text):
        return True
    return _HARMLESS.fullmatch(text) is not None


def _walked(
    value: Any, visit: Visit, place: str = "", name: str = "", *, is_text: bool = False
) -> Any:
    """Return JSON with its texts as ``visit`` has them: that of the field ``name``, or a list
    within it, is what people write, if ``is_text``."""
    if isinstance(value, dict):
        return _walked_fields(value, visit, place)
    if isinstance(value, list | tuple):
        if name in PARTS and (parts := _joined(value)):
            return _walked(parts, visit, place)
        inner = [(one, f"{place}.{index}".lstrip(".")) for index, one in enumerate(value)]
        return [_walked(one, visit, where, name, is_text=is_text) for one, where in inner]
    if isinstance(value, str):
        return visit("text" if is_text else "other", place, value)
    if is_text and name in TOKENS and type(value) is int:
        raise InvalidRequestError(
            f"{place} has token ids, in which personal data cannot be looked for: send text.",
            param=place.partition(".")[0],
        )
    if type(value) in (int, float) and _GIVEN.search(place):
        visit("other", place, str(value))
    return value


def _walked_fields(value: dict[str, Any], visit: Visit, place: str) -> dict[str, Any]:
    walked: dict[str, Any] = {}
    for name, one in value.items():
        where = f"{place}.{name}".lstrip(".")
        visit("other", f"{place} (the name of a field)".lstrip(), name)
        if where in EXEMPT:
            walked[name] = one
        elif name in TREES and isinstance(one, str):
            walked[name] = visit("json", where, one)
        elif name in TREES:
            walked[name] = json.loads(visit("json", where, json.dumps(one, ensure_ascii=False)))
        else:
            is_text = name in TEXTS or (name == "name" and "role" in value)
            walked[name] = _walked(one, visit, where, name, is_text=is_text)
    return walked


def _joined(parts: Sequence[Any]) -> list[Any]:
    """Return parts of which the first has the text of all, if each has some."""
    fields = [_field_of(part) for part in parts]
    if len(parts) < 2 or not all(fields):
        return []
    text = "".join(part[field] for part, field in zip(parts, fields, strict=True))
    return [
        {**part, field: "" if index else text}
        for index, (part, field) in enumerate(zip(parts, fields, strict=True))
    ]


def _field_of(part: Any) -> str:
    """Return which field of a part has its text; empty: none has."""
    if not isinstance(part, dict):
        return ""
    field = "refusal" if part.get("type") == "refusal" else "text"
    return field if isinstance(part.get(field), str) else ""
