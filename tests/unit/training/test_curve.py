from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args

from tests.unit.training.tiny import make_recipe

from llmos.training.curve import MEASURES, SEVERAL, STEP_METRICS, TOKENS, measure_of, write
from llmos.training.recipe import Objective, parse


def test_the_table_has_openai_s_columns_first_and_none_that_was_not_measured(
    tmp_path: Path,
) -> None:
    points = [
        {"step": 1.0, "learning_rate": 0.5, "loss": 2.5},
        {"step": 4.0, "learning_rate": 0.25, "loss": 1.0 / 3, "validation_loss": 2.0},
    ]
    write(tmp_path, "x", points, 2.0, "nats")
    with (tmp_path / STEP_METRICS).open(newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["step", "train_loss", "valid_loss", "learning_rate"]
    assert rows[1] == ["1", "2.5", "", "0.5"]
    assert rows[2][:3] == ["4", repr(1 / 3), "2.0"]


def test_a_curve_says_what_its_losses_are() -> None:
    told = {
        name: measure_of(parse(make_recipe(name))) for name in ("generate", "rate", "multitask")
    }
    assert told == {"generate": TOKENS, "rate": "squared error", "multitask": SEVERAL}
    named = {name for group in get_args(Objective) for name in get_args(group) or (group,)}
    assert set(MEASURES) <= named, "no objective is called otherwise"
