"""Counts that fade: what the router learns, how quickly, and that a restart does not forget it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from llmos.kernel import outcomes as module
from llmos.kernel.outcomes import FEEDBACK_WEIGHT, HALF_LIFE_S, WINDOW, Counts, Outcomes
from llmos.kernel.router import Asked, Replica, route
from llmos.security.actors import Actor
from llmos.security.audit import list_events
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import outcomes as table

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
ADMIN = Actor("k0", "admin", "admin")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


@pytest.fixture
def outcomes(database: MemoryDatabase, clock: Clock) -> Outcomes:
    return Outcomes(database, clock)


# -- the counts ------------------------------------------------------------------------------------


def test_counts_halve_with_each_half_life() -> None:
    counts = Counts(8.0, 4.0, 0.0)
    assert counts.faded(HALF_LIFE_S) == Counts(4.0, 2.0, HALF_LIFE_S)
    assert counts.faded(3 * HALF_LIFE_S) == Counts(1.0, 0.5, 3 * HALF_LIFE_S)
    assert counts.noted(True, HALF_LIFE_S) == Counts(5.0, 2.0, HALF_LIFE_S)


def test_a_clock_that_goes_back_brings_nothing_back() -> None:
    assert Counts(8.0, 4.0, 100.0).faded(50.0).successes == 8.0


def test_no_more_than_the_window_is_remembered() -> None:
    counts = Counts()
    for _ in range(int(3 * WINDOW)):
        counts = counts.noted(True, 0.0)
    assert counts.successes + counts.failures == pytest.approx(WINDOW)
    for _ in range(int(WINDOW)):
        counts = counts.noted(False, 0.0)
    assert counts.successes / WINDOW == pytest.approx(math.exp(-1), rel=0.01)


# -- the table -------------------------------------------------------------------------------------


async def test_what_serving_shows_is_everybodys_and_survives_a_restart(
    outcomes: Outcomes, database: MemoryDatabase, clock: Clock
) -> None:
    outcomes.note("m:1", "chat", "", True)
    outcomes.note("m:1", "chat", "", True)
    outcomes.note("m:1", "chat", "", False)
    outcomes.note("m:1", "translate", "en_zh", True)
    for owner in ("alice", "bob"):
        assert outcomes.counts("m:1", "chat", "", owner) == (2.0, 1.0)
    await outcomes.stop()
    clock.now += HALF_LIFE_S
    again = Outcomes(database, clock)
    await again.start()
    assert again.counts("m:1", "chat", "", "alice") == pytest.approx((1.0, 0.5))
    assert again.counts("m:1", "translate", "en_zh", "alice") == pytest.approx((0.5, 0.0))
    assert again.counts("m:2", "chat", "", "alice") == (0.0, 0.0)


async def test_a_verdict_weighs_more_is_audited_and_is_its_owners_alone(
    outcomes: Outcomes, database: MemoryDatabase, clock: Clock
) -> None:
    await outcomes.judge(ALICE, "m:1", "chat", "", False)
    assert outcomes.counts("m:1", "chat", "", "alice") == (0.0, FEEDBACK_WEIGHT)
    assert outcomes.counts("m:1", "chat", "", "bob") == (0.0, 0.0)
    await outcomes.judge(ADMIN, "m:1", "chat", "", True)
    assert outcomes.counts("m:1", "chat", "", "bob") == (FEEDBACK_WEIGHT, 0.0)
    again = Outcomes(database, clock)
    await again.start()
    assert again.counts("m:1", "chat", "", "alice") == (FEEDBACK_WEIGHT, FEEDBACK_WEIGHT)
    events = list_events(database, 10, None)
    assert [(event.actor, event.action, event.object) for event in events] == [
        ("k0", "feedback.create", "m:1"),
        ("k1", "feedback.create", "m:1"),
    ]


async def test_what_hangs_on_a_users_own_terms_counts_for_that_user_until_a_restart(
    outcomes: Outcomes, database: MemoryDatabase, clock: Clock
) -> None:
    outcomes.note("m:1", "chat", "", False, "alice")
    await outcomes.judge(ALICE, "m:1", "chat", "", True)
    assert outcomes.counts("m:1", "chat", "", "alice") == (FEEDBACK_WEIGHT, 1.0)
    outcomes.note("m:1", "chat", "", False, "admin")
    assert outcomes.counts("m:1", "chat", "", "bob") == (0.0, 1.0)
    await outcomes.stop()
    again = Outcomes(database, clock)
    await again.start()
    assert again.counts("m:1", "chat", "", "alice") == (FEEDBACK_WEIGHT, 1.0)
    assert again.counts("m:1", "chat", "", "bob") == (0.0, 1.0)


async def test_verdicts_that_come_together_are_all_counted(outcomes: Outcomes) -> None:
    await asyncio.gather(
        *(outcomes.judge(ALICE, "m:1", "chat", "", good) for good in (True, True, False))
    )
    counted = outcomes.counts("m:1", "chat", "", "alice")
    assert counted == (2 * FEEDBACK_WEIGHT, FEEDBACK_WEIGHT)


async def test_a_language_sees_its_own_and_what_is_about_none(outcomes: Outcomes) -> None:
    for language in ("", "en_zh", "zh_en"):
        outcomes.note("m:1", "translate", language, True)
    assert outcomes.counts("m:1", "translate", "en_zh", "a") == (2.0, 0.0)
    assert outcomes.counts("m:1", "translate", "", "a") == (3.0, 0.0)
    await outcomes.stop()


async def test_an_owner_cannot_fill_the_table(
    outcomes: Outcomes,
    database: MemoryDatabase,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    for at in range(6):
        clock.now += 1
        await outcomes.judge(ALICE, f"m:{at}", "chat", "", True)
    await outcomes.judge(BOB, "m:0", "chat", "", True)
    rows = await database.read(lambda conn: conn.execute(sa.select(table)).all())
    kept = sorted((row.owner, row.model) for row in rows)
    assert kept == [("alice", "m:3"), ("alice", "m:4"), ("alice", "m:5"), ("bob", "m:0")]
    assert outcomes.counts("m:0", "chat", "", "alice") == (0.0, 0.0)


# -- what it is for: regret on simulated bandits ---------------------------------------------------

ARMS = (0.9, 0.8, 0.7, 0.6, 0.5)
Policy = Callable[[list[Counts], random.Random, int], int]


def thompson(counts: list[Counts], rng: random.Random, step: int) -> int:
    """The router itself, over arms that differ in nothing but how often they are good."""
    arms = [
        Replica(
            str(at), str(at), 1e4, 1e3, quality=0.8, successes=one.successes, failures=one.failures
        )
        for at, one in enumerate(counts)
    ]
    return int(route(Asked(10, 10), arms, rng).replica.key)


def round_robin(counts: list[Counts], rng: random.Random, step: int) -> int:
    return step % len(counts)


def epsilon_fixed(counts: list[Counts], rng: random.Random, step: int) -> int:
    if rng.random() < 0.1:
        return rng.randrange(len(counts))
    rates = [(one.successes + 1) / (one.successes + one.failures + 2) for one in counts]
    return rates.index(max(rates))


def regrets(policy: Policy, num_steps: int, seed: int) -> list[float]:
    """Return the regret after each step: what always taking the best arm would have given more."""
    rng, counts, regret = random.Random(seed), [Counts() for _ in ARMS], 0.0
    path = []
    for step in range(num_steps):
        arm = policy(counts, rng, step)
        counts[arm] = counts[arm].noted(rng.random() < ARMS[arm], float(step))
        regret += max(ARMS) - ARMS[arm]
        path.append(regret)
    return path


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_regret_is_sublinear_and_below_that_of_simpler_rules() -> None:
    """Five arms a tenth apart. Lai and Robbins' bound is about 45 at 5,000 requests; the router may
    take twice as much, grows by less than half as fast as the requests, and leaves a fixed share of
    exploration (a tenth: 100 in 5,000 alone) and taking turns (1,000) behind."""
    paths = [regrets(thompson, 5000, seed) for seed in range(6)]
    at_1000, at_5000 = mean([path[999] for path in paths]), mean([path[-1] for path in paths])
    assert at_5000 < 90
    assert at_5000 / 5000 < 0.5 * at_1000 / 1000
    fixed = mean([regrets(epsilon_fixed, 5000, seed)[-1] for seed in range(6)])
    assert at_5000 < 0.8 * fixed
    assert regrets(round_robin, 5000, 0)[-1] == pytest.approx(1000)


@pytest.mark.parametrize("seed", range(4))
def test_when_the_best_becomes_bad_it_is_left_within_three_hundred_requests(seed: int) -> None:
    rng, counts = random.Random(seed), [Counts(), Counts()]
    rates, step = [0.95, 0.7], 0
    for _ in range(3000):
        arm = thompson(counts, rng, step)
        counts[arm] = counts[arm].noted(rng.random() < rates[arm], float(step))
        step += 1
    rates[0] = 0.2
    taken: list[int] = []
    for _ in range(600):
        arm = thompson(counts, rng, step)
        counts[arm] = counts[arm].noted(rng.random() < rates[arm], float(step))
        taken.append(arm)
        step += 1
    assert taken[300:].count(1) > 0.85 * 300


# -- verdicts on answers that have an id -----------------------------------------------------------


async def test_a_verdict_said_again_counts_once_and_one_taken_back_not_at_all(
    outcomes: Outcomes, database: MemoryDatabase, clock: Clock
) -> None:
    def counts() -> tuple[float, float]:
        return outcomes.counts("m:1", "chat", "", "alice")

    for _ in range(3):
        await outcomes.judge(ALICE, "m:1", "chat", "", True, "a1")
    assert counts() == (FEEDBACK_WEIGHT, 0.0)
    assert [event.action for event in list_events(database)] == ["feedback.create"]
    await outcomes.judge(ALICE, "m:1", "chat", "", True, "a2")
    clock.now += HALF_LIFE_S
    assert counts() == pytest.approx((FEEDBACK_WEIGHT, 0.0))
    await outcomes.judge(ALICE, "m:1", "chat", "", False, "a1")
    half = FEEDBACK_WEIGHT / 2
    assert counts() == pytest.approx((half, FEEDBACK_WEIGHT)), "what was left of it is taken back"
    again = Outcomes(database, clock)
    await again.start()
    assert again.counts("m:1", "chat", "", "alice") == pytest.approx((half, FEEDBACK_WEIGHT))
    await outcomes.judge(ALICE, "m:1", "chat", "zh", False, "a1")
    assert counts() == pytest.approx((half, FEEDBACK_WEIGHT)), "of another language now"
    await outcomes.judge(BOB, "m:1", "chat", "", True, "a1")
    assert outcomes.counts("m:1", "chat", "", "bob") == (FEEDBACK_WEIGHT, 0.0)
    for _ in range(2):
        await outcomes.judge(BOB, "m:1", "chat", "", True)
    assert outcomes.counts("m:1", "chat", "", "bob")[0] == pytest.approx(3 * FEEDBACK_WEIGHT)


async def test_only_so_many_verdicts_are_known_again(
    outcomes: Outcomes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_VERDICTS", 2)
    for answer in ("a1", "a2", "a3", "a1", "a3"):
        clock.now += 1
        await outcomes.judge(ALICE, "m:1", "chat", "", True, answer)
    good, _ = outcomes.counts("m:1", "chat", "", "alice")
    assert good == pytest.approx(4 * FEEDBACK_WEIGHT, rel=1e-4), "a1 was forgotten, a3 was not"
