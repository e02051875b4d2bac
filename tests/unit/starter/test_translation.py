import re
from itertools import pairwise

import pytest

from llmos.starter.grammar import Split, load_lexicon
from llmos.starter.translation import load_templates, records

TEST_SPLITS: tuple[Split, ...] = ("test_combinations", "test_templates")
CJK = re.compile("[\u4e00-\u9fff]")


def test_there_are_many_template_pairs_with_their_own_ids() -> None:
    templates = load_templates()
    assert len(templates) >= 400
    assert len({template.id for template in templates}) == len(templates)
    assert len({template.patterns["en"] for template in templates}) == len(templates)


def test_every_category_a_template_names_exists() -> None:
    for template in load_templates():
        for union in template.slots.values():
            assert load_lexicon().fillers(union)


@pytest.mark.parametrize("split", ["train", "validation", *TEST_SPLITS])
def test_records_come_in_the_number_asked_and_both_directions(split: Split) -> None:
    rows = list(records(split, seed=0, rows=301))
    assert len(rows) == 301
    assert {(row["source_lang"], row["target_lang"]) for row in rows} == {
        ("en", "zh"),
        ("zh", "en"),
    }
    for one, other in list(pairwise(rows))[::2]:
        assert (one["source"], one["target"]) == (other["target"], other["source"])


def test_records_are_the_same_for_the_same_seed() -> None:
    assert list(records("train", 3, 500)) == list(records("train", 3, 500))
    assert list(records("train", 3, 500)) != list(records("train", 4, 500))


def test_sentences_are_whole_and_in_their_language() -> None:
    for row in records("train", 5, 6000):
        en, zh = (
            (row["source"], row["target"])
            if row["source_lang"] == "en"
            else (row["target"], row["source"])
        )
        assert not re.search(r"[{}|]|  ", en + zh)
        assert not CJK.search(en), en
        assert CJK.search(zh), zh
        assert en[0].isupper() or en[0] in "\"'" or en[0].isdigit(), en
        assert en[-1] in '.!?"', en
        assert zh[-1] in "。！？”", zh
        assert not re.search(r"[,.!?]", zh.replace(",", "")), zh


@pytest.mark.parametrize("split", TEST_SPLITS)
def test_no_test_row_is_trained_on(split: Split) -> None:
    held_out = {(row["source"], row["target"]) for row in records(split, 0, 600)}
    assert len(held_out) == 600
    trained = {(row["source"], row["target"]) for row in records("train", 0, 30_000)}
    assert not held_out & trained


def test_hello_world_is_an_ordinary_combination() -> None:
    [template] = [t for t in load_templates() if t.patterns["en"].startswith("Hello, {x:greeted")]
    assert "world" in {entry.en for entry in load_lexicon().fillers(template.slots["x"])}
