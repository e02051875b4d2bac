"""What a job asks of its server gets one answer each, whatever becomes of the asking."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.kernel import asks
from llmos.kernel.asks import AskDesk, not_open
from llmos.kernel.open_asks import OpenAsks
from llmos.kernel.protocol import Answer, FromWorker, Heartbeat, JobAnswer, JobAsk, UnsendableError

JOB: Any = SimpleNamespace(id=1)


def test_answers_find_the_ask_they_are_to_in_any_order() -> None:
    sent: list[FromWorker] = []
    opened = OpenAsks(sent.append)
    futures = [opened.ask("/a", b"1"), opened.ask("/b", None)]
    assert sent == [JobAsk(1, "/a", b"1"), JobAsk(2, "/b", None)]
    opened.take(JobAnswer(2, Answer(200, b"two")))
    opened.take(JobAnswer(1, Answer(404, b"one")))
    opened.take(JobAnswer(1, Answer(500, b"again")))
    opened.take(JobAnswer(7, Answer(500, b"never asked")))
    assert [future.result(timeout=0).body for future in futures] == [b"one", b"two"]


def test_an_answer_to_what_was_given_up_is_ignored() -> None:
    opened = OpenAsks(lambda message: None)
    future = opened.ask("/a", None)
    assert future.cancel()
    opened.take(JobAnswer(1, Answer(200, b"")))
    assert future.cancelled()


class Desk:
    """A desk whose answers are kept."""

    def __init__(self, answerer: asks.Answerer) -> None:
        self.sent: list[JobAnswer] = []
        self._arrived = asyncio.Event()
        self.desk = AskDesk(JOB, self.send, answerer)

    def send(self, message: Any) -> None:
        if message.answer.body == b"unsendable":
            raise UnsendableError("too large")
        self.sent.append(message)
        self._arrived.set()

    async def until_answered(self, count: int) -> list[JobAnswer]:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.sent


async def test_asks_are_answered_side_by_side_and_other_messages_passed_on() -> None:
    first_may_end = asyncio.Event()

    async def answerer(job: Any, ask: JobAsk) -> Answer:
        assert job is JOB
        if ask.path == "/slow":
            await first_may_end.wait()
        return Answer(200, ask.path.encode())

    desk = Desk(answerer)
    others = desk.desk.take([JobAsk(1, "/slow", None), Heartbeat(), JobAsk(2, "/quick", b"")])
    assert others == [Heartbeat()]
    assert await desk.until_answered(1) == [JobAnswer(2, Answer(200, b"/quick"))]
    first_may_end.set()
    assert (await desk.until_answered(2))[1] == JobAnswer(1, Answer(200, b"/slow"))


async def test_an_ask_that_breaks_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answerer(job: Any, ask: JobAsk) -> Answer:
        if ask.path == "/large":
            return Answer(200, b"unsendable")
        raise KeyError("x")

    desk = Desk(answerer)
    desk.desk.take([JobAsk(1, "/a", None), JobAsk(2, "/large", None)])
    answers = await desk.until_answered(2)
    assert {(one.id, one.answer.status) for one in answers} == {(1, 500), (2, 500)}
    assert caplog.text.count("what job 1 asked of /a failed") == 1


async def test_too_many_asks_at_once_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asks, "MAX_OPEN", 2)
    never = asyncio.Event()

    async def answerer(job: Any, ask: JobAsk) -> Answer:
        await never.wait()
        raise AssertionError

    desk = Desk(answerer)
    desk.desk.take([JobAsk(number, "/a", None) for number in (1, 2, 3)])
    assert desk.sent == [JobAnswer(3, Answer(429, b"", retry_after_s=1.0))]
    desk.desk.close()


async def test_when_the_worker_is_gone_what_it_asked_is_given_up() -> None:
    given_up = asyncio.Event()

    async def answerer(job: Any, ask: JobAsk) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    desk = Desk(answerer)
    desk.desk.take([JobAsk(1, "/a", None)])
    await asyncio.sleep(0)
    desk.desk.close()
    async with asyncio.timeout(10):
        await given_up.wait()
    assert desk.sent == []


async def test_before_the_server_is_open_a_job_is_told_to_come_again() -> None:
    answer = await not_open(JOB, JobAsk(1, "/a", None))
    assert answer.status == 503
    assert answer.retry_after_s is not None


async def test_what_belongs_to_a_new_job_is_written_with_it_or_neither_is(queue: Any) -> None:
    seen: list[Any] = []
    terms = {"id": "key-1"}
    job = await queue.submit(
        "train", {}, owner="o", asker=terms, also=lambda connection, job: seen.append(job)
    )
    assert (seen, job.asker) == ([job], terms)

    def refuse(connection: Any, job: Any) -> None:
        raise InvalidRequestError("no")

    with pytest.raises(InvalidRequestError):
        await queue.submit("train", {}, owner="o", also=refuse)
    assert await queue.list() == [job]
