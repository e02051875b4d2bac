"""Whatever is cut off whenever, each row is written once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos.apps.batch_journal import Journal, open_journal


def numbers(path: Path) -> list[int]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def add(journal: Journal, *rows: int) -> None:
    for row in rows:
        journal.add_output(row, b"%d\n" % row)


def test_rows_that_count_are_there_at_the_next_attempt_and_others_are_not(tmp_path: Path) -> None:
    first = open_journal(tmp_path / "jobs" / "1", 1)
    add(first, 1, 2)
    first.add_failure(3, b"3\n")
    assert first.num_pending == 3
    first.flush()
    add(first, 4)
    second = open_journal(tmp_path / "jobs" / "1", 2)
    assert second.done == {1, 2, 3}
    assert (second.completed, second.failed, second.ended_as) == (2, 1, None)
    add(second, 4)
    second.flush()
    assert numbers(second.output_path) == [1, 2, 4]
    assert numbers(second.errors_path) == [3]


def test_an_old_attempt_that_lives_on_writes_to_nobody(tmp_path: Path) -> None:
    first = open_journal(tmp_path, 1)
    add(first, 1)
    first.flush()
    second = open_journal(tmp_path, 3)
    add(first, 2)
    with pytest.raises(FileNotFoundError):
        first.flush()
    add(second, 2)
    second.flush()
    assert numbers(second.output_path) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["attempt-3"]


@pytest.mark.parametrize("tail", [b"", b"9\n", b"\0" * 40, b'{"half'])
def test_what_lies_beyond_the_last_record_was_not_written(tmp_path: Path, tail: bytes) -> None:
    first = open_journal(tmp_path, 1)
    add(first, 1)
    first.flush()
    for name in ("output.jsonl", "errors.jsonl", "journal.jsonl"):
        with (tmp_path / "attempt-1" / name).open("ab") as file:
            file.write(tail)
    second = open_journal(tmp_path, 2)
    assert second.done == {1}
    assert numbers(second.output_path) == [1]
    assert second.errors_path.read_bytes() == b""


def test_a_record_of_lines_that_are_not_there_counts_no_more(tmp_path: Path) -> None:
    first = open_journal(tmp_path, 1)
    add(first, 1)
    first.flush()
    add(first, 2)
    first.flush()
    with first.output_path.open("r+b") as file:
        file.truncate(3)
    second = open_journal(tmp_path, 2)
    assert second.done == {1}
    assert numbers(second.output_path) == [1]


def test_a_sealed_journal_stays_as_it_is(tmp_path: Path) -> None:
    first = open_journal(tmp_path, 1)
    add(first, 1)
    first.add_unasked(2, b"2\n")
    first.seal("expired")
    second = open_journal(tmp_path, 2)
    assert (second.ended_as, second.completed, second.failed) == ("expired", 1, 0)
    assert numbers(second.output_path) == [1]
    assert numbers(second.errors_path) == [2]


def test_a_half_made_attempt_is_made_anew(tmp_path: Path) -> None:
    first = open_journal(tmp_path, 1)
    add(first, 1)
    first.flush()
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "output.jsonl").write_bytes(b"torn")
    assert open_journal(tmp_path, 2).done == {1}
    assert not (tmp_path / "draft").exists()
