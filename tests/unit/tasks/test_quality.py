"""What metrics say of a model's quality, as a number from 0 to 1, or nothing."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import pytest

from llmos.kernel.router import PRIOR_QUALITY
from llmos.tasks.quality import Quality, comparable, prior, quality


def starter(name: str) -> dict[str, Any]:
    path = files("llmos") / "starter" / "models" / f"starter-{name}" / "manifest.json"
    metrics: dict[str, Any] = json.loads(path.read_text())["metrics"]
    return metrics


@pytest.mark.parametrize(
    ("name", "task", "metric", "split"),
    [
        ("sentiment", "classify", "f1", "test_templates"),
        ("entities", "entities", "f1", "test_templates"),
    ],
)
def test_of_the_starter_models_splits_the_hardest_counts(
    name: str, task: str, metric: str, split: str
) -> None:
    metrics = starter(name)
    assert quality(metrics, task) == Quality(metrics[split][metric], metric)


def test_a_translation_has_the_quality_of_its_language_pair() -> None:
    metrics = starter("translate")
    hard = metrics["test_templates"]
    found = quality(metrics, "translate", "en_zh")
    assert found == Quality(hard["bleu_en_zh"] / 100, "bleu")
    mean = (hard["bleu_en_zh"] + hard["bleu_zh_en"]) / 200
    assert quality(metrics, "translate") == Quality(pytest.approx(mean), "bleu")


def test_of_a_pair_nobody_measured_only_what_is_about_all_is_said() -> None:
    metrics = {"test": {"bleu_en_zh": 40.0}}
    assert quality(metrics, "translate", "de_fr") is None
    assert quality({"test": {"bleu": 30.0}}, "translate", "de_fr") == Quality(0.3, "bleu")
    both = {"test": {"bleu": 30.0, "bleu_de_fr": 20.0}}
    assert quality(both, "translate", "de_fr") == Quality(0.2, "bleu")


def test_numbers_outside_a_split_count_where_no_split_has_any() -> None:
    assert quality({"accuracy": 0.9}, "classify") == Quality(0.9, "accuracy")
    metrics = {"accuracy": 0.9, "hard": {"accuracy": 0.5}}
    assert quality(metrics, "classify") == Quality(0.5, "accuracy")


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"accuracy": "0.9"},
        {"accuracy": True},
        {"accuracy": 90.0},
        {"accuracy": -0.1},
        {"accuracy": math.nan},
        {"quantization": {"top1_agreement": 0.99}},
        {"test": {"f1_by_class": {"a": 0.9}, "rows": 10}},
        {"validation_loss": 0.1},
    ],
)
def test_what_says_nothing_of_quality_is_unknown(metrics: dict[str, Any]) -> None:
    assert quality(metrics, "classify", data=["d"]) is None


def test_a_loss_is_the_mean_probability_of_the_right_token_and_names_its_data() -> None:
    metrics = {"validation_loss": 0.5, "perplexity": math.exp(0.5)}
    found = quality(metrics, "chat", data=["starter:chat"])
    assert found == Quality(math.exp(-0.5), "loss", {("starter:chat",): math.exp(-0.5)})
    assert quality({**metrics, "test": {"loss": 1.0}}, "chat", data=["d"]) == Quality(
        math.exp(-1.0), "loss", {("d",): math.exp(-1.0)}
    )
    since = quality(metrics, "chat", data=["d"], losses={("e", "t"): 1.0})
    both = {("d",): math.exp(-0.5), ("e", "t"): math.exp(-1.0)}
    assert since == Quality(math.exp(-1.0), "loss", both)
    assert quality({}, "chat", losses={("e", "t"): 0.0}) == Quality(1.0, "loss", {("e", "t"): 1.0})
    assert quality({"test": {"accuracy": 0.5}}, "chat", losses={("e",): 0.0}) == Quality(
        0.5, "accuracy"
    )
    assert quality(metrics, "chat") is None
    assert quality(metrics, "translate", data=["d"]) is None


def test_losses_are_compared_on_the_same_data_alone() -> None:
    one, same = Quality(0.9, "loss", {("a",): 0.9}), Quality(0.8, "loss", {("a",): 0.8})
    other, share = Quality(0.7, "loss", {("b",): 0.7}), Quality(0.6, "accuracy")
    several = Quality(0.1, "loss", {("a",): 0.5, ("b",): 0.1})
    assert comparable([one, several]) == [0.9, 0.5]
    assert comparable([other, several]) == [0.7, 0.1]
    assert comparable([several, several]) == [0.1, 0.1]
    assert comparable([one, other, several]) == [None, None, None]
    assert comparable([one, same]) == [0.9, 0.8]
    assert comparable([one, other]) == [None, None]
    assert comparable([one, share]) == [None, 0.6]
    assert comparable([one, same, None]) == [None, None, None]
    assert comparable([one]) == [None]
    assert comparable([share, None]) == [0.6, None]
    assert comparable([]) == []


def test_of_unmeasured_language_models_the_larger_is_taken_to_be_better() -> None:
    small, large = prior("chat", 4_000_000), prior("chat", 7_000_000_000)
    assert 0.2 <= small < PRIOR_QUALITY < large <= 0.8
    assert prior("chat", 0) == prior("classify", 7_000_000_000) == PRIOR_QUALITY
    assert prior("generate", 10**15) == 0.8
