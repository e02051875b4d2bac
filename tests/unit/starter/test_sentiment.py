"""Sentiment records are balanced, split cleanly, and not decided by a single word."""

import re
from collections import Counter
from itertools import product

import pytest

from llmos.starter import sentiment
from llmos.starter.grammar import Split, is_held_out, load_lexicon, render
from llmos.starter.sentiment import records

SPLITS: tuple[Split, ...] = ("train", "validation", "test_combinations", "test_templates")
TESTS: tuple[Split, ...] = ("test_combinations", "test_templates")


def key(text: str) -> str:
    """What is left of a sentence when its looks are not counted."""
    return re.sub(r"\W", "", text).lower()


@pytest.mark.parametrize("split", SPLITS)
def test_same_arguments_give_the_same_records(split: Split) -> None:
    first = list(records(split, 3, 24))
    assert first == list(records(split, 3, 24))
    assert first != list(records(split, 4, 24))


@pytest.mark.parametrize("split", ("train", *TESTS))
def test_rows_are_counted_and_balanced_by_language_and_label(split: Split) -> None:
    rows = list(records(split, 0, 120))
    counts = Counter((row["lang"], row["label"]) for row in rows)
    assert counts == dict.fromkeys(product(sentiment.LANGUAGES, sentiment.LABELS), 20)


def test_no_test_sentence_is_trained_on() -> None:
    trained = {key(row["text"]) for row in records("train", 0, 3000)}
    for split in TESTS:
        assert not trained & {key(row["text"]) for row in records(split, 0, 300)}


def test_every_slot_is_filled() -> None:
    for split in SPLITS:
        for row in records(split, 1, 120):
            assert row["text"].strip() == row["text"] != ""
            assert not re.search(r"[{}<>$|]", row["text"]), row


def test_there_are_many_templates_in_each_language() -> None:
    for language in sentiment.LANGUAGES:
        names = {
            template.id
            for label in sentiment.LABELS
            for template in sentiment.load_templates()[language, label]
        }
        assert len(names) >= 120
        assert 0.05 < sum(map(is_held_out, names)) / len(names) < 0.15


def test_words_of_praise_and_blame_stand_under_every_label() -> None:
    rows = list(records("train", 0, 30_000))  # as many as the recipe takes
    for word in ("delicious", "boring", "awful", "好吃", "无聊"):
        assert {row["label"] for row in rows if word in row["text"]} == set(sentiment.LABELS)


def test_a_good_restaurant_is_an_ordinary_combination() -> None:
    wanted = "这家餐厅很好吃。"
    fillers = {entry.zh: entry for entry in load_lexicon().fillers("food_thing|food_good")}
    chosen = {"x": fillers["餐厅"], "a": fillers["好吃"]}
    assert wanted in {
        render(template.patterns["zh"], chosen, "zh").text
        for template in sentiment.load_templates()["zh", "positive"]
        if set(template.slots) == set(chosen)
    }
