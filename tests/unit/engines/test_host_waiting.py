"""Works that wait for no step, as for their grammars: the host goes on, and wakes up for them."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from tests.unit.engines.native.test_engine_failures import JSON, Grammars, State, with_grammars
from tests.unit.engines.simulated import expected_tokens
from tests.unit.engines.test_host import Server, ends_when, load, submit, tokens

from llmos.engines.echo import EchoEngine
from llmos.engines.host import STATS_S
from llmos.engines.loader import Loader
from llmos.engines.native.engine import NativeEngine
from llmos.engines.parking import Parking
from llmos.errors import DeadlineExceededError
from llmos.kernel.protocol import FromEngine, Loaded, Output, Submit, WorkFailed
from llmos.types import GenerateWork, SamplingParams


class CountingEngine:
    """An engine whose steps are counted."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.num_steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self) -> Any:
        self.num_steps += 1
        return self.engine.step()


def asked(**fields: Any) -> GenerateWork:
    return GenerateWork((1, 2, 3), SamplingParams(max_tokens=4), grammar=JSON, **fields)


class WatchedInbox(queue.SimpleQueue[Any]):
    """An inbox that tells when the host goes to sleep at it."""

    def __init__(self) -> None:
        self.asleep = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.empty():
            self.asleep.set()
        return super().get(block, timeout)


def compiling_server(**others: EchoEngine) -> tuple[Server, CountingEngine, Grammars]:
    engine, grammars = with_grammars()
    counting = CountingEngine(engine)
    return Server({"m": counting, **others}), counting, grammars  # type: ignore[dict-item]


def test_a_model_that_only_compiles_takes_no_steps_from_the_others() -> None:
    server, counting, grammars = compiling_server(n=EchoEngine())
    ended = ends_when("a", "b")

    def reply(message: FromEngine) -> Any:
        if isinstance(message, Loaded) and message.key == "n":
            return [Submit("a", "m", asked()), submit("b", "n", *range(1, 9))]
        if isinstance(message, Output) and message.id == "b" and message.out.finish_reason:  # type: ignore[union-attr]
            assert counting.num_steps == 0
            grammars.futures[0].set_result(State())
        return ended(message)

    server.reply = reply
    sent = server.run(load("m"), load("n"))
    assert tokens(sent, "b") == list(range(1, 9))
    assert tokens(sent, "a") == expected_tokens(asked())
    assert counting.num_steps <= 5


def test_the_host_sleeps_while_a_grammar_is_compiled_and_wakes_when_it_is() -> None:
    server, counting, grammars = compiling_server()
    ended = ends_when("a")
    times: list[float] = []
    inbox = server.inbox = server.host._inbox = WatchedInbox()

    def compile_then() -> None:
        assert inbox.asleep.wait(10)
        times.append(time.monotonic())
        grammars.futures[0].set_result(State())

    threading.Thread(target=compile_then).start()
    server.reply = lambda message: (
        [Submit("a", "m", asked())] if isinstance(message, Loaded) else ended(message)
    )
    sent = server.run(load("m"))
    assert time.monotonic() - times[0] < STATS_S / 2
    assert tokens(sent, "a") == expected_tokens(asked())
    assert counting.num_steps <= 5


def test_a_deadline_passes_while_a_grammar_is_compiled() -> None:
    server, counting, _ = compiling_server()
    ended = ends_when("a")

    def pass_time() -> None:
        server.now = 1.0

    server.reply = lambda message: (
        [Submit("a", "m", asked(deadline_s=0.03))]
        if isinstance(message, Loaded)
        else ended(message)
    )
    threading.Timer(0.1, pass_time).start()
    begun = time.monotonic()
    (failed,) = (m for m in server.run(load("m")) if isinstance(m, WorkFailed))
    assert failed.code == DeadlineExceededError.code
    assert time.monotonic() - begun < 0.1 + STATS_S / 2
    assert counting.num_steps == 0


@pytest.fixture
def thawing() -> Any:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_collection_does_not_go_through_what_was_imported(thawing: None) -> None:
    class Network:
        pass

    server = Server()
    engines = {"x": "llmos.engines.native.engine:NativeEngine"}
    loader = Loader(server.inbox, engines, "cpu", 1, Parking(0))
    before = gc.get_freeze_count()
    loader._make("x")
    assert "torch" in sys.modules
    assert gc.get_freeze_count() > before + 100_000
    # What comes after the first is not frozen, or no model with a cycle would ever be freed.
    network: Any = Network()
    network.itself = network
    gone = weakref.ref(network)
    loader._make("x")
    del network
    begun = time.perf_counter()
    gc.collect()
    assert time.perf_counter() - begun < 0.1
    assert gone() is None
