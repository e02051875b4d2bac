from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmos.data.encoding import Columns, Ragged
from llmos.errors import RecipeError
from llmos.training.objectives import IGNORE, Batch, Conversations, TextStream
from llmos.training.packing import Documents, PackedConversations, check_packing, packs_of

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 29,
}
END = 1


def network(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    match name:
        case "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=29)).eval()
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
        case _:
            return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).eval()


def conversations(count: int = 9) -> Columns:
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 13, count)
    return {
        "input_ids": Ragged.of([rng.integers(0, 29, length) for length in lengths]),
        "learned": Ragged.of([rng.integers(0, 2, length) for length in lengths]),
    }


def loss_and_gradients(
    model: PreTrainedModel, batches: list[Batch]
) -> tuple[float, int, dict[str, torch.Tensor]]:
    model.zero_grad()
    losses = [batch.loss_sum(model) for batch in batches]
    torch.stack(losses).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return (
        sum(map(float, torch.stack(losses).detach())),
        sum(batch.num_labels for batch in batches),
        gradients,
    )


def assert_same(model: PreTrainedModel, ours: list[Batch], theirs: list[Batch]) -> None:
    loss, labels, gradients = loss_and_gradients(model, ours)
    expected, expected_labels, expected_gradients = loss_and_gradients(model, theirs)
    assert labels == expected_labels
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        assert torch.allclose(gradient, expected_gradients[name], atol=1e-5 * max(scale, 1.0)), name


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_packed_teaches_what_each_conversation_alone_does(name: str, sparse: bool) -> None:
    model, columns = network(name), conversations()
    packed = PackedConversations(16, plain_head=sparse)
    batch = packed.batch(columns, packed.all_rows(columns))
    assert len(batch.labels) < len(columns["input_ids"])
    alone = Conversations()
    others = [alone.batch(columns, np.array([i])) for i in range(len(columns["input_ids"]))]
    assert_same(model, [batch], others)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_texts_in_one_block_teach_what_each_alone_does(name: str) -> None:
    model = network(name)
    texts = [[5, 6, 7, END], [8, END], [9, 10, 11, 12, END], [13, 14]]
    columns = {"tokens": Ragged.of([[*itertools.chain(*texts)]])}
    block = Documents(12, END).batch(columns, np.array([0]))
    assert block.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 0]]
    assert block.labels[0, [3, 5, 10]].tolist() == [IGNORE] * 3
    others = [
        TextStream(len(text) - 1).batch({"tokens": Ragged.of([text])}, np.array([0]))
        for text in texts
    ]
    assert_same(model, [block], others)


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 40))
def test_every_example_is_in_one_row_and_rows_hold_no_more_than_they_may(
    lengths: list[int], capacity: int
) -> None:
    examples = Ragged.of([[0] * length for length in lengths])
    packs = packs_of(examples, capacity)
    assert sorted(packs.flat.tolist()) == [i for i, n in enumerate(lengths) if n > 1]
    read = [sum(lengths[i] - 1 for i in packs.row(row)) for row in range(len(packs))]
    assert all(0 < tokens <= capacity for tokens in read)
    assert sum(tokens <= capacity / 2 for tokens in read) <= 1


def test_a_network_that_sees_all_of_a_row_is_refused() -> None:
    check_packing(network("llama"))

    class Blind(LlamaForCausalLM):
        def forward(self, position_ids: object = None, **inputs: object) -> object:
            return super().forward(**inputs)

    torch.manual_seed(0)
    with pytest.raises(RecipeError, match="packing: this network"):
        check_packing(Blind(LlamaConfig(**SIZES)))
