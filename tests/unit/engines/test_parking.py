"""What swapped-out models left stays within its bytes, and goes to nobody else."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmos.engines.base import Engine
from llmos.engines.echo import EchoEngine
from llmos.engines.host import Host
from llmos.engines.loader import Inbox, LoadEnded, Loader
from llmos.engines.parking import Parking
from llmos.kernel.protocol import Load, Loaded, Unload


@dataclass(frozen=True)
class Left:
    num_bytes: int


def test_what_a_model_left_is_taken_once() -> None:
    parking = Parking(100)
    parking.put("a", Left(60))
    assert parking.take("b") is None
    assert parking.take("a") == Left(60)
    assert parking.take("a") is None


def test_the_one_swapped_out_longest_ago_makes_room() -> None:
    parking = Parking(100)
    parking.put("a", Left(40))
    parking.put("b", Left(40))
    parking.put("a", Left(50))
    parking.put("c", Left(30))
    assert parking.take("b") is None
    assert [parking.take("a"), parking.take("c")] == [Left(50), Left(30)]


@pytest.mark.parametrize("left", [None, Left(101)])
def test_a_model_that_leaves_nothing_or_too_much_leaves_nothing_old_either(
    left: Left | None,
) -> None:
    parking = Parking(100)
    parking.put("a", Left(40))
    parking.put("a", left)
    assert parking.take("a") is None


class Remembering(EchoEngine):
    """Leaves itself."""

    num_bytes = 10
    taken: Any = None

    def park(self, max_bytes: int) -> Any:
        assert max_bytes == 100
        return self

    def unpark(self, parked: Any) -> None:
        self.taken = parked


def test_a_model_gets_back_what_it_left_when_it_is_loaded_again() -> None:
    inbox: Inbox = queue.SimpleQueue()
    parking = Parking(100)
    host = Host(inbox, lambda messages: list(messages) and None, lambda load: None, parking)
    first = Remembering()
    load = Load("a", "remembering", "nowhere", {})
    for message in (load, LoadEnded(load, first, Loaded("a", 7, 0.5)), Unload("a"), None):
        inbox.put(message)
    host.run()
    loaded: Inbox = queue.SimpleQueue()
    engines = {"remembering": f"{__name__}:Remembering"}
    Loader(loaded, engines, "cpu", 1, parking).start(load)
    ended = loaded.get(timeout=30)
    assert isinstance(ended, LoadEnded)
    again: Engine | None = ended.engine
    assert again is not None and getattr(again, "taken", None) is first
    assert Path("nowhere").exists() is False
