from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmos.errors import OutOfMemoryError
from llmos.training.micro_batches import MicroBatches, is_out_of_memory

GB = 10**9


def estimate(rows: int) -> int:
    return GB + rows * GB


def test_what_is_estimated_to_fit_is_tried_first_and_kept(tmp_path: Path) -> None:
    path, log = tmp_path / "kept.json", list[str]()
    found = MicroBatches(path, "auto", 12, estimate, 5 * GB, log.append)
    assert found.rows == 3 and log == ["3 of 12 rows of a batch at a time"]
    assert [part.tolist() for part in found.cut(np.arange(7))] == [[0, 1, 2], [3, 4, 5], [6]]
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


def test_what_memory_that_ran_out_says_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
