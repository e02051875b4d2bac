from random import Random

import pytest

from llmos.starter.grammar import (
    Entry,
    GrammarError,
    Lexicon,
    Template,
    is_held_out,
    load_lexicon,
    parse_extra,
    render,
    samples,
    split_of,
    stable_fraction,
)

KNIFE = Entry("tool", "knife", "刀", {"pl": "knives", "cl": "把"})
APPLE = Entry("food", "apple", "苹果", {})
SHE = Entry("who", "she", "她", {"poss": "her", "obj": "her"})
THEY = Entry("who", "they", "他们", {"agr": "2", "poss": "their", "obj": "them"})
COOK = Entry("act", "cook dinner", "做晚饭", {})
LEXICON = Lexicon([KNIFE, APPLE, SHE, THEY, COOK])


@pytest.mark.parametrize(
    ("entry", "form", "expected"),
    [
        (APPLE, "a", "an apple"),
        (APPLE, "pl", "apples"),
        (KNIFE, "pl", "knives"),
        (KNIFE, "a", "a knife"),
        (COOK, "s", "cooks dinner"),
        (COOK, "past", "cooked dinner"),
        (COOK, "ing", "cooking dinner"),
        (SHE, "be", "is"),
        (THEY, "was", "were"),
        (THEY, "poss", "their"),
        (Entry("act", "mop the floor", "拖地", {}), "past", "mopped the floor"),
        (Entry("act", "go home", "回家", {}), "done", "gone home"),
        (Entry("act", "write code", "写代码", {}), "ing", "writing code"),
        (Entry("act", "study", "学习", {}), "s", "studies"),
        (Entry("who", "my parents", "我父母", {"agr": "2"}), "poss", "my parents'"),
        (Entry("is", "big", "大", {"er": "bigger"}), "est", "biggest"),
        (Entry("is", "useful", "有用", {}), "er", "more useful"),
        (Entry("food", "hour", "小时", {}), "a", "an hour"),
        (Entry("food", "university", "大学", {}), "a", "a university"),
        (Entry("food", "beef", "牛肉", {"mass": "1"}), "any", "beef"),
    ],
)
def test_english_words_take_their_forms(entry: Entry, form: str, expected: str) -> None:
    assert entry.inflect("en", [form]) == expected


@pytest.mark.parametrize(
    ("entry", "form", "expected"),
    [
        (APPLE, "a", "一个苹果"),
        (KNIFE, "a", "一把刀"),
        (KNIFE, "cl", "把"),
        (COOK, "le", "做了晚饭"),
        (COOK, "guo", "做过晚饭"),
        (Entry("act", "clean", "打扫房间", {"v": "打扫"}), "le", "打扫了房间"),
        (Entry("is", "useful", "有用", {}), "neg", "没有用"),
        (Entry("is", "big", "大", {}), "neg", "不大"),
    ],
)
def test_chinese_words_take_measure_words_and_aspect(
    entry: Entry, form: str, expected: str
) -> None:
    assert entry.inflect("zh", [form]) == expected


def test_forms_apply_in_turn() -> None:
    assert APPLE.inflect("en", ["a", "cap"]) == "An apple"


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(GrammarError, match=r"no form \.wrong"):
        APPLE.inflect("en", ["wrong"])


def test_verbs_agree_with_the_slot_they_name() -> None:
    pattern = "{s:who} {v:act@s} and {like@s} {s.poss} {f:food.pl}."
    fillers = {"s": SHE, "v": COOK, "f": APPLE}
    assert render(pattern, fillers, "en").text == "She cooks dinner and likes her apples."
    fillers["s"] = THEY
    assert render(pattern, fillers, "en").text == "They cook dinner and like their apples."


def test_spans_say_where_the_fillers_stand() -> None:
    rendering = render(
        "{s:who} {v:act.past} with {t:tool.a}.", {"s": SHE, "v": COOK, "t": KNIFE}, "en"
    )
    assert [rendering.text[span.start : span.end] for span in rendering.spans] == [
        "She",
        "cooked dinner",
        "a knife",
    ]


@pytest.mark.parametrize(
    "pattern", ["{f}", "{f.pl}", "{eat@s}", "{f:food} {g}", "{f:food", "f:food}"]
)
def test_a_malformed_template_is_an_error(pattern: str) -> None:
    with pytest.raises(GrammarError):
        Template.parse("t", {"en": pattern})


def test_an_unknown_category_is_an_error() -> None:
    with pytest.raises(GrammarError, match="nowhere"):
        LEXICON.fillers("food|nowhere")


def test_extra_reads_pairs_and_flags() -> None:
    assert parse_extra("pl=knives;cl=把;mass") == {"pl": "knives", "cl": "把", "mass": "1"}


def test_stable_fraction_never_changes() -> None:
    assert stable_fraction("template", "greetings-001") == pytest.approx(0.251559820, abs=1e-9)


def test_a_slot_pair_never_says_the_same_thing_twice() -> None:
    template = Template.parse("t", {"en": "{a:who} and {b:who}"})
    random = Random(0)
    texts = {
        sample.renderings["en"].text
        for sample in samples([template], LEXICON, "train", random.randrange(9), 20)
    }
    assert texts <= {"She and they", "They and she"}


def test_samples_are_the_same_for_the_same_seed() -> None:
    templates = [Template.parse(f"t{i}", {"en": f"{i} {{x:food|tool.pl}}"}) for i in range(20)]

    def texts(seed: int) -> list[str]:
        return [
            sample.renderings["en"].text
            for sample in samples(templates, LEXICON, "train", seed, 30)
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_every_combination_belongs_to_one_split() -> None:
    lexicon = Lexicon(Entry("n", f"word{i}", f"词{i}", {}) for i in range(500))
    templates = [Template.parse(f"t{i}", {"en": "{x:n} " + str(i)}) for i in range(50)]
    texts = {
        split: {
            sample.renderings["en"].text for sample in samples(templates, lexicon, split, 0, 2000)
        }
        for split in ("train", "validation", "test_combinations", "test_templates")
    }
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    assert 0.02 < sum(is_held_out(template.id) for template in templates) / 50 < 0.25
    for split in texts:
        for sample in samples(templates, lexicon, split, 7, 50):
            assert split_of(sample.template, sample.renderings) == split


def test_test_splits_stop_when_no_combination_is_left() -> None:
    lexicon = Lexicon(Entry("n", f"word{i}", f"词{i}", {}) for i in range(40))
    templates = [Template.parse(f"t{i}", {"en": "{x:n} " + str(i)}) for i in range(5)]
    found = [
        sample.renderings["en"].text
        for sample in samples(templates, lexicon, "test_combinations", 0, 1000)
    ]
    assert 0 < len(found) < 40
    assert len(found) == len(set(found))


def test_the_lexicon_speaks_both_languages() -> None:
    lexicon = load_lexicon()
    entries = [entry for entries in lexicon.categories.values() for entry in entries]
    assert len({(entry.en, entry.zh) for entry in entries}) >= 2000
    assert all(entry.en.strip() == entry.en != "" for entry in entries)
    assert all(entry.zh.strip() == entry.zh != "" for entry in entries)
    for category, members in lexicon.categories.items():
        assert len({(entry.en, entry.zh) for entry in members}) == len(members), category
