from __future__ import annotations

from pathlib import Path

from llmos.kernel.workers import MAX_CRASH_BYTES, MAX_CRASH_LINES, last_lines


def test_the_last_lines_are_those_of_this_attempt_without_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "job-1.log"
    path.write_bytes(b"earlier\n")
    start_bytes = path.stat().st_size
    assert last_lines(path, start_bytes) == []
    with path.open("ab") as log_file:
        log_file.write(b"first\n\n \nlast \xff\n")
    assert last_lines(path, start_bytes) == ["first", "last �"]


def test_the_last_lines_are_few_however_much_was_printed(tmp_path: Path) -> None:
    path = tmp_path / "job-1.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert last_lines(path, 0) == [
        f"line {number}" for number in range(100_000 - MAX_CRASH_LINES, 100_000)
    ]
    path.write_text("x" * 10**6)
    assert last_lines(path, 0) == ["x" * MAX_CRASH_BYTES]


def test_without_a_log_file_there_are_no_last_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "job-1.log", 0) == []
