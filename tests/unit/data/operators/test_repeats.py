"""Of pieces of texts that are the same the first stays, in memory and over shards on disk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.pipeline import keyfiles, trimming
from llmos.data.pipeline.keyfiles import drops_file
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import Applied, _repeats_among, apply

LINES = [
    "Read the whole story here.",
    "All rights are reserved now.",
    "短",
    "本站所有文章版权所有",
    "",
]
TEXTS = st.lists(
    st.lists(st.sampled_from(LINES), max_size=6).map("\n".join)
    | st.text("a b\n\r　一", max_size=9),
    max_size=8,
)


def trimmed(texts: list[Any], **options: Any) -> Applied:
    records = [
        Record(str(number), {"text" if isinstance(text, str) else "messages": text})
        for number, text in enumerate(texts)
    ]
    return apply([make_operator("line_dedup", options, 0)], records)


@given(texts=st.lists(st.lists(st.sampled_from(LINES), max_size=6).map("\n".join), max_size=8))
@settings(max_examples=200, deadline=None)
def test_of_lines_that_count_the_first_stays_and_of_others_all(texts: list[str]) -> None:
    done = trimmed(texts, least=2, least_left=0)
    seen: set[str] = set()
    for one, text in zip(done.records, texts, strict=True):
        expected = []
        for line in filter(None, text.split("\n")):
            if line == "短" or line not in seen:
                expected.append(line)
            seen.add(line)
        assert [line for line in one.text().split("\n") if line] == expected


@pytest.mark.parametrize("unit", ["line", "sentence", "paragraph"])
@given(texts=TEXTS)
@settings(max_examples=100, deadline=None)
def test_what_is_left_has_no_repeats(unit: str, texts: list[str]) -> None:
    once = [one.text() for one in trimmed(texts, unit=unit, least=2).records]
    again = trimmed(once, unit=unit, least=2)
    assert [one.text() for one in again.records] == once and not again.tallies[0].changed


def test_breaks_between_what_is_left_stay() -> None:
    menu = "Home and news and more"
    texts = [menu, f"One.\n{menu}\n\nTwo.", f"  {menu}\nThree.\n    indented\n{menu}\n"]
    found = [one.text() for one in trimmed(texts).records]
    assert found == [menu, "One.\n\nTwo.", "Three.\n    indented\n"]
    chinese = ["请关注我们的公众号。", "今天有雨。请关注我们的公众号。\n明天天晴。"]
    assert trimmed(chinese, unit="sentence").records[1].text() == "今天有雨。\n明天天晴。"
    paragraphs = ["a b c\nd e f", "x\n\na b c\nd e f\n\na b c\ny"]
    found = [one.text() for one in trimmed(paragraphs, unit="paragraph").records]
    assert found == ["a b c\nd e f", "x\n\na b c\ny"]


def test_loose_looks_past_case_width_and_punctuation() -> None:
    texts = ["Share this page with your friends!", "ＳＨＡＲＥ this page—with your friends\nNew."]
    assert trimmed(texts).records[1].text() == texts[1]
    assert trimmed(texts, loose=True).records[1].text() == "New."


def test_a_record_of_which_too_little_is_left_goes_as_it_was() -> None:
    line = "The same line stands here twice."
    done = trimmed([line, f"{line}\nno", "no"], least_left=3)
    assert [one.id for one in done.records] == ["0", "2"]
    (row,) = done.outcome.dropped
    assert row["reason"] == "too little left: 2" and row["excerpt"] == f"{line}\nno"
    assert done.tallies[0].dropped == {"too little left": 1}


def test_turns_are_cut_by_themselves() -> None:
    turns = [
        {"role": "user", "content": "What is the weather like?"},
        {"role": "assistant", "content": "It rains.\nAsk me anything else you like."},
        {"role": "assistant", "content": "Ask me anything else you like.\nBye."},
    ]
    (record,) = trimmed([turns], field="messages").records
    contents = [turn["content"] for turn in record.fields["messages"]]
    assert contents == [turns[0]["content"], turns[1]["content"], "Bye."]


@given(
    shards=st.lists(st.lists(st.lists(st.integers(0, 20), max_size=5), max_size=6), max_size=5),
    keys_a_pass=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_shards_on_disk_are_what_memory_is(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[int]]], keys_a_pass: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    keys = [
        [[(one * 2**59).to_bytes(8, "little") * 2 for one in record] for record in shard]
        for shard in shards
    ]
    paths = [folder / str(number) for number in range(len(shards))]
    (folder / "scratch").mkdir()
    for path, some in zip(paths, keys, strict=True):
        path.mkdir()
        trimming.write_pieces(path, some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyfiles, "KEYS_A_PASS", keys_a_pass)
        done = trimming.write_repeats(folder, paths, folder / "scratch") if paths else None
    found = [
        repeated
        for number, path in enumerate(paths)
        for repeated in trimming.repeats_by_row(drops_file(folder, number), path / trimming.COUNTS)
    ]
    expected = [*_repeats_among([record for some in keys for record in some])]
    assert found == expected
    if done is not None:
        assert done.repeated == sum(map(len, expected))
        assert done.pieces == sum(len(record) for some in shards for record in some)
