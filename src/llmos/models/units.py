"""What a tagger labels: the units of a text, and what is told of each. Torch-free.

A unit is a run of letters and digits, or any other character that is seen; Chinese and Japanese
characters are units by themselves. Features are texts such as ``suffix=ing``, of which a model
knows the hashes alone, so that there is no unknown word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from llmos.models.lexicon import Lexicon, jieba_lexicon

Span = tuple[int, int]
AFFIX_CHARS = 4
CHUNK_CHARS = 24
EDGE = "\u0002"
"""Stands for what is before the first unit and behind the last."""
KEPT_TEXTS = 1 << 15
"""Whose features are remembered, as training reads each text many times."""


@dataclass(frozen=True, slots=True)
class Analysed:
    """The units of a row of bytes.

    Attributes:
        first: the place of each unit's first byte.
        unit_of: of each byte the number of its unit, -1 where it is in none.
        features: of each unit.
    """

    first: tuple[int, ...]
    unit_of: tuple[int, ...]
    features: tuple[tuple[int, ...], ...]


def is_word_char(char: str) -> bool:
    """Whether a character makes one unit with its neighbours of the kind."""
    return char.isalnum() and not ("\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff")


def units_of(text: str) -> list[Span]:
    """Return the (start, end) of each unit, in characters."""
    found: list[Span] = []
    is_open = False
    for at, char in enumerate(text):
        is_word = is_word_char(char)
        if is_word and is_open:
            found[-1] = (found[-1][0], at + 1)
        elif not char.isspace():
            found.append((at, at + 1))
        is_open = is_word
    return found


@lru_cache(maxsize=KEPT_TEXTS)
def analysed(data: bytes, num_buckets: int, dictionary: str | None) -> Analysed:
    """Return the units of UTF-8 bytes, which may be cut in the midst of a character.

    Args:
        num_buckets: features are numbers below it.
        dictionary: ``jieba``: have features tell which words of its dictionary stand where.

    Raises:
        ImportError: it is not installed.
    """
    text = data.decode("utf-8", "surrogateescape")
    places = [0]
    for char in text:
        places.append(places[-1] + _num_bytes(char))
    spans = units_of(text)
    unit_of = [-1] * len(data)
    for number, (start, end) in enumerate(spans):
        unit_of[places[start] : places[end]] = [number] * (places[end] - places[start])
    lexicon = jieba_lexicon() if dictionary == "jieba" else None
    features = tuple(
        tuple(crc32(told.encode("utf-8", "surrogatepass")) % num_buckets for told in one)
        for one in told_of(text, spans, lexicon)
    )
    return Analysed(tuple(places[start] for start, _ in spans), tuple(unit_of), features)


def _num_bytes(char: str) -> int:
    """Return how many bytes a character was read from; a byte that is none became a surrogate."""
    code = ord(char)
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:
        return 1
    return 2 if code < 0x800 else 3 if code < 0x10000 else 4


def told_of(text: str, spans: Sequence[Span], lexicon: Lexicon | None) -> Iterator[list[str]]:
    """Yield the features of each unit, as texts."""
    words = [text[start:end] for start, end in spans]
    lowered = [EDGE, EDGE, *(word.lower() for word in words), EDGE, EDGE]
    shapes = [EDGE, *map(shape_of, words), EDGE]
    known = _known(text, spans, lexicon)
    chunks = [*_of_chunks(text, spans, lexicon)]
    for number, (word, (start, _)) in enumerate(zip(words, spans, strict=True)):
        two_before, before, lower, behind, two_behind = lowered[number : number + 5]
        shape = shapes[number + 1]
        told = [
            *("bias", f"word={word}", f"lower={lower}", f"shape={shape}"),
            *(f"-1={before}", f"+1={behind}", f"-2={two_before}", f"+2={two_behind}"),
            *(f"-1,0={before} {lower}", f"0,+1={lower} {behind}", f"-1,+1={before} {behind}"),
            *(f"-2,-1={two_before} {before}", f"+1,+2={behind} {two_behind}"),
            f"shapes={shapes[number]} {shape} {shapes[number + 2]}",
            f"space={start > 0 and text[start - 1].isspace()}",
        ]
        if number == 0:
            told.append(f"first={shape}")
        if len(word) > 1:
            told += affixes(lower)
        told += [f"-1suffix={before[-3:]}", f"+1suffix={behind[-3:]}"]
        yield told + known[number] + chunks[number]


def _of_chunks(text: str, spans: Sequence[Span], lexicon: Lexicon | None) -> Iterator[list[str]]:
    """Yield what is told of a unit by what stands between the spaces around it, where that is more
    than the unit: a word, in a text that was cut into words."""
    chunks = [(one.end(), one[0]) for one in re.finditer(r"\S+", text)]
    lowered = [EDGE, *(chunk.lower()[:CHUNK_CHARS] for _, chunk in chunks), EDGE]
    tags = [lexicon.tag(chunk) if lexicon else "" for chunk in lowered]
    first = 0
    for number, (end, chunk) in enumerate(chunks):
        last = first
        while last < len(spans) and spans[last][0] < end:
            last += 1
        before, own, behind = lowered[number : number + 3]
        told = []
        if lexicon is not None:
            one, tag, other = tags[number : number + 3]
            told += [f"tag {tag}", f"tags {one} {tag}", f"{tag} {other} tags"]
        if last - first > 1:
            told += [own, f"^{own[:2]}", f"{own[-2:]}$", shape_of(chunk)]
            told += [f"{before} .", f". {behind}"]
        for unit in range(first, last):
            place = f"{min(unit - first, 3)}{'|' if unit == last - 1 else ''}"
            yield [f"chunk={one}@{place}" for one in told]
        first = last


def affixes(word: str) -> Iterator[str]:
    """Yield the first and the last letters of a word, as features."""
    for length in range(1, min(AFFIX_CHARS, len(word) - 1) + 1):
        yield f"prefix={word[:length]}"
        yield f"suffix={word[-length:]}"


def shape_of(word: str) -> str:
    """Return what kinds of character a unit is made of, in order, runs of one kind as one: `Xx` of
    Paris, `X` of USA, `d` of 2019, `c` of a Chinese character, and punctuation as itself."""
    shape = ""
    for char in word:
        kind = _kind(char)
        if not shape.endswith(kind):
            shape += kind
    return shape


def _kind(char: str) -> str:
    if char.isdigit():
        return "d"
    if char.isupper():
        return "X"
    if char.islower():
        return "x"
    return "c" if char.isalpha() else char


def _place(at: int, start: int, end: int) -> str:
    """Return where in a word a character is: S, or B, M or E of several."""
    if end - start == 1:
        return "S"
    return "B" if at == start else "E" if at == end - 1 else "M"


def _known(text: str, spans: Sequence[Span], lexicon: Lexicon | None) -> list[list[str]]:
    """Return what a dictionary says of each unit: where in a word of the likeliest cut of the text
    it stands, and how long the longest words are that begin, end and lie around here."""
    if lexicon is None:
        return [[] for _ in spans]
    of_character: list[list[str]] = [[] for _ in text]
    for start, end in lexicon.cut(text):
        tag = lexicon.tag(text[start:end])
        for at in range(start, end):
            place = _place(at, start, end)
            told = ("cut=", f"tag={tag}", f"length={end - start}")
            of_character[at] = [f"{one}{place}" for one in told]
    longest: list[dict[str, tuple[int, str]]] = [{} for _ in text]
    for start, end in lexicon.matches(text):
        tag = lexicon.tag(text[start:end])
        for at in range(start, end):
            where = "begins" if at == start else "ends" if at == end - 1 else "inside"
            longest[at][where] = max(longest[at].get(where, (0, "")), (end - start, tag))
    for at, found in enumerate(longest):
        for where in ("begins", "inside", "ends"):
            length, tag = found.get(where, (0, ""))
            of_character[at] += [f"{where}={length}", f"{where}tag={length}{tag}"]
    return [of_character[start] for start, _ in spans]
