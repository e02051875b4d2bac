"""Records to token columns: what each task's model reads, and what it is to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from llmos.data import encoding
from llmos.data.encoding import Columns, Ragged
from llmos.data.record import (
    Annotated,
    Conversation,
    Document,
    Labelled,
    Pair,
    Preference,
    Record,
    Tokenized,
)
from llmos.data.spans import tags_of
from llmos.data.tokenizers import Specials
from llmos.errors import DataError
from llmos.training import conversations, readers
from llmos.training.conversations import ChatTemplate
from llmos.training.recipe import Recipe

IGNORE = -100
COLUMNS = {
    "generate": ("tokens",),
    "texts": ("input_ids",),
    "chat": ("input_ids", "learned"),
    "preferences": ("input_ids", "learned", "rejected_ids", "rejected_learned"),
    "translate": ("input_ids", "target_ids"),
    "classify": ("input_ids", "labels"),
    "entities": ("input_ids", "labels"),
    **readers.COLUMNS,
}
CUT_TASKS = frozenset({"classify", "entities", "fill_mask", "embed", "rate"})
"""Whose texts are cut at `max_tokens`."""
Log = Callable[[str], None]


class Encoder:
    """Turns records into token columns."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        specials: Specials,
        labels: list[str] | None,
    ) -> None:
        self._recipe = recipe
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        if recipe.task in CUT_TASKS:
            self.tokenizer.enable_truncation(recipe.max_tokens)
        else:
            self.tokenizer.no_truncation()
        self._specials = specials
        self._label_ids = {label: index for index, label in enumerate(labels or [])}

    def encode(self, split: str, records: Sequence[Record], log: Log) -> Columns:
        """Columns of a split. Pairs and conversations over `max_tokens` are left out, and counted.

        Raises:
            DataError: nothing is left.
        """
        if self._recipe.reads == "generate":
            return {"tokens": self._stream(records)}
        names = COLUMNS[self._recipe.reads]
        rows = list(self._rows(records))
        limit = self._recipe.max_tokens
        kept = [row for row in rows if readers.fits(names, row, limit)]
        where = f"{self._recipe.data.path} ({split})"
        if not kept:
            raise DataError(f"{where} has no example of 1 to max_tokens={limit} tokens")
        if len(kept) < len(rows):
            left_out = len(rows) - len(kept)
            log(f"{where}: left out {left_out} of {len(rows)} rows, over max_tokens={limit}")
        return {name: Ragged.of(row[i] for row in kept) for i, name in enumerate(names)}

    def _stream(self, records: Sequence[Record]) -> Ragged:
        if records and isinstance(records[0], Tokenized):
            ids = [record.ids for record in records if isinstance(record, Tokenized)]
            flat = np.concatenate([np.frombuffer(one, dtype=np.intc) for one in ids])
            return Ragged.of([flat])
        end = self.tokenizer.token_to_id(self._specials.eos)
        texts = (record.text for record in records if isinstance(record, Document))
        return encoding.encode_stream(self.tokenizer, texts, end)

    def _rows(self, records: Sequence[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        limit = self._recipe.max_tokens
        match self._recipe.reads:
            case "texts":
                return self._texts([r for r in records if isinstance(r, Document)])
            case "chat":
                template = chat_template(self._recipe, self._specials)
                talks = (record for record in records if isinstance(record, Conversation))
                return conversations.encode(talks, template, self.tokenizer)
            case "preferences":
                return self._preferences([r for r in records if isinstance(r, Preference)])
            case "translate":
                return self._pairs([r for r in records if isinstance(r, Pair)])
            case "classify":
                return self._classes([r for r in records if isinstance(r, Labelled)])
            case "fill_mask":
                return readers.texts(self.tokenizer, records)
            case "answer":
                return readers.questions(self.tokenizer, records, limit)
            case "embed":
                return readers.alike(self.tokenizer, records)
            case "rate":
                return readers.rated(self.tokenizer, records)
            case "parse":
                return readers.parsed(self.tokenizer, records, self._label_ids)
            case _:
                return self._tags([r for r in records if isinstance(r, Annotated)])

    def _texts(self, records: Sequence[Document]) -> Iterator[tuple[list[int]]]:
        texts = (record.text for record in records)
        for encodings in encoding.encode_texts(self.tokenizer, texts, add_special_tokens=False):
            yield (encodings.ids,)

    def _preferences(self, records: Sequence[Preference]) -> Iterator[tuple[list[int], ...]]:
        template = chat_template(self._recipe, self._specials)
        better = [Conversation((*record.messages, record.chosen)) for record in records]
        worse = [Conversation((*record.messages, record.rejected)) for record in records]
        chosen = conversations.encode(better, template, self.tokenizer)
        rejected = conversations.encode(worse, template, self.tokenizer)
        for pair in zip(chosen, rejected, strict=True):
            yield *pair[0], *pair[1]

    def _pairs(self, pairs: Sequence[Pair]) -> Iterator[tuple[list[int], list[int]]]:
        prefixed = (source_text(self._recipe, pair) for pair in pairs)
        read = encoding.encode_texts(self.tokenizer, prefixed)
        written = encoding.encode_texts(self.tokenizer, (pair.target for pair in pairs))
        for source, target in zip(read, written, strict=True):
            yield source.ids, target.ids

    def _classes(self, records: Sequence[Labelled]) -> Iterator[tuple[list[int], list[int]]]:
        encoded = encoding.encode_texts(self.tokenizer, (record.text for record in records))
        for encodings, record in zip(encoded, records, strict=True):
            yield encodings.ids, [self._label_ids[record.label]]

    def _tags(self, records: Sequence[Annotated]) -> Iterator[tuple[list[int], list[int]]]:
        encoded = encoding.encode_texts(self.tokenizer, (record.text for record in records))
        for encodings, record in zip(encoded, records, strict=True):
            tags = tags_of(record.entities, encodings.offsets)
            special = encodings.special_tokens_mask
            yield (
                encodings.ids,
                [
                    IGNORE if skip else self._label_ids[tag]
                    for tag, skip in zip(tags, special, strict=True)
                ],
            )


def chat_template(recipe: Recipe, specials: Specials) -> ChatTemplate:
    """The recipe's chat template with the tokens it may name."""
    assert recipe.chat_template is not None
    named = {"bos_token": specials.bos, "eos_token": specials.eos, "pad_token": specials.pad}
    return ChatTemplate(recipe.chat_template, {k: v for k, v in named.items() if v})


def source_text(recipe: Recipe, pair: Pair) -> str:
    """What a translation model reads: the prefix that names the languages, and the text."""
    if recipe.translation is None or not pair.target_lang:
        return pair.source
    prefix = recipe.translation.prefix.replace("{target_lang}", pair.target_lang)
    return prefix.replace("{source_lang}", pair.source_lang) + pair.source
