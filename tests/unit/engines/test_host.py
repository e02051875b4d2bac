"""The host's main loop, with engines and messages under the test's control."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmos.engines.base import DeviceLostError, Engine
from llmos.engines.echo import EchoEngine
from llmos.engines.host import Host
from llmos.engines.loader import Inbox, LoadEnded, Loader
from llmos.engines.parking import Parking
from llmos.errors import DeadlineExceededError, EngineError, InvalidModelError
from llmos.kernel.protocol import (
    Cancel,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Output,
    Stats,
    Submit,
    Unload,
    Unloaded,
    WorkFailed,
)
from llmos.types import GenerateWork, PipelineWork, Priority, SamplingParams, TokensOut

ENGINES = {
    "echo": "llmos.engines.echo:EchoEngine",
    "broken": f"{__name__}:BrokenEngine",
    "missing": "llmos.engines.nothing:Nothing",
}


class FaultyEngine(EchoEngine):
    """Raises in its second step."""

    error: Exception = RuntimeError("numbers")
    steps = 0

    def step(self) -> list[Any]:
        self.steps += 1
        if self.steps == 2:
            raise self.error
        return super().step()


class Server:
    """The other end: records rounds of messages, and answers each with the next messages."""

    def __init__(self, engines: dict[str, Engine] | None = None) -> None:
        self.inbox: Inbox = queue.SimpleQueue()
        self.rounds: list[list[FromEngine]] = []
        self.stats: list[Stats] = []
        self.now = 0.0
        self.loads: list[Load] = []
        self.reply: Callable[[FromEngine], Iterable[Any]] = lambda message: ()
        self.engines = engines or {}
        self.host = Host(self.inbox, self._send, self._load, Parking(0), lambda: self.now)

    def _send(self, messages: Iterable[FromEngine]) -> None:
        sent = list(messages)
        self.stats += [message for message in sent if isinstance(message, Stats)]
        self.rounds.append([message for message in sent if not isinstance(message, Stats)])
        for message in self.rounds[-1]:
            for answer in self.reply(message):
                self.inbox.put(answer)

    def _load(self, load: Load) -> None:
        self.loads.append(load)
        if load.key in self.engines:
            self.end_load(load)

    def end_load(self, load: Load) -> None:
        engine = self.engines.get(load.key, EchoEngine())
        self.inbox.put(LoadEnded(load, engine, Loaded(load.key, 7, 0.5)))

    def run(self, *messages: Any) -> list[FromEngine]:
        for message in messages:
            self.inbox.put(message)
        self.host.run()
        return [message for sent in self.rounds for message in sent]


def load(key: str) -> Load:
    return Load(key, "echo", "nowhere", {})


def submit(work_id: str, key: str, *prompt: int, **sampling: Any) -> Submit:
    return Submit(work_id, key, GenerateWork(prompt or (1, 2, 3), SamplingParams(**sampling)))


def ends_when(*work_ids: str) -> Callable[[FromEngine], Iterable[Any]]:
    """Close the socket when the last of these works has ended."""
    left = set(work_ids)

    def reply(message: FromEngine) -> Iterable[Any]:
        is_end = isinstance(message, WorkFailed) or (
            isinstance(message, Output)
            and (not isinstance(message.out, TokensOut) or message.out.finish_reason)
        )
        if is_end:
            left.discard(message.id)  # type: ignore[union-attr]
            if not left:
                yield None

    return reply


def tokens(messages: list[FromEngine], work_id: str) -> list[int]:
    outs = [m.out for m in messages if isinstance(m, Output) and m.id == work_id]
    return [piece.token_id for out in outs for piece in out.pieces]  # type: ignore[union-attr]


class SlowEngine(EchoEngine):
    """Takes a second for every step, by the server's clock."""

    server: Server

    def step(self) -> list[Any]:
        self.server.now += 1.0
        return super().step()


def slow_server(*keys: str) -> Server:
    server = Server({key: SlowEngine() for key in keys})
    for engine in server.engines.values():
        engine.server = server  # type: ignore[attr-defined]
    return server


def test_models_take_turns_step_by_step_and_a_step_is_one_write() -> None:
    server = slow_server("m", "n")
    ended = ends_when("a", "b", "c")
    server.reply = lambda message: {
        "m": [submit("a", "m", 1, 2), submit("c", "m", 5, 6)],
        "n": [submit("b", "n", 3, 4)],
    }.get(getattr(message, "key", ""), ended(message))
    sent = server.run(load("m"), load("n"))
    assert [tokens(sent, work_id) for work_id in "abc"] == [[1, 2], [3, 4], [5, 6]]
    steps = ["".join(m.id for m in r if isinstance(m, Output)) for r in server.rounds]
    steps = [ids for ids in steps if ids]
    assert set(steps) == {"ac", "b"}
    assert all(a != b for a, b in pairwise(steps[1:]))


def test_a_model_with_work_of_a_better_class_goes_first() -> None:
    server = Server({"m": EchoEngine(), "n": EchoEngine()})
    batch = GenerateWork((1, 2, 3), SamplingParams(), priority=Priority.BATCH)
    ended = ends_when("a", "b")
    server.reply = lambda message: {
        "m": [Submit("a", "m", batch)],
        "n": [submit("b", "n")],
    }.get(getattr(message, "key", ""), ended(message))
    server.run(load("m"), load("n"))
    ids = [m.id for sent in server.rounds for m in sent if isinstance(m, Output)]
    assert ids[ids.index("b") :] in (list("bbbb" + "a" * n) for n in range(5))


def test_a_work_whose_deadline_passes_fails_and_the_others_go_on() -> None:
    server = slow_server("m")
    hasty = GenerateWork(tuple(range(9)), SamplingParams(), deadline_s=2.5)
    ended = ends_when("a", "b")
    server.reply = lambda message: (
        [Submit("a", "m", hasty), submit("b", "m", 1, 2, 3, 4, 5)]
        if isinstance(message, Loaded)
        else ended(message)
    )
    sent = server.run(load("m"))
    assert tokens(sent, "a") == [0, 1, 2]
    assert [(m.id, m.code) for m in sent if isinstance(m, WorkFailed)] == [
        ("a", DeadlineExceededError.code)
    ]
    assert tokens(sent, "b") == [1, 2, 3, 4, 5]


def test_a_deadline_that_is_near_puts_its_model_first() -> None:
    server = slow_server("m", "n")
    hasty = GenerateWork((1,), SamplingParams(), priority=Priority.BATCH, deadline_s=3.5)
    ended = ends_when("a", "b")
    server.reply = lambda message: {
        "n": [submit("a", "m", *range(9)), Submit("b", "n", hasty)],
    }.get(getattr(message, "key", ""), ended(message))
    server.run(load("m"), load("n"))
    ends = [m.id for r in server.rounds for m in r if isinstance(m, Output) and m.out.finish_reason]  # type: ignore[union-attr]
    assert ends == ["b", "a"]
    assert not [m for r in server.rounds for m in r if isinstance(m, WorkFailed)]


def test_stats_are_sent_once_a_second_and_at_the_end_of_the_work() -> None:
    server = Server({"m": EchoEngine()})
    ended = ends_when("a")

    def reply(message: FromEngine) -> Iterable[Any]:
        server.now += 0.25
        return [submit("a", "m", *range(1, 9))] if isinstance(message, Loaded) else ended(message)

    server.reply = reply
    server.run(load("m"))
    running = [stats.models["m"].running for stats in server.stats]
    assert running == [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)]


def test_work_for_a_model_that_is_not_loaded_fails_alone() -> None:
    server = Server({"m": EchoEngine()})
    ended = ends_when("a", "b")
    server.reply = lambda message: (
        [submit("a", "other"), submit("b", "m")] if isinstance(message, Loaded) else ended(message)
    )
    sent = server.run(load("m"))
    assert WorkFailed("a", EngineError.code, "The model is not loaded.") in sent
    assert tokens(sent, "b") == [1, 2, 3]


def test_bad_work_fails_alone_with_its_own_error() -> None:
    server = Server({"m": EchoEngine()})
    ended = ends_when("good", "bad")
    server.reply = lambda message: (
        [submit("bad", "m", -4), submit("good", "m")]
        if isinstance(message, Loaded)
        else ended(message)
    )
    sent = server.run(load("m"))
    assert [m.code for m in sent if isinstance(m, WorkFailed)] == ["invalid_request"]
    assert tokens(sent, "good") == [1, 2, 3]


def test_an_engine_that_breaks_fails_its_own_works_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server({"m": FaultyEngine(), "n": EchoEngine()})
    ended = ends_when("a", "b", "c")
    server.reply = lambda message: {
        "m": [submit("a", "m"), submit("b", "m")],
        "n": [submit("c", "n")],
    }.get(getattr(message, "key", ""), ended(message))
    sent = server.run(load("m"), load("n"))
    failed = {m.id: m for m in sent if isinstance(m, WorkFailed)}
    assert set(failed) == {"a", "b"}
    assert failed["a"] == WorkFailed("a", EngineError.code, "The engine failed: numbers")
    assert tokens(sent, "c") == [1, 2, 3]
    assert "RuntimeError: numbers" in capsys.readouterr().err


def test_a_lost_device_ends_the_process() -> None:
    engine = FaultyEngine()
    engine.error = DeviceLostError("gone")
    server = Server({"m": engine})
    server.reply = lambda m: [submit("a", "m")] if isinstance(m, Loaded) else []
    with pytest.raises(DeviceLostError):
        server.run(load("m"))


def test_nothing_more_is_sent_of_a_cancelled_work() -> None:
    server = Server({"m": EchoEngine()})
    ended = ends_when("b")
    first = Output("a", TokensOut((), None))

    def reply(message: FromEngine) -> Iterable[Any]:
        if isinstance(message, Loaded):
            return [submit("a", "m", ignore_eos=True, max_tokens=10**9), submit("b", "m")]
        if isinstance(message, Output) and message.id == first.id:
            return [Cancel("a"), Cancel("a"), Cancel("unknown")]
        return ended(message)

    server.reply = reply
    assert tokens(server.run(load("m")), "a") == [1]


def test_unloading_fails_what_was_under_way() -> None:
    server = Server({"m": EchoEngine()})
    server.reply = lambda message: {
        Loaded: [submit("a", "m", ignore_eos=True, max_tokens=10**9)],
        Output: [Unload("m")],
        Unloaded: [submit("b", "m")],
    }.get(type(message), [None] if getattr(message, "id", "") == "b" else [])
    sent = server.run(load("m"))
    assert [m.id for m in sent if isinstance(m, WorkFailed)] == ["a", "b"]
    assert Unloaded("m") in sent


def test_unloading_a_model_that_is_not_there_is_answered() -> None:
    server = Server()
    server.reply = lambda message: [None]
    assert server.run(Unload("m")) == [Unloaded("m")]


def test_a_model_unloaded_while_it_loads_is_dropped_when_it_is_there() -> None:
    server = Server()
    server.reply = lambda message: [None] if isinstance(message, WorkFailed) else []
    ended = LoadEnded(load("m"), EchoEngine(), Loaded("m", 7, 0.5))
    sent = server.run(load("m"), Unload("m"), ended, submit("a", "m"))
    assert sent[:2] == [Loaded("m", 7, 0.5), Unloaded("m")]
    assert isinstance(sent[2], WorkFailed)


def test_a_model_loaded_again_while_it_is_being_dropped_stays() -> None:
    server = Server()
    server.reply = ends_when("a")
    ended = LoadEnded(load("m"), EchoEngine(), Loaded("m", 7, 0.5))
    sent = server.run(load("m"), Unload("m"), load("m"), ended, ended, submit("a", "m"))
    assert tokens(sent, "a") == [1, 2, 3]


def test_pipeline_work_ends_with_its_output() -> None:
    server = Server({"m": EchoEngine()})
    server.reply = lambda message: {
        Loaded: [Submit("a", "m", PipelineWork("seq2seq", (1, 2)))],
        Output: [None],
    }.get(type(message), [])
    server.run(load("m"))
    assert server.host._owners == {}


class BrokenEngine(EchoEngine):
    """Cannot be loaded."""

    def load(self, path: Path, manifest: Any, device: str, threads: int) -> int:
        raise InvalidModelError("no weights") if manifest else ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (Load("m", "broken", "p", {"a": 1}), "invalid_model", "no weights"),
        (Load("m", "broken", "p", {}), "engine_error", "cannot be loaded: a bug"),
        (Load("m", "missing", "p", {}), "engine_error", "cannot be loaded"),
        (Load("m", "llama.cpp", "p", {}), "invalid_model", "broken, echo, missing"),
    ],
)
def test_a_load_that_fails_says_why(message: Load, code: str, text: str) -> None:
    inbox: Inbox = queue.SimpleQueue()
    loader = Loader(inbox, ENGINES, "cpu", 1, Parking(0))
    loader.start(message)
    loader.start(Load("n", "echo", "p", {}))
    failed, good = inbox.get(timeout=20), inbox.get(timeout=20)
    assert isinstance(failed, LoadEnded)
    assert isinstance(failed.report, LoadFailed)
    assert (failed.engine, failed.report.code) == (None, code)
    assert text in failed.report.message
    assert isinstance(good, LoadEnded)
    assert isinstance(good.report, Loaded)
