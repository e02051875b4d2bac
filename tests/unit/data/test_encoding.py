from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmos.data import encoding
from llmos.data.encoding import Ragged, encode_stream
from llmos.data.record import Entity
from llmos.data.spans import bio_labels, tags_of
from llmos.data.tokenizers import specials_of, train_character


@given(st.lists(st.lists(st.integers(0, 100), max_size=5), min_size=1, max_size=6), st.data())
def test_padding_shows_each_row_and_masks_by_length(
    rows: list[list[int]], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    values, mask = Ragged.of(rows).padded(np.array(chosen), 7)
    for row, line, real in zip(chosen, values, mask, strict=True):
        assert line[real].tolist() == rows[row]
        assert set(line[~real].tolist()) <= {7}


def test_saved_columns_read_back_the_same(tmp_path: Path) -> None:
    columns = {"a": Ragged.of([[1, 2], [], [3]]), "b": Ragged.of([[0]])}
    encoding.save(columns, tmp_path, "train")
    loaded = encoding.load(tmp_path, "train", columns)
    assert [loaded["a"].row(i).tolist() for i in range(3)] == [[1, 2], [], [3]]


def test_a_long_text_encodes_as_it_would_whole() -> None:
    text = ("a line of words\n" * 10_000) + "x" * 70_000
    tokenizer = train_character([text], specials_of("generate"))
    stream = encode_stream(tokenizer, [text], None)
    assert stream.flat.tolist() == tokenizer.encode(text).ids


def test_documents_of_a_stream_end_with_the_end_token() -> None:
    tokenizer = train_character(["ab"], specials_of("generate"))
    a, b = tokenizer.encode("ab").ids
    assert encode_stream(tokenizer, ["a", "b"], 0).flat.tolist() == [a, 0, b, 0]


def test_tags_begin_once_per_entity_and_continue_to_its_end() -> None:
    offsets = [(0, 0), (0, 3), (4, 7), (7, 8), (9, 12), (0, 0)]
    entities = [Entity(0, 7, "PERSON"), Entity(9, 12, "PERSON")]
    expected = ["O", "B-PERSON", "I-PERSON", "O", "B-PERSON", "O"]
    assert tags_of(entities, offsets) == expected
    assert bio_labels(["X", "Y"]) == ["O", "B-X", "I-X", "B-Y", "I-Y"]


def test_tokens_that_share_a_character_share_its_entity() -> None:
    assert tags_of([Entity(0, 1, "X")], [(0, 1), (0, 1), (1, 2)]) == ["B-X", "I-X", "O"]
