from __future__ import annotations

import pytest

from llmos.data.trees import to_parsed
from llmos.starter import tagged
from llmos.starter.grammar import samples

TAGS = {
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN"),
    *("NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "VERB"),
}


@pytest.mark.parametrize("language", tagged.LANGUAGES)
def test_every_word_has_a_tag_and_stands_in_the_text(language: str) -> None:
    found = list(tagged.records(language, "train", 0, 300))
    assert len(found) == 300
    for record in found:
        assert len(record["tokens"]) == len(record["upos"])
        assert set(record["upos"]) <= TAGS, record
        assert "".join(record["tokens"]) == record["text"].replace(" ", "")
        assert "/" not in record["text"] and "{" not in record["text"]


@pytest.mark.parametrize("language", tagged.LANGUAGES)
def test_every_template_can_be_filled(language: str) -> None:
    templates = tagged.load_templates(language)
    assert len(templates) >= 30
    splits = ("train", "test_templates")
    seen = {
        one.template.id
        for split in splits
        for one in samples(templates, tagged.load_lexicon(), split, 0, 3 * len(templates))
    }
    assert seen == {template.id for template in templates}


def test_a_filler_of_several_words_has_its_tag_on_each() -> None:
    record = tagged.unmarked("New York/PROPN sleeps/VERB ./PUNCT", "2:nsubj 0:root 2:punct", "en")
    assert record["tokens"] == ["New", "York", "sleeps", "."]
    assert record["upos"] == ["PROPN", "PROPN", "VERB", "PUNCT"]
    assert record["text"] == "New York sleeps."
    assert record["heads"] == [3, 1, 0, 3]
    assert record["deprel"] == ["nsubj", "flat", "root", "punct"]


def test_the_last_word_of_a_common_noun_holds_the_others() -> None:
    marked = "The/DET coffee table/NOUN fell/VERB"
    record = tagged.unmarked(marked, "2:det 3:nsubj 0:root", "en")
    assert record["heads"] == [3, 3, 4, 0]
    assert record["deprel"] == ["det", "compound", "nsubj", "root"]


@pytest.mark.parametrize("language", tagged.LANGUAGES)
def test_every_sentence_has_a_tree(language: str) -> None:
    for record in tagged.records(language, "train", 0, 200):
        parsed = to_parsed(record, "a row")
        assert parsed.tags == tuple(record["upos"])
        assert parsed.relations[parsed.heads.index(0)] == "root"
