"""Autoencoders and variational ones through the whole training job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_training_options import assert_same_checkpoints, leave_in_step_4
from tests.unit.training.tiny import BPE, STARTER, make_job, make_recipe

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.protocol import JobMetric
from llmos.training import handler

STEPS = 8
ARCHITECTURES = {"autoencoder": "autoencoder", "elbo": "vae"}
SIZES = {"hidden_size": 16, "latent_size": 4, "dropout": 0.1}


def recipe(objective: str, cell: str = "gru", **changes: Any) -> dict[str, Any]:
    model = {"architecture": ARCHITECTURES[objective], "config": {**SIZES, "cell": cell}}
    quick = {"steps": STEPS, "checkpoint_every": STEPS, "eval_every": 4, "publish": "best"}
    data = {"path": "starter:sentiment", **STARTER}
    tokenizer = {**BPE, "vocab_size": 700}
    given = {"objective": objective, "model": model, "data": data, "tokenizer": tokenizer}
    section = {"latent": {"word_dropout": 0.3}}
    if objective == "elbo":
        section["latent"] |= {"kl_schedule": "cyclical", "kl_cycles": 2, "free_bits": 0.1}
    return make_recipe("generate", **(given | section | quick | changes))


@pytest.mark.parametrize(
    ("objective", "cell"), [("autoencoder", "gru"), ("elbo", "lstm"), ("elbo", "mlp")]
)
def test_it_goes_on_to_the_very_weights(objective: str, cell: str, tmp_path: Path) -> None:
    its = recipe(objective, cell, accumulate=2)
    handler.run(make_job(tmp_path / "whole", its)[0])
    context, _ = make_job(tmp_path / "left", its)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    handler.run(make_job(tmp_path / "left", its)[0])
    assert_same_checkpoints(tmp_path, ("weights", "optimizer", "best"))


def test_the_parts_of_the_bound_are_in_the_curve_and_on_the_card(tmp_path: Path) -> None:
    its = recipe("elbo", evaluate={"splits": ["test_templates"], "rows": 8})
    context, sent = make_job(tmp_path, its)
    metrics = handler.run(context).artifacts[0].manifest["metrics"]
    points = [m.values for m in sent if isinstance(m, JobMetric)]
    assert [point["kl_weight"] for point in points] == [0.0, 0.5, 1.0, 1.0] * 2
    validated = [point for point in points if "validation_loss" in point]
    assert len(validated) == 2
    for point in validated:
        lost, kl = point["validation_reconstruction"], point["validation_kl"]
        assert point["validation_elbo"] == pytest.approx(-lost - kl)
    for told in (metrics, metrics["test_templates"]):
        assert told["kl"] >= 0
        assert told["elbo"] == pytest.approx(-told["kl"] - told["reconstruction"])
        assert {"exact", "character_error", "perplexity"} <= set(told)
        assert told["code_bytes"] == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"objective": "autoencoder"},
            "objective autoencoder needs model.architecture autoencoder",
        ),
        ({"objective": "causal_lm", "latent": None}, "architecture vae needs objective elbo"),
        ({"task": "classify"}, "task classify needs objective sequence_classification"),
        ({"robust": {"noise": 5.0}}, "objective elbo takes no robust section"),
        ({"objective": "causal_lm"}, "latent is for objectives autoencoder and elbo"),
        ({"data": {"path": "starter:tales"}}, "plain text: objective elbo needs records"),
        ({"latent": {"kl_cycle": 2}}, "latent.kl_cycle: did you mean .*kl_cycles"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    its = recipe("elbo", latent={}) | changes
    with pytest.raises(RecipeError, match=said):
        handler.run(make_job(tmp_path, its)[0])


def test_only_the_bound_has_a_kl(tmp_path: Path) -> None:
    its = recipe("autoencoder", latent={"kl_weight": 2.0})
    with pytest.raises(RecipeError, match=r"latent\.kl_weight is for objective elbo"):
        handler.run(make_job(tmp_path, its)[0])
