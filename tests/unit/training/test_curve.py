from __future__ import annotations

import csv
from pathlib import Path

from llmos.training.curve import STEP_METRICS, write


def test_the_table_has_openai_s_columns_first_and_none_that_was_not_measured(
    tmp_path: Path,
) -> None:
    points = [
        {"step": 1.0, "learning_rate": 0.5, "loss": 2.5},
        {"step": 4.0, "learning_rate": 0.25, "loss": 1.0 / 3, "validation_loss": 2.0},
    ]
    write(tmp_path, "x", points, 2.0)
    with (tmp_path / STEP_METRICS).open(newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["step", "train_loss", "valid_loss", "learning_rate"]
    assert rows[1] == ["1", "2.5", "", "0.5"]
    assert rows[2][:3] == ["4", repr(1 / 3), "2.0"]
