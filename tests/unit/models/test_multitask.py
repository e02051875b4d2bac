"""Several heads on one encoder of transformers, whose own files they leave as they would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
)

from llmos.models.multitask import MultitaskEncoder, OneTask, asked_for

HEADS: list[dict[str, Any]] = [
    {"task": "classify", "labels": ["bad", "good", "so-so"]},
    {"task": "entities", "labels": ["O", "B-X", "I-X"]},
    {"task": "rate", "labels": []},
    {"task": "answer", "labels": []},
    {"task": "fill_mask", "labels": []},
    {"task": "embed", "labels": []},
]
SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
SPECIALS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
IDS = torch.tensor([[1, 5, 9, 7, 2], [1, 6, 2, 0, 0]])
MASK = (IDS != 0).long()


def fresh(architecture: str) -> MultitaskEncoder:
    specials = SPECIALS if architecture == "modernbert" else {}
    config = AutoConfig.for_model(architecture, **SIZES, **specials, heads=HEADS)
    torch.manual_seed(1)
    return MultitaskEncoder.from_config(config).eval()


@pytest.fixture(params=["bert", "modernbert"])
def model(request: pytest.FixtureRequest) -> MultitaskEncoder:
    return fresh(request.param)


@torch.inference_mode()
def test_each_head_says_what_a_network_of_its_task_says(model: MultitaskEncoder) -> None:
    asked = {head["task"]: asked_for(head["task"], model) for head in HEADS}
    outs = {task: one(input_ids=IDS, attention_mask=MASK) for task, one in asked.items()}
    assert outs["classify"].logits.shape == (2, 3)
    assert outs["entities"].logits.shape == (2, 5, 3)
    assert outs["rate"].logits.shape == (2, 1)
    assert outs["answer"].start_logits.shape == outs["answer"].end_logits.shape == (2, 5)
    assert outs["fill_mask"].logits.shape == (2, 5, 30)
    hidden = model.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.equal(outs["embed"].last_hidden_state, hidden)
    mean = hidden[1, :2].mean(dim=0, keepdim=True) * 2 / 3 + hidden[1, 2:3] / 3
    assert torch.allclose(outs["classify"].logits[1:], model.heads["classify"](mean), atol=1e-6)
    assert torch.equal(model(input_ids=IDS).logits, asked["classify"](input_ids=IDS).logits)


@torch.inference_mode()
def test_padding_changes_nothing(model: MultitaskEncoder) -> None:
    for task in ("classify", "rate"):
        padded = model(input_ids=IDS, attention_mask=MASK, task=task).logits[1]
        alone = model(input_ids=IDS[1:, :3], task=task).logits[0]
        assert torch.allclose(padded, alone, atol=1e-6)


@torch.inference_mode()
def test_saved_it_is_read_back_and_is_an_encoder_to_others(
    model: MultitaskEncoder, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = MultitaskEncoder.from_pretrained(tmp_path).eval()
    assert all(
        torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items()
    )
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    ours = model(input_ids=IDS, attention_mask=MASK, task="embed").last_hidden_state
    theirs = encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-6)
    tagger = AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=4)
    prefix = model.base_model_prefix
    name = f"{prefix}.{next(iter(dict(model.base_model.named_parameters())))}"
    assert torch.equal(tagger.state_dict()[name], model.state_dict()[name])


def test_it_begins_with_any_encoder_and_keeps_the_heads_that_are_there(tmp_path: Path) -> None:
    torch.manual_seed(2)
    base = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **SIZES))
    base.save_pretrained(tmp_path / "base")
    made = MultitaskEncoder.from_pretrained(tmp_path / "base", heads=HEADS[:2])
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(made.state_dict()[name], base.state_dict()[name])
    assert {*made.heads} == {"classify", "entities"}
    assert made.heads["classify"].weight.abs().max() > 0 and made.heads["classify"].bias.eq(0).all()
    made.save_pretrained(tmp_path / "made")
    more = MultitaskEncoder.from_pretrained(tmp_path / "made", heads=[HEADS[4], HEADS[0]])
    assert torch.equal(more.heads["classify"].weight, made.heads["classify"].weight)
    assert more.heads["fill_mask"].bias.eq(0).all()
    with pytest.raises(ValueError, match="names no heads"):
        MultitaskEncoder.from_pretrained(tmp_path / "base")


def test_a_model_for_one_task_is_asked_as_it_is() -> None:
    encoder = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES))
    assert asked_for("embed", encoder) is encoder
    several = fresh("bert")
    one = asked_for("rate", several)
    assert isinstance(one, OneTask) and one.config is several.config
