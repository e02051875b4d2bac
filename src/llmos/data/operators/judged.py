"""Operators that drop records by what a model of the library makes of their text."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from llmos.data.pipeline.operator import Batcher, TextOptions
from llmos.data.pipeline.options import Classifier, Embedder, LabelName, LanguageModel, ModelName
from llmos.data.pipeline.record import Record, Row

MAX_EXAMPLES = 100


class JudgedOptions(TextOptions):
    model: ModelName = Field(description="a model of the library, that llmos serves")
    characters: int = Field(default=2000, ge=1, description="of a text that the model is given")


class LabelOptions(JudgedOptions):
    model: Classifier = Field(description="a model of the library, that llmos serves")
    keep: list[LabelName] = Field(min_length=1, description="texts with another label go")
    least: float = Field(default=0.0, ge=0, le=1, description="texts with a lower score go")


class ClassifierFilter(Batcher[LabelOptions]):
    """Keeps the texts to which a classifier of the library gives one of some labels.

    What is good and bad a user marks; any recipe that classifies trains the model.

    >>> judge = ClassifierFilter(model="quality", keep=["good"], least=0.8)
    >>> judge.ask = lambda path, bodies: [
    ...     {"label": "good" if "cat" in body["text"] else "bad", "score": 0.9} for body in bodies
    ... ]
    >>> tried(judge, "The cat sleeps.", "BUY NOW!!!")
    ['The cat sleeps.', 'dropped: bad: score 0.90']
    """

    name = "classifier_filter"
    adds = ()
    group = "filter"
    options_type = LabelOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Drop those of other labels. Raises LlmosError: the model refuses a text."""
        options = self.options
        bodies = _bodies(records, options)
        for record, told in zip(records, self.ask("/api/v1/classify", bodies), strict=True):
            if told["label"] not in options.keep:
                record.dropped_reason = f"{told['label']}: score {told['score']:.2f}"
            elif told["score"] < options.least:
                record.dropped_reason = f"not surely {told['label']}: score {told['score']:.2f}"
        return records


class PerplexityOptions(JudgedOptions):
    model: LanguageModel = Field(description="a model of the library, that llmos serves")
    most: float = Field(gt=1, description="texts of a higher perplexity go")
    least: float = Field(default=1.0, ge=1, description="texts of a lower one go")


class PerplexityFilter(Batcher[PerplexityOptions]):
    """Drops texts that a language model of the library, an n-gram model too, finds too unlikely, or
    too likely: by their perplexity, the exponential of the mean loss of a token.

    >>> judge = PerplexityFilter(model="my-ngram", most=50)
    >>> judge.ask = lambda path, bodies: [
    ...     {"tokens": [1, 2, 3], "max_model_len": 99}
    ...     if path == "/tokenize"
    ...     else {"choices": [{"logprobs": {"token_logprobs": [None, -5.0, -3.0]}}]}
    ...     for body in bodies
    ... ]
    >>> tried(judge, "colourless green ideas")
    ['dropped: too unlikely: perplexity 54.6']
    """

    name = "perplexity_filter"
    adds = ()
    group = "filter"
    options_type = PerplexityOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Drop what is too unlikely. Raises LlmosError: the model cannot be asked that.

        A text of fewer than two tokens has no perplexity, and stays.
        """
        found = self.ask("/tokenize", [self._part(record) for record in records])
        ids = [told["tokens"][: int(told["max_model_len"])] for told in found]
        asked = [place for place, some in enumerate(ids) if len(some) > 1]
        answers = self.ask("/v1/completions", [self._scoring(ids[place]) for place in asked])
        for place, answer in zip(asked, answers, strict=True):
            logprobs = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
            value = math.exp(min(700.0, -math.fsum(logprobs) / len(logprobs)))
            records[place].dropped_reason = self._reason(value)
        return records

    def _reason(self, value: float) -> str | None:
        if value > self.options.most:
            return f"too unlikely: perplexity {value:.1f}"
        if value < self.options.least:
            return f"too likely: perplexity {value:.1f}"
        return None

    def _part(self, record: Record) -> Row:
        text = record.text(self.options.field)[: self.options.characters]
        return {"model": self.options.model, "prompt": text, "add_special_tokens": False}

    def _scoring(self, ids: list[int]) -> Row:
        body = {"model": self.options.model, "prompt": ids, "max_tokens": 0, "echo": True}
        return {**body, "temperature": 0, "logprobs": 0}


class DistanceOptions(JudgedOptions):
    model: Embedder = Field(description="a model of the library, that llmos serves")
    examples: list[str] = Field(
        min_length=1, max_length=MAX_EXAMPLES, description="texts like those that are to stay"
    )
    most: float = Field(
        ge=0, le=2, description="cosine distance of the nearest example; what is farther goes"
    )


class DistanceFilter(Batcher[DistanceOptions]):
    """Drops texts whose embedding is far from those of all examples: what belongs elsewhere.

    >>> judge = DistanceFilter(model="embeddings", examples=["a cat"], most=0.5)
    >>> judge.ask = lambda path, bodies: [
    ...     {"data": [{"embedding": [1.0, 0.0] if "cat" in text else [0.0, 1.0]}
    ...               for text in body["input"]]}
    ...     for body in bodies
    ... ]
    >>> tried(judge, "my cat", "stock prices")
    ['my cat', 'dropped: far from the examples: 1.00']
    """

    name = "distance_filter"
    adds = ()
    group = "filter"
    options_type = DistanceOptions
    _examples: list[list[float]] | None = None

    def batch(self, records: list[Record]) -> list[Record]:
        """Drop what is far. Raises LlmosError: the model embeds no texts, or not this one."""
        options = self.options
        if self._examples is None:
            self._examples = self._embedded(options.examples)
        texts = [one.text(options.field)[: options.characters] for one in records]
        for record, vector in zip(records, self._embedded(texts), strict=True):
            distance = min(1 - _cosine(vector, example) for example in self._examples)
            if distance > options.most:
                record.dropped_reason = f"far from the examples: {distance:.2f}"
        return records

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        bodies = [{"model": self.options.model, "input": [text]} for text in texts]
        return [told["data"][0]["embedding"] for told in self.ask("/v1/embeddings", bodies)]


def _bodies(records: list[Record], options: JudgedOptions) -> list[dict[str, Any]]:
    texts = [record.text(options.field)[: options.characters] for record in records]
    return [{"model": options.model, "text": text} for text in texts]


def _cosine(one: list[float], other: list[float]) -> float:
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / max(1e-12, math.hypot(*one) * math.hypot(*other))
