"""Text to token ids and back, with the model's own `tokenizer.json`.

`Tokenizer` wraps one loaded tokenizer; `Tokenizers` keeps the most recently used. Nothing here
knows of stop strings or requests.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from llmos.errors import InvalidModelError
from llmos.models.byte_level import byte_level_table
from llmos.tasks.windows import Window, num_windows, windows_of
from llmos.types import FileRef

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"
LONG_TEXT_CHARS = 2048
"""Longer texts are encoded in a thread, so that the event loop stays free."""
SLICE_CHARS = 2**16
CUT_TOKENS = 64
"""More tokens than cutting a text may add to one of its slices."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class BlobReader(Protocol):
    """What tokenizers are read from."""

    def read_bytes(self, digest: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids with, for each, its (start, end) in the text in characters.

    ``special`` marks tokens that stand for no text.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A text, or a pair of texts, as a model reads it.

    ``type_ids`` tells the texts of a pair apart for models that were taught so, and is empty where
    all are 0; ``parts`` says which text each token is of, None for special tokens.
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    parts: tuple[int | None, ...]

    def cut(self, max_tokens: int) -> Row:
        """Return the row without the last tokens of its last text, as many as are too many; one
        whose other tokens alone are too many stays as it is."""
        excess = len(self.ids) - max_tokens
        last_part = max((part for part in self.parts if part is not None), default=None)
        places = [place for place, part in enumerate(self.parts) if part == last_part]
        if last_part is None or excess <= 0 or excess >= len(places):
            return self
        dropped = set(places[-excess:])
        kept = [place for place in range(len(self.ids)) if place not in dropped]
        type_ids = tuple(self.type_ids[place] for place in kept) if self.type_ids else ()
        parts = tuple(self.parts[place] for place in kept)
        return Row(tuple(self.ids[place] for place in kept), type_ids, parts)


class Tokenizer:
    """One model's tokenizer. Safe to share between threads and requests."""

    def __init__(self, tokenizer_json: bytes) -> None:
        from tokenizers import Tokenizer as RustTokenizer

        try:
            self._rust: tokenizers.Tokenizer = RustTokenizer.from_str(
                tokenizer_json.decode("utf-8")
            )
        except Exception as error:  # tokenizers raises plain Exception for every fault of the file
            raise InvalidModelError(f"{TOKENIZER_FILE} cannot be read: {error}") from error
        self._rust.no_truncation()
        self._rust.no_padding()
        decoder = json.loads(tokenizer_json).get("decoder") or {}
        self._is_byte_level = _has_byte_level(decoder)
        added = self._rust.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self.special_names = tuple(
            sorted({token.content for token in added.values() if token.special and token.content})
        )
        """What the control tokens are called: text that becomes them wherever it stands."""
        self.plain_ids = lru_cache(maxsize=1024)(self._plain_ids)
        self.token_bytes = lru_cache(maxsize=65536)(self._token_bytes)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._rust.get_vocab_size(with_added_tokens=True))

    def token_id(self, token: str) -> int | None:
        """The id of a token, or None when there is none of this content."""
        found: int | None = self._rust.token_to_id(token)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token, which stands for no text."""
        return token_id in self._special_ids

    async def ids(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Return a text's tokens alone; a long one is tokenised off the event loop."""
        if len(text) > LONG_TEXT_CHARS:
            return await asyncio.to_thread(self._ids_now, text, special_tokens)
        return self._ids_now(text, special_tokens)

    async def least_tokens(self, text: str, limit: int) -> int:
        """Return a number that the text's tokens are no fewer than; exact enough to tell, at the
        cost of about ``limit`` tokens, that a text is far too long for ``limit``.
        """
        if len(text) <= max(limit, SLICE_CHARS):
            return 0
        return await asyncio.to_thread(self._least_now, text, limit)

    async def encode(self, text: str, *, special_tokens: bool = True) -> Encoded:
        """Tokenise; ``special_tokens`` adds those the model expects around a text."""
        if len(text) > LONG_TEXT_CHARS:
            return await asyncio.to_thread(self.encode_now, text, special_tokens=special_tokens)
        return self.encode_now(text, special_tokens=special_tokens)

    def encode_now(self, text: str, *, special_tokens: bool = True) -> Encoded:
        """As ``encode``, in this thread."""
        # only the batch calls leave other threads running
        (encoding,) = self._rust.encode_batch([text], add_special_tokens=special_tokens)
        return Encoded(
            ids=tuple(encoding.ids),
            offsets=tuple((int(start), int(end)) for start, end in encoding.offsets),
            special=tuple(bool(flag) for flag in encoding.special_tokens_mask),
        )

    async def rows(self, texts: Sequence[str | tuple[str, str]]) -> list[Row]:
        """Tokenise texts, or pairs of them, with the special tokens the model expects around."""
        if sum(map(_num_chars, texts)) > LONG_TEXT_CHARS:
            return await asyncio.to_thread(self._rows_now, texts)
        return self._rows_now(texts)

    def _rows_now(self, texts: Sequence[str | tuple[str, str]]) -> list[Row]:
        return [
            Row(
                ids=tuple(encoding.ids),
                type_ids=tuple(encoding.type_ids) if any(encoding.type_ids) else (),
                parts=tuple(encoding.sequence_ids),
            )
            for encoding in self._rust.encode_batch_fast(list(texts))
        ]

    async def windows(
        self, question: str, context: str, max_tokens: int, max_windows: int
    ) -> list[Window] | None:
        """Return a question beside each part of a context, see ``windows_of``; None where they
        would be more than ``max_windows``."""
        if len(question) + len(context) > LONG_TEXT_CHARS:
            return await asyncio.to_thread(
                self._windows_now, question, context, max_tokens, max_windows
            )
        return self._windows_now(question, context, max_tokens, max_windows)

    def _windows_now(
        self, question: str, context: str, max_tokens: int, max_windows: int
    ) -> list[Window] | None:
        (pair,) = self._rust.encode_batch([(question, context)])
        if num_windows(pair, max_tokens) > max_windows:
            return None
        return windows_of(pair, max_tokens, max_windows)

    def decode(self, token_ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """Return the text of a whole sequence, without its special tokens unless asked for."""
        return str(self._rust.decode(list(token_ids), skip_special_tokens=not special_tokens))

    def text_bytes(self, token_id: int, previous_id: int | None) -> bytes:
        """Return the bytes a token adds to a text; special tokens add none.

        Args:
            previous_id: the last token that was neither special nor a single byte, None at the
                start of a text. It decides about leading spaces in word-piece vocabularies.
        """
        if self.is_special(token_id):
            return b""
        if self._is_byte_level or self.is_byte(token_id):
            return self.token_bytes(token_id)
        if previous_id is None:
            return self.decode([token_id]).encode()
        before = self.decode([previous_id])
        both = self.decode([previous_id, token_id])
        return both[_common_chars(before, both) :].encode()

    def _ids_now(self, text: str, special_tokens: bool) -> tuple[int, ...]:
        (encoding,) = self._rust.encode_batch_fast([text], add_special_tokens=special_tokens)
        return tuple(encoding.ids)

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        """Return a short text's tokens where no name of a special token counts as such."""
        rust = self._rust
        clean = rust.normalizer.normalize_str(text) if rust.normalizer else text
        words = [clean]
        if rust.pre_tokenizer:
            words = [word for word, _ in rust.pre_tokenizer.pre_tokenize_str(clean)]
        ids = tuple(token.id for word in words for token in rust.model.tokenize(word))
        if self._special_ids.isdisjoint(ids):
            return ids
        if len(text) == 1:  # the vocabulary has no other word for it
            return tuple(i for i in ids if i not in self._special_ids)
        return self._plain_ids(text[:1]) + self._plain_ids(text[1:])

    def _least_now(self, text: str, limit: int) -> int:
        total = 0
        for start in range(0, len(text), SLICE_CHARS):
            ids = self._ids_now(text[start : start + SLICE_CHARS], False)
            total += max(len(ids) - CUT_TOKENS, 0)
            if total > limit:
                break
        return total

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is one raw byte (``<0x0A>``) of a byte-fallback vocabulary."""
        token = self._rust.id_to_token(token_id)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def _token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token inside a text, the content itself for special tokens."""
        token: str | None = self._rust.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_special(token_id):
            return token.encode()
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        if self._is_byte_level:
            table = byte_level_table()
            if all(char in table for char in token):
                return bytes(table[char] for char in token)
            return token.encode()
        return self.text_bytes(token_id, previous_id=token_id)


class Detokenizer:
    """Turns one sequence's tokens into text as they come; never emits part of a character.

    Args:
        tokenizer: the model's.
        context: the tokens before the first one, for the space between the two texts; empty
            where the output is a text of its own.
        visible_ids: special tokens that stand for their own content here.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        visible_ids: Collection[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._visible_ids = visible_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._previous: int | None = None
        self._is_at_start = True
        if context and self._is_text(context[-1]):
            self._previous = context[-1]

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes, maybe none."""
        if token_id in self._visible_ids:
            return self._utf8.decode(self._tokenizer.token_bytes(token_id))
        inside = token_id if self._previous is None and not self._is_at_start else self._previous
        added = self._tokenizer.text_bytes(token_id, inside)
        if self._is_text(token_id):
            self._previous = token_id
        self._is_at_start = self._is_at_start and not added
        return self._utf8.decode(added)

    def _is_text(self, token_id: int) -> bool:
        return not (self._tokenizer.is_special(token_id) or self._tokenizer.is_byte(token_id))


class Tokenizers:
    """The most recently used tokenizers, loaded once each."""

    def __init__(self, blobs: BlobReader, capacity: int = 16) -> None:
        self._blobs = blobs
        self._capacity = capacity
        self._loading: OrderedDict[str, asyncio.Task[Tokenizer]] = OrderedDict()

    async def get(self, files: dict[str, FileRef]) -> Tokenizer:
        """Return the tokenizer among a model version's files.

        Raises:
            InvalidModelError: it has none, or one that cannot be read.
            CorruptBlobError: the stored file was damaged.
        """
        if TOKENIZER_FILE not in files:
            raise InvalidModelError(f"The model has no {TOKENIZER_FILE}, so it cannot take text.")
        digest = files[TOKENIZER_FILE].digest
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._load, digest))
            self._loading[digest] = task
            while len(self._loading) > self._capacity:
                self._loading.popitem(last=False)
        self._loading.move_to_end(digest)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._loading.get(digest) is task:
                del self._loading[digest]  # a failure is not remembered
            raise

    def _load(self, digest: str) -> Tokenizer:
        return Tokenizer(self._blobs.read_bytes(digest))


def _num_chars(text: str | tuple[str, str]) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _common_chars(one: str, other: str) -> int:
    """Length of what two strings begin with alike."""
    differ = (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differ, min(len(one), len(other)))


def _has_byte_level(decoder: dict[str, Any]) -> bool:
    inner = decoder.get("decoders") or ()
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, inner))
