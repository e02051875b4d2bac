"""Operators that cut texts into sentences and words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from llmos.data.pipeline.operator import Operator, TextOptions
from llmos.data.pipeline.record import Record
from llmos.data.segmentation import JIEBA, words_in
from llmos.data.sentences import sentences


class SentencesOptions(TextOptions):
    into: str | None = Field(
        default="sentences",
        min_length=1,
        description="which field gets their list; null: the text gets them, one a line",
    )


class WordsOptions(TextOptions):
    into: str | None = Field(
        default="tokens",
        min_length=1,
        description="which field gets their list; null: the text gets them, spaces between",
    )


class _Cutter(Operator[SentencesOptions | WordsOptions]):
    """Cuts a text into pieces."""

    group = "segment"
    between: ClassVar[str]

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            field, into = self.options.field, self.options.into
            if into is None:
                record.change_text(field, lambda text: self.between.join(self.pieces(text)))
            else:
                record.fields[into] = self.pieces(record.text(field))
            yield record

    @abstractmethod
    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text, in order."""


class Sentences(_Cutter):
    """Cuts texts into sentences, by rules for English and Chinese.

    A line break ends a sentence; abbreviations, decimals and quotation marks do not mislead it.

    >>> tried(Sentences(into=None), "Dr. Li paid 3.50 for it. He left. “真的吗？”是的！")
    ['Dr. Li paid 3.50 for it.\\nHe left.\\n“真的吗？”\\n是的！']
    """

    name = "sentences"
    options_type = SentencesOptions
    between = "\n"

    def pieces(self, text: str) -> list[str]:
        """Return the sentences, without the space around them."""
        return [text[start:end] for start, end in sentences(text)]


class Words(_Cutter):
    """Cuts texts into words: Chinese by jieba, all else by spaces and punctuation.

    >>> tried(Words(into=None), "今天天气很好，我们去公园吧！", "Well-known: it's 3 o'clock.")
    ['今天天气 很 好 ， 我们 去 公园 吧 ！', "Well-known : it's 3 o'clock ."]
    """

    name = "words"
    options_type = WordsOptions
    needs: ClassVar[dict[str, str]] = JIEBA
    between = " "

    def pieces(self, text: str) -> list[str]:
        """Return the words, punctuation among them."""
        return words_in(text)
