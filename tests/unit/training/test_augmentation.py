from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.training.tiny import make_recipe

from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.errors import RecipeError
from llmos.training.augmentation import Augmented, augmented
from llmos.training.objectives import SequenceClasses, SequencePairs
from llmos.training.recipe import parse
from llmos.training.recipe_sections import RobustSection

FIRST, LAST = 1, 2
FIXED = np.array([FIRST, LAST])
NUM_ROWS = 10


def columns(length: int = 40) -> Columns:
    texts = [[FIRST, *range(10 + row, 10 + row + length), LAST] for row in range(NUM_ROWS)]
    return {"input_ids": Ragged.of(texts), "labels": Ragged.of([[row % 3] for row in range(10)])}


def changed(drop: float = 0.0, shuffle: int = 0, seed: int = 3) -> Augmented:
    return Augmented(SequenceClasses(0), drop, shuffle, FIXED, seed)


def read(objective: Augmented, rows: list[int], length: int = 40) -> list[list[int]]:
    inputs = objective.batch(columns(length), np.array(rows)).inputs
    pairs = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True)
    return [ids[:count] for ids, count in pairs]


def of_step(step: int, row: int) -> int:
    return row + (1 + step) * NUM_ROWS


def test_what_is_read_is_a_pure_function_of_seed_step_and_row() -> None:
    objective = changed(0.3, 3)
    together = read(objective, [of_step(4, 2), of_step(5, 2), of_step(4, 7)])
    assert together[0] == read(changed(0.3, 3), [of_step(4, 2)])[0]
    assert together[2] == read(objective, [of_step(4, 7)])[0]
    assert together[0] != together[1], "another time, another text"
    assert read(changed(0.3, 3, seed=4), [of_step(4, 2)])[0] != together[0]


def test_a_step_s_rows_are_the_objective_s_own_with_the_number_of_the_step() -> None:
    objective, own = changed(0.3), SequenceClasses(0)
    drawn = objective.sampler(columns(), 4, 9).rows(6)
    assert (drawn % NUM_ROWS).tolist() == own.sampler(columns(), 4, 9).rows(6).tolist()
    assert set(drawn // NUM_ROWS) == {7}
    labels = objective.batch(columns(), drawn).labels
    assert labels.tolist() == [row % NUM_ROWS % 3 for row in drawn.tolist()]


def test_what_a_model_is_tested_on_stays_as_it_is() -> None:
    rows: IntArray = changed(0.9, 9).all_rows(columns())
    texts = columns()["input_ids"]
    assert read(changed(0.9, 9), rows.tolist()) == [texts.row(row).tolist() for row in rows]


def test_as_many_are_left_out_as_told_and_none_that_has_a_meaning_of_its_own() -> None:
    texts = read(changed(drop=0.2), [of_step(step, 0) for step in range(200)])
    assert np.mean([len(text) - 2 for text in texts]) == pytest.approx(40 * 0.8, rel=0.02)
    assert all(text[0] == FIRST and text[-1] == LAST for text in texts)
    assert all(text[1:-1] == sorted(text[1:-1]) for text in texts), "none moves"


@given(st.integers(1, 12), st.integers(0, 2**40), st.integers(0, 5), st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_a_token_moves_no_further_than_told_and_one_is_left(
    length: int, row: int, shuffle: int, drop: float
) -> None:
    text = np.array([FIRST, *range(10, 10 + length), LAST], dtype=np.int32)
    moved = changed(0.0, shuffle)._changed(text, row)
    assert sorted(moved) == sorted(text) and moved[0] == FIRST and moved[-1] == LAST
    assert np.abs(np.argsort(moved[1:-1]) - np.arange(length)).max() <= shuffle
    rest = changed(drop, shuffle)._changed(text, row)
    assert len(rest) >= 3 and set(rest) <= set(text)


def test_places_are_used_up_to_the_limit() -> None:
    text = np.arange(10, 50, dtype=np.int32)
    moves = [np.abs(np.argsort(changed(0.0, 3)._changed(text, row)) - np.arange(40)).max()
             for row in range(20)]  # fmt: skip
    assert max(moves) == 3


def test_special_tokens_of_the_tokenizer_stay_and_targets_do_too() -> None:
    specials = specials_of("translate", ["<2zh>"])
    tokenizer = train_byte_bpe(["a b c d 你好"], specials, 300, Splitting(cjk=True))
    objective = augmented(
        SequencePairs(0, 0), RobustSection(drop=0.5, shuffle=2), tokenizer, seed=1
    )
    source = tokenizer.encode("<2zh>a b c d 你好").ids
    given = {"input_ids": Ragged.of([source]), "target_ids": Ragged.of([[5, 6, 7]])}
    batch = objective.batch(given, np.array([8]))
    ids = batch.inputs["input_ids"][0].tolist()
    assert ids[0] == source[0] == tokenizer.token_to_id("<2zh>") and ids[-1] == source[-1]
    assert len(ids) < len(source) and batch.labels.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("generate", {"robust": {"drop": 0.1}}, "are for tasks classify and translate"),
        ("entities", {"robust": {"shuffle": 3}}, "are for tasks classify and translate"),
        ("answer", {"robust": {"drop": 0.1}}, "are for tasks classify and translate"),
        ("classify", {"robust": {"drop": 1.0}}, "robust.drop is 1"),
        ("classify", {"robust": {"shuffle": -1}}, "robust.shuffle is -1"),
        ("classify", {"robust": {"drop": 0.1}, "precision": "bfloat16"}, "precision: float32"),
    ],
)
def test_what_cannot_be_changed_is_refused(task: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))
