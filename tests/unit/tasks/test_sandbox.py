from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from llmos.errors import OverloadedError
from llmos.tasks import sandbox as sandbox_module
from llmos.tasks.sandbox import (
    TIMEOUT_MEMORY_S,
    Sandbox,
    SandboxBrokenError,
    SandboxTimeoutError,
    Turns,
)

LONG_S = 60.0


class Question(msgspec.Struct, frozen=True, tag=True):
    text: str


class Helper:
    """In place of the process: answers what it was told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.num_kills = 0
        self.answers: dict[str, asyncio.Future[str]] = {}

    async def ask(self, question: Question) -> str:
        self.asked.append(question.text)
        return await self.answer_to(question.text)

    def answer_to(self, text: str) -> asyncio.Future[str]:
        return self.answers.setdefault(text, asyncio.get_running_loop().create_future())

    async def kill(self) -> None:
        self.num_kills += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def helper() -> Helper:
    return Helper()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(
    helper: Helper, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sandbox]:
    made = Sandbox("nowhere", Question, clock)

    async def running() -> Any:
        made._helper = helper  # type: ignore[assignment]
        return helper

    monkeypatch.setattr(made, "_running", running)
    yield made
    await made.close()


Ask = Callable[..., "asyncio.Task[Any]"]


@pytest.fixture
def ask(sandbox: Sandbox) -> Ask:
    def start(text: str, owner: str = "", **more: Any) -> Any:
        return asyncio.create_task(sandbox.ask(Question(text), LONG_S, owner=owner, **more))

    return start


async def test_owners_take_turns_however_many_questions_one_of_them_has(
    helper: Helper, ask: Ask
) -> None:
    texts = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    tasks = []
    for text in texts:
        tasks.append(ask(text, owner=text[0]))
        await settle()
    for text in ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]:
        assert helper.asked[-1] == text
        helper.answer_to(text).set_result(text.upper())
        await settle()
    assert [task.result() for task in tasks] == [text.upper() for text in texts]


async def test_who_waits_too_long_for_others_is_told_to_come_back(helper: Helper, ask: Ask) -> None:
    first = ask("slow", owner="a")
    await settle()
    with pytest.raises(OverloadedError):
        await ask("mine", owner="b", wait_s=0.0)
    helper.answer_to("slow").set_result("done")
    assert await first == "done"
    helper.answer_to("again").set_result("free")
    assert await ask("again", owner="b", wait_s=0.0) == "free"
    assert helper.asked == ["slow", "again"]


async def test_what_took_too_long_is_refused_at_once_for_a_minute(
    helper: Helper, clock: Clock, ask: Ask
) -> None:
    helper.answer_to("endless").set_exception(TimeoutError())
    for _ in range(3):
        with pytest.raises(SandboxTimeoutError):
            await ask("endless", key=b"endless")
    assert (len(helper.asked), helper.num_kills) == (1, 1)
    helper.answer_to("other").set_result("fine")
    assert await ask("other", key=b"other") == "fine"
    clock.now += TIMEOUT_MEMORY_S
    with pytest.raises(SandboxTimeoutError):
        await ask("endless", key=b"endless")
    assert helper.asked == ["endless", "other", "endless"]


async def test_those_that_wait_with_what_takes_too_long_do_not_try_it_again(
    helper: Helper, ask: Ask
) -> None:
    helper.answer_to("endless").set_exception(TimeoutError())
    tasks = [ask("endless", owner=str(n), key=b"endless") for n in range(5)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SandboxTimeoutError] * 5
    assert helper.num_kills == 1


async def test_an_asker_that_leaves_does_not_cost_the_next_one_the_helper(
    helper: Helper, ask: Ask
) -> None:
    leaver, queued, next_one = ask("left"), ask("queued"), ask("next")
    await settle()
    leaver.cancel()
    queued.cancel()
    await settle()
    assert helper.asked == ["left"]
    helper.answer_to("left").set_result("for nobody")
    helper.answer_to("next").set_result("mine")
    assert await next_one == "mine"
    assert (helper.asked, helper.num_kills) == (["left", "next"], 0)


async def test_a_helper_that_ends_over_a_question_is_replaced_for_the_next(
    helper: Helper, ask: Ask
) -> None:
    helper.answer_to("bomb").set_exception(ConnectionResetError())
    with pytest.raises(SandboxBrokenError):
        await ask("bomb")
    helper.answer_to("next").set_result("fine")
    assert await ask("next") == "fine"


async def test_a_helper_that_ended_while_nobody_asked_costs_no_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Started(Helper):
        def __init__(self) -> None:
            super().__init__()
            self.process = SimpleNamespace(returncode=None)

        async def receive(self) -> None:
            """Ready."""

    helpers = [Started(), Started()]
    started = iter(helpers)

    async def spawn(module: str, decoder: Any) -> Started:
        return next(started)

    monkeypatch.setattr(sandbox_module._Helper, "spawn", spawn)
    made = Sandbox("nowhere", Question)
    for helper in helpers:
        helper.answer_to("hello").set_result("fine")
        assert await made.ask(Question("hello"), LONG_S) == "fine"
        helper.process.returncode = -9
    assert [helper.asked for helper in helpers] == [["hello"], ["hello"]]
    await made.close()
    assert [helper.num_kills for helper in helpers] == [1, 1]


async def test_a_turn_that_comes_as_its_taker_leaves_goes_to_the_next() -> None:
    turns = Turns()
    await turns.take("a", LONG_S)
    leaver = asyncio.create_task(turns.take("b", LONG_S))
    stayer = asyncio.create_task(turns.take("c", LONG_S))
    await settle()
    turns.give()
    leaver.cancel()
    await settle()
    assert leaver.cancelled()
    await stayer
    turns.give()
    await turns.take("d", 0.0)
