"""Hides personal data in texts on their way to a model, or from one.

`Anonymiser` is the server's side, ``python -m llmos.tasks.anonymise FD`` the helper, which finds.
What cannot be looked at is not passed on: whoever waits for it gets an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from llmos.data.pii.replacing import KEYED, Replacer, read_key
from llmos.data.pii.spans import Span
from llmos.errors import AnonymiseError, DataError, PipelineError, TooLargeError
from llmos.storage.parquet import check_packages
from llmos.tasks.pieces import Pieces, View
from llmos.tasks.sandbox import Sandbox, SandboxBrokenError, SandboxTimeoutError, serve
from llmos.types import PERSONAL_TYPES, Anonymise, PersonalType

TIMEOUT_S = 10.0
"""For the texts of one question, which take a tenth of a second."""
QUESTION_CHARS = 2**14
WHOLE_CHARS = 2**14
"""Longer texts are looked at in pieces."""
PIECE_CHARS = 2**11
HELPER_MEMORY_BYTES = 2**30
WAIT_S = 30.0
"""How long a question may wait for those of others: an answer under way should not end for it."""
MAX_CHARS = 2**20
"""Of the texts of one request: more would keep the helper for many seconds."""
MAX_TEXTS, SLICE_TEXTS = 2**16, 2**12
"""Of one question to `Anonymiser`, and how many are told apart before others have a turn."""
SMALL_CHARS = 2**16
"""Longer JSON is read in a thread."""
MAX_REMEMBERED, MAX_REMEMBERED_SPANS = 4096, 32
"""Texts of which is remembered where there is what, and how much of it in each: a conversation is
sent again with each turn."""
NOTHING = "none"
Counts = Counter[PersonalType]
Visit = Callable[[str, str], str]


class Look(msgspec.Struct, frozen=True, tag="look"):
    texts: tuple[str, ...]
    how: Anonymise


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    spans: tuple[tuple[Span, ...], ...]


class LookFailed(msgspec.Struct, frozen=True, tag="look_failed"):
    message: str


class Anonymiser:
    """Finds personal data, in a helper process, and puts something in its place.

    Attributes:
        counts: what was hidden since the server began, by where ("prompt", "answer") and type.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._sandbox = Sandbox("llmos.tasks.anonymise", Seen | LookFailed)
        self._remembered: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._key: bytes | None = None
        self.counts: Counter[tuple[str, PersonalType]] = Counter()

    async def close(self) -> None:
        """End the helper."""
        await self._sandbox.close()

    async def check(self, how: Anonymise, owner: str) -> None:
        """See that requests can be served so. Raises as `hide`."""
        self.replacer(how, owner)
        await self.find(["13800138000"], how, owner)

    async def hide(
        self, texts: Sequence[str], how: Anonymise, owner: str, counts: Counts
    ) -> list[str]:
        """Return texts without their personal data.

        Args:
            owner: whose they are: it has its turns at the helper, and pseudonyms of its own.
            counts: counts what is hidden.

        Raises:
            AnonymiseError: it cannot be looked for.
            OverloadedError: too much of others waits.
            TooLargeError: there are too many texts.
        """
        replacer = self.replacer(how, owner)
        found = await self.find(texts, how, owner)
        for spans in found:
            counts.update(span.type for span in spans)
        return [
            replacer.replaced(text, [(span, how.action) for span in spans])
            for text, spans in zip(texts, found, strict=True)
        ]

    async def hide_json(self, text: str, how: Anonymise, owner: str, counts: Counts) -> str:
        """Return JSON text without the personal data of its texts, numbers and names of fields,
        each seen behind the name of its field; what is no JSON, as any text. Raises as `hide`."""
        is_large = len(text) > SMALL_CHARS
        try:
            read = await asyncio.to_thread(_read, text) if is_large else _read(text)
        except (ValueError, RecursionError):
            return (await self.hide([text], how, owner, counts))[0]
        value, texts, is_changed = read
        replacer = self.replacer(how, owner)
        found = iter(await self.find(texts, how, owner))

        def hidden(key: str, leaf: str) -> str:
            nonlocal is_changed
            spans = _behind(len(_seen_as(key, "")), next(found))
            is_changed |= bool(spans)
            counts.update(span.type for span in spans)
            return replacer.replaced(leaf, [(span, how.action) for span in spans])

        value = visited(value, hidden)
        return json.dumps(value, ensure_ascii=False) if is_changed else text

    def replacer(self, how: Anonymise, owner: str) -> Replacer:
        """Return what replaces. Raises AnonymiseError: it needs a key, and there is none."""
        if how.action not in KEYED:
            return Replacer()
        try:
            self._key = self._key or read_key()
        except PipelineError as error:
            raise AnonymiseError(error.message) from None
        return Replacer(hmac.digest(self._key, owner.encode(), "sha256"))

    async def find(
        self, texts: Sequence[str], how: Anonymise, owner: str, *, remember: bool = True
    ) -> list[list[Span]]:
        """Return the personal data of each text: spans in order that do not overlap.

        Args:
            remember: what is found, as the same texts are likely to come again.

        Raises:
            AnonymiseError, OverloadedError: as `hide`.
            TooLargeError: there are too many texts.
        """
        if len(texts) > MAX_TEXTS:
            raise TooLargeError(
                f"There are {len(texts)} texts, but personal data is looked for in at most "
                f"{MAX_TEXTS} at a time: send them in parts."
            )
        found: list[list[Span]] = []
        for first in range(0, len(texts), SLICE_TEXTS):
            if first:
                await asyncio.sleep(0)
            views = [_views(text) for text in texts[first : first + SLICE_TEXTS]]
            every = [view.text for some in views for view in some]
            seen = iter(await self._seen(every, how, owner, remember=remember))
            found += [list(_whole(some, [next(seen) for _ in some])) for some in views]
        return found

    async def _seen(
        self, texts: Sequence[str], how: Anonymise, owner: str, *, remember: bool
    ) -> list[tuple[Span, ...]]:
        # Of an owner's own: how soon an answer comes tells nobody what others asked.
        salt = msgspec.msgpack.encode((owner, how))
        keys = [hashlib.sha256(salt + text.encode()).digest() for text in texts]
        known = {key: self._remembered[key] for key in keys if key in self._remembered}
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        for group in _groups(unknown):
            spans = await self._ask(tuple(unknown[key] for key in group), how, owner)
            known |= zip(group, spans, strict=True)
        for key in keys if remember else ():
            if len(known[key]) <= MAX_REMEMBERED_SPANS:
                self._remembered[key] = known[key]
                self._remembered.move_to_end(key)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return [known[key] for key in keys]

    async def _ask(
        self, texts: tuple[str, ...], how: Anonymise, owner: str
    ) -> tuple[tuple[Span, ...], ...]:
        key = hashlib.sha256("\0".join((owner, *texts)).encode()).digest()
        try:
            answer = await self._sandbox.ask(
                Look(texts, how), self._timeout_s, wait_s=WAIT_S, owner=owner, key=key
            )
        except SandboxTimeoutError:
            reason = f"that took more than {self._timeout_s:g} s"
        except SandboxBrokenError:
            reason = "the process that looks for it ended"
        else:
            if isinstance(answer, Seen) and len(answer.spans) == len(texts):
                return answer.spans
            reason = answer.message if isinstance(answer, LookFailed) else "it answered otherwise"
        raise AnonymiseError(
            f"Personal data could not be looked for, so that nothing was passed on: {reason}."
        )


class Held:
    """One text of an answer on its way out: held back until what comes after it has been seen as
    well. What comes out is the same however it came in."""

    def __init__(self, anonymiser: Anonymiser, how: Anonymise, owner: str, counts: Counts) -> None:
        self._anonymiser, self._how, self._owner = anonymiser, how, owner
        self._counts = counts
        self._pieces = Pieces(HELD_CHARS)
        self._done = 0
        """Of the whole text, what is out."""

    async def push(self, text: str) -> str:
        """Return what can go out now. Raises as `Anonymiser.hide`."""
        return await self._hidden(list(self._pieces.push(text)))

    async def end(self) -> str:
        """Return the rest. Raises as `Anonymiser.hide`."""
        return await self._hidden(list(self._pieces.end()))

    async def _hidden(self, views: Sequence[View]) -> str:
        if not views:
            return ""
        replacer = self._anonymiser.replacer(self._how, self._owner)
        texts = [view.text for view in views]
        found = await self._anonymiser.find(texts, self._how, self._owner, remember=False)
        out: list[str] = []
        for view, spans in zip(views, found, strict=True):
            own = list(_own(view, spans, self._done))
            upto = max(view.at + view.end, *(span.end for span in own), self._done)
            begin = self._done - view.at
            moved = [_moved(span, -self._done) for span in own]
            self._counts.update(span.type for span in own)
            text = view.text[begin : upto - view.at]
            out.append(replacer.replaced(text, [(span, self._how.action) for span in moved]))
            self._done = upto
        return "".join(out)


HELD_CHARS = 64
"""The least piece of an answer: two of them are held back."""


def told(counts: Counts) -> str:
    """Return how many of which type were found, or `NOTHING`."""
    return ",".join(f"{kind}={counts[kind]}" for kind in PERSONAL_TYPES if counts[kind]) or NOTHING


def visited(value: Any, visit: Visit, key: str = "") -> Any:
    """Return plain JSON with each text, each number and each name of a field as ``visit`` has it,
    which is told the name of the field that it is in and a text; a number that it leaves alone
    stays one. Raises RecursionError: it is nested too deeply."""
    if isinstance(value, str):
        return visit(key, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        said = str(value)
        return value if (put := visit(key, said)) == said else put
    if isinstance(value, list):
        return [visited(one, visit, key) for one in value]
    if isinstance(value, dict):
        return {visit("", name): visited(one, visit, name) for name, one in value.items()}
    return value


def _read(text: str) -> tuple[Any, list[str], bool]:
    """Return what JSON says, the texts of it, each as it is to be seen, and whether the text says
    more: a field twice, or half a character, which nobody looks at. Raises ValueError: it is none.
    """
    says_more = False

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal says_more
        says_more |= len(named := dict(pairs)) < len(pairs)
        return named

    value = json.loads(text, object_pairs_hook=fields)
    if "\\u" in text:
        value, given = visited(value, lambda _, leaf: _whole_characters(leaf)), value
        says_more |= value != given
    return value, _leaves(value), says_more


def _whole_characters(text: str) -> str:
    return text.encode(errors="replace").decode()


def _leaves(value: Any) -> list[str]:
    """Return what `visited` visits, each as it is to be seen."""
    texts: list[str] = []

    def noted(key: str, leaf: str) -> str:
        texts.append(_seen_as(key, leaf))
        return leaf

    visited(value, noted)
    return texts


def _seen_as(key: str, leaf: str) -> str:
    return f"{key}: {leaf}" if key else leaf


def _behind(offset: int, spans: Iterable[Span]) -> list[Span]:
    """Return the spans, or their parts, behind a place, counted from there."""
    moved = (_moved(span, -offset) for span in spans if span.end > offset)
    return [Span(max(span.start, 0), span.end, span.type, span.score) for span in moved]


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.type, span.score)


def _views(text: str) -> list[View]:
    """Return a text in pieces, unless it is short enough to be seen as a whole."""
    if len(text) <= WHOLE_CHARS:
        return [View(text, 0, len(text), 0)] if text else []
    pieces = Pieces(PIECE_CHARS)
    return [*pieces.push(text), *pieces.end()]


def _whole(views: Sequence[View], seen: Sequence[Sequence[Span]]) -> Iterable[Span]:
    """Yield the spans of a whole text from those of its views."""
    done = 0
    for view, spans in zip(views, seen, strict=True):
        for span in _own(view, spans, done):
            yield span
            done = span.end


def _own(view: View, spans: Iterable[Span], done: int) -> Iterable[Span]:
    """Yield what was found in a view's own piece, as places of the whole text; of what begins
    before ``done``, which is out, the rest."""
    for span in spans:
        whole = _moved(span, view.at)
        if whole.end > max(done, view.at + view.start) and whole.start < view.at + view.end:
            start = max(whole.start, done)
            yield Span(start, whole.end, span.type, span.score)
            done = whole.end


def _groups(texts: dict[bytes, str]) -> Iterable[list[bytes]]:
    """Yield the keys of texts, as many at a time as one question has room for."""
    group: list[bytes] = []
    num_chars = 0
    for key, text in texts.items():
        if group and num_chars + len(text) > QUESTION_CHARS:
            yield group
            group, num_chars = [], 0
        group.append(key)
        num_chars += len(text)
    if group:
        yield group


# -- the helper ------------------------------------------------------------------------------------


def main(fd: int) -> None:
    """Serve looks on the socket ``fd`` until it closes."""
    from llmos.data.pii.dictionary_zh import PACKAGES as DICTIONARIES
    from llmos.data.pii.finder import find
    from llmos.data.pii.known_words import PACKAGES as WORDS
    from llmos.data.pii.presidio import PACKAGES as PRESIDIO

    def answer(question: Look) -> Seen | LookFailed:
        how = question.how
        try:
            check_packages({**PRESIDIO, **DICTIONARIES, **WORDS})
        except DataError:
            return LookFailed("packages are not installed: pip install 'llmos[data,pii]'")
        found = (find(text, how.language, how.types, how.names) for text in question.texts)
        return Seen(tuple(map(tuple, found)))

    answer(Look(("his passport is 123456789, 我叫陈建军",), Anonymise()))  # reads the dictionaries
    serve(fd, Look, answer, HELPER_MEMORY_BYTES)


if __name__ == "__main__":
    main(int(sys.argv[1]))
