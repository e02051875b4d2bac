"""CoNLL and CoNLL-U: a row is a sentence, whose columns are lists of the same length.

CoNLL-U: https://universaldependencies.org/format.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TextIO

import regex

from llmos.data.datasets.readers import MAX_RECORD_BYTES, Bad, Source, checked, too_long
from llmos.data.formats.lines import Long, numbered, opened
from llmos.data.pipeline.record import META, TEXT, Row
from llmos.errors import DataError

TOKENS = "tokens"
COLUMNS = {2: (TOKENS, "tags"), 4: (TOKENS, "pos", "chunk", "tags")}
"""What the columns of CoNLL are called where it is not told: as in named entities (2), and CoNLL
2003 (4)."""
UNIVERSAL = ("lemmas", "upos", "xpos", "feats", "heads", "deprel")
"""What is kept of CoNLL-U beside the tokens, of its columns 3 to 8."""
_NUM_UNIVERSAL = 10
_ID = regex.compile(r"\d+(?:[-.]\d+)?")
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\u3000-\u303f\uff00-\uffef]")
Sentence = list[tuple[int, str]]
"""Its lines and their numbers."""


def conll(source: Source) -> Iterator[Row | Bad]:
    """Yield sentences of CoNLL: a token a line, columns between tabs, or else white space; empty
    lines between sentences. ``-DOCSTART-`` is passed over.

    The columns are called as ``columns`` says, else `COLUMNS`. ``text`` is the tokens with spaces
    between, but where both are Chinese or Japanese.

    Raises:
        DataError: nothing tells what the columns are called.
    """
    names = source.columns

    def row(sentence: Sentence) -> Row | None:
        nonlocal names
        kept = [(number, line) for number, line in sentence if not line.startswith("-DOCSTART-")]
        if not kept:
            return None
        cells = [line.split("\t") if "\t" in line else line.split() for _, line in kept]
        names = names or _names(len(cells[0]), f"{source.shown}:{kept[0][0]}")
        for (number, _), one in zip(kept, cells, strict=True):
            if len(one) != len(names):
                raise ValueError(f"line {number} has {len(one)} columns, not {len(names)}")
        every = zip(names, zip(*cells, strict=True), strict=True)
        columns = {name: list(values) for name, values in every}
        return {TEXT: spaced(columns.get(TOKENS, columns[names[0]])), **columns}

    yield from _read(source, row)


def conllu(source: Source) -> Iterator[Row | Bad]:
    """Yield sentences of CoNLL-U: `UNIVERSAL` by name, ``heads`` as numbers (from 1, the root's is
    0), ``text`` as the sentence says, and its ``sent_id`` and document as notes.

    Words of what is written as one (``2-3``) stand for it; words that are not written (``2.1``) are
    left out, and so are columns without a value.
    """
    document = ""

    def row(sentence: Sentence) -> Row | None:
        nonlocal document
        notes = dict(_note(line) for _, line in sentence if line.startswith("#"))
        document = notes.get("newdoc id", document)
        words = [(number, line.split("\t")) for number, line in sentence if line[0] != "#"]
        if not words:
            return None
        made = _universal(words, notes)
        meta = {"sent_id": notes.get("sent_id"), "document": document}
        return {**made, META: {name: value for name, value in meta.items() if value}}

    yield from _read(source, row)


def _read(source: Source, row: Callable[[Sentence], Row | None]) -> Iterator[Row | Bad]:
    with opened(source) as lines:
        for sentence in _sentences(lines):
            if isinstance(sentence, int):
                yield Bad(f"{source.shown}:{sentence}", too_long())
                continue
            where, excerpt = f"{source.shown}:{sentence[0][0]}", sentence[0][1]
            try:
                made = row(sentence)
            except ValueError as error:
                yield Bad(where, str(error), excerpt[:200])
                continue
            if made is not None:
                yield checked(
                    {name: value for name, value in made.items() if value}, where, excerpt
                )


def _sentences(lines: TextIO) -> Iterator[Sentence | int]:
    """Yield what stands between empty lines; of what is too long, the number of its first line."""
    held: Sentence = []
    begun = size = 0
    for number, line in numbered(lines):
        if isinstance(line, str) and not line.strip():
            if begun:
                yield held if size <= MAX_RECORD_BYTES else begun
            held, begun, size = [], 0, 0
            continue
        begun = begun or number
        size += MAX_RECORD_BYTES + 1 if isinstance(line, Long) else len(line)
        if isinstance(line, str) and size <= MAX_RECORD_BYTES:
            held.append((number, line.rstrip("\r\n")))
    if begun:
        yield held if size <= MAX_RECORD_BYTES else begun


def _names(count: int, where: str) -> tuple[str, ...]:
    found = COLUMNS.get(count)
    if found is None:
        raise DataError(
            f"{where}: it has {count} columns: say what they are, as --columns tokens,lemmas,tags"
        )
    return found


def spaced(tokens: list[str]) -> str:
    """Return tokens as a text: with spaces between, but where both are Chinese or Japanese."""
    text = "".join(tokens[:1])
    for one, other in pairwise(tokens):
        is_joined = bool(one and other and _CJK.match(one[-1]) and _CJK.match(other[0]))
        text += other if is_joined else f" {other}"
    return text


def _note(line: str) -> tuple[str, str]:
    name, _, value = line[1:].partition("=")
    return name.strip(), value.strip()


def _universal(lines: list[tuple[int, list[str]]], notes: dict[str, str]) -> Row:
    """Return the columns of a sentence. Raises ValueError where they are not CoNLL-U's."""
    for number, cells in lines:
        if len(cells) != _NUM_UNIVERSAL:
            raise ValueError(f"line {number} has {len(cells)} columns, not {_NUM_UNIVERSAL}")
        if not _ID.fullmatch(cells[0]):
            raise ValueError(f"line {number}: {cells[0][:20]!r} is no number of a word")
    words = [(number, cells) for number, cells in lines if cells[0].isdecimal()]
    for place, (number, cells) in enumerate(words, 1):
        if int(cells[0]) != place:
            raise ValueError(f"line {number} is word {cells[0]}, where {place} is next")
        if cells[6] != "_" and not (cells[6].isdecimal() and int(cells[6]) <= len(words)):
            raise ValueError(f"line {number}: there is no head {cells[6][:20]}")
    made: Row = {
        TEXT: notes.get("text") or _written([cells for _, cells in lines]),
        TOKENS: [cells[1] for _, cells in words],
    }
    for place, name in enumerate(UNIVERSAL, 2):
        column = [cells[place] for _, cells in words]
        if any(value != "_" for value in column):
            made[name] = column
    if "heads" in made:
        if "_" in made["heads"]:
            raise ValueError("some of its words have a head, and some have none")
        made["heads"] = [int(head) for head in made["heads"]]
    return made


def _written(lines: list[list[str]]) -> str:
    """Return a sentence as it was written: the words of ``2-3`` as the one form of that line."""
    text, last = "", 0
    for cells in lines:
        first, _, end = cells[0].partition("-")
        if "." in first or (not end and int(first) <= last):
            continue
        last = int(end or first)
        text += cells[1] + ("" if "SpaceAfter=No" in cells[9].split("|") else " ")
    return text.rstrip()
