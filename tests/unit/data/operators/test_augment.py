"""Operators that add records made of others: the record stays, what is new says of what it is made,
follows from seed and id alone, and keeps its label and its spans.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators import noise_tables
from llmos.data.operators.copies import MAX_COPIES
from llmos.data.operators.eda import NEGATIONS, Eda
from llmos.data.operators.entity_swap import EntitySwap
from llmos.data.operators.label_check import LabelCheck
from llmos.data.operators.masked_words import MaskedWords
from llmos.data.operators.mixing import Mix
from llmos.data.operators.noise import Noise
from llmos.data.operators.pieces import cut, joined
from llmos.data.operators.rewriting import BackTranslate, Paraphrase
from llmos.data.operators.synonyms import own_table
from llmos.data.pipeline.operator import Operator
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import Applied, apply, tried
from llmos.data.record import to_record
from llmos.errors import PipelineError
from llmos.sdk.vectors import to_base64

SENTENCES = [
    "The film was not good, but I liked the story.",
    "A very funny book about a child and a big house!",
    "这部电影不好看，但是故事很有趣。",
    "我没有喜欢那个商店，东西很贵。",
    "Sie sagte: \u201cétude n\u00b0 3\u201d \u2014 ok? 你好 world",
]
TEXT = st.one_of(
    st.sampled_from(SENTENCES),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text("aA b的在 not.不\n", max_size=40),
    st.lists(st.sampled_from(["good", "film", "not", "电影", "不", ",", " ", "Big"])).map("".join),
)
TEXTS = st.lists(TEXT, max_size=6)
ANSWERS: dict[str, Any] = {
    "/api/v1/translate": lambda body: {"text": f"{body['target_lang']} {body['text']}"},
    "/api/v1/fill_mask": lambda body: {
        "masks": [
            [{"token": "new", "score": 0.6}, {"token": "##x", "score": 0.2}]
            for _ in range(body["text"].count("[MASK]"))
        ]
    },
    "/v1/chat/completions": lambda body: {
        "choices": [{"message": {"content": f"so {body['seed'] % 97}"}, "finish_reason": "stop"}]
    },
    "/api/v1/classify": lambda body: {"label": "a", "scores": {"a": 0.7, "b": 0.3}},
}


def ask(path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
    return [ANSWERS[path](body) for body in bodies]


OWN = {
    "eda": Eda(3, copies=3, share=0.3),
    "noise": Noise(3, copies=3, share=0.2),
    "back_translate": BackTranslate(3, model="m", language="en", pivot="zh"),
    "masked_words": MaskedWords(3, model="m", copies=2),
    "paraphrase": Paraphrase(3, model="m", copies=2),
}
"""What becomes of a record is its own matter alone."""
for one in OWN.values():
    one.ask = ask


def records_of(texts: Sequence[str]) -> list[Record]:
    return [Record(f"r{place}", {"text": text, "label": "a"}) for place, text in enumerate(texts)]


def rows(done: Applied) -> list[dict[str, Any]]:
    """All rows, and what was dropped or rejected."""
    return [one.to_row() for one in done.records] + done.outcome.dropped + done.outcome.rejected


def by_id(done: Applied) -> dict[str, Any]:
    return {row["id"]: row for row in rows(done)}


@pytest.mark.parametrize("name", OWN)
@given(texts=TEXTS)
@settings(max_examples=40, deadline=None)
def test_a_record_stays_and_new_ones_follow_it(name: str, texts: list[str]) -> None:
    done = apply([OWN[name]], records_of(texts))
    assert [one.text() for one in done.records if "~" not in one.id] == texts
    ids = [one.id for one in done.records] + [row["id"] for row in done.outcome.dropped]
    assert len(set(ids)) == len(ids) and not done.outcome.rejected
    last = ""
    for one in done.records:
        original, _, number = one.id.partition("~aug")
        if not number:
            last = one.id
            continue
        assert original == last and one.meta["augment"] == {"of": original, "by": name}
        assert one.fields["label"] == "a"
        assert one.text() != texts[int(original[1:])] and one.text().strip()
    for number in range(len(texts)):
        new = [one.text() for one in done.records if one.id.startswith(f"r{number}~")]
        assert len(set(new)) == len(new)


@pytest.mark.parametrize("name", OWN)
@given(texts=TEXTS, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_what_is_made_of_a_record_is_its_own_matter(name: str, texts: list[str], seed: int) -> None:
    together = by_id(apply([OWN[name]], records_of(texts)))
    shuffled = records_of(texts)
    random.Random(seed).shuffle(shuffled)
    assert by_id(apply([OWN[name]], shuffled)) == together
    alone: dict[str, Any] = {}
    for one in records_of(texts):
        alone |= by_id(apply([OWN[name]], [one]))
    assert alone == together


@given(texts=TEXTS, labels=st.lists(st.sampled_from(["a", "b", None]), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_who_is_mixed_has_its_label_in_common_and_stays(
    texts: list[str], labels: list[str | None]
) -> None:
    records = records_of(texts)
    for record, label in zip(records, ["a", *labels], strict=False):
        record.fields["label"] = label
    of = {one.id: one.fields["label"] for one in records}
    done = apply([Mix(3, copies=2)], records)
    assert [one.text() for one in done.records if one.id in of] == texts
    assert not done.outcome.rejected
    for one in done.records:
        if one.id not in of:
            known = one.meta["augment"]
            assert one.id.startswith(f"{known['of']}~aug") and known["with"] != known["of"]
            assert of[known["of"]] == of[known["with"]] == one.fields["label"] is not None
            assert one.text().strip() and one.text() != texts[int(known["of"][1:])]


def test_another_seed_makes_others() -> None:
    made = {
        seed: [one.text() for one in apply([Eda(seed, copies=3)], records_of(SENTENCES)).records]
        for seed in (1, 2)
    }
    assert made[1] != made[2]


def test_of_what_was_made_nothing_is_made_and_numbers_go_on() -> None:
    records = records_of(SENTENCES)
    first = apply([Eda(copies=2), Noise(copies=2)], records).records
    assert Counter(one.id.partition("~")[0] for one in first) == {
        f"r{place}": 5 for place in range(len(SENTENCES))
    }
    again = apply([Noise(9, copies=1)], [Record.of_row(one.to_row()) for one in first]).records
    ids = [one.id for one in again]
    assert len(set(ids)) == len(ids) == 6 * len(SENTENCES)
    assert {"r0~aug1", "r0~aug4", "r0~aug5"} <= set(ids)


def test_what_cannot_be_changed_is_told_as_dropped() -> None:
    done = apply([Eda(copies=2)], records_of(["", "not"]))
    assert [one.id for one in done.records] == ["r0", "r1"]
    assert done.tallies[0].dropped == {"nothing new": 4}


@pytest.mark.parametrize("operator", [Eda(copies=3, share=0.5), Noise(copies=3, share=0.4)])
@given(text=TEXT, cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=4))
@settings(max_examples=80, deadline=None)
def test_spans_stay_as_they_are_and_move_with_the_text(
    operator: Operator[Any], text: str, cuts: list[tuple[int, int]]
) -> None:
    spans = [
        {"start": start, "end": start + length, "label": str(place)}
        for place, (start, length) in enumerate(cuts)
        if start + length <= len(text)
    ]
    record = Record("1", {"text": text, "entities": spans})
    done = apply([operator], [record])
    assert not done.outcome.rejected
    for one in done.records:
        found = one.fields["entities"]
        assert [span["label"] for span in found] == [span["label"] for span in spans]
        for span, before in zip(found, spans, strict=True):
            here = one.text()[span["start"] : span["end"]]
            assert here == text[before["start"] : before["end"]]


@given(text=TEXT)
@settings(max_examples=80, deadline=None)
def test_pieces_put_together_are_the_text(text: str) -> None:
    assert joined(cut(text))[0] == text


@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_negations_stay(text: str) -> None:
    def negations(of: str) -> Counter[str]:
        words = [piece.text.lower() for piece in cut(of) if piece.is_word]
        return Counter(word for word in words if word in NEGATIONS)

    english = "".join(character for character in text if character.isascii())
    operator = Eda(copies=4, share=0.5, kinds=["delete", "swap", "synonyms"])
    for one in apply([operator], records_of([english])).records:
        assert negations(one.text()) == negations(english)


def test_deleted_words_leave_no_gap() -> None:
    texts = ["one two three four", "one, two", "(one) two", "一 二", "so it is."]
    for one in apply([Eda(copies=8, kinds=["delete"], share=0.4)], records_of(texts)).records:
        assert "  " not in one.text() and one.text() == one.text().strip()
        assert " ." not in one.text()


def test_only_what_the_user_says_is_changed() -> None:
    turns = [
        {"role": "user", "content": "A good film"},
        {"role": "assistant", "content": "A good film"},
    ]
    operator = Noise(copies=2, field="messages", share=0.3)
    _, *copies = apply([operator], [Record("1", {"messages": turns})]).records
    assert len(copies) == 2
    for one in copies:
        asked, answered = (turn["content"] for turn in one.fields["messages"])
        assert asked != "A good film" == answered
    assert turns[0]["content"] == "A good film"


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"text": "abc", "entities": [{"start": 1, "end": 9}]}, "text", "within the text"),
        ({"text": "abc", "entities": "x"}, "text", "must be a list"),
        ({"context": "abc", "start": 1}, "context", "'start' says where in 'context'"),
        ({"body": "abc"}, "text", "there is no text in 'text'"),
    ],
)
def test_a_record_whose_spans_would_be_lost_is_refused(
    fields: dict[str, Any], field: str, said: str
) -> None:
    for operator in (Eda(field=field), Noise(field=field), Mix(field=field, label="x")):
        records = [Record("1", dict(fields) | {"x": 1}), Record("2", {field: "fine", "x": 1})]
        done = apply([operator], records)
        assert [row["id"] for row in done.outcome.rejected] == ["1"]
        assert said in done.outcome.rejected[0]["reason"]


@pytest.mark.parametrize("name", ["back_translate", "paraphrase", "masked_words"])
def test_what_is_written_anew_has_no_spans(name: str) -> None:
    spans = [{"start": 0, "end": 1, "label": "x"}]
    done = apply([OWN[name]], [Record("1", {"text": "abc", "entities": spans})])
    assert "no longer where they were" in done.outcome.rejected[0]["reason"]


def test_synonyms_are_the_nearest_words_of_a_model() -> None:
    words = ["<pad>", "<unk>", "film", "movie", "car", "影片", "电影"]
    vectors = [[0, 0], [0, 0], [1, 0.1], [1, 0.2], [-1, 0], [0.1, 1], [0, 1]]
    asked: list[str] = []

    def answer(path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
        asked.append(path)
        if path.endswith("tokenizer.json"):
            assert list(bodies) == [None]
            return [{"model": {"vocab": {word: place for place, word in enumerate(words)}}}]
        packed = [np.array(vectors[i], "<f4").tobytes() for (i,) in bodies[0]["input"]]
        return [{"data": [{"embedding": to_base64(one)} for one in packed]}]

    operator = Eda(model="vectors:1", kinds=["synonyms"], share=1.0, nearest=1)
    operator.ask = answer
    done = apply([operator], records_of(["Film car", "看电影", "movie"]))
    new = [one.text() for one in done.records if "~" in one.id]
    assert new == ["Movie car", "看影片", "film"]
    assert asked == ["/api/v1/models/vectors:1/files/tokenizer.json", "/v1/embeddings"]


def test_mistakes_are_those_of_their_kind() -> None:
    cases = {
        "homophones": ("在线", {"再", "现", "县", "限"}),
        "shapes": ("未来", {"末"}),
        "case": ("a", {"A"}),
        "spaces": ("a b", {"ab"}),
        "ocr": ("rn", {"m", "ni", "ri"}),
    }
    for kind, (text, wanted) in cases.items():
        found = {
            one.text()
            for seed in range(40)
            for one in apply([Noise(seed, kinds=[kind])], records_of([text])).records[1:]
        }
        if kind in ("homophones", "shapes"):
            assert {character for one in found for character in one} - set(text) <= wanted
            assert all(len(one) == len(text) for one in found)
        elif kind == "ocr":
            assert "m" in found
        else:
            assert found == wanted
    beside = noise_tables.neighbours()
    assert set(beside["g"]) == set("fhtyvb") and set(beside["q"]) == set("wa")
    assert all(letter in beside[other] for letter in beside for other in beside[letter])


def test_the_share_says_how_many_characters_are_wrong() -> None:
    text = "a plain sentence of many letters " * 20
    for share in (0.02, 0.2):
        (_, copy) = apply([Noise(share=share, kinds=["case"])], records_of([text])).records
        wrong = sum(a != b for a, b in zip(text, copy.text(), strict=True))
        assert wrong == round(share * len(text))


def test_our_tables_are_sound() -> None:
    table = own_table()
    assert all(word in table[other] for word in table for other in table[word])
    assert not NEGATIONS & set(table)
    for groups in (noise_tables.HOMOPHONES, noise_tables.SHAPES):
        assert all(len(set(group)) == len(group) >= 2 for group in groups)


def entity(text: str, *names: tuple[str, str]) -> dict[str, Any]:
    spans = [
        {"start": text.index(name), "end": text.index(name) + len(name), "label": label}
        for name, label in names
    ]
    return {"text": text, "entities": spans}


def test_entities_become_others_of_their_label_and_script() -> None:
    rows_in = [
        entity("Bob met Ann in Rome.", ("Bob", "PER"), ("Ann", "PER"), ("Rome", "LOC")),
        entity("Zoe left Oslo", ("Zoe", "PER"), ("Oslo", "LOC")),
        entity("小明去北京。", ("小明", "PER"), ("北京", "LOC")),
        entity("小红去上海。", ("小红", "PER"), ("上海", "LOC")),
        {"text": "nobody here", "entities": []},
    ]
    records = [Record(str(place), row) for place, row in enumerate(rows_in)]
    done = apply([EntitySwap(copies=2)], records)
    known = {"PER": {"Bob", "Ann", "Zoe", "小明", "小红"}, "LOC": {"Rome", "Oslo", "北京", "上海"}}
    copies = [one for one in done.records if "~" in one.id]
    assert len(copies) >= 5 and not any(one.id.startswith("4~") for one in copies)
    for one in copies:
        to_record("entities", one.fields, one.id)
        before = rows_in[int(one.id[0])]
        labels = [span["label"] for span in one.fields["entities"]]
        assert labels == [span["label"] for span in before["entities"]]
        for span in one.fields["entities"]:
            name = one.text()[span["start"] : span["end"]]
            assert name in known[span["label"]]
            assert name.isascii() == before["text"].isascii()
    assert {one.text() for one in copies if one.id[0] == "2"} == {"小红去上海。"}
    bad = {"text": "ab", "entities": [{"start": 0, "end": 2, "label": "x"}] * 2}
    refused = apply([EntitySwap()], [Record("1", bad)])
    assert "overlap" in refused.outcome.rejected[0]["reason"]


def test_two_of_a_label_are_mixed_with_their_spans() -> None:
    records = [
        Record(str(place), {"text": f"Text {place}. Second {place}!", "label": "ab"[place % 2]})
        for place in range(6)
    ]
    records[0].fields["entities"] = [{"start": 0, "end": 4, "label": "T"}]
    done = apply([Mix(copies=2)], records)
    for one in done.records:
        if "~" not in one.id:
            continue
        note = one.meta["augment"]
        assert int(note["of"]) % 2 == int(note["with"]) % 2 and note["of"] != note["with"]
        parts = {f"{start} {place}" for start in ("Text", "Second") for place in note.values()}
        assert set(one.text().replace("!", ".").rstrip(".").split(". ")) <= parts
        for span in one.fields.get("entities", ()):
            assert one.text()[span["start"] : span["end"]] == "Text"
    assert sum("~" in one.id for one in done.records) >= 8
    lonely = apply([Mix()], [Record("1", {"text": "x", "label": 1})])
    assert [one.id for one in lonely.records] == ["1"]
    without = apply([Mix()], [Record("1", {"text": "x"})])
    assert "set `label`" in without.outcome.rejected[0]["reason"]


def test_chinese_is_joined_with_chinese_and_without_a_space() -> None:
    texts = ("很好。", "Good.", "很好。", "Fine.")
    records = [Record(str(n), {"text": text, "label": 1}) for n, text in enumerate(texts)]
    made = [one.text() for one in apply([Mix(kinds=["join"])], records).records if "~" in one.id]
    assert made == ["很好。很好。", "Good. Fine.", "很好。很好。", "Fine. Good."]


def test_a_mask_for_a_character_of_chinese_and_a_word_of_english() -> None:
    masked: list[str] = []

    def answer(path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
        masked.extend(body["text"] for body in bodies)
        return ask(path, bodies)

    operator = MaskedWords(model="m", share=0.01)
    operator.ask = answer
    assert tried(operator, "one", "电影", "not", "one [MASK]", "")[3].startswith("rejected: ")
    assert sorted(set(masked)) in (["[MASK]", "[MASK]影"], ["[MASK]", "电[MASK]"])


def test_answers_that_are_cut_off_or_the_same_are_dropped() -> None:
    replies = iter(
        [
            {"message": {"content": "It is"}, "finish_reason": "length"},
            {"message": {"content": " A text "}, "finish_reason": "stop"},
            {"message": {"content": "New"}, "finish_reason": "stop"},
        ]
    )
    operator = Paraphrase(model="m", copies=3)
    operator.ask = lambda path, bodies: [{"choices": [next(replies)]} for _ in bodies]
    done = apply([operator], records_of(["A text"]))
    assert [one.text() for one in done.records] == ["A text", "New"]
    assert done.tallies[0].dropped == {"cut off": 1, "nothing new": 1}


def test_copies_that_lose_their_label_go() -> None:
    records = records_of(SENTENCES)
    records[1].fields["label"] = "b"
    check = LabelCheck(model="m", least=0.6)
    check.ask = ask
    done = apply([Noise(), check], records)
    assert {row["id"]: row["reason"] for row in done.outcome.dropped} == {
        "r1~aug1": "label lost: a, and not b"
    }
    check = LabelCheck(model="m", least=0.8)
    check.ask = ask
    done = apply([Noise(), check], records_of(SENTENCES[:1]))
    assert done.outcome.dropped[0]["reason"] == "label unsure: a 0.70"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("eda", {"copies": MAX_COPIES + 1}, "copies: "),
        ("eda", {"kinds": []}, "kinds: "),
        ("eda", {"model": "m", "synonyms": {"a": ["b"]}}, "give one of them"),
        ("noise", {"kinds": ["smudge"]}, "kinds.0: "),
        ("paraphrase", {"model": "m", "template": "Rewrite"}, "template needs {text}"),
        ("back_translate", {"model": "m"}, "language: Field required"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        make_operator(name, options, 0)
    assert said in str(caught.value)
