"""SeqGAN through the whole training job: all of its phases are one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.integration.test_training_options import assert_same_checkpoints
from tests.unit.training.tiny import BPE, STARTER, make_job, make_recipe

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric
from llmos.training import handler

SECTION = {
    "pretrain_steps": 2,
    "critic_steps": 1,
    "critic_per_policy": 1,
    "rollouts": 2,
    "critic_size": 8,
}


def recipe(**changes: Any) -> dict[str, Any]:
    config = {"hidden_size": 16, "num_hidden_layers": 1, "dropout": 0.1}
    given = {
        "objective": "adversarial",
        "model": {"architecture": "recurrent", "config": config},
        "data": {"path": "starter:sentiment", **STARTER},
        "tokenizer": {**BPE, "vocab_size": 500},
        "max_tokens": 20,
        "steps": 8,
        "checkpoint_every": 8,
        "eval_every": 4,
        "adversarial": SECTION,
        "publish": "best",
    }
    return make_recipe("generate", **(given | changes))


def leave_in_step(context: JobContext, step: int) -> None:
    num_batches, wait = 0, context.wait_while_paused

    def leave() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == step:
            context.leave()
        wait()

    context.wait_while_paused = leave  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_it_goes_on_in_any_phase_to_the_very_weights(
    step: int, tmp_path_factory: pytest.TempPathFactory, whole: Callable[[Path], None]
) -> None:
    directory = tmp_path_factory.mktemp("runs")
    whole(directory / "whole")
    context, _ = make_job(directory / "left", recipe())
    leave_in_step(context, step)
    with pytest.raises(CancelledError):
        handler.run(context)
    handler.run(make_job(directory / "left", recipe())[0])
    assert_same_checkpoints(directory, ("weights", "optimizer", "best"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """A run that nobody stopped; it is linked to where it is wanted."""
    directory = tmp_path_factory.mktemp("whole")
    handler.run(make_job(directory, recipe())[0])
    return lambda wanted: wanted.symlink_to(directory)


def test_what_is_published_is_the_language_model_alone(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, recipe())
    (version,) = handler.run(context).artifacts
    directory = context.blobs.materialize(dict(version.files), tmp_path / "model")
    assert not any(name.startswith("critic") for name in load_file(directory / "model.safetensors"))
    kept = load_file(tmp_path / "checkpoint/checkpoints/step-00000008/weights.safetensors")
    assert any(name.startswith("critic") for name in kept)
    assert (version.manifest["task"], version.manifest["engine"]) == ("generate", "native")
    assert {"bleu", "self_bleu", "distinct_2", "perplexity"} <= set(version.manifest["metrics"])
    points = [m.values for m in sent if isinstance(m, JobMetric)]
    assert [point["phase"] for point in points] == [0, 0, 1, 2, 1, 2, 1, 2]
    assert sum("validation_self_bleu" in point for point in points) == 2
    rates = [point["learning_rate"] for point in points]
    assert rates[3] < 0.2 * rates[2], "policy gradients take smaller steps"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {"architecture": "autoencoder", "config": {"hidden_size": 8}}},
            "architecture autoencoder needs objective autoencoder",
        ),
        ({"model": {"architecture": "ngram", "config": {}}}, "no objective but causal_lm"),
        ({"objective": "causal_lm"}, "adversarial is for objective adversarial"),
        ({"data": {"path": "starter:tales"}}, "plain text: objective adversarial needs records"),
        ({"adversarial": {"rollouts": 0}}, "adversarial.rollouts"),
        ({"robust": {"noise": 5.0}}, "objective adversarial takes no robust section"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        handler.run(make_job(tmp_path, recipe(**changes))[0])
