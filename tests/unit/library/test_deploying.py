"""A deploy job says what it is to do in words that are checked, and moves the alias as it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmos.errors import InvalidNameError, InvalidRequestError, PermissionDeniedError
from llmos.kernel.jobs import Job, JobState
from llmos.library.artifacts import Library
from llmos.library.deploying import check_deploy, commit, listener, llmos_job_kinds
from llmos.library.deployments import Deployments
from llmos.library.gates import GateFailedError
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryDatabase
from llmos.types import NewVersion, Priority

Make = Callable[..., NewVersion]


@pytest.fixture
def deployments(db: MemoryDatabase, clock: Any, library: Library, new_version: Make) -> Deployments:
    for f1 in (0.8, 0.9):
        library.add(new_version("m", str(f1), metrics={"test": {"f1": f1}}), "alice")
    return Deployments(db, clock)


def job(owner: str = "alice", **params: Any) -> Job:
    return Job(
        id=1, kind="deploy", name="deploy", params=check_deploy(params), state=JobState.RUNNING,
        priority=Priority.STANDARD, owner=owner, created_at=0.0, queued_at=0.0, started_at=0.0,
        finished_at=None, not_before=0.0, attempt=1, failures=0, max_attempts=1, fence=1,
        lease_expires_at=None, cancel_requested=False, reserved_bytes=0, threads=1, progress=None,
        error=None, result=None, asker=Actor("k", owner, "user").to_dict(),
    )  # fmt: skip


def test_what_is_left_out_has_its_default() -> None:
    assert check_deploy({"model": "m"}) == {
        "model": "m",
        "alias": "production",
        "gates": None,
        "rules": None,
        "weight": 1.0,
    }


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({}, "model"),
        ({"model": 3}, "model"),
        ({"model": "m", "alias": None}, "alias"),
        ({"model": "m", "gate": "a >= 1"}, "gate"),
        ({"model": "m", "gates": "a >= 1"}, "gates"),
        ({"model": "m", "gates": ["a > 1"]}, "gates"),
        ({"model": "m", "weight": True}, "weight"),
        ({"model": "m", "weight": 0}, "weight"),
        ({"model": "m", "weight": "1"}, "weight"),
        ({"model": "m", "rules": []}, "rules"),
        ({"model": "m", "rules": {"speed": 1}}, "rules"),
        ({"model": "m", "rules": {"min_requests": "1"}}, "rules"),
        ({"model": "m", "rules": {"min_requests": 0}}, "rules.min_requests"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_their_field(
    params: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_deploy(params)
    assert caught.value.param == param


@pytest.mark.parametrize("params", [{"model": "a b"}, {"model": "m", "alias": "latest"}])
def test_what_is_no_name_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidNameError):
        check_deploy(params)


async def test_the_alias_moves_with_the_jobs_end(
    db: MemoryDatabase, deployments: Deployments, library: Library
) -> None:
    first = job(model="m:1", gates=["test/f1 >= current"])
    db.write_sync(lambda conn: commit(conn, deployments, first))
    tried = job(model="m:2", weight=0.25, rules={"min_requests": 7})
    db.write_sync(lambda conn: commit(conn, deployments, tried))
    assert deployments.canary("m@production") is None
    await listener(deployments)(tried)
    found = deployments.canary("m@production")
    assert found is not None
    assert (found.stable_ref, found.candidate_ref, found.weight) == ("m:1", "m:2", 0.25)
    assert found.rules.min_requests == 7
    assert library.resolve("m@production").ref == "m:1"


def test_a_job_that_does_not_pass_the_gate_changes_nothing(
    db: MemoryDatabase, deployments: Deployments
) -> None:
    refused = job(model="m:1", gates=["test/f1 >= 0.85"])
    with pytest.raises(GateFailedError):
        db.write_sync(lambda conn: commit(conn, deployments, refused))
    with pytest.raises(PermissionDeniedError):
        db.write_sync(lambda conn: commit(conn, deployments, job("bob", model="m:1")))
    assert deployments.list() == []


def test_the_kind_is_registered_as_one_that_takes_no_place_of_those_that_compute() -> None:
    (kind,) = llmos_job_kinds()
    assert (kind.name, kind.light, kind.max_attempts) == ("deploy", True, 1)
    assert kind.estimate({}) == 0
