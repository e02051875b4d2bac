"""Token ids of texts, and rows of one length of them: as a trainer makes them of the texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.data.encoding import Ragged, encode_stream
from llmos.data.operators.tokens import Pack, Tokenize, tokenizer_in
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import Applied, apply
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.errors import DataError
from llmos.training.packing import Documents

TEXTS = ["A model reads text.", "模型读文本。", "", "It learns, 也会写。\n" * 5000]
END = 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a tokenizer."""
    made = train_byte_bpe(TEXTS, specials_of("generate"), 300, Splitting(cjk=True))
    made.enable_truncation(8)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return tmp_path


def run(operator: Tokenize, folder: Path, records: list[Record]) -> Applied:
    operator.models = {operator.options.tokenizer: folder}
    return apply([operator], records)


def records_of(texts: list[str]) -> list[Record]:
    return [Record(str(number), {"text": text}) for number, text in enumerate(texts)]


def test_ids_are_those_that_training_makes_of_the_texts(folder: Path) -> None:
    found = run(Tokenize(tokenizer="m"), folder, records_of(TEXTS)).records
    loaded = tokenizer_in(folder)
    ours = [id for record in found for id in record.fields["input_ids"]]
    assert ours == encode_stream(loaded, TEXTS, END).flat.tolist()
    assert loaded.decode(found[3].fields["input_ids"][:-1]) == TEXTS[3]
    assert [record.text() for record in found] == TEXTS
    bare = Tokenize(tokenizer="m", end=False, keep_text=False)
    (row,) = run(bare, folder, records_of(["你好"])).records
    assert set(row.fields) == {"input_ids"} and END not in row.fields["input_ids"]


def test_operators_of_one_process_share_a_tokenizer(folder: Path) -> None:
    tokenizer_in.cache_clear()
    for _ in range(3):
        run(Tokenize(tokenizer="m"), folder, records_of(TEXTS))
    assert tokenizer_in.cache_info().misses == 1


def test_what_is_no_text_is_rejected_and_no_end_token_is_an_error(folder: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    records = [Record("1", {"text": turns}), Record("2", {"text": "hi"})]
    found = run(Tokenize(tokenizer="m"), folder, records)
    assert [one.id for one in found.records] == ["2"]
    assert "chat template" in found.outcome.rejected[0]["reason"]
    (folder / "tokenizer_config.json").unlink()
    operator = Tokenize(tokenizer="m")
    operator.models = {"m": folder}
    with pytest.raises(DataError, match="end: false"):
        list(operator(iter(records)))


IDS = st.lists(st.lists(st.integers(1, 9), max_size=12).map(lambda ids: [*ids, END]), max_size=20)


@given(texts=IDS, length=st.integers(2, 9))
def test_packed_rows_hold_every_token_once_with_the_positions_training_gives_them(
    texts: list[list[int]], length: int
) -> None:
    records = [Record(f"t{n}", {"input_ids": ids, "n": n}) for n, ids in enumerate(texts)]
    done = apply([Pack(length=length)], records)
    rows = [row.fields["input_ids"] for row in done.records]
    assert [id for row in rows for id in row] == [id for ids in texts for id in ids]
    assert all(len(row) == length for row in rows[:-1])
    assert len({row.id for row in done.records}) == len(rows)
    assert len(done.outcome.dropped) == len(texts)
    for row in done.records:
        ids = [*row.fields["input_ids"], END]
        columns = {"tokens": Ragged.of([ids])}
        batch = Documents(len(ids) - 1, END).batch(columns, np.array([0]))
        assert batch.inputs["position_ids"][0].tolist() == row.fields["position_ids"]


def test_a_record_without_ids_is_rejected_and_the_others_are_packed() -> None:
    records = [
        Record("a", {"input_ids": [1, 2, 3]}),
        Record("b", {"text": "no ids"}),
        Record("c", {"input_ids": [4, 5, 6]}),
    ]
    done = apply([Pack(length=4)], records)
    assert [(row.id, row.fields["input_ids"]) for row in done.records] == [
        ("a@0", [1, 2, 3, 4]),
        ("c@1", [5, 6]),
    ]
    assert "tokenize" in done.outcome.rejected[0]["reason"]
