"""Operators that make texts into token ids, and those into rows of one length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from tokenizers import Tokenizer

from llmos.data.pipeline.operator import Operator, Options, TextOptions
from llmos.data.pipeline.options import Columns, ListField, ModelName
from llmos.data.pipeline.record import Record
from llmos.errors import DataError
from llmos.library.describe import special_tokens
from llmos.library.files import TOKENIZER_FILE, TOKENIZER_FILES, read_json

INPUT_IDS, POSITION_IDS = "input_ids", "position_ids"


class TokenizeOptions(TextOptions):
    tokenizer: ModelName = Field(description="model of the library whose tokenizer it is")
    end: bool = Field(default=True, description="put the token that ends a text behind each")
    keep_text: bool = Field(default=True, description="keep the text beside its ids")


class Tokenize(Operator[TokenizeOptions]):
    """Adds the token ids of a text as `input_ids`, by the tokenizer of a model.

    The dataset keeps the tokenizer's files, and a recipe with the same tokenizer trains on the ids.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from llmos.data.tokenizers import specials_of, train_character
    >>> operator = Tokenize(tokenizer="mine", end=False)
    >>> folder = Path(tempfile.mkdtemp())
    >>> letters = train_character(["ab你好"], specials_of("generate"))
    >>> letters.save(str(folder / "tokenizer.json"))
    >>> operator.models = {"mine": folder}
    >>> [one.fields for one in operator(iter([Record("1", {"text": "你好 ab"})]))]
    [{'text': '你好 ab', 'input_ids': [4, 5, 1, 2, 3]}]
    """

    name = "tokenize"
    group = "shape"
    options_type = TokenizeOptions
    reads: ClassVar[dict[str, tuple[str, ...]]] = {"tokenizer": TOKENIZER_FILES}

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        from llmos.data.encoding import text_ids  # numpy: not for the server

        options = self.options
        directory = self.models.get(options.tokenizer)
        if directory is None:
            raise DataError("a tokenizer of the library is there in a job: `llmos data run`")
        tokenizer = tokenizer_in(directory)
        end = [_end_id(directory, tokenizer, options.tokenizer)] if options.end else []
        for record in records:
            if not isinstance(record.fields.get(options.field), str):
                raise DataError(
                    f"{options.field!r} is no text: messages are made into tokens by a recipe, "
                    "which knows the chat template"
                )
            record.fields[INPUT_IDS] = text_ids(tokenizer, record.text(options.field)) + end
            if not options.keep_text:
                del record.fields[options.field]
            yield record

    def columns_after(self, columns: Columns) -> Columns:
        """Return the columns with that of the ids; that of the text may go."""
        kept = {**columns, INPUT_IDS: "json"}
        if not self.options.keep_text:
            del kept[self.options.field]
        return kept


@lru_cache(maxsize=4)
def tokenizer_in(directory: Path) -> Tokenizer:
    """Return the tokenizer of a folder, the same each time: what one remembers of the texts that it
    has read stays when it is gone, 3 MB for each."""
    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end_id(directory: Path, tokenizer: Tokenizer, name: str) -> int:
    """Return the id that ends a text."""
    config = read_json(directory / "tokenizer_config.json", missing_ok=True)
    eos = special_tokens(directory, config).get("eos")
    end = tokenizer.token_to_id(eos) if eos else None
    if end is None:
        raise DataError(f"{name} names no token that ends a text: set `end: false`")
    return int(end)


class PackOptions(Options):
    length: int = Field(ge=2, le=1_000_000, description="tokens of a row")
    field: ListField = Field(default=INPUT_IDS, description="the ids to pack")


class Pack(Operator[PackOptions]):
    """Makes rows of one length out of the token ids of texts, one behind the other.

    `position_ids` begin anew with each text, from which a network knows where one ends. A text goes
    on in the next row where it does not fit; each 256 texts end with a shorter row. A row is named
    after the text that it begins with and the place in it, and what it took is in the table of
    dropped rows.

    >>> from llmos.data.pipeline.steps import apply
    >>> records = [Record("a", {"input_ids": [5, 6, 0]}), Record("b", {"input_ids": [7, 8, 9, 0]})]
    >>> for row in apply([Pack(length=4)], records).records:
    ...     print(row.id, row.fields)
    a@0 {'input_ids': [5, 6, 0, 7], 'position_ids': [0, 1, 2, 0]}
    b@1 {'input_ids': [8, 9, 0], 'position_ids': [0, 1, 2]}
    """

    name = "pack"
    group = "shape"
    options_type = PackOptions

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        self._begin_row("")

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        # What is begun stays where a text without ids is rejected: the rest comes in another call.
        for record in records:
            ids = record.fields.get(self.options.field)
            if not isinstance(ids, list) or not all(type(one) is int for one in ids):
                raise DataError(f"there are no token ids in {self.options.field!r}: `tokenize` it")
            rows = list(self._rows(record.id, ids))
            record.dropped_reason = f"packed: {len(ids):,} tokens"
            yield record
            yield from rows
        if self._ids:
            yield self._row()

    def _rows(self, identifier: str, ids: list[int]) -> Iterator[Record]:
        """Yield the rows that a text fills."""
        place = 0
        while place < len(ids):
            if not self._ids:
                self._begin_row(f"{identifier}@{place}")
            part = ids[place : place + self.options.length - len(self._ids)]
            self._ids += part
            self._positions += range(len(part))
            place += len(part)
            if len(self._ids) == self.options.length:
                yield self._row()

    def _begin_row(self, identifier: str) -> None:
        self._id, self._ids, self._positions = identifier, list[int](), list[int]()

    def _row(self) -> Record:
        row = Record(self._id, {self.options.field: self._ids, POSITION_IDS: self._positions})
        self._begin_row("")
        return row
