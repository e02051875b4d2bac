"""The rules of lines and pages of C4 (Raffel et al. 2020, section 2.2), for English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field

from llmos.data.operators.words import HAN
from llmos.data.pipeline.operator import Operator, TextOptions
from llmos.data.pipeline.record import Record

ENDS = (".", "?", "!", '"', "'", "”", "’", "。", "？", "！", "」", "』")
"""What a sentence may end in."""
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "使用条款",
    "隐私政策",
    "服务条款",
)
_SENTENCE_ENDS = re.compile(r"[.?!]+[\"'”’)]*(?=\s|$)|[。？！]+[”’」』）]*")
MAX_NESTED = 10
"""Citations in citations are taken out so deep; each such pass reads the line again."""
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


class C4Options(TextOptions):
    min_sentences: int = Field(default=5, ge=0, description="of the lines that are kept")
    min_words: int = Field(default=3, ge=0, description="of a line; of Chinese, characters")
    max_word_length: int = Field(default=1000, ge=1, description="of a line's longest word")
    need_end: bool = Field(default=True, description="lines must end as sentences do")
    policies: bool = Field(default=True, description="remove lines about cookies and terms of use")
    code: bool = Field(
        default=True, description="drop texts with a curly bracket, remove lines about JavaScript"
    )


class C4Lines(Operator[C4Options]):
    """Removes lines that are no sentences, by C4's rules, and drops what is then too short.

    Kept are lines that end as a sentence does and have three words; texts with "lorem ipsum" or a
    curly bracket go.

    >>> lines = C4Lines(min_sentences=2)
    >>> tried(lines, "Home | About\\nThis is it. It has ended.\\nWe use cookies.")
    ['This is it. It has ended.']
    >>> tried(lines, "今天天气很好。我们去公园！\\n首页")
    ['今天天气很好。我们去公园！']
    >>> tried(lines, "let x = {1}.", "Click here!")
    ['dropped: curly bracket', 'dropped: too few sentences: 0']
    """

    name = "c4_lines"
    adds = ()
    group = "filter"
    options_type = C4Options

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            text = record.text(self.options.field)
            record.dropped_reason = self._reason(text)
            if record.dropped_reason is None:
                record.change_text(self.options.field, self._kept)
                sentences = _sentences(record.text(self.options.field))
                if sentences < self.options.min_sentences:
                    record.dropped_reason = f"too few sentences: {sentences}"
            yield record

    def _reason(self, text: str) -> str | None:
        if self.options.code and "{" in text:
            return "curly bracket"
        return "lorem ipsum" if "lorem ipsum" in text.lower() else None

    def _kept(self, text: str) -> str:
        lines = (_without_citations(line) for line in text.splitlines())
        return "\n".join(line for line in lines if self._stays(line))

    def _stays(self, line: str) -> bool:
        options = self.options
        if options.need_end and (not line.endswith(ENDS) or line.endswith("...")):
            return False
        if any(len(word) > options.max_word_length for word in line.split()):
            return False
        if len(line.split()) < options.min_words and len(HAN.findall(line)) < options.min_words:
            return False
        lowered = line.lower()
        if options.code and "javascript" in lowered:
            return False
        return not (options.policies and any(one in lowered for one in POLICIES))


def _without_citations(line: str) -> str:
    line = line.strip()
    for _ in range(MAX_NESTED):
        if "[" not in line or (shorter := _CITATION.sub("", line).strip()) == line:
            break
        line = shorter  # what stood around one may be another
    return line


def _sentences(text: str) -> int:
    return len(_SENTENCE_ENDS.findall(text))
