"""Where sentences begin and end, in English and Chinese: character spans, nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(
    r"""(?<![。！？…])[。！？…]++[!?.]*+[”’」』）》】"')\]]*+   # Chinese: no space follows
      | (?<![.!?])[.!?]++["'”’)\]]*+(?=\s|[\u4e00-\u9fff]|$)""",
    re.VERBOSE,
)
_CLAUSE = re.compile(r"[,;:，；：、—]++|(?<!\s)\s++-(?=\s)")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'“])(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|No|vs|etc|e\.g|i\.e|cf|al|Inc|Ltd|Co|Corp
      |Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|[A-Z](?:\.[A-Z])*)$""",
    re.VERBOSE,
)
_ALWAYS_CONTINUES = frozenset({"etc", "al", "Inc", "Ltd", "Co", "Corp"})

Span = tuple[int, int]


def sentences(text: str) -> list[Span]:
    """Return the (start, end) of each sentence; white space around sentences is in none.

    A line break always ends a sentence.
    """
    spans: list[Span] = []
    for line in re.finditer(r"[^\n\r]+", text):
        start = line.start()
        for end in [*_ends(text, line.start(), line.end()), line.end()]:
            spans += _trimmed(text, start, end)
            start = end
    return spans


def clauses(text: str) -> list[Span]:
    """Return the (start, end) of each clause: the text up to and with each comma or the like."""
    spans: list[Span] = []
    start = 0
    for end in [*(match.end() for match in _CLAUSE.finditer(text)), len(text)]:
        spans += _trimmed(text, start, end)
        start = end
    return spans


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    for match in _END.finditer(text, start, end):
        if not _is_abbreviation(text, start, match, end):
            yield match.end()


def _is_abbreviation(text: str, start: int, match: re.Match[str], end: int) -> bool:
    """Whether this full stop only shortens a word, judged by that word and what follows."""
    if match[0] != ".":
        return False
    word = _ABBREVIATION.search(text[max(start, match.start() - 12) : match.start()])
    if word is None:
        return False
    following = text[match.end() : end].lstrip()[:1]
    bare = word[0].strip(" \t(\"'“")
    ends_sentences = bare in _ALWAYS_CONTINUES or "." in bare
    return not (ends_sentences and (following.isupper() or not following))


def _trimmed(text: str, start: int, end: int) -> list[Span]:
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    right = len(piece.rstrip())
    return [(start + left, start + right)] if right > left else []
