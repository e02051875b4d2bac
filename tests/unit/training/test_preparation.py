from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_recipe

from llmos.data.tokenizers import specials_of, train_character
from llmos.errors import DataError, RecipeError
from llmos.storage.parquet import write_rows
from llmos.training.base_model import BaseModel
from llmos.training.examples import Data
from llmos.training.preparation import Prepared, prepare
from llmos.training.recipe import parse


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a task's recipe on the text of a file (`starter:` data without one)."""

    def run(task: str, content: str | None = None, log: Any = str, **changes: Any) -> Prepared:
        file = None
        if content is not None:
            file = tmp_path / "blob"
            file.write_text(content)
            changes.setdefault("data", {"path": "mine.jsonl"})
        recipe = parse(make_recipe(task, **changes))
        return prepare(recipe, Data(recipe, file), None, tmp_path / "prepared", log)

    return run


def test_the_last_share_of_a_text_validates(prepared: Callable[..., Prepared]) -> None:
    text = "".join(chr(97 + i % 26) for i in range(1000))
    found = prepared("generate", text, data={"path": "mine.txt", "validation": 0.2})
    train, validation = found.train["tokens"].flat, found.validation["tokens"].flat
    assert len(train) == 800
    assert found.tokenizer.decode([*train.tolist(), *validation.tolist()]) == text


def test_a_text_too_short_says_how_long_it_must_be(prepared: Callable[..., Prepared]) -> None:
    with pytest.raises(
        DataError, match=r"mine.txt has 12 tokens; block_size 16 needs at least 34.*block_size=5$"
    ):
        prepared("generate", "hello, world", data={"path": "mine.txt"})


def test_a_text_just_long_enough_gives_both_splits_a_block(
    prepared: Callable[..., Prepared],
) -> None:
    found = prepared("generate", "ab" * 17, data={"path": "mine.txt"})
    assert len(found.train["tokens"].flat) == len(found.validation["tokens"].flat) == 17


def test_a_second_attempt_reads_what_the_first_prepared(
    prepared: Callable[..., Prepared], tmp_path: Path
) -> None:
    first = prepared("generate", "ab" * 50, data={"path": "mine.txt"})
    (tmp_path / "blob").unlink()
    tokenizer_time = (tmp_path / "prepared" / "tokenizer.json").stat().st_mtime_ns
    second = prepared("generate", None, data={"path": "starter:tales"})
    assert first.train["tokens"].flat.tolist() == second.train["tokens"].flat.tolist()
    assert (tmp_path / "prepared" / "tokenizer.json").stat().st_mtime_ns == tokenizer_time


def test_records_split_by_their_text_so_that_equal_ones_never_part(
    prepared: Callable[..., Prepared],
) -> None:
    rows = [{"text": f"text {i % 20}", "label": "ab"[i % 2]} for i in range(200)]
    found = prepared("classify", "\n".join(map(json.dumps, rows)))
    assert found.labels == ["a", "b"]
    parts = [
        {tuple(columns["input_ids"].row(i).tolist()) for i in range(len(columns["input_ids"]))}
        for columns in (found.train, found.validation)
    ]
    assert parts[0] and parts[1] and not parts[0] & parts[1]


def test_rows_over_the_limit_are_left_out_and_counted(prepared: Callable[..., Prepared]) -> None:
    long = [sha256(bytes([i])).hexdigest() for i in range(40)]
    rows = [{"source": f"{i}", "target": "b" if i % 4 else long[i]} for i in range(40)]
    log: list[str] = []
    changes = {"max_tokens": 16, "translation": None}
    prepared("translate", "\n".join(map(json.dumps, rows)), log.append, **changes)
    assert any("mine.jsonl (train): left out" in line for line in log)


@pytest.mark.parametrize(
    ("task", "rows", "says"),
    [
        ("classify", [{"text": "a", "label": "x"}], "mine.jsonl has 1 records"),
        ("classify", [{"text": t, "label": "x"} for t in "abcd"], "has 1 labels"),
        ("translate", [{"source": "a", "target": "b"}, {"source": "b"}], "line 2 has no 'target'"),
        ("translate", [{"source": s * 99, "target": "b"} for s in "abcd"], "no example of 1 to"),
    ],
)
def test_unusable_records_are_refused(
    prepared: Callable[..., Prepared], task: str, rows: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        prepared(task, "\n".join(map(json.dumps, rows)), max_tokens=32)


def test_labels_the_recipe_does_not_list_are_refused(prepared: Callable[..., Prepared]) -> None:
    rows = [{"text": t, "label": t} for t in "abcdef"]
    with pytest.raises(DataError, match="does not list: c, d, e, f"):
        prepared("classify", "\n".join(map(json.dumps, rows)), labels=["a", "b"])


def test_plain_text_is_no_data_for_a_translator(prepared: Callable[..., Prepared]) -> None:
    with pytest.raises(RecipeError, match=r"mine.txt is plain text: task translate needs records"):
        prepared("translate", "hello", data={"path": "mine.txt"})


def test_nothing_half_prepared_is_left(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepared("generate", "short", data={"path": "mine.txt"})
    assert not (tmp_path / "prepared").exists()


def test_a_validation_file_is_validated_on_and_all_of_the_other_learned(tmp_path: Path) -> None:
    files = []
    for name, count in (("train", 30), ("held", 7)):
        rows = [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(count)]
        files.append(tmp_path / name)
        files[-1].write_text("\n".join(map(json.dumps, rows)))
    named = {"path": "train.jsonl", "validation_path": "held.jsonl"}
    recipe = parse(make_recipe("classify", data=named))
    found = prepare(recipe, Data(recipe, *files), None, tmp_path / "prepared", str)
    assert [len(split["input_ids"]) for split in (found.train, found.validation)] == [30, 7]
    text = parse(make_recipe("generate", data={"path": "a.txt", "validation_path": "b.txt"}))
    with pytest.raises(RecipeError, match="validation_path is for records"):
        prepare(text, Data(text, *files), None, tmp_path / "other", str)


def test_conversations_that_begin_alike_are_held_back_one_by_one(tmp_path: Path) -> None:
    """A file for OpenAI's fine-tuning has one system message for all."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for number in range(40)
    ]
    file = tmp_path / "talks"
    file.write_text("\n".join(map(json.dumps, rows)))
    recipe = parse(make_recipe("chat", data={"path": "talks.jsonl", "validation": 0.25}))
    data = Data(recipe, file)
    train, held = data.split("train"), data.split("validation")
    assert len(train) + len(held) == 40 and 3 < len(held) < 20


def test_the_ids_of_a_dataset_are_learned_as_the_tokens_of_its_texts(tmp_path: Path) -> None:
    texts = [f"A tale of {number} 猫 and more." for number in range(60)]
    specials = specials_of("generate")
    tokenizer = train_character(texts, specials)
    end = tokenizer.token_to_id(specials.eos)
    rows = [
        {"id": str(number), "text": text, "input_ids": [*tokenizer.encode(text).ids, end]}
        for number, text in enumerate(texts)
    ]
    shards = []
    for name, part in (("train", rows[:40]), ("held", rows[40:])):
        shards.append((tmp_path / f"{name}.parquet",))
        write_rows(shards[-1][0], part)
    base = BaseModel("base:1", "", tmp_path, tokenizer, specials)
    named = {"path": "dataset:train", "validation_path": "dataset:held"}
    recipe = parse(make_recipe("generate", data=named, evaluate={"splits": []}))
    read = {}
    for kind, tokenized in (("ids", named.values()), ("texts", ())):
        data = Data(recipe, *shards, tokenized=tokenized)
        read[kind] = prepare(recipe, data, base, tmp_path / kind, str)
    for split in ("train", "validation"):
        ids, of_texts = (getattr(read[kind], split)["tokens"].flat for kind in read)
        assert ids.tolist() == of_texts.tolist()
