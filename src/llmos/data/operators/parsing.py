"""The operator that has a served parser find the trees of sentences."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llmos.data.pipeline.operator import Batcher, TextOptions
from llmos.data.pipeline.options import NewField, Parser
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

PATH = "/api/v1/parse"
COLUMNS = {"tokens": "text", "upos": "upos", "heads": "head", "deprel": "deprel"}
"""What is kept of a sentence's words, as CoNLL-U calls it, and what the answer does."""


class ParseOptions(TextOptions):
    model: Parser = Field(description="which parses: one of task parse, as a parser-en")
    into: NewField | None = Field(
        default="trees",
        description="which field gets the list of sentences; null: the record gets those of its "
        "one sentence",
    )


class Parse(Batcher[ParseOptions]):
    """Has a model find which word of a sentence hangs below which, and how: of texts, or of lists
    of words.

    A sentence is ``{"tokens", "upos", "heads", "deprel"}``, a list each, as in CoNLL-U: what models
    of task `parse` learn from. Heads are numbers of words, from 1; 0 is the root's.

    >>> parse = Parse(model="parser", into=None)
    >>> parse.ask = lambda path, bodies: [
    ...     {
    ...         "sentences": [
    ...             {
    ...                 "words": [
    ...                     {"text": "Li", "upos": "PROPN", "head": 2, "deprel": "nsubj"},
    ...                     {"text": "sings", "upos": "VERB", "head": 0, "deprel": "root"},
    ...                 ]
    ...             }
    ...         ]
    ...     }
    ... ]
    >>> fields = parse.batch([Record("1", {"text": "Li sings"})])[0].fields
    >>> fields["heads"], fields["deprel"]
    ([2, 0], ['nsubj', 'root'])
    """

    name = "parse"
    adds = tuple(COLUMNS)
    group = "segment"
    options_type = ParseOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Note each text's trees.

        Raises:
            LlmosError: the model refuses a text.
            DataError: a record is to have one sentence, and has none or several.
        """
        asked = [self._asked(record) for record in records]
        bodies = [body for body in asked if body is not None]
        answers = iter(self.ask(PATH, bodies) if bodies else [])
        for record, body in zip(records, asked, strict=True):
            sentences = [] if body is None else next(answers)["sentences"]
            trees = [
                {name: [word[key] for word in one["words"]] for name, key in COLUMNS.items()}
                for one in sentences
            ]
            if self.options.into is not None:
                record.fields[self.options.into] = trees
            elif len(trees) == 1:
                record.fields |= trees[0]
            else:
                count = len(trees)
                raise DataError(f"the record has {count} sentences, not one, and into is null")
        return records

    def _asked(self, record: Record) -> dict[str, Any] | None:
        """Return what the model is asked of a record; nothing of one without any word."""
        value = record.fields.get(self.options.field)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            words = [word for word in value if word.strip()]
            return {"model": self.options.model, "words": words} if words else None
        text = record.text(self.options.field)
        return {"model": self.options.model, "text": text} if text.strip() else None
