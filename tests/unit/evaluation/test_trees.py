from __future__ import annotations

import pytest

from llmos.data.trees import Parsed
from llmos.evaluation.trees import Tree, attachment

GOLD = Parsed(
    ("He", "was", "seen", "."),
    (3, 3, 0, 3),
    ("nsubj:pass", "aux:pass", "root", "punct"),
    ("PRON", "AUX", "VERB", "PUNCT"),
)


def test_words_are_counted_with_and_without_punctuation() -> None:
    told = Tree([3, 1, 0, 2], ["nsubj", "aux", "root", "punct"], ["PRON", "VERB", "VERB", "PUNCT"])
    assert attachment([told], [GOLD]) == {
        "uas": 0.5,
        "las": 0.5,
        "uas_without_punctuation": pytest.approx(2 / 3),
        "las_without_punctuation": pytest.approx(2 / 3),
        "upos": 0.75,
    }


def test_a_head_with_another_relation_counts_for_one_score() -> None:
    told = Tree(GOLD.heads, ["obj", "aux:pass", "root", "punct"], GOLD.tags)
    found = attachment([told], [GOLD])
    assert (found["uas"], found["las"]) == (1.0, 0.75)


def test_means_are_of_words_and_not_of_sentences() -> None:
    short = Parsed(("Go",), (0,), ("root",), ("VERB",))
    told = [Tree([1, 1, 1, 1], GOLD.relations, GOLD.tags), Tree([0], ["root"], ["VERB"])]
    assert attachment(told, [GOLD, short])["uas"] == 1 / 5


def test_without_parts_of_speech_relations_tell_punctuation() -> None:
    gold = Parsed(GOLD.words, GOLD.heads, GOLD.relations)
    told = Tree([3, 3, 0, 1], GOLD.relations, GOLD.tags)
    found = attachment([told], [gold])
    assert (found["uas"], found["uas_without_punctuation"], found["upos"]) == (0.75, 1.0, 0.0)


def test_other_words_than_the_gold_ones_are_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="argument"):
        attachment([Tree([0], ["root"], ["VERB"])], [GOLD])
