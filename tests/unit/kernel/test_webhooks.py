from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from tests.unit.kernel.conftest import KINDS, FixedRandom

from llmos.errors import ConflictError, DataError, ForbiddenAddressError, NotFoundError
from llmos.kernel import webhooks as module
from llmos.kernel.jobs import Job
from llmos.kernel.queue import JobQueue
from llmos.kernel.webhooks import EVENTS, MAX_WEBHOOKS, Webhooks
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import deliveries, webhooks
from llmos.types import JobResult

ME, OTHER = Actor("key-1", "o", "user"), Actor("key-2", "p", "user")
URL = "https://ci.example/hook"
LEASE_S = 30.0


async def check(url: str) -> None:
    """One address is refused."""
    if "forbidden" in url:
        raise ForbiddenAddressError


@pytest.fixture
def hooks(database: MemoryDatabase, clock: Any, audited: list[Any]) -> Webhooks:
    def audit(connection: Any, *event: Any) -> None:
        audited.append(event)

    return Webhooks(database, clock, check, audit=audit)


@pytest.fixture
def queue(database: MemoryDatabase, clock: Any, hooks: Webhooks) -> JobQueue:
    return JobQueue(database, KINDS, clock, rng=FixedRandom(), outbox=hooks)


def events(database: MemoryDatabase) -> list[tuple[int, str]]:
    query = select(deliveries.c.webhook_id, deliveries.c.event).order_by(deliveries.c.id)
    return database.read_sync(lambda c: [tuple(row) for row in c.execute(query)])


def no_artifacts(connection: Connection, job: Job, result: JobResult) -> list[str]:
    return ["model:1"]


async def test_every_change_of_a_job_is_put_down_for_its_owners_webhooks(
    queue: JobQueue, hooks: Webhooks, database: MemoryDatabase
) -> None:
    await hooks.add(URL, EVENTS, ME)
    await hooks.add(URL, ["job.failed"], ME)
    await hooks.add(URL, EVENTS, OTHER)
    job = await queue.submit("train", {"secret": 1}, owner="o", name="mine")
    claimed = await queue.claim(job.id, LEASE_S, threads=1)
    await queue.set_paused(job.id, True, "a")
    await queue.set_paused(job.id, False, "a")
    await queue.complete(job.id, claimed.fence, JobResult(), no_artifacts)
    assert events(database) == [(1, "job.queued"), (1, "job.started"), (1, "job.succeeded")]
    failing = await queue.submit("train", {}, owner="o")
    waiting = await queue.submit("train", {}, owner="o", after=[failing.id])
    claimed = await queue.claim(failing.id, LEASE_S, threads=1)
    await queue.fail(failing.id, claimed.fence, DataError("no"), retryable=False)
    assert events(database)[3:] == [
        (1, "job.queued"),
        (1, "job.started"),
        (1, "job.failed"),
        (2, "job.failed"),
        (1, "job.failed"),
        (2, "job.failed"),
    ]
    await queue.retry(failing.id, "a")
    await queue.cancel(waiting.id, "a")
    assert events(database)[9:] == [(1, "job.queued"), (1, "job.cancelled")]


async def test_what_is_put_down_says_what_happened_but_no_params(
    queue: JobQueue, hooks: Webhooks, clock: Any
) -> None:
    await hooks.add(URL, ["job.succeeded"], ME)
    job = await queue.submit("train", {"secret": 1}, owner="o", name="mine")
    claimed = await queue.claim(job.id, LEASE_S, threads=1)
    clock.now = 1500.5
    await queue.complete(job.id, claimed.fence, JobResult(summary={"loss": 1}), no_artifacts)
    (delivery,) = await hooks.deliveries()
    assert (delivery.event, delivery.state, delivery.attempt) == ("job.succeeded", "pending", 0)
    assert delivery.payload == {
        "type": "job.succeeded",
        "timestamp": "1970-01-01T00:25:00.500000Z",
        "data": {
            "id": job.id,
            "kind": "train",
            "name": "mine",
            "state": "succeeded",
            "attempt": 1,
            "run_id": None,
            "created_at": 1000.0,
            "started_at": 1000.0,
            "finished_at": 1500.5,
            "error": None,
            "artifacts": ["model:1"],
        },
    }


async def test_a_change_that_fails_puts_nothing_down_and_wakes_nobody(
    queue: JobQueue, hooks: Webhooks, database: MemoryDatabase
) -> None:
    def refuse(connection: Connection, job: Job, result: JobResult) -> list[str]:
        raise ConflictError("taken")

    await hooks.add(URL, EVENTS, ME)
    job = await queue.submit("train", {}, owner="o")
    claimed = await queue.claim(job.id, LEASE_S, threads=1)
    woken: list[int] = []
    hooks.woken = lambda: woken.append(1)
    with pytest.raises(ConflictError):
        await queue.complete(job.id, claimed.fence, JobResult(), refuse)
    assert len(events(database)) == 2
    assert woken == []
    await queue.cancelled(job.id, claimed.fence)
    assert woken == [1]


async def test_whoever_has_no_webhook_costs_no_look_at_them(
    queue: JobQueue, hooks: Webhooks, database: MemoryDatabase
) -> None:
    await hooks.add(URL, EVENTS, OTHER)
    assert not hooks.wants("o")
    await queue.submit("train", {}, owner="o")
    assert events(database) == []
    await hooks.remove(1, "key-2")
    assert not hooks.wants("p")


async def test_a_secret_is_shown_once_and_nowhere_else(
    hooks: Webhooks, audited: list[Any], database: MemoryDatabase
) -> None:
    webhook, secret = await hooks.add(URL, ["job.failed", "job.queued"], ME)
    assert secret.startswith("whsec_")
    assert webhook.events == ("job.queued", "job.failed")
    assert await hooks.get(webhook.id) == webhook
    assert await hooks.of_owner("o") == [webhook] == await hooks.of_owner(None)
    shown = repr([webhook, await hooks.of_owner("o")]) + json.dumps(audited)
    assert secret not in shown
    assert database.read_sync(lambda c: c.scalar(select(webhooks.c.secret))) == secret
    _, other_secret = await hooks.add(URL, EVENTS, OTHER)
    assert other_secret != secret
    assert await hooks.of_owner("o") == [webhook]


async def test_a_removed_webhook_takes_its_deliveries_along(
    queue: JobQueue, hooks: Webhooks, database: MemoryDatabase, audited: list[Any]
) -> None:
    for _ in range(2):
        await hooks.add(URL, EVENTS, ME)
    await queue.submit("train", {}, owner="o")
    await hooks.remove(2, "key-1")
    assert events(database) == [(1, "job.queued")]
    assert audited[-1][:3] == ("key-1", "webhook.remove", "webhook:2")
    for call in (hooks.get(2), hooks.remove(2, "key-1")):
        with pytest.raises(NotFoundError, match="no webhook 2"):
            await call
    webhook, _ = await hooks.add(URL, EVENTS, ME)
    assert webhook.id == 3


async def test_an_address_that_nothing_is_sent_to_is_not_kept(hooks: Webhooks) -> None:
    with pytest.raises(ForbiddenAddressError):
        await hooks.add("https://forbidden.example/", EVENTS, ME)
    assert await hooks.of_owner(None) == []


async def test_an_owner_has_so_many_webhooks_and_no_more(hooks: Webhooks) -> None:
    for _ in range(MAX_WEBHOOKS):
        await hooks.add(URL, EVENTS, ME)
    with pytest.raises(ConflictError, match=f"{MAX_WEBHOOKS} webhooks"):
        await hooks.add(URL, EVENTS, ME)
    await hooks.add(URL, EVENTS, OTHER)


async def test_deliveries_are_listed_by_owner_webhook_and_state(
    queue: JobQueue, hooks: Webhooks
) -> None:
    await hooks.add(URL, EVENTS, ME)
    await hooks.add(URL, EVENTS, OTHER)
    for owner in ("o", "p", "o"):
        await queue.submit("train", {}, owner=owner)
    assert [d.id for d in await hooks.deliveries()] == [3, 2, 1]
    assert [d.id for d in await hooks.deliveries(owner="o")] == [3, 1]
    assert [d.id for d in await hooks.deliveries(webhook_id=2)] == [2]
    assert [d.id for d in await hooks.deliveries(owner="o", webhook_id=2)] == []
    assert [d.id for d in await hooks.deliveries(state="dead")] == []
    assert [d.id for d in await hooks.deliveries(before=3, limit=1)] == [2]


async def test_webhooks_of_the_last_server_are_known_again(
    hooks: Webhooks, database: MemoryDatabase, clock: Any
) -> None:
    await hooks.add(URL, EVENTS, ME)
    again = Webhooks(database, clock, check)
    assert not again.wants("o")
    await again.open()
    assert again.wants("o")


async def test_so_much_waits_for_a_webhook_and_the_oldest_goes_first(
    hooks: Webhooks, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 6)
    monkeypatch.setattr(module, "NUM_DROPPED", 2)
    await hooks.add(URL, EVENTS, ME)
    await hooks.add(URL, ["job.failed"], ME)

    def put(number: int) -> None:
        database.write_sync(lambda c: hooks.put(c, "o", "job.queued", {"id": number}, 0.0))

    for number in range(9):
        put(number)
    waiting = await hooks.deliveries(webhook_id=1, state="pending")
    assert [d.payload["data"]["id"] for d in waiting] == [8, 7, 6, 5, 4]
    dead = await hooks.deliveries(state="dead")
    assert [d.payload["data"]["id"] for d in dead] == [3, 2, 1, 0]
    assert dead[0].error == "left out: 6 newer ones waited for this webhook"
    sent = update(deliveries).where(deliveries.c.state == "pending").values(state="delivered")
    database.write_sync(lambda c: c.execute(sent))
    for number in range(9, 15):
        put(number)
    waiting = await hooks.deliveries(webhook_id=1, state="pending")
    assert [d.payload["data"]["id"] for d in waiting] == [14, 13, 12, 11, 10, 9]
    assert len(await hooks.deliveries(state="dead")) == 4
