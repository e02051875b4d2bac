"""What is masked is chosen as the paper has it, anew each time, and always the same again."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertConfig, ModernBertConfig

from llmos.data.encoding import Ragged
from llmos.training.encoder import IGNORE
from llmos.training.masking import Masked, MaskedTexts
from llmos.training.objectives import Batch

MASK, PAD, FIRST, LAST, VOCABULARY = 4, 0, 2, 3, 1000


def columns(rows: int, length: int) -> dict[str, Ragged]:
    words = np.random.default_rng(0).integers(5, VOCABULARY, (rows, length))
    ids = [[FIRST, *row, LAST] for row in words]
    is_text = [[0, *[1] * length, 0] for _ in ids]
    return {"input_ids": Ragged.of(ids), "is_text": Ragged.of(is_text)}


def objective(seed: int = 0) -> MaskedTexts:
    return MaskedTexts(MASK, PAD, VOCABULARY, seed)


def read(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return batch.inputs["input_ids"].numpy(), batch.labels.numpy()


def test_15_percent_are_chosen_of_which_80_become_masks_and_10_others() -> None:
    given = columns(400, 100)
    rows = np.arange(400)
    ids, labels = read(objective().batch(given, rows))
    original, _ = given["input_ids"].padded(rows, PAD)
    chosen = labels != IGNORE
    assert (labels[chosen] == original[chosen]).all()
    assert (ids[~chosen] == original[~chosen]).all(), "what is not chosen is left"
    assert not chosen[:, [0, -1]].any(), "special tokens stay"
    assert abs(chosen[:, 1:-1].mean() - 0.15) < 0.005
    masked = (ids == MASK)[chosen].mean()
    same = (ids == original)[chosen].mean()
    assert abs(masked - 0.8) < 0.02
    assert abs(same - 0.1) < 0.02
    others = ids[chosen & (ids != MASK) & (ids != original)]
    assert len(np.unique(others)) > 300, "any token"


def test_a_short_text_has_a_mask_at_least() -> None:
    given = columns(50, 1)
    _, labels = read(objective().batch(given, np.arange(50)))
    assert ((labels != IGNORE).sum(axis=1) == 1).all()


def test_masks_are_a_pure_function_of_seed_step_and_row() -> None:
    given = columns(20, 30)
    sampler = objective().sampler(given, 20, 0)
    first, again = (objective().batch(given, sampler.rows(7)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(read(first), read(again), strict=True))
    others = [
        objective().batch(given, sampler.rows(8)),
        objective(seed=1).batch(given, sampler.rows(7)),
        objective().batch(given, objective().all_rows(given)),
    ]
    by_row = [dict(zip((sampler.rows(7) % 20).tolist(), read(first)[1], strict=True))]
    for other, rows in zip(
        others, (sampler.rows(8), sampler.rows(7), objective().all_rows(given)), strict=True
    ):
        labels = dict(zip((rows % 20).tolist(), read(other)[1], strict=True))
        assert any(not np.array_equal(labels[row], by_row[0][row]) for row in labels)
    both = [read(objective().batch(given, np.array(rows)))[1] for rows in ([3], [5, 3])]
    assert np.array_equal(both[0][0], both[1][1]), "batch-mates change nothing"


def test_the_head_sees_only_what_has_a_label() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    labels = torch.full((3, 8), IGNORE)
    labels[0, 2], labels[2, 5] = 7, 9
    ids = torch.randint(5, 50, (3, 8))
    for config in (BertConfig(**sizes), ModernBertConfig(**sizes, **ends)):
        model = AutoModelForMaskedLM.from_config(config).eval()
        logits, wanted = Masked({"input_ids": ids}, labels).labelled_logits(model)
        whole = model(input_ids=ids).logits[labels != IGNORE]
        assert wanted.tolist() == [7, 9]
        torch.testing.assert_close(logits, whole)
