"""Parts that are there before are cut out, all of them and no others, however many lie on disk."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydivsufsort import divsufsort, kasai

from llmos.data import windows
from llmos.data.pipeline import cutting, keyfiles
from llmos.data.pipeline.operator import WindowTrimmer
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply

LEAST = 20
NOTICES = [
    "All of this text may be copied freely by anybody. ",
    "本文可以自由转载，但必须保留这一段声明，并注明原作者。",
    "=" * 50,
    "ab" * 25,
]
PARTS = st.sampled_from(NOTICES) | st.text("ab中", max_size=25)
TEXTS = st.lists(st.lists(PARTS, max_size=4).map("".join), max_size=6)


def expected(texts: list[str], least: int) -> list[str]:
    """What is left of texts, found the slow way."""
    first: dict[str, int] = {}
    left = []
    begin = 0
    for text in texts:
        is_cut = [False] * len(text)
        for start in range(len(text) - least + 1):
            if (
                begin + start - first.setdefault(text[start : start + least], begin + start)
                >= least
            ):
                is_cut[start : start + least] = [True] * least
        left.append("".join(one for one, cut in zip(text, is_cut, strict=True) if not cut))
        begin += len(text)
    return left


def planted(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    shared = ["".join(draw.choices("abcdefgh 天地人山水火", k=90)) for _ in range(4)]
    texts = []
    for _ in range(count):
        own = [
            "".join(draw.choices("abcdefgh 天地人山水火", k=draw.randrange(60))) for _ in range(3)
        ]
        some = draw.choice(shared)
        begin = draw.randrange(60)
        texts.append(own[0] + some[begin : begin + draw.randrange(10, 60)] + own[1] + own[2])
    return texts


@given(texts=TEXTS)
@settings(max_examples=150, deadline=None)
def test_what_is_there_before_is_cut_and_nothing_else(texts: list[str]) -> None:
    operator = make_operator("substring_dedup", {"least": LEAST, "least_left": 0}, 0)
    done = apply([operator], [Record(str(n), {"text": text}) for n, text in enumerate(texts)])
    assert [one.text() for one in done.records] == expected(texts, LEAST)


def repeated_by_suffixes(texts: list[str], least: int) -> list[list[int]]:
    """Where the windows begin that are there before, by a suffix array of all texts."""
    codes = [np.array([*map(ord, text), 2**20 + number]) for number, text in enumerate(texts)]
    joined = np.unique(np.concatenate(codes), return_inverse=True)[1].astype(np.int32)
    suffixes = divsufsort(joined)
    same = kasai(joined, suffixes)  # with the next suffix
    begins = np.flatnonzero(np.concatenate([[True], same[:-1] < least]))
    groups = np.split(suffixes, begins[1:])
    found = np.sort(np.concatenate([group[group - group.min() >= least] for group in groups]))
    starts = np.cumsum([0, *map(len, codes)])
    return [
        (found[(found >= start) & (found < end)] - start).tolist()
        for start, end in pairwise(starts.tolist())
    ]


def test_a_suffix_array_finds_the_same_windows() -> None:
    texts = planted(400, 5)
    operator = make_operator("substring_dedup", {"least": LEAST}, 0)
    assert isinstance(operator, WindowTrimmer)
    records = [Record(str(number), {"text": text}) for number, text in enumerate(texts)]
    found = cutting.windows_among(operator, records)
    assert found == repeated_by_suffixes(texts, LEAST) and sum(map(len, found)) > 1000


@given(texts=TEXTS)
@settings(max_examples=100, deadline=None)
def test_windows_that_are_the_same_hold_the_same_key(texts: list[str]) -> None:
    operator = make_operator("substring_dedup", {"least": LEAST}, 0)
    places: dict[str, set[tuple[int, bytes]]] = {}
    for text in texts:
        marks, keys = operator._marks(text)
        for start in range(len(text) - LEAST + 1):
            last = start + LEAST - LEAST // 2
            held = {
                (place - start, key)
                for place, key in zip(marks.tolist(), keys, strict=True)
                if start <= place <= last
            }
            window = text[start : start + LEAST]
            both = places.setdefault(window, held)
            both &= held
            assert both, window


def test_many_parts_and_passes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmos.data.pipeline import shard, trimming

    texts = planted(60, 4)
    operator = make_operator("substring_dedup", {"least": LEAST, "least_left": 0}, 0)
    monkeypatch.setattr(keyfiles, "KEYS_A_PASS", 50)
    monkeypatch.setattr(cutting, "FLUSH_WINDOWS", 40)
    paths = []
    for number, some in enumerate((texts[:25], [], texts[25:])):
        paths.append(tmp_path / f"shard-{number}")
        paths[-1].mkdir()
        rows = [{"id": str(place), "text": text} for place, text in enumerate(some)]
        shard.write_rows(paths[-1] / shard.ROWS, rows, {"id": "string", "text": "string"})
        keys = [operator.keys(Record.of_row(row)) for row in rows]
        trimming.write_pieces(paths[-1], keys, copies=2)
    (tmp_path / "scratch").mkdir()
    cutting.write_cuts(tmp_path, paths, operator, tmp_path / "scratch")
    left = []
    for number, path in enumerate(paths):
        drops = keyfiles.drops_file(tmp_path, number)
        places = trimming.repeats_by_row(drops, trimming.counts_beside(drops))
        for row, mine in zip(shard.read_rows(path / shard.ROWS), places, strict=True):
            record = Record.of_row(row)
            operator.trim(record, mine)
            left.append(record.text())
    assert left == expected(texts, LEAST)


def test_hashes_do_not_hang_on_where_a_window_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK_CHARS", 7)
    hasher = windows.WindowHasher(4, 1, 2)
    found = np.concatenate([*hasher.hashes("abcdx中abcdabcd" * 3)], axis=1).T.tolist()
    text = "abcdx中abcdabcd" * 3
    by_window: dict[str, list[int]] = {}
    for start, numbers in enumerate(found):
        assert by_window.setdefault(text[start : start + 4], numbers) == numbers
    assert len({tuple(one) for one in by_window.values()}) == len(by_window)
    assert len(found) == len(text) - 3
    assert all(all(prime % one for one in range(2, 46341)) for prime in windows.PRIMES)


def test_turns_are_cut_and_a_record_of_little_goes() -> None:
    notice = NOTICES[0]
    turns = [{"role": "user", "content": "Hi. " + notice}, {"role": "assistant", "content": notice}]
    operator = make_operator("substring_dedup", {"field": "messages", "least": LEAST}, 0)
    records = [Record("1", {"messages": turns}), Record("2", {"messages": turns[1:]})]
    done = apply([operator], records)
    assert [turn["content"] for turn in done.records[0].fields["messages"]] == ["Hi. " + notice, ""]
    (row,) = done.outcome.dropped
    assert (row["id"], row["reason"]) == ("2", "too little left: 0")
