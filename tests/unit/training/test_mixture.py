"""Whose turn a step is, and which rows it takes, hang on seed and step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.tiny import make_recipe

from llmos.data.encoding import Ragged
from llmos.errors import RecipeError
from llmos.training.mixture import Mixture, columns_of, named, turns_of
from llmos.training.objectives import SequenceClasses, TokenClasses
from llmos.training.recipe import load, override, parse
from llmos.training.recipe_parts import parts_of, weights_of
from llmos.training.validation import evaluation_batches

COLUMNS = {
    "classify.input_ids": Ragged.of([[1, number, 2] for number in range(10)]),
    "classify.labels": Ragged.of([[number % 2] for number in range(10)]),
    "entities.input_ids": Ragged.of([[3] * (2 + number) for number in range(6)]),
    "entities.labels": Ragged.of([[1] * (2 + number) for number in range(6)]),
}


def mixture(steps: int = 300, accumulate: int = 1) -> Mixture:
    objectives = {"classify": SequenceClasses(0), "entities": TokenClasses(0)}
    return Mixture(objectives, (1.0, 3.0), steps, accumulate)


def test_turns_come_in_the_shares_of_the_weights_however_many_steps_there_are() -> None:
    turns = turns_of(5, 4000, (1.0, 2.0, 1.0))
    assert np.bincount(turns) / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert np.array_equal(turns_of(5, 100, (1.0, 2.0, 1.0)), turns[:100])
    assert not np.array_equal(turns_of(6, 100, (1.0, 2.0, 1.0)), turns[:100])
    assert set(turns_of(5, 50, (1.0,))) == {0}


def test_each_task_goes_through_all_of_its_examples_as_if_it_were_alone() -> None:
    sampler = mixture().sampler(COLUMNS, 2, seed=4)
    alone = TokenClasses(0).sampler(columns_of("entities", COLUMNS), 2, seed=4)
    steps = [sampler.rows(step) for step in range(300)]
    assert all(len({int(row) % 2 for row in rows}) == 1 for rows in steps)
    entities = [rows // 2 for rows in steps if rows[0] % 2 == 1]
    for number, rows in enumerate(entities):
        assert rows.tolist() == alone.rows(number).tolist()
    other = mixture().sampler(COLUMNS, 2, seed=4)
    assert other.rows(123).tolist() == steps[123].tolist(), "no step before it was asked for"


def test_the_batches_of_a_step_are_of_one_task() -> None:
    sampler = mixture(accumulate=3).sampler(COLUMNS, 2, seed=4)
    for step in range(20):
        assert len({int(sampler.rows(step * 3 + place)[0]) % 2 for place in range(3)}) == 1


def test_a_batch_says_whose_it_is_and_holds_what_that_task_s_would() -> None:
    batch = mixture().batch(COLUMNS, np.array([2 * 3 + 1, 2 * 0 + 1]))
    assert batch.inputs["task"] == "entities"
    expected = TokenClasses(0).batch(columns_of("entities", COLUMNS), np.array([3, 0]))
    assert torch.equal(batch.labels, expected.labels)
    assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
    sampler = mixture().sampler(COLUMNS, 2, seed=4)
    assert named(sampler, np.array([7, 1])) == ["3 of entities", "0 of entities"]
    assert named(TokenClasses(0).sampler(columns_of("entities", COLUMNS), 2, 4), np.array([5])) == [
        "5"
    ]


def test_an_evaluation_reads_all_rows_of_each_task_apart() -> None:
    batches = evaluation_batches(mixture(), COLUMNS, 4)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 2]
    tasks = [{int(row) % 2 for row in batch} for batch in batches]
    assert tasks == [{0}, {0}, {0}, {1}, {1}]
    assert {int(row) for batch in batches for row in batch} == {
        int(row) for row in mixture().all_rows(COLUMNS)
    }
    assert len(evaluation_batches(mixture(), COLUMNS, 4, limit=1)) == 2, "one of each task"


def test_the_joint_loss_weighs_tasks_as_the_training_does() -> None:
    assert mixture().joint([4.0, 0.0]) == 1.0


def test_a_recipe_of_several_tasks_is_one_for_each() -> None:
    recipe = parse(make_recipe("multitask"))
    parts = parts_of(recipe)
    tasks = ["classify", "entities", "rate", "answer", "fill_mask", "embed"]
    assert [part.task for part in parts] == tasks
    assert [part.objective for part in parts][1:3] == ["token_classification", "regression"]
    assert [part.data.path for part in parts][:2] == ["starter:sentiment", "starter:entities"]
    assert recipe.head == "multitask" and parts[1].head == "token_classification"
    assert weights_of(recipe) == (1.0,) * 6
    for part in parts:
        assert parse(part.model_dump(mode="json", exclude_defaults=True)) == part
    alone = parse(make_recipe("rate"))
    assert parts_of(alone) == (alone,) and weights_of(alone) == (1.0,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"also": {}}, "names other tasks than classify"),
        ({"also": {"classify": {"data": {"path": "a.tsv"}}}}, "names other tasks than classify"),
        ({"also": {"rate": {}}}, "needs also.rate.data"),
        ({"also": {"chat": {"data": {"path": "a"}}}}, "unknown recipe key also.chat"),
        ({"also": {"rate": {"data": {"path": "a"}, "labels": ["x"]}}}, "rate takes no labels"),
        ({"also": {"rate": {"data": {"path": "a"}, "weight": 0}}}, "also.rate.weight"),
        ({"label_smoothing": 0.1}, "no label_smoothing"),
        ({"robust": {"noise": 5.0}}, "also takes no robust"),
        ({"processes": 2}, "processes: 1"),
        ({"micro_batch_size": 2}, "embed needs whole batches"),
    ],
)
def test_what_several_tasks_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe("multitask", **changes))


def test_a_task_that_is_none_of_an_encoder_s_takes_no_others() -> None:
    also = {"rate": {"data": {"path": "a.tsv"}}}
    with pytest.raises(RecipeError, match="tasks of an encoder"):
        parse(make_recipe("generate", also=also))


def test_splits_that_a_file_does_not_have_are_refused() -> None:
    also = {"rate": {"data": {"path": "a.tsv"}}}
    changes = {"also": also, "evaluate": {"splits": ["test_templates"]}}
    with pytest.raises(RecipeError, match=r"also\.rate has only train and validation"):
        parse(make_recipe("classify", **changes))


def test_files_of_all_tasks_are_found_beside_the_recipe(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: classify\ndata: {path: a.tsv}\nalso: {rate: {data: {path: b.tsv}}}\n")
    recipe = load(path)
    assert recipe["also"]["rate"]["data"]["path"] == str(tmp_path / "b.tsv")
    changed = make_recipe("multitask", evaluate={"splits": []})
    changed = override(changed, ["data.path=a.tsv", "also.rate.data.path=/b.tsv"])
    assert parse(changed).data_paths == ["a.tsv", "/b.tsv"]
