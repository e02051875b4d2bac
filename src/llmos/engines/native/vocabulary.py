"""What each token of a tokenizer.json writes, byte for byte, as llguidance wants to know it.

Covers the families whose text is its tokens' bytes one after another: byte-level, Metaspace
(SentencePiece) with or without byte fallback, and plain characters. Special tokens write nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec
from llguidance import LLTokenizer, TokenizerWrapper

from llmos.errors import UnsupportedTaskError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PLAIN_DECODERS = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenModel(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _TokenizerFile(msgspec.Struct):
    """Of a tokenizer.json, what says how its tokens are written."""

    model: _TokenModel
    added_tokens: list[_AddedToken] = []
    decoder: dict[str, Any] | None = None


class _Vocabulary:
    """The object that LLTokenizer asks: its attributes' names are llguidance's."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_ids: Sequence[int], eos_id: int | None) -> None:
        self.tokens = tokens
        self.special_token_ids = list(special_ids)
        self.eos_token_id = eos_id
        self.greedy: Callable[[str], list[int]] = lambda text: []

    def __call__(self, text: str) -> list[int]:
        """Tokenise a text that a grammar forces; ours force none (see ``engines.grammars``)."""
        return self.greedy(text)


def load_tokenizer(tokenizer_file: Path, vocab_size: int, eos_ids: Sequence[int]) -> LLTokenizer:
    """Return llguidance's tokenizer. For a large vocabulary this takes most of a second, in steps
    of at most a quarter between which other threads run.

    Without ``eos_ids`` a grammar's end is a token past the vocabulary, which no row can pick.

    Raises:
        UnsupportedTaskError: there is no such file, or its tokens are not bytes of the text.
    """
    try:
        file = msgspec.json.decode(tokenizer_file.read_bytes(), type=_TokenizerFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UnsupportedTaskError(
            f"Without a readable tokenizer.json the output cannot follow a grammar: {error}"
        ) from error
    tokens = _token_bytes(file)
    tokens += [b""] * (vocab_size - len(tokens))
    special = {token.id for token in file.added_tokens if token.special} | set(eos_ids)
    vocabulary = _Vocabulary(tokens, sorted(special), eos_ids[0] if eos_ids else None)
    tokenizer = LLTokenizer(
        cast(TokenizerWrapper, vocabulary), eos_token=list(eos_ids) or None, slices=[]
    )
    vocabulary.greedy = tokenizer.greedy_tokenize
    return tokenizer.with_slices(LLTokenizer.general_slices())


def _token_bytes(file: _TokenizerFile) -> list[bytes]:
    """Return the bytes of each token inside a text, by id."""
    kinds = _decoder_kinds(file)
    write: Callable[[str], bytes]
    if "ByteLevel" in kinds:
        write = _byte_level
    elif kinds and kinds <= _PLAIN_DECODERS:
        write = _metaspace if kinds - {"Fuse"} else str.encode
    else:
        raise UnsupportedTaskError(
            "This model's tokenizer does not keep the exact text, so its output cannot follow a "
            "grammar (response_format, tools that are required): ask without one."
        )
    vocab = file.model.vocab
    if isinstance(vocab, list):
        vocab = {token: token_id for token_id, (token, _) in enumerate(vocab)}
    written = {token_id: write(token) for token, token_id in vocab.items()}
    written |= {token.id: token.content.encode() for token in file.added_tokens}
    return [written.get(token_id, b"") for token_id in range(max(written, default=-1) + 1)]


def _decoder_kinds(file: _TokenizerFile) -> set[str]:
    """Return the types of all decoders in the file's."""
    pending = [file.decoder] if file.decoder else []
    kinds: set[str] = set()
    while pending:
        decoder = pending.pop()
        if decoder["type"] == "Sequence":
            pending += decoder["decoders"]
        else:
            kinds.add(decoder["type"])
    return kinds


def _byte_level(token: str) -> bytes:
    table = _byte_level_table()
    try:
        return bytes([table[char] for char in token])
    except KeyError:
        return token.encode()


def _metaspace(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_METASPACE, " ").encode()


@lru_cache(maxsize=1)
def _byte_level_table() -> dict[str, int]:
    """Return the byte each character of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + rank): byte for rank, byte in enumerate(others)}
