"""What each token of a tokenizer.json writes, byte for byte, as llguidance wants to know it.

Covers the families whose text is its tokens' bytes one after another: byte-level, Metaspace
(SentencePiece) with or without byte fallback, and plain characters. Special tokens write nothing.

`read` lets ``python -m llmos.engines.native.vocabulary FILE VOCAB_SIZE EOS_ID…`` do it: Python at
work on 150,000 tokens would hold up every step of an engine in the same process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgspec

from llmos.errors import UnsupportedTaskError
from llmos.models.byte_level import byte_level_table

SPECIAL = b"\xff"
"""Before what a special token is called: a text has no such byte."""
_MODULE = "llmos.engines.native.vocabulary"
READ_TIMEOUT_S = 60.0
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PLAIN_DECODERS = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})


class Vocabulary(msgspec.Struct, frozen=True, tag="vocabulary"):
    """The bytes of every token, one after another, and how many each has, as 32-bit integers."""

    text: bytes
    sizes: bytes
    eos_ids: tuple[int, ...]
    """At least one: without any, a grammar's end is a token past the others, which no row picks."""

    @property
    def num_tokens(self) -> int:
        return len(self.sizes) // array("I").itemsize

    def tokens(self) -> list[bytes]:
        """Return the bytes of each token, by id."""
        ends = accumulate(array("I", self.sizes), initial=0)
        return [self.text[start:end] for start, end in pairwise(ends)]


class _Refused(msgspec.Struct, frozen=True, tag="refused"):
    message: str


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


def read(tokenizer_file: Path, vocab_size: int, eos_ids: Sequence[int]) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json, read by another process.

    Args:
        vocab_size: number of logits, which may be more than the tokenizer has tokens.

    Raises:
        UnsupportedTaskError: there is no such file, or its tokens are not bytes of the text.
    """
    arguments = [str(tokenizer_file), *map(str, (vocab_size, *eos_ids))]
    done = subprocess.run(
        [sys.executable, "-m", _MODULE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=READ_TIMEOUT_S,
        check=True,
    )
    answer = msgspec.msgpack.decode(done.stdout, type=Vocabulary | _Refused)
    if isinstance(answer, _Refused):
        raise UnsupportedTaskError(answer.message)
    return answer


def read_here(tokenizer_file: Path, vocab_size: int, eos_ids: Sequence[int]) -> Vocabulary:
    """As ``read``, in this process."""
    try:
        file = msgspec.json.decode(tokenizer_file.read_bytes(), type=_TokenizerFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UnsupportedTaskError(
            f"Without a readable tokenizer.json the output cannot follow a grammar: {error}"
        ) from error
    tokens = _token_bytes(file)
    tokens += [b""] * (vocab_size - len(tokens))
    if not eos_ids:
        eos_ids = (len(tokens),)
        tokens.append(b"")
    for token_id in {token.id for token in file.added_tokens if token.special} | set(eos_ids):
        if token_id < len(tokens):
            tokens[token_id] = SPECIAL + tokens[token_id]
    sizes = array("I", map(len, tokens))
    return Vocabulary(b"".join(tokens), sizes.tobytes(), tuple(eos_ids))


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
    table = byte_level_table()
    try:
        return bytes([table[char] for char in token])
    except KeyError:
        return token.encode()


def _metaspace(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_METASPACE, " ").encode()


def main(arguments: Sequence[str]) -> None:
    """Write what ``read`` wants to know to the standard output."""
    file, vocab_size, *eos_ids = arguments
    answer: Vocabulary | _Refused
    try:
        answer = read_here(Path(file), int(vocab_size), tuple(map(int, eos_ids)))
    except UnsupportedTaskError as error:
        answer = _Refused(error.message)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
