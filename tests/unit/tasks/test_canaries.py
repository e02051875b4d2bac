"""A candidate gets its share, is taken back when it does worse, and else is left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from llmos.library.artifacts import Library
from llmos.library.canary import Rules, Sample
from llmos.library.deployments import Deployments
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.tasks import canaries as canaries_module
from llmos.tasks.canaries import Canaries
from llmos.types import NewVersion

ALICE = Actor("k1", "alice", "user")
RULES = Rules(min_requests=20, max_error_rate=0.05, max_latency_ratio=2.0)
NAME = "m@production"


@pytest.fixture
def deployments(tmp_path: Any) -> Iterator[Deployments]:
    """One with two versions of ``m``, the second tried by a quarter of the requests."""
    db, blobs = MemoryDatabase(), MemoryBlobStore()
    library = Library(db, blobs, lambda: 0.0, tmp_path)
    manifest = {"task": "chat", "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    for number in range(2):
        files = {"config.json": blobs.put_bytes(str(number).encode())}
        library.add(NewVersion("model", "m", files, manifest), "alice")
    made = Deployments(db, lambda: 0.0)
    made.deploy("m:1", "production", ALICE, rules=RULES)
    made.deploy("m:2", "production", ALICE, weight=0.25)
    yield made
    db.close()


def test_a_name_with_a_candidate_is_answered_by_weights(deployments: Deployments) -> None:
    canaries = Canaries(deployments)
    found = canaries.route(NAME)
    assert found is not None
    assert [(one.model, one.weight) for one in found.targets] == [("m:1", 0.75), ("m:2", 0.25)]
    assert canaries.route("m") is None
    assert canaries.has_any()
    deployments.promote(NAME, ALICE)
    assert canaries.route(NAME) is None
    assert not canaries.has_any()


async def test_a_candidate_that_fails_is_taken_back(deployments: Deployments) -> None:
    canaries = Canaries(deployments)
    for number in range(40):
        canaries.observe(NAME, "m:1", True, 1.0)
        canaries.observe(NAME, "m:2", number % 4 > 0, 1.0)
    await canaries.close()
    newest = deployments.history(NAME)[0]
    assert (newest.action, newest.from_number, newest.to_number) == ("rollback", 2, 1)
    assert (newest.actor, "requests failed" in newest.reason) == ("llmos", True)
    assert deployments.get(NAME).candidate is None


async def test_a_candidate_that_is_slow_is_taken_back(deployments: Deployments) -> None:
    canaries = Canaries(deployments)
    for _ in range(20):
        canaries.observe(NAME, "m:1", True, 1.0)
        canaries.observe(NAME, "m:2", True, 2.5)
    await canaries.close()
    assert "95% of its answers took up to 2.50 s" in deployments.history(NAME)[0].reason


def test_the_newest_latencies_are_those_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries_module, "MAX_LATENCIES", 50)
    rng, tally = random.Random(0), canaries_module._Tally()
    seen: list[float] = []
    for _ in range(300):
        seen.append(rng.choice((1.0, 2.0, rng.random())))
        tally.add(True, seen[-1])
        tally.add(False, 100.0)
        newest = sorted(seen[-50:])
        assert tally.sample().latency_p95_s == newest[int(len(newest) * 0.95)]
    assert (tally.requests, tally.failures) == (600, 300)


async def test_answers_that_waited_for_a_load_are_not_slow(deployments: Deployments) -> None:
    canaries = Canaries(deployments)
    for number in range(40):
        canaries.observe(NAME, "m:1", True, 1.0)
        canaries.observe(NAME, "m:2", True, 9.0 if number < 19 else None)
    found = deployments.get(NAME)
    assert found.candidate == 2
    assert canaries.samples(found) == {
        "m:1": Sample(40, 0, 40, 1.0),
        "m:2": Sample(40, 0, 19, 9.0),
    }
    canaries.observe(NAME, "m:2", True, 9.0)
    await canaries.close()
    assert deployments.get(NAME).candidate is None
    assert canaries.samples(deployments.get(NAME)) == {}


async def test_a_candidate_that_does_as_well_stays(deployments: Deployments) -> None:
    canaries = Canaries(deployments)
    for number in range(200):
        canaries.observe(NAME, "m:1", number % 50 > 0, 1.0)
        canaries.observe(NAME, "m:2", number % 50 > 0, 1.5)
    await canaries.close()
    assert deployments.get(NAME).candidate == 2


async def test_what_was_seen_of_one_candidate_is_not_held_against_the_next(
    deployments: Deployments,
) -> None:
    canaries = Canaries(deployments)
    for _ in range(19):
        canaries.observe(NAME, "m:2", False, 1.0)
    deployments.deploy("m:2", "production", ALICE, weight=0.5)
    canaries.observe(NAME, "m:2", False, 1.0)
    await canaries.close()
    assert deployments.get(NAME).candidate == 2


async def test_a_candidate_that_a_person_took_back_first_is_left_at_that(
    deployments: Deployments,
) -> None:
    canaries = Canaries(deployments)
    for _ in range(20):
        canaries.observe(NAME, "m:2", False, 1.0)
    deployments.rollback(NAME, ALICE, reason="mine")  # before the loop comes to it
    await canaries.close()
    assert deployments.history(NAME)[0].reason == "mine"
    canaries.observe(NAME, "m:1", True, 1.0)
    canaries.observe("unknown", "m:1", True, 1.0)
