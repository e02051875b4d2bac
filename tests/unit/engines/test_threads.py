"""An engine computes with as many threads as the server says, from one step to the next."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.decoders import make_quantized, needed_extension, random_ids
from tests.unit.engines.families import greedy, run_works

from llmos.engines import host
from llmos.engines.echo import EchoEngine
from llmos.engines.host import Host
from llmos.engines.loader import Inbox, LoadEnded
from llmos.engines.native import extension
from llmos.engines.native.engine import NativeEngine
from llmos.engines.parking import Parking
from llmos.kernel.protocol import Load, Loaded, SetThreads

MANIFEST = {"engine": "native", "context_tokens": 64, "dtype": "int8"}
MANIFEST |= {"kv_bytes_per_token": 2 * 2 * 3 * 2 * 32}


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leaves torch and the extension with the threads they had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    extension.set_threads(1024)


def run(*messages: Any) -> list[int]:
    """Return the numbers of threads that a host sets, given these messages."""
    inbox: Inbox = queue.SimpleQueue()
    for message in (*messages, None):
        inbox.put(message)
    counts: list[int] = []
    Host(inbox, lambda out: None, lambda load: None, Parking(0), set_threads=counts.append).run()
    return counts


def loaded() -> LoadEnded:
    load = Load("a", "echo", "nowhere", {})
    return LoadEnded(load, EchoEngine(), Loaded("a", 7, 0.5))


def test_it_takes_the_number_it_is_told_and_keeps_it_when_a_model_was_loaded() -> None:
    assert run(SetThreads(3), SetThreads(1), loaded()) == [3, 1, 1]


def test_it_computes_with_all_its_threads_until_it_is_told() -> None:
    assert run(loaded()) == []


def test_torch_is_told(as_before: None) -> None:
    host.set_threads(1)
    assert torch.get_num_threads() == 1


def test_an_extension_that_is_not_in_use_is_not_built_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extension, "status", lambda: pytest.fail("it is looked for"))
    extension.extension.cache_clear()
    extension.set_threads(2)


@pytest.mark.parametrize("loaded_with", [1, 4])
def test_tokens_do_not_depend_on_the_threads_nor_on_when_they_change(
    as_before: None, tmp_path: Path, loaded_with: int
) -> None:
    needed_extension()
    path, _ = make_quantized(tmp_path)
    works = {str(i): greedy(random_ids(9 + 7 * i, seed=i), 12) for i in range(3)}
    steady = NativeEngine()
    steady.load(path, MANIFEST, "cpu", loaded_with)
    expected = run_works(steady, works)
    changing = NativeEngine()
    changing.load(path, MANIFEST, "cpu", loaded_with)
    step, counts = changing.step, iter([1, 3, 2, 4, 1, 1, 4, 9] * 100)

    def step_with_others() -> Any:
        host.set_threads(next(counts))
        return step()

    changing.step = step_with_others  # type: ignore[method-assign]
    assert run_works(changing, works) == expected
