"""The quality and repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, section A1.1 and
table A1), for English and Chinese.

Of English they keep what datatrove's filters keep with their defaults, so words, symbols and the
share of an n-gram are theirs; Chinese is counted by characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import regex
from pydantic import Field

from llmos.data.operators.english_words import PACKAGES, english_words
from llmos.data.operators.words import is_chinese, words_of
from llmos.data.pipeline.operator import Filter, TextOptions

STOP_WORDS = {
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with")),
    "zh": frozenset(("的", "了", "是", "在", "和", "不", "有", "这")),
}
"""The paper's, and Chinese characters about as frequent."""
TOP_SHARES = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_SHARES = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
"""n -> the largest share of a text's characters in its commonest n-gram, and in n-grams that were
there before."""
_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_SYMBOLS = regex.compile(
    r"[\p{Cc}\p{Sentence_Break=STerm}!-/:-@\[-`{-~«´»៖៙៚–—’“”„…∶━►、〈〉《》「」【】﹒％（），．１：；～]+"
)
"""Of what datatrove takes for no word."""


class QualityOptions(TextOptions):
    language: Literal["auto", "en", "zh"] = Field(
        default="auto", description="whose stop words; auto goes by the characters"
    )
    min_words: int = Field(default=50, ge=0, description="without punctuation")
    max_words: int = Field(default=100_000, ge=1, description="without punctuation")
    min_word_length: float = Field(default=3, ge=0, description="mean; not of Chinese")
    max_word_length: float = Field(default=10, gt=0, description="mean; not of Chinese")
    max_symbols: float = Field(default=0.1, ge=0, description="hashes, or ellipses, per word")
    max_bullets: float = Field(default=0.9, ge=0, le=1, description="share of lines that begin so")
    max_ellipses: float = Field(default=0.3, ge=0, le=1, description="share of lines that end so")
    min_letters: float = Field(default=0.8, ge=0, le=1, description="share of words with a letter")
    min_stop_words: int = Field(default=2, ge=0, description="of the 8 commonest, that are there")


class GopherQuality(Filter[QualityOptions]):
    """Drops texts that break Gopher's rules of quality: number and length of words, hashes,
    ellipses, bullets, letters, stop words.

    >>> tried(GopherQuality(min_words=5), "The cat sat with the dog.", "Buy now", "# # # # # 1 2 3")
    ... # doctest: +NORMALIZE_WHITESPACE
    ['The cat sat with the dog.', 'dropped: too few words: 2', 'dropped: too few words: 3']
    >>> tried(GopherQuality(min_words=5), "这是一只很好的猫。", "价格表：苹果梨子香蕉")
    ['这是一只很好的猫。', 'dropped: too few stop words: 0']
    """

    name = "gopher_quality"
    options_type = QualityOptions
    needs = PACKAGES

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        language = self.options.language
        if language == "auto":
            language = "zh" if is_chinese(text) else "en"
        words = english_words(text) if language == "en" else words_of(text)
        spoken = [word for word in words if not _is_symbols(word)]
        return (
            self._of_words(spoken, language)
            or self._of_symbols(text, len(words))
            or self._of_lines(text)
            or self._of_language(words, spoken, language)
        )

    def _of_words(self, spoken: Sequence[str], language: str) -> str | None:
        options, count = self.options, len(spoken)
        if count < options.min_words or not count:
            return f"too few words: {count}"
        if count > options.max_words:
            return f"too many words: {count}"
        if language == "zh":
            return None
        mean = sum(map(len, spoken)) / count
        if mean < options.min_word_length:
            return f"words too short: {mean:.1f} characters"
        if mean > options.max_word_length:
            return f"words too long: {mean:.1f} characters"
        return None

    def _of_symbols(self, text: str, count: int) -> str | None:
        most = self.options.max_symbols * count
        if text.count("#") > most:
            return f"too many hashes: {text.count('#') / count:.0%}"
        ellipses = text.count("...") + text.count("…")
        return f"too many ellipses: {ellipses / count:.0%}" if ellipses > most else None

    def _of_lines(self, text: str) -> str | None:
        lines = text.splitlines()
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets > self.options.max_bullets * len(lines):
            return f"too many bullets: {bullets / len(lines):.0%} of lines"
        ends = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        if ends > self.options.max_ellipses * len(lines):
            return f"too many lines end in an ellipsis: {ends / len(lines):.0%}"
        return None

    def _of_language(
        self, words: Sequence[str], spoken: Sequence[str], language: str
    ) -> str | None:
        lettered = sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in words)
        if lettered < self.options.min_letters * len(words):
            return f"too few words with letters: {lettered / len(words):.0%}"
        stop_words = STOP_WORDS[language]
        found = len(stop_words.intersection(words))
        return f"too few stop words: {found}" if found < self.options.min_stop_words else None


class RepetitionOptions(TextOptions):
    max_lines: float = Field(default=0.3, ge=0, le=1, description="share of lines seen before")
    max_paragraphs: float = Field(default=0.3, ge=0, le=1, description="the same of paragraphs")
    max_line_characters: float = Field(
        default=0.2, ge=0, le=1, description="share of characters in lines seen before"
    )
    max_paragraph_characters: float = Field(
        default=0.2, ge=0, le=1, description="the same in paragraphs"
    )
    n_grams: bool = Field(default=True, description="apply the rules of n-grams of words, too")


class GopherRepetition(Filter[RepetitionOptions]):
    """Drops texts that repeat themselves, by Gopher's rules: lines, paragraphs, and n-grams of
    words (of Chinese, of characters).

    A text of a dozen words goes, too: its commonest n-gram is a large share of it.

    >>> lines = GopherRepetition(n_grams=False)
    >>> tried(lines, "One line here.\\nAnd another", "Same.\\nSame.\\nSame.\\nOther.")
    ['One line here.\\nAnd another', 'dropped: repeated lines: 50%']
    >>> tried(GopherRepetition(), "买它买它买它买它买它买它")
    ['dropped: repeated 2-grams: 100%']
    """

    name = "gopher_repetition"
    options_type = RepetitionOptions
    needs = PACKAGES

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        if not text:
            return "no text"
        options = self.options
        for pieces, most, most_characters, said in (
            (_PARAGRAPHS.split(text.strip()), options.max_paragraphs,
             options.max_paragraph_characters, "paragraphs"),
            (_LINES.split(text), options.max_lines, options.max_line_characters, "lines"),
        ):  # fmt: skip
            number, characters = _repeated(pieces)
            if number > most * len(pieces):
                return f"repeated {said}: {number / len(pieces):.0%}"
            if characters > most_characters * len(text):
                return f"characters in repeated {said}: {characters / len(text):.0%}"
        return self._of_n_grams(text) if options.n_grams else None

    def _of_n_grams(self, text: str) -> str | None:
        words, gap = (words_of(text), 0) if is_chinese(text) else (english_words(text), 1)
        for n, most in TOP_SHARES:
            share = _top_characters(words, n, gap) / len(text)
            if share > most:
                return f"repeated {n}-grams: {share:.0%}"
        for n, most in DUPLICATE_SHARES:
            share = _duplicate_characters(words, n) / len(text)
            if share > most:
                return f"repeated {n}-grams: {share:.0%}"
        return None


def _repeated(pieces: Sequence[str]) -> tuple[int, int]:
    """Return how many pieces were there before, and their characters."""
    seen: set[str] = set()
    number = characters = 0
    for piece in pieces:
        if piece in seen:
            number += 1
            characters += len(piece)
        seen.add(piece)
    return number, characters


def _top_characters(words: Sequence[str], n: int, gap: int) -> int:
    """Return the characters of all places of the commonest n-gram, of several the first. One that
    is there once counts, so that a text of a few words is mostly its commonest.

    Args:
        gap: characters between two words.
    """
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    gram, count = max(counts.items(), key=lambda one: one[1], default=((), 0))
    return (sum(map(len, gram)) + gap * (n - 1)) * count


def _duplicate_characters(words: Sequence[str], n: int) -> int:
    """Return the characters of n-grams that were there before, none counted twice, wherever they
    are parted into words."""
    text, starts = "".join(words), [0, *accumulate(map(len, words))]
    grams = [text[start:end] for start, end in zip(starts, starts[n:], strict=False)]
    if len(set(grams)) == len(grams):
        return 0
    seen: set[str] = set()
    characters = place = 0
    while place < len(grams):
        gram = grams[place]
        if gram in seen:
            characters += len(gram)
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters


def _is_symbols(word: str) -> bool:
    return not (word[0].isascii() and word[0].isalnum()) and _SYMBOLS.fullmatch(word) is not None
