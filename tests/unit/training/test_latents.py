from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from transformers import AutoModelForCausalLM

from llmos.data.encoding import Columns, Ragged
from llmos.models.autoencoder import AutoencoderConfig, VaeConfig
from llmos.models.registry import register
from llmos.training.encoder import IGNORE
from llmos.training.latents import Latents, kl_weight, latents_of
from llmos.training.objectives import Objective, Scheduled
from llmos.training.recipe_sections import LatentSection

COLUMNS: Columns = {"input_ids": Ragged.of([[260, 261, 262], [270], [280, 281]])}
ROWS = np.array([0, 1, 2])


def made(kind: type[AutoencoderConfig]) -> Any:
    register()
    torch.manual_seed(0)
    config = kind(vocab_size=300, hidden_size=8, latent_size=4, dropout=0.0, eos_token_id=0)
    return AutoModelForCausalLM.from_config(config)


def objective(model: Any, **section: Any) -> Latents:
    is_variational = model.config.model_type == "vae"
    return latents_of(model, LatentSection(**section), is_variational, seed=1, steps=100)


@pytest.mark.parametrize(
    ("section", "weights"),
    [
        ({"kl_schedule": "constant", "kl_weight": 0.5}, {0: 0.5, 99: 0.5}),
        ({"kl_schedule": "linear"}, {0: 0.0, 25: 0.5, 50: 1.0, 99: 1.0}),
        ({"kl_schedule": "linear", "kl_steps": 10, "kl_weight": 2.0}, {5: 1.0, 10: 2.0, 60: 2.0}),
        (
            {"kl_schedule": "cyclical", "kl_cycles": 2},
            {0: 0.0, 5: 0.2, 25: 1.0, 49: 1.0, 50: 0.0, 55: 0.2, 80: 1.0},
        ),
    ],
)
def test_the_weight_of_kl_follows_from_the_step(
    section: dict[str, Any], weights: dict[int, float]
) -> None:
    found = {step: kl_weight(step, 100, LatentSection(**section)) for step in weights}
    assert found == pytest.approx(weights)


def test_what_is_random_follows_from_seed_step_and_rows() -> None:
    its = objective(made(VaeConfig), word_dropout=0.5)
    assert isinstance(its, Scheduled)
    first, again = (its.at(3).batch(COLUMNS, ROWS) for _ in range(2))
    assert torch.equal(first.noise, again.noise) and torch.equal(first.kept, again.kept)
    others: list[Objective] = [its.at(4), objective(made(VaeConfig), word_dropout=0.5).at(2), its]
    for other in others:
        assert not torch.equal(other.batch(COLUMNS, ROWS).noise, first.noise)  # type: ignore[attr-defined]
    assert its.batch(COLUMNS, ROWS).kept.all(), "a test shows all"


@torch.no_grad()
def test_the_bound_is_reconstruction_less_kl() -> None:
    """Against torch's own normal distributions."""
    model = made(VaeConfig).eval()
    batch = objective(model).batch(COLUMNS, ROWS)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    mean, deviation = model.encode(ids, mask)
    kl = float(kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum())
    logits = model.decode(mean + deviation * batch.noise, ids)
    chances = logits.log_softmax(-1)
    texts = [[260, 261, 262, 0], [270, 0], [280, 281, 0]]
    lost = -sum(float(chances[i, j, t]) for i, text in enumerate(texts) for j, t in enumerate(text))
    measures = batch.measures(model)
    assert batch.num_labels == 9 == int((batch.labels != IGNORE).sum())
    assert measures["kl"] == pytest.approx((kl, 3), rel=1e-4)
    assert measures["reconstruction"] == pytest.approx((lost, 3), rel=1e-4)
    assert measures["elbo"] == pytest.approx((-lost - kl, 3), rel=1e-4)
    assert measures["loss"] == pytest.approx((lost + kl, 9), rel=1e-4)
    assert float(batch.loss_sum(model)) == pytest.approx(lost + kl, rel=1e-4)


def test_free_bits_cost_nothing() -> None:
    model = made(VaeConfig)
    free = objective(model, kl_schedule="constant", free_bits=50.0).at(0).batch(COLUMNS, ROWS)
    bare = objective(model, kl_schedule="constant", kl_weight=0.0).at(0).batch(COLUMNS, ROWS)
    lost = [float(batch.loss_sum(model).detach()) for batch in (free, bare)]
    assert lost[0] == pytest.approx(lost[1] + 3 * 4 * 50.0, rel=1e-5)
    bare.loss_sum(model).backward()
    wanted = model.to_latent.weight.grad.clone()
    model.zero_grad()
    free.loss_sum(model).backward()
    assert torch.allclose(model.to_latent.weight.grad, wanted, atol=1e-6)


@torch.no_grad()
def test_an_autoencoder_learns_with_the_error_of_its_levels_and_is_tested_with_its_codes() -> None:
    model = made(AutoencoderConfig)
    batch = objective(model).at(0).batch(COLUMNS, ROWS)
    assert float(batch.noise.abs().max()) <= 1.0
    model.eval()
    mean, _ = model.encode(batch.inputs["input_ids"], batch.inputs["attention_mask"])
    latent = model.values(model.quantised(mean))
    logits = model.decode(latent, batch.inputs["input_ids"]).flatten(0, 1)
    lost = torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), reduction="sum")
    assert float(batch.loss_sum(model)) == pytest.approx(float(lost), rel=1e-5)


@torch.no_grad()
def test_a_word_that_is_dropped_is_not_seen_by_the_writer() -> None:
    model = made(AutoencoderConfig).eval()
    its = objective(model, word_dropout=0.999).at(0)
    batch = its.batch(COLUMNS, ROWS)
    assert not batch.kept.any()
    hidden = torch.full_like(batch.inputs["input_ids"], its.hidden_id)
    mean, _ = model.encode(batch.inputs["input_ids"], batch.inputs["attention_mask"])
    logits = model.decode(model.values(model.quantised(mean)), hidden).flatten(0, 1)
    lost = torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), reduction="sum")
    assert float(batch.loss_sum(model)) == pytest.approx(float(lost), rel=1e-5)
