"""The operator that has a served model label the spans of texts: names, parts of speech, words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from llmos.data.pipeline.asking import Ask
from llmos.data.pipeline.operator import Batcher, TextOptions
from llmos.data.pipeline.options import NewField, Tagger
from llmos.data.pipeline.record import Record

PATH = "/api/v1/entities"
TOLD = ("text", "label", "start", "end")
"""What is kept of a span; scores are not the same whatever else is computed beside it."""


class TagOptions(TextOptions):
    model: Tagger = Field(description="which labels: one of task entities, as a tagger")
    into: NewField = Field(default="entities", description="which field gets the list of spans")


class Tag(Batcher[TagOptions]):
    """Has a model label the spans of texts: names, parts of speech, or words.

    A span is ``{"text", "label", "start", "end"}``, in characters: what models of task `entities`
    learn from.

    >>> tag = Tag(model="tagger")
    >>> tag.ask = lambda path, bodies: [
    ...     {"entities": [{"text": "Li", "label": "PERSON", "start": 0, "end": 2, "score": 0.9}]}
    ... ]
    >>> tag.batch([Record("1", {"text": "Li sings."})])[0].fields["entities"]
    [{'text': 'Li', 'label': 'PERSON', 'start': 0, 'end': 2}]
    """

    name = "tag"
    adds = ()
    group = "segment"
    options_type = TagOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Note each text's spans. Raises LlmosError: the model refuses a text."""
        texts = [record.text(self.options.field) for record in records]
        found = spans_of(self.ask, self.options.model, texts)
        for record, spans in zip(records, found, strict=True):
            record.fields[self.options.into] = spans
        return records


def spans_of(ask: Ask, model: str, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return the spans that a model finds in each text; none in one without any character.

    Raises:
        LlmosError: it refuses a text.
    """
    bodies = [{"model": model, "text": text} for text in texts if text.strip()]
    answers = iter(ask(PATH, bodies) if bodies else [])
    return [
        [{key: one[key] for key in TOLD} for one in next(answers)["entities"]]
        if text.strip()
        else []
        for text in texts
    ]
