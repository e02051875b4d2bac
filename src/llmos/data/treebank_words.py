"""Words of running text as treebanks of English have them: `don't` is `do` and `n't`, `it's` is
`it` and `'s`, what a hyphen joins is parted. Spans of characters, nothing is changed."""

from __future__ import annotations

import regex

Span = tuple[int, int]

_SHORTENED = (
    "Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|Rev|Gen|Sen|Gov|Lt|Col|Sgt|No|vs|etc|cf|al|Inc|Ltd|Co|Corp"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec"
)
_WORD = regex.compile(
    rf"""(?:https?://|www\.)[^\s<>"]*[\w/]                # addresses
       | [\w.+-]+@\w[\w-]*(?:\.\w+)+
       | \p{{L}}(?:\.\p{{L}})+\.?                         # U.S., e.g.
       | (?:{_SHORTENED})\.(?=\s|,|$)
       | \p{{N}}+(?:[.,:]\p{{N}}+)*(?:st|nd|rd|th|s)?\b   # 3.50, 10:30, 1st
       | \p{{N}}+(?:[.,:]\p{{N}}+)*
       | can(?=not\b)
       | [\p{{L}}\p{{M}}\p{{N}}_]+?(?=n['’]t\b)
       | n['’]t\b
       | ['’](?:s|re|ve|ll|d|m)\b
       | [\p{{L}}\p{{M}}\p{{N}}_]+
       | [:;]-?[()]+ | [.!?]+                             # :-), ?!
       | ([^\s\x1c-\x1f\p{{L}}\p{{M}}\p{{N}}])\1*                  # --
    """,
    regex.VERBOSE | regex.IGNORECASE,
)
_UNPARTED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


def treebank_words(text: str) -> list[Span]:
    """Return the (start, end) of each word, punctuation among them."""
    return [match.span() for match in _WORD.finditer(text)]


def has_unparted_words(text: str) -> bool:
    """Whether a text is written, in part, in letters whose words no spaces part."""
    return _UNPARTED.search(text) is not None
