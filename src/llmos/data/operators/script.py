"""Operators that bring Chinese characters, widths and punctuation to one form."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal

import regex
from pydantic import Field

from llmos.data.pipeline.operator import Mapper, TextOptions

_FULL_WIDTH_SHIFT = 0xFEE0
_IDEOGRAPHIC_SPACE = 0x3000
_VISIBLE_ASCII = range(0x21, 0x7F)


class ScriptOptions(TextOptions):
    to: Literal["simplified", "traditional"] = Field(
        default="simplified", description="characters to write"
    )


class ChineseScript(Mapper[ScriptOptions]):
    """Writes Chinese in simplified or traditional characters, by OpenCC's words and characters.

    >>> tried(ChineseScript(), "漢語與電腦，頭髮和發現")
    ['汉语与电脑，头发和发现']
    >>> tried(ChineseScript(to="traditional"), "汉语与电脑，头发和发现", "plain")
    ['漢語與電腦，頭髮和發現', 'plain']
    """

    name = "chinese_script"
    needs: ClassVar[dict[str, str]] = {"opencc": "opencc-python-reimplemented>=0.1.7"}
    options_type = ScriptOptions

    def change(self, text: str) -> str:
        """Return the text in those characters."""
        return text if text.isascii() else str(_converter(self.options.to).convert(text))


@functools.cache
def _converter(to: str) -> Any:
    from opencc import OpenCC

    return OpenCC("t2s" if to == "simplified" else "s2t")


class WidthOptions(TextOptions):
    to: Literal["half", "full"] = Field(default="half", description="width to write")
    punctuation: bool = Field(
        default=False, description="punctuation, symbols and spaces too, not only letters, digits"
    )


class Width(Mapper[WidthOptions]):
    """Makes full-width letters and digits half-width, or the other way round.

    >>> tried(Width(), "ＧＰＵ２４号，（好）")
    ['GPU24号，（好）']
    >>> tried(Width(punctuation=True), "ＧＰＵ２４号，（好）")
    ['GPU24号,(好)']
    >>> tried(Width(to="full"), "GPU 24")
    ['ＧＰＵ ２４']
    """

    name = "width"
    options_type = WidthOptions

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        every = self.options.punctuation
        half = [code for code in _VISIBLE_ASCII if every or chr(code).isalnum()]
        pairs = {code: code + _FULL_WIDTH_SHIFT for code in half}
        if every:
            pairs[0x20] = _IDEOGRAPHIC_SPACE
        if self.options.to == "half":
            pairs = {full: code for code, full in pairs.items()}
        self._table = pairs

    def change(self, text: str) -> str:
        """Return the text in that width."""
        return text.translate(self._table)


class PunctuationOptions(TextOptions):
    style: Literal["plain", "chinese"] = Field(
        default="plain",
        description="plain: ASCII's marks; chinese: ，。 and the like after Chinese",
    )


class Punctuation(Mapper[PunctuationOptions]):
    """Writes punctuation in one style: ASCII's everywhere, or Chinese marks after Chinese.

    >>> tried(Punctuation(), "“Well”—he said… ‘fine’", "好，谢谢！")
    ['"Well"-he said... \\'fine\\'', '好,谢谢!']
    >>> tried(Punctuation(style="chinese"), "好,谢谢!(再见)", "Well, v1.2", "见example.com.")
    ['好，谢谢！（再见）', 'Well, v1.2', '见example.com.']
    """

    name = "punctuation"
    options_type = PunctuationOptions

    def change(self, text: str) -> str:
        """Return the text with that punctuation."""
        if self.options.style == "plain":
            return text if text.isascii() else text.translate(_PLAIN)
        while (changed := _chinese(text)) != text:  # a mark after a mark that was changed
            text = changed
        return text


def _chinese(text: str) -> str:
    text = _BRACKETS.sub(r"（\1）", _DOTS.sub("……", text))
    return str(_MARK.sub(lambda found: _CHINESE[found[0]], text))


_PLAIN = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»《》「」『』＂", '"'),
        **dict.fromkeys("‘’‚‛‹›〈〉＇", "'"),
        **dict.fromkeys("‐‑‒–—―－", "-"),
        **dict(zip("，。！？：；（）【】［］、．", ",.!?:;()[][],.", strict=True)),
        "…": "...",
    }
)
_CHINESE = dict(zip(",.!?:;", "，。！？：；", strict=True))
_AFTER_CHINESE = r"(?<=[\p{Han}，。！？：；（）])"
_DOTS = regex.compile(_AFTER_CHINESE + r"\.{3,}")
_BRACKETS = regex.compile(_AFTER_CHINESE + r"\(([^()\n]*)\)")
_MARK = regex.compile(_AFTER_CHINESE + r"[,.!?:;](?![\p{Latin}\p{N}.])")
