"""Operators: each example is true, each is what it promises to be: idempotent, without regard to
order, to other records, or to how many come at a time.
"""

from __future__ import annotations

import doctest
import random
from typing import Any

import pytest
from ftfy import TextFixerConfig, fix_text
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators import words
from llmos.data.pipeline import steps
from llmos.data.pipeline.operator import Collective, Mapper, Operator
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import (
    describe,
    described,
    find_operator,
    make_operator,
    operator_paths,
)
from llmos.data.pipeline.steps import apply, tried
from llmos.errors import PipelineError

NAMES = sorted(operator_paths())
MADE_ANEW = {name for name in NAMES if find_operator(name).group in ("augment", "synthesise")}
ALONE = {"tokenize", "pack", "conversations", "semantic_dedup"} | MADE_ANEW
"""Tested by themselves: what reads a model's files, makes rows of one or several, or is for other
fields than a text."""
TOGETHER = [name for name in NAMES if name not in ALONE]
OPTIONS: dict[str, dict[str, Any]] = {
    "regex_filter": {"pattern": r"\d"},
    "line_dedup": {"unit": "sentence", "least": 2},
    "sample": {"share": 0.5},
    "k_anonymity": {"fields": ["text"], "k": 2},
    "generalise": {"keep": 2},
    "gopher_quality": {"min_words": 3},
    "c4_lines": {"min_sentences": 1},
    "url_dedup": {"field": "text"},
    "decontaminate": {"texts": ["The cat sat", "一天。"], "ngram": 2},
    "language": {"keep": ["en", "zh"]},
    "blocklist": {"words": ["cat", "很好"]},
    "classifier_filter": {"model": "m", "keep": ["odd"]},
    "perplexity_filter": {"model": "m", "most": 20.0},
    "embed": {"model": "m"},
    "tag": {"model": "m"},
    "parse": {"model": "m"},
    "distance_filter": {"model": "m", "examples": ["cat"], "most": 0.5},
}
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text(" \t\n\r\u3000ａＡa。.!？你好的了,#…-•\u200b\x00\u00a01９", max_size=60),
    st.lists(
        st.sampled_from(
            ["The cat sat with the dog.", "这是很好的一天。", "Buy {now}!", "x", "", "-"]
        )
    ).map("\n".join),
)
TEXTS = st.lists(TEXT, max_size=12)


def answers(path: str, bodies: Any) -> list[dict[str, Any]]:
    """What a server answers whose models look at nothing but how long a text is."""
    return [ANSWERS[path](body) for body in bodies]


ANSWERS: dict[str, Any] = {
    "/api/v1/classify": lambda body: {
        "label": "odd" if len(body["text"]) % 2 else "even",
        "score": 0.9,
    },
    "/api/v1/entities": lambda body: {
        "entities": [{"text": body["text"], "label": "X", "start": 0, "end": len(body["text"])}]
    },
    "/api/v1/parse": lambda body: {
        "sentences": [
            {
                "words": [
                    {"text": word, "upos": "X", "head": number, "deprel": "dep"}
                    for number, word in enumerate(body["text"].split())
                ]
            }
        ]
    },
    "/tokenize": lambda body: {"tokens": list(range(len(body["prompt"]))), "max_model_len": 40},
    "/v1/completions": lambda body: {
        "choices": [
            {"logprobs": {"token_logprobs": [None, *(-0.1 * n for n in body["prompt"][1:])]}}
        ]
    },
    "/v1/embeddings": lambda body: {
        "data": [{"embedding": [1.0, len(text) % 3]} for text in body["input"]]
    },
}


def made(name: str) -> Operator[Any]:
    operator = make_operator(name, OPTIONS.get(name, {}), 0)
    operator.ask = answers
    return operator


def records_of(texts: list[str]) -> list[Record]:
    return [Record(f"r{number}", {"text": text}) for number, text in enumerate(texts)]


def outcome(name: str, records: list[Record]) -> dict[str, tuple[str, str]]:
    """What becomes of each record, by its id."""
    done = apply([made(name)], records)
    found = {one.id: ("kept", one.text()) for one in done.records}
    found |= {row["id"]: ("dropped", row["reason"]) for row in done.outcome.dropped}
    found |= {row["id"]: ("rejected", row["reason"]) for row in done.outcome.rejected}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_an_operator_is_true(name: str) -> None:
    kind = find_operator(name)
    examples = doctest.DocTestFinder(recurse=False).find(
        kind, extraglobs={kind.__name__: kind, "tried": tried, "apply": apply, "Record": Record}
    )
    assert sum(len(one.examples) for one in examples) >= 1
    report: list[str] = []
    for one in examples:
        doctest.DocTestRunner().run(one, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_says_what_it_is(name: str) -> None:
    told = describe(name)
    assert told["summary"] and told["example"].startswith(">>> ")
    assert all(option["meaning"] for option in told["options"]), told["options"]


@pytest.mark.parametrize("name", TOGETHER)
@given(texts=TEXTS)
@settings(max_examples=40, deadline=None)
def test_every_record_ends_somewhere_once(name: str, texts: list[str]) -> None:
    records = records_of(texts)
    done = apply([made(name)], records)
    ids = [one.id for one in done.records]
    ids += [row["id"] for row in (*done.outcome.dropped, *done.outcome.rejected)]
    assert sorted(ids) == sorted(f"r{number}" for number in range(len(texts)))
    assert not done.outcome.rejected, done.outcome.rejected
    (tally,) = done.tallies
    assert tally.read == len(texts) == tally.kept + sum(tally.dropped.values())
    assert tally.kept == len(done.records)


@pytest.mark.parametrize("name", TOGETHER)
@given(texts=TEXTS)
@settings(max_examples=40, deadline=None)
def test_what_an_operator_has_done_it_does_not_do_again(name: str, texts: list[str]) -> None:
    once = outcome(name, records_of(texts))
    left = [Record(key, {"text": text}) for key, (what, text) in once.items() if what == "kept"]
    assert outcome(name, left) == {one.id: ("kept", one.text()) for one in left}


@pytest.mark.parametrize(
    "name", [name for name in TOGETHER if not issubclass(find_operator(name), Collective)]
)
@given(texts=TEXTS, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_becomes_of_a_record_is_its_own_matter(name: str, texts: list[str], seed: int) -> None:
    together = outcome(name, records_of(texts))
    shuffled = records_of(texts)
    random.Random(seed).shuffle(shuffled)
    assert outcome(name, shuffled) == together
    alone = {one.id: outcome(name, [one])[one.id] for one in records_of(texts)}
    assert alone == together


@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_of_equal_texts_the_first_stays_wherever_the_others_are(texts: list[str]) -> None:
    kept = [one for one in outcome("exact_dedup", records_of(texts)).values() if one[0] == "kept"]
    assert [text for _, text in kept] == list(dict.fromkeys(texts))


def test_a_sample_is_about_its_share_and_smaller_ones_lie_in_larger() -> None:
    texts = [str(number) for number in range(4000)]
    drawn = {}
    for share in (0.1, 0.3):
        operator = make_operator("sample", {"share": share}, 7)
        drawn[share] = {one.text() for one in apply([operator], records_of(texts)).records}
        assert abs(len(drawn[share]) / len(texts) - share) < 0.03
    assert drawn[0.1] < drawn[0.3]


def test_a_pattern_that_takes_forever_rejects_the_text_and_no_other() -> None:
    options = {"pattern": r"(a|aa)+$", "timeout_s": 0.05}
    operator = make_operator("regex_filter", options, 0)
    found = apply([operator], records_of(["plain", "a" * 60 + "b", "aa"]))
    assert [row["id"] for row in found.outcome.rejected] == ["r1"]
    assert "TimeoutError" in found.outcome.rejected[0]["reason"]
    assert [one.id for one in found.records] == ["r0"] and found.outcome.dropped[0]["id"] == "r2"


ASCII = st.text(st.characters(max_codepoint=127), max_size=30)


@given(text=ASCII)
@settings(max_examples=300, deadline=None)
def test_the_short_ways_for_ascii_are_the_same(text: str) -> None:
    config = TextFixerConfig(uncurl_quotes=False, fix_character_width=False, explain=False)
    (fixed,) = tried(find_operator("fix_text")(), text)
    assert fixed == fix_text(text, config)
    assert words.words_of(text) == words.words_of(text + " 中")[:-1]


def test_messages_are_changed_and_judged_as_texts_are() -> None:
    turns = [{"role": "user", "content": "  Hi  "}, {"role": "assistant", "content": "你好 "}]
    record = Record("1", {"messages": turns, "n": 1})
    operators = [
        make_operator("whitespace", {"field": "messages"}, 0),
        make_operator("length", {"field": "messages", "least": 3}, 0),
    ]
    (kept,) = apply(operators, [record]).records
    assert [turn["content"] for turn in kept.fields["messages"]] == ["Hi", "你好"]
    assert turns[0]["content"] == "  Hi  "


def test_a_record_without_the_field_is_rejected_with_what_to_do() -> None:
    found = apply([make_operator("length", {}, 0)], [Record("1", {"body": "x"})])
    assert found.outcome.rejected[0]["reason"] == (
        "there is no text in 'text', only body: set the operator's `field`"
    )


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lenght", {}, "did you mean 'length'"),
        ("length", {"lest": 1}, "there is no option 'lest': its options are field, least"),
        ("length", {"least": "3"}, "least: Input should be a valid integer"),
        ("length", {"least": 5, "most": 3}, "most is below least"),
        ("regex_filter", {"pattern": "("}, "no regular expression"),
        ("sample", {}, "share: Field required"),
    ],
)
def test_a_wrong_option_is_told_by_name(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said.replace("(", r"\(")):
        make_operator(name, options, 0)


def test_mapping_operators_take_no_record_away() -> None:
    mappers = [name for name in NAMES if issubclass(find_operator(name), Mapper)]
    assert len(mappers) >= 5
    for name in mappers:
        found = apply([make_operator(name, {}, 0)], records_of(["", "a", "\x00"]))
        assert len(found.records) == 3


def test_gopher_judges_chinese_by_characters_and_english_by_words() -> None:
    chinese = "我们在学校里学习，老师是很好的人，这里有不少书。" * 3
    english = "We learn at the school, and the teacher is a good person to all of us. " * 4
    for text in (chinese, english):
        assert tried(find_operator("gopher_quality")(), text) == [text]
    assert "too few words" in tried(find_operator("gopher_quality")(), chinese[:20])[0]
    dashes = "\n".join(["- a bullet of the list and more"] * 20)
    assert "too many bullets" in tried(find_operator("gopher_quality")(), dashes)[0]
    hashes = english + "# " * 40
    assert "too many hashes" in tried(find_operator("gopher_quality")(), hashes)[0]


def test_repetition_counts_what_stands_between_the_words_and_no_blank_lines() -> None:
    blank = "\n\n\n".join(f"Line {n} says {n * 7919 % 101} and ends" for n in range(8))
    assert tried(find_operator("gopher_repetition")(n_grams=False), blank) == [blank]
    paragraphs = "\n\n".join(["A whole paragraph, there again."] * 3 + ["And another one."])
    (verdict,) = tried(find_operator("gopher_repetition")(), paragraphs)
    assert verdict == "dropped: repeated paragraphs: 50%"
    once = " ".join(f"word{n}" for n in range(40))
    assert tried(find_operator("gopher_repetition")(), once) == [once]


def test_stop_words_are_counted_once_each() -> None:
    the = "the river " * 30
    (verdict,) = tried(find_operator("gopher_quality")(), the)
    assert verdict == "dropped: too few stop words: 1"


@pytest.mark.parametrize("words", [["cat"], ["贷款"], ["cat", "贷款"]])
def test_a_list_of_one_script_blocks_nothing_else(words: list[str]) -> None:
    operator = make_operator("blocklist", {"words": words}, 0)
    texts = {"A cat, of course": "cat", "无抵押贷款": "贷款", "cats - 很好": "", "": "", "?!": ""}
    told = {text: f"dropped: blocked: {word}" for text, word in texts.items() if word in words}
    assert tried(operator, *texts) == [told.get(text, text) for text in texts]


def test_an_option_says_whether_it_must_be_given() -> None:
    told = {one["name"]: one["required"] for one in describe("classifier_filter")["options"]}
    assert told == {
        "field": False,
        "model": True,
        "characters": False,
        "keep": True,
        "least": False,
    }


def test_operators_are_listed_by_group() -> None:
    found = described()
    comparers = [one["name"] for one in found if one["compares"]]
    assert comparers == [
        "exact_dedup",
        "line_dedup",
        "minhash_dedup",
        "semantic_dedup",
        "substring_dedup",
        "url_dedup",
        "k_anonymity",
    ]
    assert len(found) == len(NAMES)
    assert steps.LEFT_OUT == "left out"


def test_of_a_page_its_article_is_left() -> None:
    story = "The river rose in the night, and by the morning all of the boats were gone. " * 8
    page = (
        "<html><head><title>News</title></head><body><nav><a href='/'>Home</a> <a href='/x'>Sport"
        f"</a></nav><article><h1>Flood</h1><p>{story}</p><p>{story}</p></article>"
        "<footer>All rights reserved. Subscribe now!</footer></body></html>"
    )
    (text,) = tried(make_operator("html_text", {}, 0), page)
    assert "the boats were gone" in text and "Flood" in text
    assert "Subscribe" not in text and "Sport" not in text
