from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from llmos.errors import OutOfMemoryError
from llmos.training.distribution import Parallel, Team
from llmos.training.micro_batches import MicroBatches, is_out_of_memory

GB = 10**9


def estimate(rows: int) -> int:
    return GB + rows * GB


def test_what_is_estimated_to_fit_is_tried_first_and_kept(tmp_path: Path) -> None:
    path, log = tmp_path / "kept.json", list[str]()
    found = MicroBatches(path, "auto", 12, estimate, 5 * GB, log.append)
    assert found.rows == 3 and log == ["3 of 12 rows of a batch at a time"]
    assert [part.tolist() for part in found.cut(np.arange(7))] == [[0, 1, 2], [3, 4], [5, 6]]
    found.shrink()
    again = MicroBatches(path, "auto", 12, estimate, 100 * GB, log.append)
    assert again.rows == 2
    again.shrink()
    with pytest.raises(OutOfMemoryError, match=r"1 rows at a time .* estimated to need 2\.0 GB"):
        again.shrink()


def test_a_batch_that_does_not_fit_is_halved_once(tmp_path: Path) -> None:
    def begun() -> MicroBatches:
        return MicroBatches(tmp_path / "kept.json", None, 8, estimate, GB, lambda line: None)

    found = begun()
    assert found.rows == 8
    found.shrink()
    assert found.rows == begun().rows == 4
    with pytest.raises(OutOfMemoryError, match=r"4 rows at a time .* estimated to need 5\.0 GB"):
        begun().shrink()


@pytest.mark.parametrize("parallel", ["ddp", "tensor"])
@pytest.mark.parametrize(("batch_rows", "size"), [(8, 2), (5, 2), (7, 3), (3, 2), (2, 2)])
def test_all_processes_cut_their_rows_into_as_many_pieces(
    batch_rows: int, size: int, parallel: Parallel, tmp_path: Path
) -> None:
    path, rows = tmp_path / "kept.json", np.arange(batch_rows)
    teams = [Team(rank, size, parallel) for rank in range(size)]

    def begun(team: Team) -> MicroBatches:
        return MicroBatches(path, None, batch_rows, estimate, GB, lambda line: None, team)

    def cut(team: Team) -> list[list[int]]:
        return [piece.tolist() for piece in begun(team).cut(rows)]

    assert [cut(team) for team in teams] == [[team.own(rows).tolist()] for team in teams]
    most = teams[0].shares(batch_rows)[1]
    for own in [begun(team) for team in teams]:  # memory may run out in all at once
        with contextlib.suppress(OutOfMemoryError):
            own.shrink()
    pieces = [cut(team) for team in teams]
    assert len({len(each) for each in pieces}) == 1
    if path.exists():
        assert max(len(piece) for each in pieces for piece in each) == (most + 1) // 2
    else:
        assert teams[0].shares(batch_rows)[0] == 1, "one of them has a row that is no two"
    seen = [row for each in pieces for piece in each for row in piece]
    assert sorted(seen) == sorted([*rows] * (1 if parallel == "ddp" else size))


def test_what_memory_that_ran_out_says_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
