"""Operators that drop records by the language of their text, or by words in it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import regex
from pydantic import Field, field_validator

from llmos.data.pipeline.operator import Filter, TextOptions
from llmos.data.pipeline.record import Record

MAX_WORDS = 100_000
LANGUAGE = "language"
"""The note of a text's language."""
_CODE = regex.compile("[a-z]{2,3}")


class LanguageOptions(TextOptions):
    keep: list[str] = Field(
        min_length=1, description='languages that stay, by their two letters: ["en", "zh"]'
    )
    least: float = Field(
        default=0.0, ge=0, le=1, description="how sure it must be: its share of all languages"
    )

    @field_validator("keep")
    @classmethod
    def _known(cls, keep: list[str]) -> list[str]:
        if wrong := [code for code in keep if not _CODE.fullmatch(code)]:
            raise ValueError(f"{wrong[0][:20]!r} is no code of a language, as en and zh are")
        return keep


class Language(Filter[LanguageOptions]):
    """Keeps texts of some languages, found by py3langid, and notes which it is.

    >>> tried(Language(keep=["en", "zh"]), "The weather is very fine today.", "今天的天气非常好。")
    ['The weather is very fine today.', '今天的天气非常好。']
    >>> tried(Language(keep=["en"]), "Das Wetter ist heute sehr schön und warm.")
    ['dropped: another language: de 1.00']
    """

    name = "language"
    needs: ClassVar[dict[str, str]] = {"py3langid": "py3langid>=0.4"}
    options_type = LanguageOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield each record, its language noted."""
        for record in records:
            code, sureness = _identifier().classify(record.text(self.options.field))
            record.meta[LANGUAGE] = code
            record.dropped_reason = self._reason(code, float(sureness))
            yield record

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        code, sureness = _identifier().classify(text)
        return self._reason(code, float(sureness))

    def _reason(self, code: str, sureness: float) -> str | None:
        if code not in self.options.keep:
            return f"another language: {code} {sureness:.2f}"
        if sureness < self.options.least:
            return f"uncertain language: {code} {sureness:.2f}"
        return None


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


_LISTED = {"whole": r"(?<!\w)(?:\L<whole>)(?!\w)", "inside": r"\L<inside>"}
"""How words of either list are found."""


class BlocklistOptions(TextOptions):
    words: list[str] = Field(
        min_length=1, max_length=MAX_WORDS, description="words or phrases, whatever their case"
    )
    count: int = Field(default=1, ge=1, description="a text with so many of them goes")

    @field_validator("words")
    @classmethod
    def _not_empty(cls, words: list[str]) -> list[str]:
        if not all(word.strip() for word in words):
            raise ValueError("a word is empty, which every text has")
        return words


class Blocklist(Filter[BlocklistOptions]):
    """Drops texts with words or phrases of a list; Chinese ones count wherever they stand, others
    where they are whole words.

    >>> tried(Blocklist(words=["casino", "贷款"]), "Win at our CASINO!", "casinos", "无抵押贷款")
    ['dropped: blocked: casino', 'casinos', 'dropped: blocked: 贷款']
    """

    name = "blocklist"
    options_type = BlocklistOptions

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        words = {word.strip().casefold() for word in self.options.words}
        inside = {word for word in words if regex.search(r"\p{Han}", word)}
        lists = {"whole": words - inside, "inside": inside}
        known = {name: some for name, some in lists.items() if some}  # an empty one is everywhere
        self._pattern = regex.compile("|".join(_LISTED[name] for name in known), **known)

    def reason(self, text: str) -> str | None:
        """Return why a text is to go."""
        found: list[str] = []
        for match in self._pattern.finditer(text.casefold()):
            found.append(match[0])
            if len(found) == self.options.count:
                return f"blocked: {', '.join(dict.fromkeys(found))}"
        return None
