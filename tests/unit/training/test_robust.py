from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from llmos.errors import RecipeError
from llmos.training.objectives import Batch
from llmos.training.recipe_sections import RobustSection
from llmos.training.robust import backward, check_r_drop

VOCAB, ROWS, LENGTH, SIZE = 20, 3, 6, 8


def made(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": SIZE, "n_positions": LENGTH}
    drops = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, **sizes, **drops)).train()


def a_batch() -> Batch:
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.roll(-1, 1)
    labels[:, -1] = -100
    return Batch({"input_ids": ids, "use_cache": False}, labels)


def gradients(model: GPT2LMHeadModel) -> torch.Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found)


def plain(model: GPT2LMHeadModel) -> float:
    loss = a_batch().loss_sum(model) / 15
    loss.backward()
    return float(loss.detach())


def robust(model: GPT2LMHeadModel, **section: float) -> float:
    return float(backward(model, a_batch(), 15, RobustSection(**section)))


def test_none_of_it_changes_nothing() -> None:
    ours, theirs = made(), made()
    assert robust(ours) == plain(theirs)
    assert torch.equal(gradients(ours), gradients(theirs))


def test_noise_is_as_large_as_told_and_gone_afterwards() -> None:
    model = made()
    read: list[torch.Tensor] = []
    model.transformer.h[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model(a_batch().inputs["input_ids"])
    robust(model, noise=5.0)
    model(a_batch().inputs["input_ids"])
    limit = 5.0 / (LENGTH * SIZE) ** 0.5
    apart = (read[1] - read[0]).abs()
    assert 0.8 * limit < apart.max() <= limit * 1.001
    assert torch.equal(read[2], read[0])


def test_an_adversarial_step_is_as_long_as_told_and_makes_it_worse() -> None:
    model = made()
    read: list[torch.Tensor] = []
    model.transformer.h[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    both = robust(model, adversarial=0.5)
    lengths = (read[1] - read[0]).flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([0.5] * ROWS, rel=1e-4)
    other = made()
    alone = plain(other)
    assert both > alone
    with torch.no_grad():
        random = torch.randn(ROWS, LENGTH, SIZE)
        random *= 0.5 / random.flatten(1).norm(dim=1)[:, None, None]
        hook = other.get_input_embeddings().register_forward_hook(lambda _, __, out: out + random)
        by_chance = float(a_batch().loss_sum(other)) / 15
        hook.remove()
    assert 2 * both - alone > by_chance, "no other step of that length is as bad"


def test_an_adversarial_step_needs_no_trained_embeddings() -> None:
    model = made()
    model.transformer.wte.requires_grad_(False)
    assert robust(model, adversarial=0.5) > 0
    assert model.transformer.wte.weight.grad is None
    assert model.transformer.h[0].mlp.c_fc.weight.grad.abs().sum() > 0


def test_two_passes_that_say_the_same_are_one() -> None:
    ours, theirs = made(), made()
    assert robust(ours, r_drop=3.0) == pytest.approx(plain(theirs), rel=1e-6)
    assert torch.allclose(gradients(ours), gradients(theirs), atol=1e-6)


def test_r_drop_of_a_network_without_dropout_is_refused_and_nothing_is_drawn() -> None:
    with pytest.raises(RecipeError, match="this network has none: give it some"):
        check_r_drop(made(), a_batch())
    model, before = made(dropout=0.1).eval(), torch.get_rng_state()
    check_r_drop(model, a_batch())
    assert torch.equal(torch.get_rng_state(), before) and not model.training


def test_two_passes_that_differ_cost_what_they_are_apart() -> None:
    model = made(dropout=0.5)
    torch.manual_seed(5)
    near = robust(model, r_drop=1e-9)
    torch.manual_seed(5)
    weighted = robust(model, r_drop=2.0)
    torch.manual_seed(5)
    with torch.no_grad():
        inputs = a_batch().inputs
        a, b = (model(**inputs).logits[:, :-1].flatten(0, 1).log_softmax(-1) for _ in range(2))
    apart = ((a.exp() - b.exp()) * (a - b)).sum() / 15
    assert weighted - near == pytest.approx(float(apart), rel=1e-3)


def test_an_encoder_and_a_decoder_are_both_reached() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "d_ff": 16}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCAB, decoder_start_token_id=0, dropout_rate=0.0, **sizes)
    ).train()
    ids = a_batch().inputs["input_ids"]
    read: dict[str, torch.Tensor] = {}
    for name, part in (("source", model.encoder), ("target", model.decoder)):
        part.block[0].register_forward_pre_hook(
            lambda _, given, kept, name=name: read.__setitem__(name, given[0].detach()),
            with_kwargs=True,
        )
    inputs = {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}
    model(**inputs)
    plainly = dict(read)
    backward(model, Batch(inputs, a_batch().labels), 15, RobustSection(noise=5.0))
    for name, before in plainly.items():
        assert not torch.equal(read[name], before), name


def test_a_network_whose_embeddings_are_not_modules_is_refused() -> None:
    model = made()
    other = torch.nn.Embedding(3, 3)
    model.get_input_embeddings = lambda: other  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match="embeddings cannot be reached"):
        robust(model, noise=1.0)


def test_all_of_it_together_is_a_number() -> None:
    assert 0 < robust(made(dropout=0.1), noise=5.0, adversarial=1.0, r_drop=1.0) < 100
