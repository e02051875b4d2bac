from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmos.data.record import Annotated, Entity, Labelled, Pair
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.evaluation import evaluate

WORDS = ["alice", "lives", "in", "new", "york", "now", "good", "bad"]
CLASSIFY = train_byte_bpe([" ".join(WORDS)] * 9, specials_of("classify"), 500, Splitting())


class Oracle:
    """Stands in for a model: says what a table holds for the words it reads."""

    device = torch.device("cpu")
    config = SimpleNamespace(pad_token_id=0)

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        assert attention_mask.sum(-1).min() > 0
        return SimpleNamespace(logits=self.answer(input_ids))


def word_ids(*words: str) -> list[int]:
    return [i for word in words for i in CLASSIFY.encode(word, add_special_tokens=False).ids]


def test_entities_are_scored_by_exact_span() -> None:
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    table = torch.zeros(CLASSIFY.get_vocab_size(), dtype=torch.long)
    table[word_ids("alice")] = 1
    table[word_ids(" new")] = 3
    table[word_ids(" york")] = 4
    table[word_ids(" now")] = 3
    oracle: Any = Oracle(lambda ids: torch.nn.functional.one_hot(table[ids], 5).float() * 9)
    records = [
        Annotated("alice lives in new york", (Entity(0, 5, "PER"), Entity(15, 23, "LOC"))),
        Annotated("alice lives now", (Entity(0, 5, "PER"),)),
    ]
    found = evaluate.entities(oracle, CLASSIFY, records, tags)
    assert found["precision"] == 3 / 4 and found["recall"] == 1 and found["rows"] == 2
    assert found["f1"] == pytest.approx(6 / 7)


def test_classes_come_back_in_the_order_of_their_records() -> None:
    good = word_ids("good")[0]
    oracle: Any = Oracle(
        lambda ids: torch.stack([(ids == good).any(-1), (ids != good).all(-1)], -1).float()
    )
    records = [Labelled("good", "yes"), Labelled("bad bad bad", "no"), Labelled("bad", "yes")]
    found = evaluate.classification(oracle, CLASSIFY, records, ["yes", "no"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1_by_class"] == pytest.approx({"yes": 2 / 3, "no": 2 / 3})


class Copier(Oracle):
    """Translates by saying the source again."""

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options["do_sample"] is False and options["num_beams"] == 1
        return input_ids


def test_bleu_is_told_apart_by_direction() -> None:
    tokenizer = train_byte_bpe(
        ["hello there 你好吗"] * 9, specials_of("translate"), 400, Splitting()
    )
    pairs = [
        Pair("hello there my friend", "hello there my friend", "zh", "en"),
        Pair("你好吗", "再见了", "en", "zh"),
    ]
    sources = [pair.source for pair in pairs]
    found = evaluate.translation(Copier(None), tokenizer, pairs, sources, 9)  # type: ignore[arg-type]
    assert found["bleu_zh_en"] == pytest.approx(100) and found["bleu_en_zh"] < 20
    assert "tok:zh" in found["bleu_en_zh_signature"] and found["exact_match"] == 0.5
