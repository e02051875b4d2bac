"""What only eager looking takes for a name in Latin letters: the title and the capitalised words
beside a name, initials, persons of faith, usual words in lower case where a person stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmos.data.pii.context import listed
from llmos.data.pii.cues_en import GREETING, LEAD, PERSON_BEFORE, VERB_AFTER
from llmos.data.pii.latin_words import LatinWord
from llmos.data.pii.lexicon_en import AMBIGUOUS, TITLES
from llmos.data.pii.ordinary_en import BEGINNING, CALENDAR, FUNCTION
from llmos.data.pii.spans import Span

_STAGE = listed(
    "dj mc lil big kid young baby lord lady king queen saint st doc coach pope sheikh guru "
    "swami boy "
    "ol old uncle auntie aunt granny grandma grandpa prophet professor president captain the"
)
"""What stands before a name as part of it, besides titles."""
_USUAL = FUNCTION | CALENDAR
_OF_FAITH = re.compile(
    r"(?<![\w#@])(?:God|Jesus(?: Christ)?|Christ|Allah|Buddha|Krishna|Satan|Santa(?: Claus)?|"
    r"(?i:the )?Pope|Moses|Muhammad)(?![\w@])"
)
_INITIALS = re.compile(
    r"(?<![\w.#@/&-])(?:[ABCEJMOPRT]J|JFK|FDR|LBJ|MLK|RFK|JLo|J\.?Lo)(?![\w&/-])"
)
_QUOTED = re.compile(r"\s?[\"“(]\s?[\w'. &;-]{1,20}?\s?[\"”)]\s?(?=[A-Z])")
_HAPPY = re.compile(
    r"(?:happy birthday|love you|miss you|poor|hey|hi|with|and|lol) $", re.IGNORECASE
)


def begins(text: str, words: Sequence[LatinWord]) -> list[int]:
    """Return for each word the first of the titles and capitalised words that lead to it, which are
    hidden with a name that it begins."""
    found: list[int] = []
    for place, word in enumerate(words):
        leads = place > 0 and word.gap in {" ", ". ", "-"} and _belongs(words[place - 1], text)
        found.append(found[-1] if leads else place)
    return found


def widened(words: Sequence[LatinWord], place: int, end: int) -> int:
    """Return where the words end that are hidden with the name ``words[place:end]``: capitalised
    ones and a nickname in quotes."""
    while end < len(words) and end - place < 6:
        word = words[end]
        is_near = word.gap in {" ", "-"} or (word.gap == ". " and words[end - 1].is_initial)
        is_quoted = _QUOTED.fullmatch(word.gap) is not None
        if not (is_near or is_quoted) or not word.is_capital or word.key in _USUAL:
            break
        if word.is_english and not is_quoted and not words[place].is_capital:
            break
        end += 1
    return end


def _belongs(word: LatinWord, text: str) -> bool:
    if word.key in TITLES or (word.key in _STAGE and word.key != "the"):
        return word.is_capital or word.key in _STAGE
    is_first = re.search(r"(?:^|[.!?:;\n\"])\s*$", text[max(0, word.start - 3) : word.start])
    is_name_like = word.is_capital and word.key not in _USUAL and word.key not in BEGINNING
    return is_name_like and is_first is None and not (word.is_upper and len(word.text) > 3)


def bare(text: str, words: Sequence[LatinWord]) -> Iterator[Span]:
    """Yield what is a name by its form or by the words around it alone."""
    for pattern in (_OF_FAITH, _INITIALS):
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end(), "NAME", 0.4)
    for place, word in enumerate(words):
        if word.is_capital or word.key in FUNCTION or not (word.is_given or word.is_surname):
            continue
        following = words[place + 1] if place + 1 < len(words) else None
        before = text[max(0, word.start - 24) : word.start]
        if following is not None and following.gap == " " and not following.is_capital:
            is_pair = word.is_given and following.is_surname and following.key not in FUNCTION
            is_plain = word.key in BEGINNING or following.key in BEGINNING
            if is_pair and not is_plain and len(word.key) + len(following.key) >= 7:
                yield Span(word.start, following.end, "NAME", 0.4)
                continue
        if word.is_given and word.key not in BEGINNING and len(word.key) >= 3:
            cues = sum(
                (
                    PERSON_BEFORE.search(before) is not None,
                    VERB_AFTER.match(text, word.end) is not None,
                    2 * bool(LEAD.search(before) or GREETING.search(before)),
                    _HAPPY.search(before) is not None,
                )
            )
            if cues >= (2 if word.key in AMBIGUOUS else 1):
                yield Span(word.start, word.end, "NAME", 0.4)
