"""Names of persons in Chinese characters.

A clause is cut into the likeliest words, names among them: a name costs what its surname and the
characters of its given name cost, as often as jieba's dictionary has them in names, less where the
words around it ask for one. Eager, names cost less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from llmos.data.pii.cues_zh import (
    AFTER,
    DOUBLE_SURNAMES,
    FOREIGN,
    HAN_RUN,
    KIN,
    NICKNAME,
    NO_GIVEN,
    NO_NICKNAME,
    NO_SURNAME,
    OTHER_AFTER,
    OTHER_WORDS,
    PERSON_LEAD,
    SINGLE_SURNAMES,
    SOUNDS,
    STRONG_LEAD,
    SURNAME_TITLE,
    TITLE_AFTER,
    TOLD_AFTER,
    WEAK_LEAD,
)
from llmos.data.pii.dictionary_zh import (
    MAX_WORD,
    UNSEEN_COST,
    dictionary,
    simplified,
    words_of,
)
from llmos.data.pii.names_zh_known import known_names
from llmos.data.pii.spans import Span

_NAME_COST, _SHORT_NAME_COST, _GIVEN_COST = 3.6, 4.6, 8.0
_SOUND_COST, _COST_A_SOUND = 9.0, 4.2
_STRONG_GAIN, _WEAK_GAIN, _TITLE_GAIN, _AFTER_GAIN, _EAGER_GAIN = 9.0, 2.0, 4.5, 1.0, 3.0
_EDGE_GAIN = 1.0
_RARE_CHAR = 12.5
_USUAL_GIVEN, _SELDOM = 12.0, 11.0
"""Costs and gains in nats."""


def names_in_chinese(text: str, *, is_eager: bool) -> Iterator[Span]:
    """Yield names; may overlap.

    Args:
        text: as `llmos.data.pii.plain` has it.
        is_eager: whether what could be a name and could be words is one.

    Raises:
        DataError: jieba is not installed.
    """
    for found in FOREIGN.finditer(text):
        start, end = _foreign(found[0])
        if end - start >= 4:
            yield Span(found.start() + start, found.start() + end, "NAME", 0.8)
    simple = text.translate(simplified())
    yield from _spaced(simple)
    yield from known_names(simple, is_eager=is_eager)
    for run in HAN_RUN.finditer(simple):
        yield from _of_run(simple, run.start(), run.end(), is_eager)


def _of_run(text: str, start: int, end: int, is_eager: bool) -> Iterator[Span]:
    known = dictionary()
    costs = [0.0] + [math.inf] * (end - start)
    back: list[tuple[int, float]] = [(0, 0.0)] * (end - start + 1)
    for place in range(start, end):
        at = costs[place - start]
        for stop in range(place + 1, min(end, place + MAX_WORD) + 1):
            word = text[place:stop]
            cost = known.words.get(word, UNSEEN_COST if stop == place + 1 else math.inf)
            _offer(costs, back, stop - start, at + cost, place - start, 0.0)
        for stop, cost, score in _names_at(text, place, end, is_eager):
            _offer(costs, back, stop - start, at + cost, place - start, score)
    stop = end - start
    alone: set[int] = set()
    while stop > 0:
        place, score = back[stop]
        if score:
            yield Span(start + place, start + stop, "NAME", score)
        if score or stop - place == 1 or text[start + place : start + stop] in known.names:
            alone.add(start + place)
        stop = place
    yield from _with_title(text, start, end, alone)


_SPACED = re.compile(
    r"(?<![\u4e00-\u9fff])([\u4e00-\u9fff])[ ]{1,4}([\u4e00-\u9fff])(?:[ ]{1,"
    r"4}([\u4e00-\u9fff]))?(?![ ]{0,2}[\u4e00-\u9fff])"
)


def _spaced(text: str) -> Iterator[Span]:
    """Names with spaces between the characters, as in forms: 王 芳."""
    known = dictionary()
    for found in _SPACED.finditer(text):
        given = (found[2] or "") + (found[3] or "")
        cost = known.surnames.get(found[1], math.inf) + _given_cost(given)
        if cost < (13.0 if len(given) == 1 else 20.0) and found[1] not in NO_SURNAME:
            yield Span(found.start(), found.end(), "NAME", 0.6)


def _offer(
    costs: list[float],
    back: list[tuple[int, float]],
    stop: int,
    cost: float,
    place: int,
    score: float,
) -> None:
    if cost < costs[stop]:
        costs[stop], back[stop] = cost, (place, score)


def _names_at(
    text: str, place: int, end: int, is_eager: bool
) -> Iterator[tuple[int, float, float]]:
    """Yield ``(end, cost, score)`` of what could be a name that begins at a place."""
    known = dictionary()
    before = text[max(0, place - 14) : place]
    is_asked = STRONG_LEAD.search(before) is not None
    is_hinted = is_eager and PERSON_LEAD.search(before) is not None
    lead = _STRONG_GAIN if is_asked else _WEAK_GAIN if WEAK_LEAD.search(before) else 0.0
    lead += _EAGER_GAIN if is_eager and text[place] not in NO_SURNAME else 0.0
    lead += _EDGE_GAIN if not before or not before[-1].isalnum() else 0.0
    for surname_chars in (2, 1):
        surname = text[place : place + surname_chars]
        if surname_chars == 2:
            surname_cost = 7.0 if surname in DOUBLE_SURNAMES else math.inf
        else:
            surname_cost = known.surnames.get(surname, math.inf)
            surname_cost += 6.0 if surname in NO_SURNAME and not is_asked else 0.0
        if surname_cost == math.inf or SURNAME_TITLE.match(text, place + surname_chars):
            continue
        for given_chars in (1, 2):
            stop = place + surname_chars + given_chars
            given = text[place + surname_chars : stop]
            if stop <= end and (is_asked or NO_GIVEN.isdisjoint(given)):
                cost = surname_cost + _given_cost(given) - lead - _gain_after(text, stop)
                cost += _NAME_COST if given_chars == 2 else _SHORT_NAME_COST
                is_told = TOLD_AFTER.match(text, stop) is not None
                cost -= _STRONG_GAIN if is_told and not is_asked else 0.0
                is_meant = is_asked or is_told or (is_hinted and _ends(text, stop))
                if not _is_word(text[place:stop], is_meant):
                    yield stop, max(cost, 0.5), 0.7
    for stop in (place + 2, place + 3, place + 4):
        name = text[place:stop]
        if stop <= end and _is_known_name(name):
            yield stop, max(known.words[name] - 1.0 - lead, 0.5), 0.75
        if stop <= end and name in known.foreign and not OTHER_AFTER.match(text, stop):
            yield stop, max(known.words[name] - 1.0 - lead, 0.5), 0.5
    for stop in range(place + 2, min(end, place + 6) + 1):
        if text[stop - 1] not in SOUNDS or text[place] not in SOUNDS:
            break
        cost = _SOUND_COST + _COST_A_SOUND * (stop - place) - lead - _gain_after(text, stop)
        if text[place:stop] not in known.words and stop - place >= 3:
            yield stop, max(cost, 0.5), 0.5
    given = text[place : place + 2]
    is_called = is_asked or TITLE_AFTER.match(text, place + 2) or given in known.names
    if (
        place + 2 <= end
        and NO_GIVEN.isdisjoint(given)
        and (is_called or not _is_word(given, is_asked))
    ):
        doubled = 3.0 if given[0] == given[1] else 0.0
        cost = _GIVEN_COST + _given_cost(given) - doubled
        if (is_called or lead >= _WEAK_GAIN) and _given_cost(given) < _USUAL_GIVEN:
            word = known.words.get(given, 0.0)
            cost = min(cost, word + 1.0) if word > _SELDOM else cost
        yield place + 2, max(cost - lead - _gain_after(text, place + 2), 0.5), 0.5


def _ends(text: str, stop: int) -> bool:
    """Whether a clause ends, or a person does something."""
    return stop >= len(text) or not text[stop].isalnum() or AFTER.match(text, stop) is not None


def _is_known_name(name: str) -> bool:
    """Whether the dictionary has something as the name of a person."""
    is_led = name[:1] in SINGLE_SURNAMES or name[:2] in DOUBLE_SURNAMES
    return is_led and name in dictionary().names


def _is_word(text: str, is_asked: bool) -> bool:
    """Whether something is a word of the dictionary, and no name in it."""
    known = dictionary()
    return text in known.words and not is_asked and text not in known.names


def _given_cost(given: str) -> float:
    known = dictionary()
    if len(given) == 1:
        return known.only.get(given, _RARE_CHAR)
    return known.first.get(given[0], _RARE_CHAR) + known.last.get(given[1], _RARE_CHAR)


def _gain_after(text: str, stop: int) -> float:
    if TITLE_AFTER.match(text, stop):
        return _TITLE_GAIN
    if OTHER_AFTER.match(text, stop):
        return -3.0
    if stop >= len(text) or not text[stop].isalnum():
        return _EDGE_GAIN
    return _AFTER_GAIN if AFTER.match(text, stop) else 0.0


def _with_title(text: str, start: int, end: int, alone: set[int]) -> Iterator[Span]:
    """Surnames with a title, 王女士, of which the surname is the name; 小王, 老李, 阿芳.

    Args:
        alone: where no longer word begins.
    """
    known = dictionary()
    for place in range(start, end):
        char = text[place]
        before = text[place - 1 : place] if place > start else ""
        is_joined = bool(before) and known.words.get(before + char, math.inf) < 12.0
        is_surname = char in SINGLE_SURNAMES and char not in NO_SURNAME and not is_joined
        if is_surname and place in alone and (found := SURNAME_TITLE.match(text, place + 1)):
            is_kin = found[0] in KIN
            yield Span(place, found.end() if is_kin else place + 1, "NAME", 0.6)
        double = text[place : place + 2]
        if double in DOUBLE_SURNAMES and SURNAME_TITLE.match(text, place + 2):
            yield Span(place, place + 2, "NAME", 0.6)
        nickname = NICKNAME.match(text, place, end)
        if nickname and nickname[0] not in NO_NICKNAME and _is_nickname(text, place, nickname[0]):
            yield Span(place, place + 2, "NAME", 0.55)


def _is_nickname(text: str, place: int, name: str) -> bool:
    known = dictionary()
    if name[1] in NO_GIVEN or name[1] in "哥姐弟妹叔姨爷奶孩子贵赞镇衣":
        return False
    before, after = text[place - 1 : place], text[place + 2 : place + 3]
    longer = (before + name, name + after, before + name[0], name[1] + after)
    if any(
        known.words.get(word, math.inf) < 12.5 for word in longer if len(word) > 1 and word != name
    ):
        return False
    if name[0] == "阿":
        return name not in known.words and known.only.get(name[1], _RARE_CHAR) < 9.0
    is_word = known.words.get(name, math.inf) < 11.0 and name not in known.names
    is_given = name[0] == "小" and known.only.get(name[1], _RARE_CHAR) < 7.0
    return not is_word and (is_given or known.surnames.get(name[1], math.inf) < 7.5)


def _foreign(name: str) -> tuple[int, int]:
    """Return where a name with dots begins and ends, without the words around it."""
    first = re.match("[^·•・‧∙⋅]*", name)
    last = re.search("[^·•・‧∙⋅]*$", name)
    assert first is not None and last is not None
    start, end = first.end(), last.start()
    while start > 0 and name[start - 1] in SOUNDS:
        start -= 1
    while end < len(name) and name[end] in SOUNDS:
        end += 1
    if start == first.end() and start:
        start -= len(words_of(first[0])[-1])
    if last[0] and (words := words_of(last[0]))[0] not in OTHER_WORDS:
        end = max(end, last.start() + len(words[0]))
    return start, end
