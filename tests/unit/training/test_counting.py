"""Kneser-Ney against the paper's equations, written plainly with dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.training.tiny import make_job

from llmos.data.sources import starter_text
from llmos.errors import CancelledError, RecipeError
from llmos.kernel.protocol import JobMetric
from llmos.models.ngram import NgramConfig
from llmos.training import handler
from llmos.training.counting import FALLBACK_DISCOUNTS, count, discounts, model_of
from llmos.training.recipe import dump, parse

Gram = tuple[str, ...]


class Reference:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1998, equations 24 to 30).

    The order below the longest counts the different words that stand before an n-gram; below single
    words all of the vocabulary are alike.
    """

    def __init__(self, words: list[str], vocabulary: set[str], order: int) -> None:
        self.vocabulary, self.order = vocabulary, order
        self.counts: list[Counter[Gram]] = []
        for n in range(1, order + 1):
            own = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            if n < order:
                longer = {tuple(words[i : i + n + 1]) for i in range(len(words) - n)}
                own = Counter(gram[1:] for gram in longer)
            self.counts.append(own)
        self.discounts = [self._discounts(counts) for counts in self.counts]
        self.followers: list[dict[Gram, list[int]]] = []
        for counts in self.counts:
            followers: dict[Gram, list[int]] = defaultdict(list)
            for gram, number in counts.items():
                followers[gram[:-1]].append(number)
            self.followers.append(followers)

    @staticmethod
    def _discounts(counts: Counter[Gram]) -> list[float]:
        n = Counter(counts.values())
        if not (n[1] and n[2] and n[3] and n[4]):
            return [0.0, 0.5, 1.0, 1.5]
        y = n[1] / (n[1] + 2 * n[2])
        found = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
        if any(d <= 0 for d in found):
            return [0.0, 0.5, 1.0, 1.5]
        return [0.0, *found]

    def probability(self, word: str, context: Gram) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        n = len(context) + 1
        lower = self.probability(word, context[1:]) if context else 1 / len(self.vocabulary)
        seen = self.followers[n - 1].get(context)
        if not seen:
            return lower
        own, taken = self.counts[n - 1][(*context, word)], self.discounts[n - 1]
        free = sum(taken[min(number, 3)] for number in seen)
        return (max(own - taken[min(own, 3)], 0) + free * lower) / sum(seen)

    def perplexity(self, words: list[str]) -> float:
        logs = [
            math.log(self.probability(word, tuple(words[max(0, i - self.order + 1) : i])))
            for i, word in enumerate(words)
            if i > 0
        ]
        return math.exp(-sum(logs) / len(logs))


def english() -> list[str]:
    return starter_text("tales").lower().split()


def chinese() -> list[str]:
    from llmos.data.sources import starter_rows

    rows = starter_rows("translation", "train", 0, 600)
    texts = [row["target"] if row["target_lang"] == "zh" else row["source"] for _, row in rows]
    return list("".join(texts))


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("read", [english, chinese])
def test_perplexity_is_that_of_the_equations(read: type, order: int) -> None:
    words: list[str] = read()
    vocabulary = sorted({*words, "<unseen>"})
    ids = {word: i for i, word in enumerate(vocabulary)}
    cut = len(words) * 9 // 10
    numbers = np.array([ids[word] for word in words])
    counts = count(numbers[:cut], order, len(vocabulary), lambda: None)
    model = model_of(counts, NgramConfig(order=order, vocab_size=len(vocabulary)))
    asked = torch.from_numpy(numbers[cut:])[None, :400]
    with torch.inference_mode():
        loss = float(model(asked, labels=asked).loss)
    reference = Reference(words[:cut], set(vocabulary), order)
    expected = reference.perplexity(words[cut : cut + 400])
    assert math.exp(loss) == pytest.approx(expected, rel=1e-4), "the promise is 0.1%"


def test_discounts_follow_from_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 12, 6, 3, 5])
    y = 40 / (40 + 24)
    expected = (1 - 2 * y * 12 / 40, 2 - 3 * y * 6 / 12, 3 - 4 * y * 3 / 6)
    assert discounts(counts) == pytest.approx(expected)


@pytest.mark.parametrize(
    "counts", [[], [5, 6], [1, 1, 2, 3], np.repeat([1, 2, 3, 4], [1, 1, 9, 9])]
)
def test_discounts_that_the_counts_do_not_give_are_fixed(counts: list[int]) -> None:
    assert discounts(np.array(counts, dtype=np.int64)) == FALLBACK_DISCOUNTS


def ngram_recipe(**changes: object) -> dict[str, object]:
    return {
        "name": "tiny",
        "task": "generate",
        "model": {"architecture": "ngram", "config": {"order": 4}},
        "tokenizer": {"kind": "character"},
        "data": {"path": "starter:tales"},
        "block_size": 32,
        **changes,
    }


def test_a_job_counts_and_publishes(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, ngram_recipe())
    result = handler.run(context)
    metrics = [message for message in sent if isinstance(message, JobMetric)]
    assert [metric.step for metric in metrics] == [1, 2, 3, 4]
    losses = [metric.values["validation_loss"] for metric in metrics]
    assert losses == sorted(losses, reverse=True), "longer is better, on this text"
    version = result.artifacts[0]
    assert version.manifest["model_type"] == "ngram"
    assert version.manifest["metrics"]["perplexity"] < 6
    assert "model.safetensors" in version.files


def test_a_killed_job_is_made_anew_to_the_same_bits(tmp_path: Path) -> None:
    whole = handler.run(make_job(tmp_path / "whole", ngram_recipe())[0])
    context, _ = make_job(tmp_path / "killed", ngram_recipe())
    send = context._send

    def cancel(message: object) -> None:
        send(message)  # type: ignore[arg-type]
        if isinstance(message, JobMetric) and message.step == 2:
            raise CancelledError

    context._send = cancel
    with pytest.raises(CancelledError):
        handler.run(context)
    again = handler.run(make_job(tmp_path / "killed", ngram_recipe())[0])
    files = [result.artifacts[0].files for result in (whole, again)]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 9}, "is counted, and takes no steps: leave it out"),
        ({"optimizer": {"learning_rate": 0.1}}, "takes no optimizer"),
        ({"ema": 0.9}, "takes no ema"),
        ({"save_dtype": "bfloat16"}, "takes no save_dtype"),
        ({"model": {"architecture": "ngram", "config": {"order": 9}}}, "order must be 1 to 6"),
        ({"model": {"architecture": "ngram", "config": {"ordr": 2}}}, "did you mean order"),
        ({"task": "chat"}, "is for task generate"),
    ],
)
def test_what_counting_has_no_use_for_is_refused(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says):
        handler.run(make_job(tmp_path, ngram_recipe(**changes))[0])


def test_a_recipe_is_read_as_it_was_written() -> None:
    import yaml

    recipe = parse(ngram_recipe())
    assert parse(yaml.safe_load(dump(recipe))) == recipe
