"""Operators that drop records by how long their text is and what it is made of."""

from __future__ import annotations

from typing import Any, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from llmos.data.operators.patterns import compiled
from llmos.data.operators.words import is_symbols, words_of
from llmos.data.pipeline.operator import Filter, TextOptions

MAX_PATTERN_CHARS = 2000
_DIGITS = regex.compile(r"\p{N}")
_PUNCTUATION = regex.compile(r"\p{P}")
_SYMBOLS = regex.compile(r"\p{S}")
_SEEN = regex.compile(r"\S")


class LengthOptions(TextOptions):
    least: int = Field(default=1, ge=0, description="shorter texts go")
    most: int | None = Field(default=None, ge=0, description="longer texts go")
    unit: Literal["characters", "words"] = Field(
        default="characters", description="words: of Chinese, characters"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most is not None and self.most < self.least:
            raise ValueError("most is below least: nothing would be left")
        return self


class Length(Filter[LengthOptions]):
    """Drops texts that are too short or too long.

    >>> tried(Length(least=3, most=8), "ok", "fine", "far too long")
    ['dropped: too short: 2 characters', 'fine', 'dropped: too long: 12 characters']
    >>> tried(Length(least=4, unit="words"), "only three words", "你好世界")
    ['dropped: too short: 3 words', '你好世界']
    """

    name = "length"
    options_type = LengthOptions

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        options = self.options
        if options.unit == "characters":
            length = len(text)
        else:
            length = sum(not is_symbols(word) for word in words_of(text))
        if length < options.least:
            return f"too short: {length} {options.unit}"
        if options.most is not None and length > options.most:
            return f"too long: {length} {options.unit}"
        return None


class RatioOptions(TextOptions):
    max_digits: float = Field(default=0.2, ge=0, le=1, description="largest share of digits")
    max_punctuation: float = Field(
        default=0.25, ge=0, le=1, description="largest share of punctuation"
    )
    max_symbols: float = Field(
        default=0.1, ge=0, le=1, description="largest share of symbols, such as + # $ |"
    )


class CharacterRatios(Filter[RatioOptions]):
    """Drops texts with too large a share of digits, punctuation or symbols, of all that is seen.

    >>> tried(CharacterRatios(), "Plain text, as it should be.", "010-8888 6666", "|=|=|", "！！！")
    ... # doctest: +NORMALIZE_WHITESPACE
    ['Plain text, as it should be.', 'dropped: too many digits: 92%',
     'dropped: too many symbols: 100%', 'dropped: too much punctuation: 100%']
    """

    name = "character_ratios"
    options_type = RatioOptions

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        seen = len(_SEEN.findall(text))
        if not seen:
            return None
        options = self.options
        for pattern, most, said in (
            (_DIGITS, options.max_digits, "too many digits"),
            (_PUNCTUATION, options.max_punctuation, "too much punctuation"),
            (_SYMBOLS, options.max_symbols, "too many symbols"),
        ):
            share = len(pattern.findall(text)) / seen
            if share > most:
                return f"{said}: {share:.0%}"
        return None


class RegexOptions(TextOptions):
    pattern: str = Field(
        min_length=1, max_length=MAX_PATTERN_CHARS, description="as the package regex has it"
    )
    keep: bool = Field(
        default=False, description="keep the texts in which it is found, drop others"
    )
    ignore_case: bool = Field(default=False, description="whether large and small letters are one")
    timeout_s: float = Field(
        default=1.0, gt=0, le=60, description="a text that takes longer is rejected"
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        compiled(value)
        return value


class RegexFilter(Filter[RegexOptions]):
    """Drops the texts in which a regular expression is found, or keeps only those.

    The search of a text has a time limit; one that takes longer, as some patterns do for hours, is
    rejected.

    >>> tried(RegexFilter(pattern=r"\\bviagra\\b", ignore_case=True), "Buy Viagra!", "A letter")
    ['dropped: pattern found: Viagra', 'A letter']
    >>> tried(RegexFilter(pattern=r"\\p{Han}", keep=True), "你好", "hello")
    ['你好', 'dropped: pattern not found']
    """

    name = "regex_filter"
    options_type = RegexOptions

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        flags = regex.IGNORECASE if self.options.ignore_case else 0
        self._pattern = compiled(self.options.pattern, flags)

    def reason(self, text: str) -> str | None:
        """Return why a text is to go. Raises TimeoutError."""
        found = self._pattern.search(text, timeout=self.options.timeout_s)
        if self.options.keep:
            return None if found else "pattern not found"
        return f"pattern found: {found[0][:60]}" if found else None
