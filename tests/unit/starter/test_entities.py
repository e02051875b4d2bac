"""Entity records mark the right characters, in every split and language."""

import re
from collections import Counter

import pytest

from llmos.starter import entities
from llmos.starter.entities import Record, records, unmark
from llmos.starter.grammar import Split, read_tsv

SPLITS: tuple[Split, ...] = ("train", "validation", "test_combinations", "test_templates")
TESTS: tuple[Split, ...] = ("test_combinations", "test_templates")


def marked(record: Record) -> list[tuple[str, str]]:
    return [(record["text"][e["start"] : e["end"]], e["label"]) for e in record["entities"]]


def key(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


@pytest.mark.parametrize("split", SPLITS)
def test_same_arguments_give_the_same_records(split: Split) -> None:
    first = list(records(split, 3, 24))
    assert first == list(records(split, 3, 24))
    assert first != list(records(split, 4, 24))


@pytest.mark.parametrize("split", ("train", *TESTS))
def test_rows_are_counted_and_balanced_by_language(split: Split) -> None:
    assert Counter(row["lang"] for row in records(split, 0, 300)) == {"en": 150, "zh": 150}


def test_no_test_sentence_is_trained_on() -> None:
    trained = {key(row["text"]) for row in records("train", 0, 3000)}
    for split in TESTS:
        assert not trained & {key(row["text"]) for row in records(split, 0, 300)}


def test_spans_lie_in_the_text_in_order_and_apart() -> None:
    for row in records("train", 1, 1000):
        end = 0
        for entity in row["entities"]:
            assert end <= entity["start"] < entity["end"] <= len(row["text"])
            assert entity["label"] in entities.LABELS
            end = entity["end"]
        assert all(name == name.strip() for name, _ in marked(row))
        assert not re.search(r"[{}<>⟨⟩|\[\]]", row["text"]), row


@pytest.mark.parametrize("language", entities.LANGUAGES)
def test_each_label_occurs_and_some_sentences_have_none(language: str) -> None:
    rows = [row for row in records("train", 0, 1000) if row["lang"] == language]
    labels = {label for row in rows for _, label in marked(row)}
    assert labels == set(entities.LABELS)
    assert 0.02 < sum(not row["entities"] for row in rows) / len(rows) < 0.3


def test_a_preposition_stays_outside_its_date() -> None:
    text, found = unmark("⟨PERSON:Alice⟩ sings on ⟨DATE:Monday⟩.")
    assert text == "Alice sings on Monday."
    assert found == [
        {"start": 0, "end": 5, "label": "PERSON"},
        {"start": 15, "end": 21, "label": "DATE"},
    ]


def test_an_abbreviation_needs_no_second_full_stop() -> None:
    text, found = unmark("It is ⟨TIME:8 p.m.⟩.")
    assert text == "It is 8 p.m."
    assert text[found[0]["start"] : found[0]["end"]] == "8 p.m."


def test_there_are_many_templates_in_each_language() -> None:
    names = [(language, name) for name, language, _ in read_tsv("entities")]
    assert all(sum(lang == wanted for lang, _ in names) >= 120 for wanted in entities.LANGUAGES)
    assert len(names) == len(set(names))


def test_a_flight_from_city_to_city_is_an_ordinary_sentence() -> None:
    assert "<PERSON> flew from <PLACE> to <PLACE> <PAST>." in {
        sentence for _, _, sentence in read_tsv("entities")
    }
