"""Word vectors as a job: killed and resumed, they are the same bits; bad recipes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_job

from llmos.errors import CancelledError, DataError, LlmosError, RecipeError
from llmos.kernel.protocol import JobLog, JobMetric
from llmos.training import handler
from llmos.training.vectors import windows


def recipe(method: str = "skip_gram", **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "task": "word_vectors",
        "model": {"architecture": "word_vectors", "config": {"hidden_size": 8}},
        "tokenizer": {"kind": "word", "min_count": 2, "lowercase": True},
        "data": {"path": "starter:relations", "rows": 300, "validation_rows": 40},
        "vectors": {"method": method, "epochs": 2},
        "checkpoint_every": 3,
        **changes,
    }


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CHUNK_WORDS", 500)
    monkeypatch.setattr("llmos.training.vectors.glove.STEP_CELLS", 700)


@pytest.mark.parametrize("method", ["skip_gram", "cbow", "glove"])
def test_a_killed_job_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    whole = handler.run(make_job(tmp_path / "whole", recipe(method))[0])
    for death in (2, 7):
        context, _ = make_job(tmp_path / "killed", recipe(method))
        send = context._send

        def die(message: Any, at: int = death, send: Any = send) -> None:
            send(message)
            if isinstance(message, JobMetric) and message.step == at:
                raise KeyboardInterrupt

        context._send = die
        with pytest.raises(KeyboardInterrupt):
            handler.run(context)
    context, sent = make_job(tmp_path / "killed", recipe(method))
    again = handler.run(context)
    lines = [message.line for message in sent if isinstance(message, JobLog)]
    assert "going on from the checkpoint of step 6" in lines
    files = [result.artifacts[0].files for result in (whole, again)]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]


def test_a_job_that_is_preempted_leaves_a_checkpoint(tmp_path: Path) -> None:
    context, _ = make_job(tmp_path, recipe())
    context._leaving.set()
    with pytest.raises(CancelledError):
        handler.run(context)
    assert [path.name for path in tmp_path.glob("checkpoint/checkpoints/*")] == ["step-00000001"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vectors": None}, "needs a section vectors"),
        ({"vectors": {"epochs": 0}}, "vectors.epochs must be"),
        ({"vectors": {"methd": "cbow"}}, "did you mean method"),
        ({"model": {"architecture": "gpt2"}}, "needs model.architecture word_vectors"),
        ({"task": "generate", "vectors": None}, "word_vectors is for task word_vectors"),
        ({"steps": 7}, "takes no steps"),
        ({"optimizer": {"learning_rate": 0.1}}, "takes no optimizer"),
        ({"tokenizer": {"kind": "byte_bpe"}}, "needs tokenizer.kind word"),
        ({"tokenizer": {"kind": "word", "min_count": 9999}}, "no two words"),
        (
            {"model": {"architecture": "word_vectors", "config": {"size": 3}}},
            "there is hidden_size",
        ),
        (
            {"model": {"architecture": "word_vectors", "config": {"hidden_size": 0}}},
            "hidden_size must be",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, DataError), match=says):
        handler.run(make_job(tmp_path, recipe(**changes))[0])


def test_numbers_that_grow_without_bounds_stop_the_job(tmp_path: Path) -> None:
    changes = {"vectors": {"method": "glove", "learning_rate": 1e30}}
    with pytest.raises(LlmosError, match=r"lower vectors\.learning_rate"):
        handler.run(make_job(tmp_path, recipe(**changes))[0])
