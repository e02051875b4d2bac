"""Operators that cut texts into sentences and words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from llmos.data.operators.tagging import spans_of
from llmos.data.pipeline.operator import Batcher, Operator, TextOptions
from llmos.data.pipeline.options import NewField, Tagger
from llmos.data.pipeline.record import Record
from llmos.data.segmentation import JIEBA, words_in
from llmos.data.sentences import sentences


class SentencesOptions(TextOptions):
    into: NewField | None = Field(
        default="sentences",
        min_length=1,
        description="which field gets their list; null: the text gets them, one a line",
    )


class WordsOptions(TextOptions):
    into: NewField | None = Field(
        default="tokens",
        min_length=1,
        description="which field gets their list; null: the text gets them, spaces between",
    )
    model: Tagger | None = Field(
        default=None, description="which finds words, as a tagger-words-zh; null: jieba and rules"
    )


class Sentences(Operator[SentencesOptions]):
    """Cuts texts into sentences, by rules for English and Chinese.

    A line break ends a sentence; abbreviations, decimals and quotation marks do not mislead it.

    >>> tried(Sentences(into=None), "Dr. Li paid 3.50 for it. He left. “真的吗？”是的！")
    ['Dr. Li paid 3.50 for it.\\nHe left.\\n“真的吗？”\\n是的！']
    """

    name = "sentences"
    adds = ()
    group = "segment"
    options_type = SentencesOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        field, into = self.options.field, self.options.into
        for record in records:
            if into is None:
                record.change_text(field, lambda text: "\n".join(_sentences(text)))
            else:
                record.fields[into] = _sentences(record.text(field))
            yield record


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


class Words(Batcher[WordsOptions]):
    """Cuts texts into words: Chinese by jieba, all else by spaces and punctuation; or by a model.

    >>> tried(Words(into=None), "今天天气很好，我们去公园吧！", "Well-known: it's 3 o'clock.")
    ['今天天气 很 好 ， 我们 去 公园 吧 ！', "Well-known : it's 3 o'clock ."]
    """

    name = "words"
    adds = ()
    group = "segment"
    options_type = WordsOptions
    needs: ClassVar[dict[str, str]] = JIEBA

    def batch(self, records: list[Record]) -> list[Record]:
        """Cut them. Raises LlmosError: the model refuses a text."""
        texts = [record.text(self.options.field) for record in records]
        for record, words in zip(records, self._words(texts), strict=True):
            if self.options.into is None:
                record.fields[self.options.field] = " ".join(words)
            else:
                record.fields[self.options.into] = words
        return records

    def _words(self, texts: list[str]) -> list[list[str]]:
        if self.options.model is None:
            return [words_in(text) for text in texts]
        found = spans_of(self.ask, self.options.model, texts)
        return [[span["text"] for span in spans] for spans in found]
