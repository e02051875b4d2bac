"""What shares an n-gram with an evaluation set goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators import decontaminate
from llmos.data.operators.decontaminate import Decontaminate
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply, tried
from llmos.errors import DataError

LINES = st.lists(st.lists(st.sampled_from(["a", "b", "c", "雪"]), max_size=9), max_size=5)


def grams_of(words: list[str], n: int) -> set[tuple[str, ...]]:
    if len(words) < n:
        return {tuple(words)} if words else set()
    return {tuple(words[place : place + n]) for place in range(len(words) - n + 1)}


@given(evaluated=LINES.filter(any), lines=LINES, n=st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_a_text_goes_where_it_shares_an_n_gram(
    evaluated: list[list[str]], lines: list[list[str]], n: int
) -> None:
    wanted = set().union(*(grams_of(line, n) for line in evaluated))
    operator = Decontaminate(texts=[" ".join(line) for line in evaluated], ngram=n)
    verdicts = tried(operator, *(" ".join(line) for line in lines))
    for line, verdict in zip(lines, verdicts, strict=True):
        assert verdict.startswith("dropped: contaminated") == bool(grams_of(line, n) & wanted)


def test_datasets_are_looked_in_by_name_and_field(tmp_path: Path) -> None:
    options = {"datasets": ["quiz:1", "prüfung:2"], "fields": ["question"], "ngram": 3}
    quiz = [Record("1", {"question": "Who wrote the tale of the river?", "answer": "a b c d e"})]
    exam = [Record("1", {"question": [{"role": "user", "content": "河水为什么会涨"}]})]
    Decontaminate(**options).build_index({"quiz:1": iter(quiz), "prüfung:2": iter(exam)}, tmp_path)
    operator = Decontaminate(texts=["x y z"], **options)
    operator.use_index(tmp_path)
    verdicts = tried(
        operator, "He wrote THE TALE OF a hill.", "a b c d e", "为什么会下雨", "x-y, x y z"
    )
    assert verdicts == [
        "dropped: contaminated: by quiz:1: wrote the tale",
        "a b c d e",
        "dropped: contaminated: by prüfung:2: 为 什 么",
        "dropped: contaminated: by texts: x y z",
    ]


def test_a_dataset_without_texts_or_with_too_many_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Decontaminate(datasets=["quiz"], ngram=2)
    with pytest.raises(DataError, match="quiz:1 has no texts in any field"):
        operator.build_index({"quiz:1": iter([Record("1", {"n": 1})])}, tmp_path)
    monkeypatch.setattr(decontaminate, "MAX_GRAMS", 5)
    monkeypatch.setattr(decontaminate, "_GRAMS_AT_ONCE", 2)
    same = [Record(str(number), {"text": "one two three"}) for number in range(9)]
    operator.build_index({"quiz:1": iter(same)}, tmp_path)
    many = [Record(str(number), {"text": f"{number} {number + 1} {number}"}) for number in range(9)]
    with pytest.raises(DataError, match="more than 5 different n-grams"):
        operator.build_index({"quiz:1": iter(many)}, tmp_path)


def test_datasets_are_read_by_a_job_alone() -> None:
    found = apply([Decontaminate(datasets=["quiz"])], [Record("1", {"text": "x"})])
    assert "run it as one" in found.outcome.rejected[0]["reason"]


def test_something_to_look_for_is_asked_for() -> None:
    with pytest.raises(ValueError, match="name the datasets"):
        Decontaminate()
