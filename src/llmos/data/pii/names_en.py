"""Names of persons in Latin letters: by lists of given names and surnames, titles, the words
before and after, and how words are capitalised.

Eager, it also takes capitalised words that it does not know: more names are found, and more of what
is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from llmos.data.pii.cues_en import (
    AFTER,
    ENGLISH_FORM,
    GREETING,
    LEAD,
    PERSON_BEFORE,
    PLACE_BEFORE,
    POSSESSED_THING,
    SIGN_OFF,
    VERB_AFTER,
)
from llmos.data.pii.latin_words import LatinWord, latin_words
from llmos.data.pii.lexicon_en import (
    PARTICLES,
    PINYIN_SURNAMES,
    TITLES,
)
from llmos.data.pii.likeness import likeness
from llmos.data.pii.names_en_eager import bare, begins, widened
from llmos.data.pii.ordinary_en import BEGINNING, CALENDAR, FUNCTION, PLACES, THING_AFTER
from llmos.data.pii.spans import Span

MAX_WORDS = 5
"""Of a name."""
CAUTIOUS_POINTS, EAGER_POINTS = 2.0, -1.0
"""What must speak for a name, in points."""
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\"“”()\[\]|>•*…。！？：；，、-])\s*[\"'“(\[]*\s*$")
_SUFFIX = re.compile(r",? (?:Jr|Sr|JR|SR|II|III|IV)\b\.?")
_SYLLABLE = (
    r"(?:[bpmfdtnlgkhjqxrzcsyw]|zh|ch|sh)?(?:a|o|e|ai|ei|ao|ou|an|en|ang|eng|ong|i|ia|ie|iao|iu|"
    r"ian|in|"
    r"iang|ing|iong|u|ua|uo|uai|ui|uan|un|uang|ueng|v|ve|ue|er)"
)
_PINYIN = re.compile(rf"{_SYLLABLE}(?:[-']?{_SYLLABLE})?")


def names_in_latin(text: str, *, is_eager: bool) -> Iterator[Span]:
    """Yield names; may overlap.

    Args:
        text: as `llmos.data.pii.plain` has it.
        is_eager: whether capitalised words that are not known count.
    """
    reader = _Reader(text, latin_words(text), is_eager)
    yield from reader.names()


class _Reader:
    def __init__(self, text: str, words: Sequence[LatinWord], is_eager: bool) -> None:
        self._text = text
        self._words = words
        self._is_eager = is_eager
        capitals = sum(word.is_capital for word in words)
        long = [word for word in words if len(word.text) > 1]
        uppers = sum(word.is_upper for word in long)
        self._is_shouted = len(long) >= 3 and uppers > 0.7 * len(long)
        self._is_lower = capitals <= 0.08 * len(words)
        han = sum("\u4e00" <= char <= "\u9fff" for char in text)
        self._is_chinese = han > 3 * len(words)
        self._least = EAGER_POINTS if is_eager else CAUTIOUS_POINTS

    def names(self) -> Iterator[Span]:
        place = 0
        first = begins(self._text, self._words) if self._is_eager else []
        while place < len(self._words):
            end, points = self._best_at(place)
            if points >= self._least:
                begin, stop = place, end
                if self._is_eager:
                    begin = first[place]
                    stop = widened(self._words, begin, end)
                yield self._span(begin, stop, min(0.9, 0.4 + 0.1 * points))
                place = end
            else:
                place += 1
        if self._is_eager:
            yield from bare(self._text, self._words)

    def _best_at(self, place: int) -> tuple[int, float]:
        """Return where a name ends that begins at a word, and what speaks for it; nothing does
        where it is no name."""
        if not self._can_begin(self._words[place]):
            return place, -math.inf
        if end := self._reversed_end(place):
            return end, 4.0
        end = self._extended(place)
        if self._is_pinyin(place):
            end = max(end, place + 2)
        if self._is_thing(place, end):
            return place, -math.inf
        return end, self._points(place, end)

    def _points(self, place: int, end: int) -> float:
        words = self._words[place:end]
        points = self._of_words(words) + self._of_place(place, end)
        if self._has_title(place):
            points += 4
        elif self._leads(place):
            points += 3 if words[0].is_given or words[0].key not in BEGINNING else 1
        if self._is_pinyin(place):
            points += 3
        if AFTER.match(self._text, words[-1].end):
            points += 2
        return points

    def _of_words(self, words: Sequence[LatinWord]) -> float:
        """Return what speaks for words by themselves."""
        first, rest = words[0], words[1:]
        points = 0.0
        if first.is_sure_given:
            points += 3 if self._has_case(first) or rest else self._of_caseless(first)
        elif first.is_given:
            points += 1
        if first.is_initial:
            points += 1 if rest and not rest[-1].is_initial else -5
        if first.is_upper and len(first.text) <= 4 and not (rest or first.is_usual_given):
            points -= 0 if self._is_shouted else 2
        if any(it.is_sure_surname and (self._has_case(it) or rest) for it in words):
            points += 2.5
        elif any(it.is_surname for it in rest):
            points += 1.5
        points += 1.5 if any(it.is_sure_given for it in rest) else 0
        if not (first.is_given or first.is_surname):
            points += likeness(first.key)
            points -= 2 if ENGLISH_FORM.search(first.key) else 0
            points -= 2 if first.key in BEGINNING or first.key in PLACES else 0
            points -= 5 if not self._has_case(first) else 0
            points -= 2.5 * first.usage if self._is_eager else 0
            is_coined = re.search("[a-z][A-Z]", first.text) is not None and not first.is_surname
            points -= 2 if is_coined or (self._is_chinese and not rest) else 0
            is_short = first.is_upper and not self._is_shouted
            points -= 2 if is_short else 0
        if rest and all(self._has_case(it) or it.key in PARTICLES for it in words):
            points += 1
        return points

    def _of_caseless(self, word: LatinWord) -> float:
        """Return what speaks for a given name by itself where capitals say nothing."""
        says_nothing = self._is_lower or self._is_shouted or self._is_eager
        is_known = word.is_usual_given or (self._is_eager and len(word.key) >= 4)
        return 2 if says_nothing and is_known and len(word.key) >= 3 else -3

    def _of_place(self, place: int, end: int) -> float:
        """Return what speaks for a name where the words stand."""
        first, points = self._words[place], 0.0
        before = self._text[max(0, first.start - 24) : first.start]
        if self._begins_sentence(place):
            points -= 0.5 if end - place == 1 and not first.is_given else 0
        elif self._has_case(first):
            points += 0.5
        last = self._words[end - 1]
        if end - place == 1 and first.key in CALENDAR:
            is_date = re.match(r"[ ,.]{1,2}\d", self._text[last.end : last.end + 3]) is not None
            told = re.search(
                r"(?:\d|\bof|\bin|\blast|\bnext|\bthis|\bby|\buntil|\bsince),? $", before
            )
            points -= 4 if is_date or told else 1
        if PERSON_BEFORE.search(before):
            points += 1
        elif PLACE_BEFORE.search(before) and not (first.is_sure_given or first.is_sure_surname):
            points -= 1.5
        if VERB_AFTER.match(self._text, self._words[end - 1].end):
            points += 1
        return points

    def _can_begin(self, word: LatinWord) -> bool:
        if word.key in TITLES:
            return False
        if word.is_capital and word.is_ordinary and not word.is_surname:
            return False
        if word.is_capital:
            return word.key not in FUNCTION or word.is_usual_given
        is_given = word.is_sure_given if self._is_eager else word.is_usual_given
        return is_given or (self._is_led(word) and word.key not in FUNCTION)

    def _is_led(self, word: LatinWord) -> bool:
        """Whether a lower-case word stands where only a name would: mr smith, my name is …"""
        known = word.is_given or word.is_surname
        before = self._text[max(0, word.start - 16) : word.start].lower()
        told = re.search(r"(?:name is|name's|\bmr\.?|\bmrs\.?|\bms\.?|\bdr\.?) $", before)
        return told is not None and (known or word.key not in BEGINNING)

    def _extended(self, place: int) -> int:
        """Return where the words end that can be one name with the first."""
        end = place + 1
        first = self._words[place]
        while end < len(self._words) and end - place < MAX_WORDS:
            word = self._words[end]
            if word.gap not in {" ", ". ", "  "} or (
                word.gap == ". " and not self._words[end - 1].is_initial
            ):
                break
            if self._continues(first, word, end):
                end += 1
            elif skipped := self._particles(first, end):
                end += skipped + 1
            else:
                break
        return end

    def _continues(self, first: LatinWord, word: LatinWord, place: int) -> bool:
        if word.is_initial and word.key != "i":
            return True
        if self._has_case(first) and not first.is_upper:
            if not word.is_capital or (word.is_upper):
                return word.is_capital and word.is_surname
            is_plain = word.is_ordinary and not word.is_surname
            if first.is_sure_given and word.key in PLACES and word.key not in CALENDAR:
                return True
            return not is_plain and (word.key not in TITLES or word.is_surname)
        if first.is_upper != word.is_upper:
            return False
        if first.is_upper:
            is_plain = word.is_ordinary and not word.is_surname
            return not is_plain and (word.key not in TITLES or word.is_surname)
        if self._is_eager and first.is_sure_given and not word.is_capital:
            return len(word.key) > 3 and not (word.is_ordinary or ENGLISH_FORM.search(word.key))
        is_known = word.is_sure_surname or (word.is_surname and word.key not in FUNCTION)
        is_plain = word.key in BEGINNING or word.key in PLACES
        return is_known and (word.is_sure_surname or not is_plain)

    def _particles(self, first: LatinWord, place: int) -> int:
        """Return how many small words, as "de la", stand here before a further name; 0 if none."""
        at = place
        while at < len(self._words) and at < place + 3:
            word = self._words[at]
            if word.gap not in {" ", "-"}:
                return 0
            if word.key not in PARTICLES or (word.is_capital and at > place):
                is_name = word.is_capital or (not first.is_capital and word.is_surname)
                return at - place if at > place and is_name and not word.is_ordinary else 0
            at += 1
        return 0

    def _reversed_end(self, place: int) -> int:
        """Return where "Okafor, Rose" ends, 0 where it is none."""
        words = self._words[place : place + 3]
        if (
            len(words) < 2
            or words[1].gap != ", "
            or not (words[0].is_capital and words[1].is_capital)
        ):
            return 0
        is_known = words[0].is_sure_surname and not words[0].is_given and words[1].is_given
        before = self._text[max(0, words[0].start - 3) : words[0].start]
        if not is_known or not (before == "" or re.search(r"[\n:|\t\"(•-]\s?$", before)):
            return 0
        has_initial = len(words) == 3 and words[2].is_initial and words[2].gap == " "
        return place + (3 if has_initial else 2)

    def _is_pinyin(self, place: int) -> bool:
        """Whether two words are a Chinese name in Latin letters, surname first or last."""
        if place + 1 >= len(self._words):
            return False
        one, two = self._words[place], self._words[place + 1]
        if two.gap != " " or not (one.is_capital and two.is_capital):
            return False
        for surname, given in ((one, two), (two, one)):
            if (
                surname.key in PINYIN_SURNAMES
                and len(given.key) >= 2
                and _PINYIN.fullmatch(given.key)
                and not (one.is_ordinary or two.is_ordinary)
            ):
                return True
        return False

    def _has_title(self, place: int) -> bool:
        if place == 0:
            return False
        before, word = self._words[place - 1], self._words[place]
        if before.key not in TITLES or word.gap not in {" ", ". ", "."}:
            return False
        is_short = before.key in {"mr", "mrs", "ms", "dr", "mx", "prof", "sr", "hon"}
        is_said = is_short or before.is_capital or word.is_given or word.is_surname
        return is_said and (word.is_capital or is_short) and word.key not in FUNCTION

    def _leads(self, place: int) -> bool:
        """Whether what stands before asks for a name."""
        before = self._text[max(0, self._words[place].start - 48) : self._words[place].start]
        return any(pattern.search(before) for pattern in (LEAD, GREETING, SIGN_OFF))

    def _begins_sentence(self, place: int) -> bool:
        before = self._text[max(0, self._words[place].start - 6) : self._words[place].start]
        return _SENTENCE_END.search(before) is not None

    def _has_case(self, word: LatinWord) -> bool:
        """Whether the capital of a word says anything."""
        return word.is_capital and not (self._is_shouted and word.is_upper)

    def _is_thing(self, place: int, end: int) -> bool:
        """Whether words that could be a name are that of a place, a firm or a thing."""
        last = self._words[end - 1]
        if self._text[: self._words[place].start].endswith("& "):
            return not self._is_eager
        if self._is_eager and end - place > 1 and self._words[place].is_sure_given:
            return False
        after = self._text[last.end : last.end + 24]
        if POSSESSED_THING.match(after) or re.match(
            r" & (?:Co|Sons?|Daughters|Partners|[A-Z])", after
        ):
            return True
        if end < len(self._words):
            following = self._words[end]
            is_joined = following.gap in {" ", "'s ", "-"}
            if is_joined and following.key in THING_AFTER and following.is_capital:
                return not self._has_title(place)
        if end - place > 1 and last.key in THING_AFTER and not last.is_surname:
            return True
        before = self._text[max(0, self._words[place].start - 5) : self._words[place].start].lower()
        return end - place == 1 and before.endswith((" the ", "\nthe ")) and not last.is_sure_given

    def _span(self, place: int, end: int, score: float) -> Span:
        last = self._words[end - 1]
        stop = last.end
        if last.is_initial and self._text[stop : stop + 1] == "." and end - place > 1:
            stop += 1
        suffix = _SUFFIX.match(self._text, stop)
        return Span(self._words[place].start, suffix.end() if suffix else stop, "NAME", score)
