from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmos.data.encoding import Columns, Ragged
from llmos.errors import CancelledError
from llmos.training.preferences import Preferences, accuracy, with_reference

PROMPT, BETTER, WORSE = [1, 2, 3], [4, 5, 9], [6, 7, 8, 4, 9]


def model_of(seed: int = 0, dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16}
    drops = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, **sizes, **drops))


def columns_of(*pairs: tuple[list[int], list[int]]) -> Columns:
    rows = {
        "input_ids": [PROMPT + better for better, _ in pairs],
        "learned": [[0] * 3 + [1] * len(better) for better, _ in pairs],
        "rejected_ids": [PROMPT + worse for _, worse in pairs],
        "rejected_learned": [[0] * 3 + [1] * len(worse) for _, worse in pairs],
    }
    return {name: Ragged.of(found) for name, found in rows.items()}


def log_p(model: GPT2LMHeadModel, answer: list[int]) -> float:
    """The sum over the answer's tokens, one by one."""
    with torch.no_grad():
        logs = model(torch.tensor([PROMPT + answer])).logits[0].log_softmax(-1)
    return sum(float(logs[2 + at, token]) for at, token in enumerate(answer))


def test_the_reference_is_what_the_model_found_before(tmp_path: Path) -> None:
    model = model_of(dropout=0.5).train()
    columns = columns_of((BETTER, WORSE), (WORSE, BETTER))
    found = with_reference(columns, model, tmp_path / "r", 1)
    reference = Preferences(0.1).batch(found, np.array([0, 1])).reference
    model.eval()
    one, two = log_p(model, BETTER), log_p(model, WORSE)
    assert reference.flatten().tolist() == pytest.approx([one, two, two, one], rel=1e-5)
    again = with_reference(columns, model_of(7), tmp_path / "r", 2)
    assert torch.equal(Preferences(0.1).batch(again, np.array([0, 1])).reference, reference)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_paper(tmp_path: Path, smoothing: float) -> None:
    reference, model = model_of(0).eval(), model_of(1).eval()
    columns = with_reference(columns_of((BETTER, WORSE)), reference, tmp_path / "r", 2)
    batch = Preferences(0.3).batch(columns, np.array([0]))
    gains = [log_p(model, answer) - log_p(reference, answer) for answer in (BETTER, WORSE)]
    margin = torch.tensor(0.3 * (gains[0] - gains[1]))
    expected = -(1 - smoothing) * margin.sigmoid().log() - smoothing * (-margin).sigmoid().log()
    assert batch.num_labels == 1
    assert float(batch.loss_sum(model, smoothing).detach()) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_a_model_that_has_not_moved_prefers_neither(tmp_path: Path) -> None:
    model = model_of().eval()
    columns = with_reference(columns_of((BETTER, WORSE)), model, tmp_path / "r", 2)
    batch = Preferences(0.1).batch(columns, np.array([0]))
    assert float(batch.loss_sum(model).detach()) == pytest.approx(np.log(2), rel=1e-5)


def test_what_was_found_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    columns, calls = columns_of((BETTER, WORSE), (WORSE, BETTER)), []

    def end() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        with_reference(columns, model_of(), tmp_path / "r", 1, end)
    assert not (tmp_path / "r").exists()
    assert "reference" in with_reference(columns, model_of(), tmp_path / "r", 1)


def test_padding_counts_for_nothing(tmp_path: Path) -> None:
    model = model_of(1).eval()
    columns = columns_of((BETTER, WORSE), (WORSE + WORSE[:2], BETTER[:1]))
    columns = with_reference(columns, model_of(0), tmp_path / "r", 2)
    objective = Preferences(0.3)
    both = objective.batch(columns, np.array([0, 1])).margins(model)
    alone = [objective.batch(columns, np.array([row])).margins(model) for row in (0, 1)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)


def test_steps_make_the_chosen_answer_preferred(tmp_path: Path) -> None:
    model = model_of()
    columns = columns_of((BETTER, WORSE), ([5, 5], [6, 6]))
    columns = with_reference(columns, model, tmp_path / "r", 1)
    objective, rows = Preferences(0.5), np.array([0, 1])
    assert accuracy(model, objective, columns, [rows]) == 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        objective.batch(columns, rows).loss_sum(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert accuracy(model, objective, columns, [rows]) == 1.0
    assert float(objective.batch(columns, rows).loss_sum(model).detach()) < 2 * 0.1
