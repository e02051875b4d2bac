"""What is said of a new model is a command that there is."""

from __future__ import annotations

from typing import get_args

import pytest

from llmos.cli.using import say_ready
from llmos.training.recipe import Task


@pytest.mark.parametrize("task", [*get_args(Task), None])
def test_a_new_model_is_told_with_the_command_of_its_task(
    task: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    say_ready("mine:1", task)
    shown, used = capsys.readouterr().out.split("`")[1::2]
    assert shown == "llmos show mine:1" and "mine:1" in used
    is_generating = task in (None, "generate", "chat")
    assert used.startswith("llmos run") == is_generating
