from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForTokenClassification

from llmos.models.chain import states_of
from llmos.models.crf import CrfConfig, CrfForTokenClassification
from llmos.models.registry import register

LABELS = ["O", "B-NOUN", "I-NOUN", "B-VERB", "I-VERB"]
BYTES = [-1, -1, -1, *range(256)]
CLS, SEP = 1, 2


def made(**values: object) -> CrfForTokenClassification:
    register()
    torch.manual_seed(0)
    config = CrfConfig(
        token_bytes=BYTES,
        num_buckets=512,
        hidden_size=8,
        id2label=dict(enumerate(LABELS)),
        **values,
    )
    return AutoModelForTokenClassification.from_config(config).eval()


def ids_of(text: str) -> list[int]:
    return [CLS, *(byte + 3 for byte in text.encode()), SEP]


def padded(*texts: str) -> dict[str, torch.Tensor]:
    rows = [ids_of(text) for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def labels_for(inputs: dict[str, torch.Tensor], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, len(LABELS), inputs["input_ids"].shape, generator=generator)


@torch.no_grad()
def test_padding_and_batch_mates_change_nothing() -> None:
    model = made()
    texts = ("Cats sleep.", "小猫在睡觉。", "x")
    together = model(**padded(*texts)).logits
    loss = torch.zeros(())
    for row, text in enumerate(texts):
        alone = padded(text)
        length = alone["input_ids"].shape[1]
        logits = model(input_ids=alone["input_ids"]).logits
        assert torch.allclose(together[row, :length], logits[0], atol=1e-5)
        labels = labels_for(padded(*texts))[row : row + 1, :length]
        loss = loss + model.path_loss(alone["input_ids"], labels)
    inputs = padded(*texts)
    assert float(model.path_loss(labels=labels_for(inputs), **inputs)) == pytest.approx(
        float(loss), rel=1e-5
    )


def test_bytes_of_one_unit_are_labelled_alike_and_others_not_at_all() -> None:
    model = made()
    text = "Cats 睡。"
    (logits,) = model(**padded(text)).logits
    assert not logits[0].any() and not logits[-1].any() and not logits[5].any()
    for start, end in ((1, 5), (6, 9), (9, 12)):
        assert torch.equal(logits[start:end], logits[start].expand(end - start, -1))
        assert not logits[start].max().any()


def test_what_may_not_be_is_not_told() -> None:
    model = made()
    inputs = padded("one two three")
    allowed = torch.ones(*inputs["input_ids"].shape, len(LABELS), dtype=torch.bool)
    allowed[0, 1] = torch.tensor([label == "B-VERB" for label in LABELS])
    allowed[0, 5] = torch.tensor([label.startswith("I-") for label in LABELS])
    (logits,) = model(**inputs, allowed=allowed).logits
    assert LABELS[int(logits[1].argmax())] == "B-VERB"
    assert LABELS[int(logits[5].argmax())] == "I-VERB", "of the same kind as what it goes on with"


@pytest.mark.parametrize("text", ["", "  \n", "\u3000"])
def test_a_text_without_units_has_no_labels_and_no_loss(text: str) -> None:
    model = made()
    inputs = padded(text)
    assert not model(**inputs).logits.any()
    assert not model.path_loss(labels=labels_for(inputs), **inputs).any()


def test_a_character_cut_in_two_is_read_as_bytes() -> None:
    model = made()
    ids = torch.tensor([[CLS, *(byte + 3 for byte in "好好".encode()[:-1]), SEP]])
    assert model(input_ids=ids).logits.isfinite().all()


def test_it_learns_what_it_is_shown() -> None:
    model = made(dropout=0.0).train()
    inputs = padded("cats sleep", "dogs run")
    labels = torch.zeros_like(inputs["input_ids"])
    for row, (first, second) in enumerate(((1, 6), (1, 6))):
        labels[row, first], labels[row, second] = 1, 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        loss = model.path_loss(labels=labels, **inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    told = model.eval()(**padded("cats run")).logits[0].argmax(-1)
    assert (LABELS[int(told[1])], LABELS[int(told[6])]) == ("B-NOUN", "B-VERB")


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = made(window=2)
    model.save_pretrained(tmp_path)
    states_of.cache_clear()  # as in a process that has made no network yet
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    inputs = padded("Cats sleep.")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_other_labels_than_it_was_saved_with_begin_anew(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path)
    torch.full((10_000,), float("nan"))  # what memory that is not written to may hold
    loaded = AutoModelForTokenClassification.from_pretrained(
        tmp_path, id2label={0: "O", 1: "B-PLACE", 2: "I-PLACE"}, ignore_mismatched_sizes=True
    )
    for scores in (loaded.transitions, loaded.starts, loaded.ends):
        assert not scores.any()
    assert torch.equal(loaded.features.weight, made().features.weight)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"dictionary": "other"}, "dictionary must be jieba"), ({"num_buckets": 9}, "num_buckets")],
)
def test_sizes_that_are_none_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=said):
        CrfConfig(**values)
