from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from llmos.data.encoding import Ragged
from llmos.training.objectives import (
    IGNORE,
    Conversations,
    SequenceClasses,
    SequencePairs,
    TextStream,
    TokenClasses,
    has_plain_head,
)

ROWS = np.array([0, 1])
PAD = EOS = 0


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def test_a_stream_predicts_the_next_token() -> None:
    columns = {"tokens": Ragged.of([range(10)])}
    batch = TextStream(4).batch(columns, np.array([0, 5]))
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert batch.labels.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]


def test_whole_evaluation_covers_a_stream_block_by_block() -> None:
    columns = {"tokens": Ragged.of([range(14)])}
    assert TextStream(4).all_rows(columns).tolist() == [0, 4, 8]
    assert TextStream(4).all_rows({"tokens": Ragged.of([range(5)])}).tolist() == [0]


def test_an_end_token_equal_to_padding_keeps_its_label() -> None:
    columns = {
        "input_ids": Ragged.of([[5, 6, EOS], [5, 6, 7, 8, EOS]]),
        "learned": Ragged.of([[0, 1, 1], [0, 0, 1, 1, 1]]),
    }
    batch = Conversations().batch(columns, ROWS)
    assert batch.labels.tolist() == [[6, EOS, IGNORE, IGNORE], [IGNORE, 7, 8, EOS]]
    assert batch.num_labels == 5


def test_a_decoder_reads_its_start_token_and_the_target_before() -> None:
    columns = {
        "input_ids": Ragged.of([[3, EOS], [3, 4, 5, EOS]]),
        "target_ids": Ragged.of([[7, EOS], [7, 8, EOS]]),
    }
    batch = SequencePairs(start_id=9, pad_id=PAD).batch(columns, ROWS)
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[9, 7, EOS], [9, 7, 8]]
    assert batch.labels.tolist() == [[7, EOS, IGNORE], [7, 8, EOS]]


def test_classes_of_texts_and_of_tokens() -> None:
    ids = Ragged.of([[1, 0, 2], [1, 2]])
    texts = SequenceClasses(PAD).batch({"input_ids": ids, "labels": Ragged.of([[2], [0]])}, ROWS)
    assert texts.labels.tolist() == [2, 0]
    assert texts.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    tags = Ragged.of([[IGNORE, 3, IGNORE], [IGNORE, 1]])
    tokens = TokenClasses(PAD).batch({"input_ids": ids, "labels": tags}, ROWS)
    assert tokens.labels.tolist() == [[IGNORE, 3, IGNORE], [IGNORE, 1, IGNORE]]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_logits_of_labelled_positions_only_give_the_same_loss_and_gradients(
    label_smoothing: float,
) -> None:
    columns = {
        "input_ids": Ragged.of([[5, 6, 0], [5, 6, 7, 8, 0]]),
        "learned": Ragged.of([[0, 1, 1], [0, 0, 1, 1, 1]]),
    }
    found = []
    for plain_head in (False, True):
        model = tiny_llama()
        batch = Conversations(plain_head).batch(columns, ROWS)
        loss = batch.loss_sum(model, label_smoothing)
        loss.backward()
        found.append((loss.detach(), model.model.embed_tokens.weight.grad))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_loss_is_the_model_s_own_loss_over_its_labels() -> None:
    model = tiny_llama()
    batch = TextStream(4).batch({"tokens": Ragged.of([range(10)])}, np.array([0, 5]))
    ids = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    assert batch.loss_sum(model).item() / batch.num_labels == pytest.approx(
        model(input_ids=ids, labels=ids).loss.item(), abs=1e-6
    )


def test_a_head_that_does_more_than_multiply_is_noticed() -> None:
    assert has_plain_head(tiny_llama())
    config = Gemma2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        final_logit_softcapping=0.05,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    assert not has_plain_head(Gemma2ForCausalLM(config))


@pytest.mark.parametrize("plain_head", [False, True])
def test_conversations_are_measured_by_the_tokens_that_are_learned(plain_head: bool) -> None:
    model = tiny_llama()
    columns = {
        "input_ids": Ragged.of([[5, 6, 0], [5, 6, 7, 8, 0]]),
        "learned": Ragged.of([[0, 1, 1], [0, 0, 1, 1, 1]]),
    }
    batch = Conversations(plain_head).batch(columns, ROWS)
    with torch.inference_mode():
        likeliest = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0].argmax(-1).tolist()
        short = model(input_ids=torch.tensor([[5, 6]])).logits[0].argmax(-1).tolist()
        measured = batch.measures(model)
    right = [*zip(likeliest[1:], [7, 8, 0], strict=True), *zip(short, [6, 0], strict=True)]
    assert measured["token_accuracy"] == (sum(ours == theirs for ours, theirs in right), 5)
    assert measured["loss"] == (pytest.approx(float(batch.loss_sum(model).detach())), 5)
