from __future__ import annotations

from pathlib import Path

import pytest

from llmos.kernel.job_files import MAX_LINES, MAX_TAIL_BYTES, JobFiles


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    (tmp_path / "logs").mkdir()
    return JobFiles(tmp_path)


def test_the_last_lines_are_those_of_this_attempt_without_empty_ones(files: JobFiles) -> None:
    path = files.log_path(1)
    path.write_bytes(b"earlier\n")
    start_bytes = files.log_size_bytes(1)
    assert files.last_lines(1, start_bytes) == []
    with path.open("ab") as log_file:
        log_file.write(b"first\n\n \nlast \xff\n")
    assert files.last_lines(1, start_bytes) == ["first", "last �"]


def test_the_last_lines_are_few_however_much_was_printed(files: JobFiles) -> None:
    path = files.log_path(1)
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert files.last_lines(1, 0) == [
        f"line {number}" for number in range(100_000 - MAX_LINES, 100_000)
    ]
    path.write_text("x" * 10**6)
    assert files.last_lines(1, 0) == ["x" * MAX_TAIL_BYTES]


def test_without_a_log_file_there_are_no_last_lines(files: JobFiles) -> None:
    assert files.log_size_bytes(1) == 0
    assert files.last_lines(1, 0) == []


def test_checkpoint_directories_are_found_and_removed_by_job(files: JobFiles) -> None:
    assert files.checkpointed() == []
    files.checkpoint_dir(7).mkdir(parents=True)
    (files.checkpoint_dir(7) / "step").write_text("3")
    (files.checkpoint_dir(7).parent / "other").mkdir()
    assert files.checkpointed() == [7]
    files.remove_checkpoints(7)
    files.remove_checkpoints(8)
    assert files.checkpointed() == []
