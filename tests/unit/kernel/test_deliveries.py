from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from llmos.errors import OutboundError
from llmos.kernel.deliveries import (
    DAY_S,
    EVERY_HEAD,
    IN_A_ROW,
    LONGEST_WAIT_S,
    MAX_ATTEMPTS,
    MAX_SENDING_OF_OWNER,
    Deliveries,
    longest_wait_s,
)
from llmos.kernel.webhooks import EVENTS, Delivery, Webhooks
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import webhooks

URL = "https://ci.example/hook"


class Receiver:
    """Takes what is posted, or answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes, dict[str, str]]] = []
        self.answers: dict[str, list[int | Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.is_closed = False
        self._came: asyncio.Queue[str] = asyncio.Queue()

    async def until(self, count: int) -> None:
        """Wait until so many have come."""
        while len(self.got) < count:
            await self._came.get()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.got.append((url, body, dict(headers)))
        self._came.put_nowait(url)
        if url in self.gates:
            await self.gates[url].wait()
        answers = self.answers.get(url)
        answer = answers.pop(0) if answers else 204
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.is_closed = True


class Middle(random.Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def hooks(database: MemoryDatabase, clock: Any) -> Webhooks:
    async def check(url: str) -> None:
        """Any address will do."""

    hooks = Webhooks(database, clock, check)
    await add(hooks, URL)
    return hooks


@pytest.fixture
def sender(database: MemoryDatabase, hooks: Webhooks, receiver: Receiver, clock: Any) -> Deliveries:
    return Deliveries(database, hooks, receiver, clock, rng=Middle())


async def add(hooks: Webhooks, url: str, owner: str = "o") -> int:
    webhook, _ = await hooks.add(url, EVENTS, Actor("key-1", owner, "user"))
    return webhook.id


def put(
    database: MemoryDatabase, hooks: Webhooks, number: int, at: float, owner: str = "o"
) -> None:
    data = {"id": number, "name": "nämë"}
    database.write_sync(lambda c: hooks.put(c, owner, "job.queued", data, at))


def numbers(receiver: Receiver) -> list[int]:
    """What came, in order."""
    return [json.loads(body)["data"]["id"] for _, body, _ in receiver.got]


async def settled(sender: Deliveries) -> float:
    """Begin what is due and let it end."""
    wait_s = await sender.step()
    while sender.busy:
        await asyncio.gather(*sender.busy)
    return wait_s


async def only(hooks: Webhooks) -> Delivery:
    (delivery,) = await hooks.deliveries()
    return delivery


async def test_an_event_is_sent_signed_as_standard_webhooks_has_it(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    put(database, hooks, 7, clock.now)
    clock.now = 1234.9
    await settled(sender)
    ((url, body, headers),) = receiver.got
    assert url == URL
    assert json.loads(body) == {
        "type": "job.queued",
        "timestamp": "1970-01-01T00:16:40Z",
        "data": {"id": 7, "name": "nämë"},
    }
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_1", "1234")
    secret = database.read_sync(lambda c: c.scalar(select(webhooks.c.secret)))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, b"msg_1.1234." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    delivery = await only(hooks)
    assert (delivery.state, delivery.attempt, delivery.error) == ("delivered", 1, None)
    await settled(sender)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("answer", [500, 404, 302, 199, OutboundError("no route")])
async def test_what_is_not_taken_is_sent_again_later_as_the_same_message(
    sender: Deliveries,
    hooks: Webhooks,
    receiver: Receiver,
    database: MemoryDatabase,
    clock: Any,
    answer: int | Exception,
) -> None:
    receiver.answers[URL] = [answer]
    put(database, hooks, 1, clock.now)
    await settled(sender)
    failed = await only(hooks)
    assert (failed.state, failed.attempt, failed.not_before) == ("pending", 1, 1002.5)
    assert failed.error == (
        "no route" if isinstance(answer, Exception) else f"it answered {answer}"
    )
    assert await settled(sender) == 2.5
    assert len(receiver.got) == 1
    clock.now = 1002.5
    await settled(sender)
    first, second = receiver.got
    assert first[1] == second[1]
    assert first[2]["webhook-id"] == second[2]["webhook-id"]
    assert first[2]["webhook-signature"] != second[2]["webhook-signature"]
    delivery = await only(hooks)
    assert (delivery.state, delivery.attempt, delivery.error) == ("delivered", 2, None)


async def test_what_is_never_taken_is_dead_after_its_attempts_and_says_why(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    receiver.answers[URL] = [503] * MAX_ATTEMPTS
    put(database, hooks, 1, clock.now)
    for _ in range(MAX_ATTEMPTS):
        await settled(sender)
        clock.now = (await only(hooks)).not_before
    dead = await only(hooks)
    assert (dead.state, dead.attempt, dead.error) == ("dead", MAX_ATTEMPTS, "it answered 503")
    clock.now += DAY_S
    await settled(sender)
    assert len(receiver.got) == MAX_ATTEMPTS


def test_attempts_go_on_for_half_a_day_at_most() -> None:
    waits = [longest_wait_s(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert waits == [5, 25, 125, 625, 3125, 14400, 14400, 14400]
    assert sum(waits) < 14 * 3600


async def test_a_receiver_that_is_gone_for_good_is_asked_once(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    receiver.answers[URL] = [410]
    put(database, hooks, 1, clock.now)
    await settled(sender)
    delivery = await only(hooks)
    assert (delivery.state, delivery.attempt, delivery.error) == ("dead", 1, "it answered 410")


async def test_a_webhook_gets_one_at_a_time_in_order(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    for number in range(5):
        put(database, hooks, number, clock.now)
    receiver.gates[URL] = asyncio.Event()
    await sender.step()
    await sender.step()
    await receiver.until(1)
    assert len(receiver.got) == 1
    receiver.gates[URL].set()
    await settled(sender)
    assert [json.loads(body)["data"]["id"] for _, body, _ in receiver.got] == [0, 1, 2, 3, 4]


async def test_a_webhook_that_fails_is_left_alone_longer_each_time_whatever_waits_for_it(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    for number in range(4):
        put(database, hooks, number, clock.now)
    receiver.answers[URL] = [OutboundError("no answer")] * 2
    assert await settled(sender) == LONGEST_WAIT_S
    put(database, hooks, 4, clock.now)
    assert await settled(sender) == 2.5
    assert numbers(receiver) == [0]
    clock.now += 2.5
    await settled(sender)
    assert await settled(sender) == 12.5
    assert numbers(receiver) == [0, 1]
    clock.now += 12.5
    await settled(sender)
    assert numbers(receiver) == [0, 1, 2, 3, 4, 0, 1]
    assert {d.state for d in await hooks.deliveries()} == {"delivered"}


async def test_what_waited_as_long_as_a_webhook_failed_is_dead_and_what_came_since_is_not(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    receiver.answers[URL] = [503] * MAX_ATTEMPTS
    for number in range(50):
        put(database, hooks, number, clock.now)
    await settled(sender)
    put(database, hooks, 50, clock.now)
    for _ in range(MAX_ATTEMPTS - 1):
        clock.now += longest_wait_s(MAX_ATTEMPTS)
        await settled(sender)
    assert len(receiver.got) == MAX_ATTEMPTS
    waiting = await hooks.deliveries(state="pending")
    assert [d.payload["data"]["id"] for d in waiting] == [50]
    dead = await hooks.deliveries(state="dead")
    assert (len(dead), dead[0].attempt) == (50, 0)
    assert dead[0].error == "not sent: 9 others in a row failed, the last as it answered 503"
    clock.now += longest_wait_s(MAX_ATTEMPTS)
    await settled(sender)
    assert numbers(receiver)[-1] == 50
    assert (await hooks.deliveries(state="delivered"))[0].payload["data"]["id"] == 50


async def test_a_receiver_that_often_fails_gets_everything_all_the_same(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    receiver.answers[URL] = [500, 204] * 40
    for number in range(30):
        put(database, hooks, number, clock.now)
    while await hooks.deliveries(state="pending"):
        clock.now += longest_wait_s(MAX_ATTEMPTS)
        await settled(sender)
    assert set(numbers(receiver)) == set(range(30))
    assert await hooks.deliveries(state="dead") == []


@pytest.mark.parametrize("attempt", [0, 1])
async def test_what_was_put_down_while_the_clock_ran_ahead_is_sent_when_it_is_right_again(
    sender: Deliveries,
    hooks: Webhooks,
    receiver: Receiver,
    database: MemoryDatabase,
    clock: Any,
    attempt: int,
) -> None:
    right, clock.now = clock.now, clock.now + 365 * DAY_S
    receiver.answers[URL] = [500] * attempt
    put(database, hooks, 1, clock.now)
    if attempt:
        await settled(sender)
    clock.now = right
    await settled(sender)
    delivery = await only(hooks)
    assert (delivery.state, delivery.attempt) == ("delivered", attempt + 1)


async def test_an_owner_is_sent_a_few_things_at_a_time_so_that_others_are_sent_theirs(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    slow = [URL, *(f"https://slow-{number}.example/" for number in range(9))]
    for url in slow:
        receiver.gates[url] = asyncio.Event()
        if url != URL:
            await add(hooks, url)
    await add(hooks, "https://other.example/", owner="p")
    put(database, hooks, 1, clock.now)
    put(database, hooks, 1, clock.now, owner="p")
    await sender.step()
    await receiver.until(MAX_SENDING_OF_OWNER + 1)
    await sender.step()
    urls = [url for url, _, _ in receiver.got]
    assert len(urls) == MAX_SENDING_OF_OWNER + 1
    assert "https://other.example/" in urls
    for gate in receiver.gates.values():
        gate.set()
    while await hooks.deliveries(state="pending"):
        await settled(sender)
    assert {url for url, _, _ in receiver.got} == {*slow, "https://other.example/"}


async def test_a_long_backlog_gives_its_place_to_others_in_between(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    for number in range(IN_A_ROW + 1):
        put(database, hooks, number, clock.now)
    await settled(sender)
    assert len(receiver.got) == IN_A_ROW
    await settled(sender)
    assert numbers(receiver) == list(range(IN_A_ROW + 1))


def test_what_is_next_is_found_by_index_however_much_waits(database: MemoryDatabase) -> None:
    sql = EVERY_HEAD.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    plan = database.read_sync(
        lambda c: c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").mappings().all()
    )
    steps = [row["detail"] for row in plan if "SCAN" in row["detail"]]
    assert steps and all("deliveries" not in step and "head" not in step for step in steps)


async def test_a_slow_receiver_holds_no_other_up(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    slow = "https://slow.example/"
    slow_id = await add(hooks, slow)
    receiver.gates[slow] = asyncio.Event()
    for number in range(3):
        put(database, hooks, number, clock.now)
    await sender.step()
    await receiver.until(4)
    assert sorted(url for url, _, _ in receiver.got) == [URL, URL, URL, slow]
    receiver.gates[slow].set()
    await settled(sender)
    assert {d.state for d in await hooks.deliveries(webhook_id=slow_id)} == {"delivered"}


async def test_what_was_under_way_when_the_server_stopped_is_sent_again(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    put(database, hooks, 1, clock.now)
    receiver.gates[URL] = asyncio.Event()
    await sender.start()
    await receiver.until(1)
    await sender.stop()
    assert receiver.is_closed
    assert (await only(hooks)).state == "pending"
    del receiver.gates[URL]
    again = Deliveries(database, hooks, receiver, clock, rng=Middle())
    await settled(again)
    assert [headers["webhook-id"] for _, _, headers in receiver.got] == ["msg_1", "msg_1"]
    assert (await only(hooks)).state == "delivered"


async def test_the_loop_sends_what_is_put_down_while_it_runs(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    await sender.start()
    try:
        put(database, hooks, 1, clock.now)
        hooks.wake()
        await receiver.until(1)
        await asyncio.gather(*sender.busy)
    finally:
        await sender.stop()
    assert (await only(hooks)).state == "delivered"


async def test_a_webhook_removed_while_it_is_sent_to_breaks_nothing(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    for number in range(2):
        put(database, hooks, number, clock.now)
    receiver.gates[URL] = asyncio.Event()
    await sender.step()
    await receiver.until(1)
    await hooks.remove(1, "key-1")
    receiver.gates[URL].set()
    await settled(sender)
    assert len(receiver.got) == 1
    assert await hooks.deliveries() == []


async def test_what_ended_long_ago_is_forgotten_and_its_number_is_not_given_out_again(
    sender: Deliveries, hooks: Webhooks, receiver: Receiver, database: MemoryDatabase, clock: Any
) -> None:
    put(database, hooks, 1, clock.now)
    receiver.answers[URL] = [410]
    await settled(sender)
    put(database, hooks, 2, clock.now)
    clock.now += 2.5
    await settled(sender)
    clock.now += 8 * DAY_S
    await settled(sender)
    assert [d.state for d in await hooks.deliveries()] == ["dead"]
    clock.now += 23 * DAY_S
    await settled(sender)
    assert await hooks.deliveries() == []
    put(database, hooks, 3, clock.now)
    assert (await only(hooks)).id == 3
