"""Operators that write the same text in one way: mended, composed, without odd characters."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, ClassVar, Literal

from pydantic import Field

from llmos.data.pipeline.operator import Mapper, TextOptions

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_SPACES = re.compile(r"(?: [^\S\n]|[^\S\n ])[^\S\n]*")
"""Runs of spaces that are more, or other, than one plain one."""
_EDGES = re.compile(r" \n ?|\n ")
_PLAIN_ASCII = re.compile(r"[\t\n -%'-~]*")
"""What ftfy leaves as it is."""
_EMPTY_LINES = re.compile(r"\n{3,}")


class FixTextOptions(TextOptions):
    quotes: bool = Field(default=False, description="make curly quotation marks straight")
    width: bool = Field(
        default=False,
        description="make full-width characters half-width, Chinese punctuation too",
    )


class FixText(Mapper[FixTextOptions]):
    """Mends text that was decoded with the wrong encoding, and HTML's escapes where there are no
    tags, by ftfy.

    Quotation marks and full-width punctuation stay as they are unless told, as they are right in
    Chinese.

    >>> tried(FixText(), "schÃ¶n", "â€œHelloâ€\\x9d", "ä½\\xa0å¥½", "“你好，世界！”", "a &lt; b")
    ['schön', '“Hello”', '你好', '“你好，世界！”', 'a < b']
    """

    name = "fix_text"
    options_type = FixTextOptions
    needs: ClassVar[dict[str, str]] = {"ftfy": "ftfy"}

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        from ftfy import TextFixerConfig, fix_text

        self._config = TextFixerConfig(
            uncurl_quotes=self.options.quotes,
            fix_character_width=self.options.width,
            explain=False,
        )
        self._fix = fix_text

    def change(self, text: str) -> str:
        """Return the mended text."""
        if text.isascii() and _PLAIN_ASCII.fullmatch(text):
            return text
        return str(self._fix(text, self._config))


class UnicodeOptions(TextOptions):
    form: Literal["NFC", "NFKC", "NFD", "NFKD"] = Field(
        default="NFC", description="NFKC also makes one of what only looks different"
    )


class Unicode(Mapper[UnicodeOptions]):
    """Brings text to a Unicode normal form: NFC composes letters and accents; NFKC also makes
    full-width letters and digits, ligatures and the like plain ones.

    >>> tried(Unicode(), "cafe\\u0301")
    ['café']
    >>> tried(Unicode(form="NFKC"), "ＡＢＣ１２３，ﬁne")
    ['ABC123,fine']
    """

    name = "unicode"
    options_type = UnicodeOptions

    def change(self, text: str) -> str:
        """Return the text in its form."""
        return unicodedata.normalize(self.options.form, text)


class Whitespace(Mapper[TextOptions]):
    """Makes runs of spaces one, and of empty lines one; strips lines and the text.

    Spaces of every kind count, the ideographic one that indents Chinese paragraphs too.

    >>> tried(Whitespace(), "  a \\t b  \\r\\n\\n\\n\\n c\\u00a0")
    ['a b\\n\\nc']
    >>> tried(Whitespace(), "\\u3000\\u3000你好\\n\\u3000世界")
    ['你好\\n世界']
    """

    name = "whitespace"

    def change(self, text: str) -> str:
        """Return the text with single spaces."""
        text = _SPACES.sub(" ", _BREAKS.sub("\n", text))
        return _EMPTY_LINES.sub("\n\n", _EDGES.sub("\n", text)).strip()


class ControlOptions(TextOptions):
    invisible: bool = Field(
        default=True,
        description="also remove zero-width spaces, soft hyphens and marks of direction",
    )


class ControlCharacters(Mapper[ControlOptions]):
    """Removes control characters but tabs and line breaks, and characters that are not seen.

    Joiners stay: emoji and some scripts need them. Rare kinds of line break become the common one.

    >>> tried(ControlCharacters(), "a\\x00b\\x1bc\\td", "zero\\u200bwidth", "one\\x0btwo")
    ['abc\\td', 'zerowidth', 'one\\ntwo']
    """

    name = "control_characters"
    options_type = ControlOptions

    def change(self, text: str) -> str:
        """Return the text without them."""
        text = _CONTROL.sub("", _BREAKS.sub("\n", text))
        return text if text.isascii() or not self.options.invisible else _INVISIBLE.sub("", text)


class LowerCase(Mapper[TextOptions]):
    """Makes letters lower-case.

    >>> tried(LowerCase(), "Hello, WORLD", "你好 ABC")
    ['hello, world', '你好 abc']
    """

    name = "lower_case"

    def change(self, text: str) -> str:
        """Return the text in lower case."""
        return text.lower()
