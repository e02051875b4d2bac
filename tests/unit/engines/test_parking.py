"""What swapped-out models left stays within its bytes, and goes to nobody else."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmos.engines.base import Engine
from llmos.engines.echo import EchoEngine
from llmos.engines.host import Host
from llmos.engines.loader import Inbox, LoadEnded, Loader
from llmos.engines.parking import Parking
from llmos.kernel.protocol import (
    FromEngine,
    Load,
    Loaded,
    Output,
    Stats,
    Submit,
    Unload,
    Unloaded,
)
from llmos.types import GenerateWork, SamplingParams


@dataclass(frozen=True)
class Left:
    """What a model leaves, in parts of ten bytes."""

    num_bytes: int
    copied: list[str] = field(default_factory=list, compare=False)
    error: Exception | None = None

    def copy(self) -> Iterator[None]:
        for at in range(self.num_bytes // 10):
            self.copied.append(str(at))
            if self.error is not None:
                raise self.error
            yield


class Leaving(EchoEngine):
    """Leaves what it is told to."""

    def __init__(self, left: Any) -> None:
        super().__init__()
        self.left = left

    def park(self, max_bytes: int) -> Any:
        return self.left

    def unload(self) -> None:
        if self.left:
            self.left.copied.append("unloaded")


def keep(parking: Parking, key: str, left: Left | None) -> None:
    for _ in parking.keep(key, Leaving(left)):
        pass


def test_what_a_model_left_is_taken_once() -> None:
    parking = Parking(100)
    keep(parking, "a", Left(60))
    assert parking.take("b") is None
    assert parking.take("a") == Left(60)
    assert parking.take("a") is None


def test_the_one_swapped_out_longest_ago_makes_room() -> None:
    parking = Parking(100)
    keep(parking, "a", Left(40))
    keep(parking, "b", Left(40))
    keep(parking, "a", Left(50))
    keep(parking, "c", Left(30))
    assert parking.take("b") is None
    assert [parking.take("a"), parking.take("c")] == [Left(50), Left(30)]


def test_it_makes_room_before_there_is_a_copy() -> None:
    parking = Parking(100)
    keep(parking, "a", Left(60))
    parts = parking.keep("b", Leaving(Left(60)))
    next(parts)
    assert parking.take("a") is None
    assert parking.take("b") is None  # it is not all there yet
    assert list(parts) == [None] * 5
    assert parking.take("b") == Left(60)


@pytest.mark.parametrize("left", [None, Left(110)])
def test_a_model_that_leaves_nothing_or_too_much_leaves_nothing_old_either(
    left: Left | None,
) -> None:
    parking = Parking(100)
    keep(parking, "a", Left(40))
    keep(parking, "b", Left(40))
    keep(parking, "a", left)
    assert parking.take("a") is None
    assert parking.take("b") == Left(40)
    assert left is None or left.copied == []


def test_the_others_go_on_while_a_model_leaves_and_a_copy_that_fails_stops_nobody() -> None:
    """The server hears that a model is gone once its memory is free, which is after the copy."""
    inbox: Inbox = queue.SimpleQueue()
    parking, said, rounds = Parking(100), [], []

    def send(messages: Iterable[FromEngine]) -> None:
        sent = list(messages)
        rounds.append((len(left.copied), sum(isinstance(one, Output) for one in sent)))
        said.extend(one for one in sent if not isinstance(one, Stats))
        if said.count(Unloaded("b")):
            inbox.put(None)

    left, broken = Left(50), Left(50, error=MemoryError("the device is full"))
    engines = {"a": Leaving(left), "b": Leaving(broken), "c": EchoEngine()}
    host = Host(inbox, send, lambda load: None, parking)
    for key, engine in engines.items():
        load = Load(key, "any", "nowhere", {})
        inbox.put(load)
        inbox.put(LoadEnded(load, engine, Loaded(key, 7, 0.5)))
    inbox.put(Submit("w", "c", GenerateWork(tuple(range(40)), SamplingParams())))
    for key in ("a", "b"):
        inbox.put(Unload(key))
    host.run()
    assert [one.key for one in said if isinstance(one, Unloaded)] == ["a", "b"]
    assert left.copied == ["0", "1", "2", "3", "4", "unloaded"]
    assert broken.copied == ["0", "unloaded"]
    assert sum(outputs for copied, outputs in rounds if copied < 5) >= 3
    assert (parking.take("a"), parking.take("b")) == (left, None)


class Remembering(EchoEngine):
    """Leaves itself."""

    num_bytes = 10
    taken: Any = None

    def park(self, max_bytes: int) -> Any:
        assert max_bytes == 100
        return self

    def copy(self) -> Iterator[None]:
        yield

    def unpark(self, parked: Any) -> None:
        self.taken = parked


def test_a_model_gets_back_what_it_left_when_it_is_loaded_again() -> None:
    inbox: Inbox = queue.SimpleQueue()
    parking = Parking(100)

    def send(messages: Iterable[FromEngine]) -> None:
        if Unloaded("a") in list(messages):
            inbox.put(None)

    host = Host(inbox, send, lambda load: None, parking)
    first = Remembering()
    load = Load("a", "remembering", "nowhere", {})
    for message in (load, LoadEnded(load, first, Loaded("a", 7, 0.5)), Unload("a")):
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
