"""The engine process and adapters: loaded beside the streams, bad ones fail alone."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmos.engines.echo import EchoEngine
from llmos.engines.host import Host
from llmos.engines.loader import AdapterEnded, AdapterLoad, LoadEnded, Loader
from llmos.engines.parking import Parking
from llmos.errors import InvalidModelError
from llmos.kernel.protocol import (
    AdapterFailed,
    AdapterLoaded,
    Load,
    LoadAdapter,
    Loaded,
    Submit,
    Unload,
    UnloadAdapter,
)
from llmos.types import PipelineWork

TIMEOUT_S = 10.0


class AdaptedEngine(EchoEngine):
    """Takes any adapter but "bad" and "broken"."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters: dict[str, Path] = {}

    def load_adapter(self, key: str, path: Path) -> int:
        if key == "bad":
            raise InvalidModelError("it does not fit")
        if key == "broken":
            raise ZeroDivisionError("oh")
        self.adapters[key] = path
        return 7

    def drop_adapter(self, key: str) -> None:
        self.adapters.pop(key, None)


class World:
    """A host whose loads end when the test says."""

    def __init__(self) -> None:
        self.inbox: Any = queue.SimpleQueue()
        self.sent: list[Any] = []
        self.loads: list[Any] = []
        self.host = Host(self.inbox, self._send, self.loads.append, Parking(0))

    def _send(self, messages: Iterable[Any]) -> None:
        self.sent += messages
        self.inbox.put(None)

    def say(self, *messages: Any) -> list[Any]:
        """Deliver messages, and one that is always answered; return what the host says of them."""
        self.sent.clear()
        for message in (*messages, Submit("last", "no model", PipelineWork("classify", ()))):
            self.inbox.put(message)
        self.host.run()
        return [message for message in self.sent if "Adapter" in type(message).__name__]

    def model(self, engine: AdaptedEngine) -> None:
        self.say(Load("m", "echo", "/m", {}))
        self.say(LoadEnded(self.loads.pop(), engine, Loaded("m", 0, 0.0)))


def test_a_load_goes_to_the_loader_with_its_model_and_is_reported() -> None:
    world, engine = World(), AdaptedEngine()
    world.model(engine)
    message = LoadAdapter("m", "a", "/a")
    assert world.say(message) == []
    (load,) = world.loads
    assert load == AdapterLoad(message, engine)
    report = AdapterLoaded("m", "a", 7, 0.1)
    assert world.say(AdapterEnded(load, report)) == [report]


def test_a_report_about_a_model_that_is_gone_is_dropped() -> None:
    world, engine = World(), AdaptedEngine()
    world.model(engine)
    ended = AdapterEnded(
        AdapterLoad(LoadAdapter("m", "a", "/a"), engine), AdapterLoaded("m", "a", 7, 0.1)
    )
    assert world.say(Unload("m"), ended) == []
    world.model(AdaptedEngine())  # the same model again: it has no adapter
    assert world.say(ended) == []


def test_without_its_model_an_adapter_fails() -> None:
    (failed,) = World().say(LoadAdapter("m", "a", "/a"))
    assert isinstance(failed, AdapterFailed)
    assert (failed.adapter, failed.code) == ("a", "engine_error")


def test_unloading_drops_it_from_its_model() -> None:
    world, engine = World(), AdaptedEngine()
    world.model(engine)
    engine.adapters["a"] = Path("/a")
    assert world.say(UnloadAdapter("m", "a"), UnloadAdapter("gone", "a")) == []
    assert engine.adapters == {}


@pytest.mark.parametrize(
    ("engine", "key", "code", "said"),
    [
        (AdaptedEngine(), "bad", "invalid_model", "it does not fit"),
        (AdaptedEngine(), "broken", "engine_error", "cannot be loaded: oh"),
        (EchoEngine(), "a", "unsupported_task", "runs no adapters"),
    ],
)
def test_a_bad_adapter_fails_alone(engine: EchoEngine, key: str, code: str, said: str) -> None:
    inbox: Any = queue.SimpleQueue()
    loader = Loader(inbox, {}, "cpu", 1, Parking(0))
    loader.start(AdapterLoad(LoadAdapter("m", key, "/a"), engine))
    report = inbox.get(timeout=TIMEOUT_S).report
    assert isinstance(report, AdapterFailed)
    assert (report.code, said in report.message) == (code, True)
    good = AdaptedEngine()
    loader.start(AdapterLoad(LoadAdapter("m", "good", "/good"), good))
    report = inbox.get(timeout=TIMEOUT_S).report
    assert isinstance(report, AdapterLoaded)
    assert (report.num_bytes, good.adapters) == (7, {"good": Path("/good")})
