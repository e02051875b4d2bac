from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.data.encoding import Columns, Ragged
from llmos.models.recurrent import RecurrentConfig
from llmos.models.registry import register
from llmos.training.adversarial import (
    Adversarial,
    adversarial_of,
    draw,
    drop_critic,
    judged,
    mask_of,
    phase_of,
)
from llmos.training.objectives import Scheduled, Surveyed
from llmos.training.recipe_sections import AdversarialSection

END = 0
COLUMNS: Columns = {"input_ids": Ragged.of([[5, 6, 7], [8], [9, 10]])}
ROWS = np.array([0, 1, 2])
SECTION = AdversarialSection(
    pretrain_steps=2, critic_steps=1, critic_per_policy=2, rollouts=3, critic_size=8
)


def made(**config: Any) -> tuple[Any, Adversarial]:
    register()
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "eos_token_id": END}
    model = AutoModelForCausalLM.from_config(RecurrentConfig(**(sizes | config)))
    return model, adversarial_of(model, SECTION, max_tokens=4, seed=1, steps=20)


def test_the_phases_follow_from_the_step() -> None:
    found = [phase_of(step, 20, SECTION)[0] for step in range(10)]
    assert "".join(found) == "llcpccpccp"
    untold = [phase_of(step, 100, AdversarialSection()) for step in range(100)]
    assert untold.count("likelihood") == 50
    assert untold.index("policy") == 60


@pytest.mark.parametrize(("step", "taught"), [(0, "model"), (2, "critic"), (3, "model")])
def test_a_step_teaches_the_one_whose_turn_it_is(step: int, taught: str) -> None:
    model, objective = made()
    objective.at(step).batch(COLUMNS, ROWS).loss_sum(model).backward()
    got = {name for name, one in model.named_parameters() if one.grad is not None}
    of_critic = {name for name in got if name.startswith("critic.")}
    assert got and of_critic == (got if taught == "critic" else set())
    assert model.training


def test_what_is_random_follows_from_seed_step_and_rows() -> None:
    model, objective = made(dropout=0.0)
    assert isinstance(objective, Scheduled) and isinstance(objective, Surveyed)
    losses = [
        float(objective.at(step).batch(COLUMNS, ROWS).loss_sum(model.eval()).detach())
        for step in (3, 3, 6)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert objective.survey(model, COLUMNS) == objective.survey(model, COLUMNS)


def test_a_text_ends_once() -> None:
    texts = torch.tensor([[5, END, 6, END], [5, 6, 7, 8], [END, 5, END, 5]])
    assert mask_of(texts, END).tolist() == [
        [True, True, False, False],
        [True, True, True, True],
        [True, False, False, False],
    ]


def test_rollouts_go_on_from_what_was_written() -> None:
    model, _ = made()
    prefixes = torch.tensor([[5, 6, 7, 8]] * 4)
    forced, start = torch.tensor([1, 2, 3, 4]), torch.full((4, 1), END)
    random = torch.Generator().manual_seed(0)
    drawn = draw(model.eval(), start, 4, END, random, prefixes, forced)
    for row, count in zip(drawn, forced, strict=True):
        assert row[:count].tolist() == prefixes[0, :count].tolist()


def test_texts_are_drawn_as_likely_as_the_model_finds_them() -> None:
    model, _ = made()
    start = torch.full((20_000, 1), END)
    drawn = draw(model.eval(), start, 1, END, torch.Generator().manual_seed(0))
    found = torch.bincount(drawn[:, 0], minlength=12) / len(drawn)
    wanted = model(start[:1]).logits[0, -1].softmax(0).detach()
    assert torch.allclose(found, wanted, atol=0.01)


def test_policy_gradients_make_likelier_what_the_critic_likes() -> None:
    """A critic that likes texts with a 5 in them gets texts with more of them."""
    model, objective = made(dropout=0.0, hidden_size=16)
    critic = model.critic
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        critic.embed_tokens.weight[5, 0] = 1.0
        critic.filters[0].weight[0, 0, 0] = 1.0
        critic.classifier.weight[0, 0] = 8.0
        critic.classifier.bias[:] = -4.0
    told = judged(model.eval(), torch.tensor([[5, END], [6, END]]), END)
    assert told.tolist() == [4.0, -4.0]

    def share() -> float:
        start = torch.full((2000, 1), END)
        drawn = draw(model.eval(), start, 4, END, torch.Generator().manual_seed(9))
        return float((drawn == 5).any(1).float().mean())

    before = share()
    optimizer = torch.optim.Adam(model.model.parameters(), lr=2e-2)
    for step in range(3, 3 + 3 * 30, 3):
        objective.at(step).batch(COLUMNS, np.tile(ROWS, 8)).loss_sum(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert share() > 1.5 * before


def test_the_critic_is_not_published() -> None:
    model, _ = made()
    assert any(name.startswith("critic.") for name in model.state_dict())
    drop_critic(model)
    drop_critic(model)
    assert not any(name.startswith("critic.") for name in model.state_dict())


def test_the_learning_rate_of_policies_is_lower() -> None:
    _, objective = made()
    shares = [objective.at(step).rate_share for step in range(5)]
    assert shares == [1.0, 1.0, 1.0, 0.1, 1.0]
    assert [objective.at(step).told()["phase"] for step in range(4)] == [0.0, 0.0, 1.0, 2.0]
