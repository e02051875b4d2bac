"""Live accounts on an in-memory database: let in, charged, written down, read back."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select
from tests.unit.kernel.conftest import Clock

from llmos.errors import DiskFullError, NotFoundError, QuotaExceededError, RateLimitError
from llmos.kernel.accounts import JOBS, Accounts
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.queue import JobQueue
from llmos.kernel.quotas import DAY_S, EVERYONE, Limits, day_of
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import quotas

NOON = 20_000 * DAY_S + DAY_S / 2
TODAY, TOMORROW = day_of(NOON), day_of(NOON + DAY_S)


class Machine:
    """Jobs that run for as long as told, and the energy that the machine takes."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[Job, float]] = {}
        self.joules: float | None = None

    def jobs(self) -> list[tuple[Job, float]]:
        return list(self.running.values())

    def read_joules(self) -> float | None:
        return self.joules


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = NOON
    return clock


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
async def open_accounts(
    database: MemoryDatabase, clock: Clock, machine: Machine, audited: list[Any]
) -> AsyncIterator[Any]:
    """Return a function that starts accounts, as a server would."""
    opened: list[Accounts] = []

    async def start() -> Accounts:
        accounts = Accounts(
            database,
            clock,
            running=machine.jobs,
            read_joules=machine.read_joules,
            audit=lambda connection, *event: audited.append(event),
        )
        await accounts.start()
        opened.append(accounts)
        return accounts

    yield start
    for accounts in opened:
        await accounts.stop()


@pytest.fixture
async def accounts(open_accounts: Any) -> Accounts:
    return await open_accounts()


def use(accounts: Accounts, owner: str, num_prompt: int, num_written: int) -> None:
    tab = accounts.tab(owner, "m:1")
    tab.reserve(num_prompt)
    tab.read(num_prompt)
    tab.wrote(num_written)


def job(number: int, owner: str = "alice", **fields: Any) -> Job:
    values = dict.fromkeys((field.name for field in dataclasses.fields(Job)), None)
    values |= {"id": number, "fence": 1, "owner": owner, "state": JobState.RUNNING}
    return Job(**(values | fields))


# -- requests --------------------------------------------------------------------------------------


async def test_requests_beyond_the_concurrency_are_refused_until_one_ends(
    accounts: Accounts,
) -> None:
    await accounts.set_limits("alice", Limits(concurrency=2), "k")
    first, _ = accounts.begin("alice"), accounts.begin("alice")
    with pytest.raises(RateLimitError):
        accounts.begin("alice")
    accounts.begin("bob")
    accounts.end(first)
    accounts.begin("alice")


async def test_a_burst_is_let_in_and_then_one_at_a_time(accounts: Accounts, clock: Clock) -> None:
    await accounts.set_limits("alice", Limits(requests_per_s=3), "k")
    for _ in range(3):
        accounts.begin("alice")
    with pytest.raises(RateLimitError) as refused:
        accounts.begin("alice")
    assert refused.value.retry_after_s == 1
    requests, tokens = accounts.standings("alice")
    assert requests is not None and (requests.limit, requests.remaining) == (3, 0)
    assert tokens is None
    clock.now += 1 / 3 + 1e-6
    accounts.begin("alice")
    with pytest.raises(RateLimitError):
        accounts.begin("alice")


async def test_a_refused_request_takes_nothing(accounts: Accounts, clock: Clock) -> None:
    await accounts.set_limits("alice", Limits(requests_per_s=1, concurrency=1), "k")
    account = accounts.begin("alice")
    for _ in range(5):
        with pytest.raises(RateLimitError):
            accounts.begin("alice")
    assert account.num_live == 1
    accounts.end(account)
    clock.now += 1
    accounts.begin("alice")


async def test_the_days_tokens_come_back_at_midnight_utc(accounts: Accounts, clock: Clock) -> None:
    await accounts.set_limits("alice", Limits(tokens_per_day=10), "k")
    use(accounts, "alice", 6, 4)
    with pytest.raises(QuotaExceededError) as refused:
        accounts.begin("alice")
    assert refused.value.retry_after_s == DAY_S / 2
    clock.now += DAY_S / 2 - 1
    with pytest.raises(QuotaExceededError):
        accounts.begin("alice")
    clock.now += 1
    accounts.end(accounts.begin("alice"))
    use(accounts, "alice", 1, 0)
    rows = await accounts.usage(TODAY, TOMORROW, group_by=("day",))
    assert [(row["day"], row["prompt_tokens"]) for row in rows] == [(TODAY, 6), (TOMORROW, 1)]


async def test_everybody_has_the_limits_of_all_but_those_with_their_own_and_the_admin(
    accounts: Accounts,
) -> None:
    await accounts.set_limits(EVERYONE, Limits(concurrency=0), "k")
    await accounts.set_limits("bob", Limits(concurrency=1), "k")
    with pytest.raises(RateLimitError):
        accounts.begin("alice")
    for owner in ("bob", "admin", "llmos"):
        accounts.begin(owner)
    assert [accounts.row_of(owner) for owner in ("alice", "bob", "admin")] == ["*", "bob", None]
    await accounts.set_limits("admin", Limits(concurrency=0), "k")
    with pytest.raises(RateLimitError):
        accounts.begin("admin")


async def test_a_changed_limit_holds_at_once_and_is_audited_and_kept(
    accounts: Accounts, open_accounts: Any, audited: list[Any], database: MemoryDatabase
) -> None:
    accounts.begin("alice")
    await accounts.set_limits("alice", Limits(concurrency=1), "key-1")
    with pytest.raises(RateLimitError):
        accounts.begin("alice")
    assert (await open_accounts()).limits() == {"alice": Limits(concurrency=1)}
    await accounts.remove_limits("alice", "key-1")
    accounts.begin("alice")
    assert [event[:3] for event in audited] == [
        ("key-1", "quota.set", "quota:alice"),
        ("key-1", "quota.remove", "quota:alice"),
    ]
    with pytest.raises(NotFoundError):
        await accounts.remove_limits("alice", "key-1")
    assert database.read_sync(lambda conn: conn.execute(select(quotas)).all()) == []


# -- written down ----------------------------------------------------------------------------------


async def test_a_restart_forgets_at_most_what_was_not_written(
    accounts: Accounts, open_accounts: Any
) -> None:
    await accounts.set_limits("alice", Limits(tokens_per_day=10), "k")
    use(accounts, "alice", 5, 4)
    await accounts.settle()
    use(accounts, "alice", 0, 1)
    restarted = await open_accounts()
    restarted.begin("alice")
    use(restarted, "alice", 0, 1)
    with pytest.raises(QuotaExceededError):
        restarted.begin("alice")


async def test_what_was_used_is_written_in_one_row_per_day_owner_and_model(
    accounts: Accounts,
) -> None:
    for _ in range(3):
        use(accounts, "alice", 2, 1)
        await accounts.settle()
    use(accounts, "bob", 1, 1)
    rows = await accounts.usage(TODAY, TODAY)
    told = [(row["owner"], row["model"], row["prompt_tokens"]) for row in rows]
    assert told == [("alice", "m", 6), ("bob", "m", 1)]
    (total,) = await accounts.usage(TODAY, TODAY, group_by=())
    assert (total["prompt_tokens"], total["completion_tokens"]) == (7, 4)
    assert await accounts.usage(day_of(NOON - 3 * DAY_S), day_of(NOON - DAY_S)) == []
    assert [row["owner"] for row in await accounts.usage(TODAY, TODAY, owner="bob")] == ["bob"]


async def test_nothing_is_written_when_nothing_was_used(
    accounts: Accounts, database: MemoryDatabase
) -> None:
    use(accounts, "alice", 1, 1)
    await accounts.settle()
    before = database.num_commits()
    await accounts.settle()
    assert database.num_commits() == before


async def test_what_a_full_disk_had_no_room_for_is_written_later(
    accounts: Accounts, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(change: Any) -> None:
        raise DiskFullError

    use(accounts, "alice", 3, 2)
    with monkeypatch.context() as patched:
        patched.setattr(database, "write", full)
        with pytest.raises(DiskFullError):
            await accounts.settle()
    use(accounts, "alice", 1, 1)
    (row,) = await accounts.usage(TODAY, TODAY)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (4, 3)


async def test_the_end_writes_what_is_left(open_accounts: Any, database: MemoryDatabase) -> None:
    accounts = await open_accounts()
    use(accounts, "alice", 3, 2)
    await accounts.stop()
    (row,) = await accounts.usage(TODAY, TODAY)
    assert row["prompt_tokens"] == 3


# -- jobs ------------------------------------------------------------------------------------------


async def test_jobs_are_charged_while_they_run_and_each_second_once(
    accounts: Accounts, machine: Machine
) -> None:
    await accounts.set_limits("alice", Limits(compute_s_per_day=10), "k")
    one = job(1)
    machine.running = {1: (one, 4.0), 2: (job(2), 2.0)}
    accounts.charge_running()
    assert accounts.may_compute("alice")
    assert accounts.next_spent_s() == 2.0
    machine.running = {1: (one, 8.0)}
    accounts.worker_ended(job(2), 2.5)
    accounts.charge_running()
    assert not accounts.may_compute("alice")
    assert accounts.may_compute("bob")
    machine.running = {}
    accounts.worker_ended(one, 8.5)
    await accounts.job_ended(dataclasses.replace(one, state=JobState.FAILED))
    (row,) = await accounts.usage(TODAY, TODAY)
    assert (row["model"], row["jobs"], row["failed"]) == (JOBS, 1, 1)
    assert row["compute_s"] == 11.0
    with pytest.raises(QuotaExceededError):
        accounts.begin("alice")


async def test_the_next_attempt_of_a_job_is_charged_from_its_own_start(
    accounts: Accounts, machine: Machine
) -> None:
    accounts.worker_ended(job(1, fence=1), 5.0)
    machine.running = {1: (job(1, fence=3), 2.0)}
    (row,) = await accounts.usage(TODAY, TODAY)
    assert row["compute_s"] == 7.0


async def test_seconds_before_midnight_are_of_the_old_day(
    accounts: Accounts, machine: Machine, clock: Clock
) -> None:
    await accounts.set_limits("alice", Limits(compute_s_per_day=10), "k")
    machine.running = {1: (job(1), 10.0)}
    clock.now += DAY_S / 2
    await accounts.settle()
    assert accounts.may_compute("alice")
    machine.running = {1: (job(1), 13.0)}
    rows = await accounts.usage(TODAY, TOMORROW)
    assert [(row["day"], row["compute_s"]) for row in rows] == [(TODAY, 10.0), (TOMORROW, 3.0)]


async def test_jobs_beyond_the_queue_depth_are_refused_and_not_written(
    accounts: Accounts, queue: JobQueue
) -> None:
    queue.admit = accounts.check_submission
    await accounts.set_limits("alice", Limits(queue_depth=2), "k")
    first = await queue.submit("train", {}, owner="alice")
    await queue.submit("train", {}, owner="alice", after=[first.id])
    with pytest.raises(QuotaExceededError, match="2 jobs in the queue"):
        await queue.submit("train", {}, owner="alice")
    await queue.submit("train", {}, owner="bob")
    await queue.claim(first.id, 30.0, 1)
    await queue.submit("train", {}, owner="alice")
    assert len(await queue.list(owner="alice")) == 3
    assert (await accounts.used_by("alice"))["queue_depth"] == 2


# -- energy ----------------------------------------------------------------------------------------


async def test_energy_goes_by_compute_seconds_to_models_and_jobs(
    accounts: Accounts, machine: Machine, clock: Clock, queue: JobQueue
) -> None:
    running = await queue.submit("train", {}, owner="alice")
    machine.running = {running.id: (job(running.id), 3.0)}
    accounts.tab("alice", "m:1").computed(1.0)
    use(accounts, "alice", 300, 200)
    machine.joules = 100.0
    clock.now += 5
    rows = await accounts.usage(TODAY, TODAY)
    told = {row["model"]: (row["joules"], row["joules_per_1k_tokens"]) for row in rows}
    assert told[JOBS] == (pytest.approx(60.0), None)
    assert told["m"] == (pytest.approx(20.0), pytest.approx(40.0))
    assert (await queue.get(running.id)).joules == pytest.approx(60.0)
    machine.running = {running.id: (job(running.id), 8.0)}
    clock.now += 5
    await accounts.settle()
    assert (await queue.get(running.id)).joules == pytest.approx(160.0)


async def test_where_the_machine_does_not_tell_energy_is_unknown_not_none_at_all(
    accounts: Accounts, machine: Machine, queue: JobQueue
) -> None:
    running = await queue.submit("train", {}, owner="alice")
    machine.running = {running.id: (job(running.id), 3.0)}
    use(accounts, "alice", 3, 2)
    rows = await accounts.usage(TODAY, TODAY)
    assert [(row["joules"], row["joules_per_1k_tokens"]) for row in rows] == [(None, None)] * 2
    assert (await queue.get(running.id)).joules is None


async def test_tokens_from_before_the_machine_told_do_not_thin_its_energy_out(
    accounts: Accounts, machine: Machine, clock: Clock
) -> None:
    use(accounts, "alice", 1000, 0)
    await accounts.settle()
    machine.joules = 0.0
    clock.now += DAY_S
    await accounts.settle()
    accounts.tab("alice", "m:1").computed(5.0)
    use(accounts, "alice", 100, 0)
    machine.joules = 10.0
    clock.now += 1
    (row,) = await accounts.usage(TODAY, TOMORROW, group_by=())
    assert (row["prompt_tokens"], row["joules"]) == (1100, pytest.approx(10.0))
    assert row["joules_per_1k_tokens"] == pytest.approx(100.0)
