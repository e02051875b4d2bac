"""A deployed alias moves by its gate only, back by one command, and every move is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmos.errors import (
    ConflictError,
    InvalidNameError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
)
from llmos.library.artifacts import Library
from llmos.library.canary import Rules
from llmos.library.deployments import Deployments
from llmos.library.gates import GateFailedError
from llmos.library.versions import Version
from llmos.security.actors import Actor
from llmos.security.audit import list_events
from llmos.storage.memory import MemoryDatabase
from llmos.types import NewVersion

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
ADMIN = Actor("k3", "admin", "admin")
GATE = "test/f1 >= current - 0.01"
Add = Callable[..., Version]
Evaluate = Callable[..., None]


@pytest.fixture
def deployments(db: MemoryDatabase, clock: Any) -> Deployments:
    return Deployments(db, clock)


@pytest.fixture
def add(library: Library, new_version: Callable[..., NewVersion]) -> Add:
    """Add a version of ``m`` with this F1."""
    return lambda f1: library.add(
        new_version("m", str(f1), metrics={"test": {"f1": f1}}), "alice", actor=ALICE
    )


def test_the_first_deployment_makes_the_alias(
    deployments: Deployments, library: Library, add: Add
) -> None:
    add(0.8)
    made, checks = deployments.deploy("m", "production", ALICE, gates=[GATE, "test/f1 >= 0.5"])
    assert (made.ref, made.stable_ref, made.candidate_ref) == ("m@production", "m:1", None)
    assert [check.passed for check in checks] == [True, True]
    assert library.resolve("m@production").ref == "m:1"
    assert deployments.get("m@production") == made
    assert deployments.list() == [made]


def test_a_better_version_passes_the_gate_that_was_given_before(
    deployments: Deployments, library: Library, add: Add
) -> None:
    add(0.8), add(0.85)
    deployments.deploy("m:1", "production", ALICE, gates=[GATE])
    made, (check,) = deployments.deploy("m:2", "production", ALICE)
    assert str(check) == "test/f1 >= current - 0.01: 0.85 against 0.79"
    assert made.gates == (GATE,)
    assert library.resolve("m@production").ref == "m:2"


def test_a_worse_version_changes_nothing(
    deployments: Deployments, library: Library, add: Add, db: MemoryDatabase
) -> None:
    add(0.8), add(0.7)
    made, _ = deployments.deploy("m:1", "production", ALICE, gates=[GATE])
    before = len(list_events(db))
    with pytest.raises(GateFailedError, match="m:2 does not pass the gate: test/f1"):
        deployments.deploy("m:2", "production", ALICE)
    with pytest.raises(InvalidRequestError, match="m:2 has no metric 'test/bleu'"):
        deployments.deploy("m:2", "production", ALICE, gates=["test/bleu >= 1"])
    assert deployments.get("m@production") == made
    assert library.resolve("m@production").ref == "m:1"
    assert len(list_events(db)) == before
    assert len(deployments.history("m@production")) == 1


def test_what_another_tenant_measured_passes_no_gate(
    deployments: Deployments, add: Add, evaluate: Evaluate
) -> None:
    add(0.8), add(0.8)
    evaluate("m:1", "alice", {"f1": 0.5})
    evaluate("m:2", "bob", {"f1": 1.0, "made_up": 1.0})
    evaluate("m:1", "bob", {"f1": 0.0})
    with pytest.raises(InvalidRequestError, match="m:2 has no metric 'news/f1'"):
        deployments.deploy("m:2", "production", ALICE, gates=["news/f1 >= 0.9"])
    deployments.deploy("m:1", "production", ALICE, gates=["news/f1 >= 0.5"])
    evaluate("m:2", "alice", {"f1": 0.4})
    with pytest.raises(GateFailedError, match=r"0\.4 against 0\.5"):
        deployments.deploy("m:2", "production", ALICE, gates=["news/f1 >= current"], weight=0.1)


def test_what_an_operator_or_the_one_who_deploys_measured_counts(
    deployments: Deployments, add: Add, evaluate: Evaluate
) -> None:
    carol = Actor("k4", "carol", "admin")
    add(0.8), add(0.8)
    evaluate("m:1", "admin", {"f1": 0.5})
    evaluate("m:2", "carol", {"f1": 0.6})
    deployments.deploy("m:1", "production", ALICE, gates=["news/f1 >= current"])
    with pytest.raises(InvalidRequestError, match="m:2 has no metric"):
        deployments.deploy("m:2", "production", ALICE)
    made, (check,) = deployments.deploy("m:2", "production", carol, weight=0.5)
    assert (made.candidate, check.value, check.bound) == (2, 0.6, 0.5)
    with pytest.raises(InvalidRequestError, match="m:2 has no metric"):
        deployments.promote("m@production", ALICE)
    assert deployments.promote("m@production", carol)[0].number == 2


def test_versions_are_compared_on_the_same_rows_alone(
    deployments: Deployments, add: Add, evaluate: Evaluate
) -> None:
    add(0.8), add(0.8)
    evaluate("m:1", "alice", {"f1": 0.5})
    deployments.deploy("m:1", "production", ALICE, gates=["news/f1 >= current"])
    for data, num_rows in (("b", 10), ("a", 5)):
        evaluate("m:2", "alice", {"f1": 0.9}, data, num_rows)
        with pytest.raises(InvalidRequestError, match="not measured on the same rows as that of m"):
            deployments.deploy("m:2", "production", ALICE)
    evaluate("m:2", "alice", {"f1": 0.9})
    assert deployments.deploy("m:2", "production", ALICE)[0].number == 2
    evaluate("m:1", "alice", {"f1": 0.9}, "b")
    with pytest.raises(InvalidRequestError, match="not measured on the same rows"):
        deployments.deploy("m:1", "production", ALICE)
    made, _ = deployments.deploy("m:1", "production", ALICE, gates=["news/f1 >= 0.7"])
    assert made.number == 1


def test_a_deployed_alias_is_not_moved_by_hand_nor_its_version_removed(
    deployments: Deployments, library: Library, add: Add
) -> None:
    add(0.8), add(0.9), add(0.9)
    deployments.deploy("m:1", "production", ALICE)
    deployments.deploy("m:2", "production", ALICE, weight=0.1)
    with pytest.raises(ConflictError, match="llmos deploy m:3 --as production"):
        library.set_alias("m:3", "production", ALICE)
    for number in (1, 2):
        with pytest.raises(ConflictError, match=f"m:{number} is deployed as m@production"):
            library.remove(f"m:{number}", ALICE)
    library.set_alias("m:3", "mine", ALICE)
    deployments.remove("m@production", ALICE)
    library.set_alias("m:3", "production", ALICE)
    assert library.resolve("m@production").ref == "m:3"


def test_a_candidate_is_promoted_if_it_passes_the_gate(
    deployments: Deployments, library: Library, add: Add
) -> None:
    add(0.8), add(0.81)
    deployments.deploy("m:1", "production", ALICE, gates=[GATE])
    rules = Rules(min_requests=10)
    tried, _ = deployments.deploy("m:2", "production", ALICE, weight=0.25, rules=rules)
    assert (tried.number, tried.candidate, tried.weight, tried.rules) == (1, 2, 0.25, rules)
    assert library.resolve("m@production").ref == "m:1"
    promoted, _ = deployments.promote("m@production", ALICE)
    assert (promoted.number, promoted.candidate, promoted.weight) == (2, None, 0.0)
    assert library.resolve("m@production").ref == "m:2"
    with pytest.raises(ConflictError, match="has no candidate"):
        deployments.promote("m@production", ALICE)


def test_a_rollback_takes_the_candidate_back_and_else_goes_to_the_version_before(
    deployments: Deployments, library: Library, add: Add
) -> None:
    for f1 in (0.8, 0.81, 0.82, 0.83):
        add(f1)
    for number in (1, 2, 3):
        deployments.deploy(f"m:{number}", "production", ALICE)
    deployments.deploy("m:4", "production", ALICE, weight=0.5)
    with pytest.raises(ConflictError, match="is not :3 any more"):
        deployments.rollback("m@production", ALICE, candidate=3)
    back = deployments.rollback("m@production", ALICE, reason="slow", candidate=4)
    assert (back.number, back.candidate) == (3, None)
    assert deployments.rollback("m@production", ALICE).number == 2
    assert deployments.rollback("m@production", ALICE).number == 1
    assert library.resolve("m@production").ref == "m:1"
    with pytest.raises(ConflictError, match="no version to go back to"):
        deployments.rollback("m@production", ALICE)
    newest = deployments.history("m@production", limit=3)
    assert [(one.action, one.from_number, one.to_number, one.reason) for one in newest] == [
        ("rollback", 2, 1, ""),
        ("rollback", 3, 2, ""),
        ("rollback", 4, 3, "slow"),
    ]


def test_every_move_is_audited(deployments: Deployments, add: Add, db: MemoryDatabase) -> None:
    add(0.8), add(0.9)
    deployments.deploy("m:1", "production", ALICE)
    deployments.deploy("m:2", "production", ALICE, weight=0.5)
    deployments.promote("m@production", ADMIN)
    deployments.rollback("m@production", ALICE)
    deployments.remove("m@production", ALICE)
    mine = [event for event in list_events(db) if event.action.startswith("deployments.")]
    assert sorted((event.action, event.actor) for event in mine) == [
        ("deployments.canary", "k1"),
        ("deployments.deploy", "k1"),
        ("deployments.promote", "k3"),
        ("deployments.remove", "k1"),
        ("deployments.rollback", "k1"),
    ]
    assert {event.object for event in mine} == {"m@production"}


def test_nobody_touches_anothers_deployment(deployments: Deployments, add: Add) -> None:
    add(0.8)
    deployments.deploy("m:1", "production", ALICE)
    for forbidden in (
        lambda: deployments.deploy("m:1", "production", BOB),
        lambda: deployments.promote("m@production", BOB),
        lambda: deployments.rollback("m@production", BOB),
        lambda: deployments.remove("m@production", BOB),
    ):
        with pytest.raises(PermissionDeniedError):
            forbidden()


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.1, float("nan")])
def test_a_weight_that_is_none_is_refused(
    deployments: Deployments, add: Add, weight: float
) -> None:
    add(0.8)
    with pytest.raises(InvalidRequestError, match="weight must be above 0") as caught:
        deployments.deploy("m:1", "production", ALICE, weight=weight)
    assert caught.value.param == "weight"


def test_only_what_has_a_candidate_is_looked_up_as_a_canary(
    deployments: Deployments, add: Add, db: MemoryDatabase, clock: Any
) -> None:
    add(0.8), add(0.9)
    deployments.deploy("m:1", "production", ALICE)
    assert deployments.canary("m@production") is None
    tried, _ = deployments.deploy("m:2", "production", ALICE, weight=0.5)
    assert deployments.canary("m@production") == tried
    restarted = Deployments(db, clock)
    restarted.load()
    assert restarted.canary("m@production") == tried
    deployments.rollback("m@production", ALICE)
    assert deployments.canary("m@production") is None


def test_the_first_version_of_a_name_is_deployed_whole_whatever_its_weight(
    deployments: Deployments, add: Add
) -> None:
    add(0.8)
    first, _ = deployments.deploy("m:1", "production", ALICE, weight=0.1)
    assert (first.number, first.candidate, first.weight) == (1, None, 0.0)
    assert [event.action for event in deployments.history("m@production")] == ["deploy"]


def test_a_candidate_needs_something_else_to_be_compared_with(
    deployments: Deployments, add: Add, library: Library
) -> None:
    add(0.8)
    add(0.9)
    library.set_alias("m:1", "production", ALICE)
    with pytest.raises(InvalidRequestError, match="deploy a version whole first"):
        deployments.deploy("m:2", "production", ALICE, weight=0.5)
    deployments.deploy("m:1", "production", ALICE)
    with pytest.raises(InvalidRequestError, match="m:1 is what m@production means"):
        deployments.deploy("m:1", "production", ALICE, weight=0.5)


def test_names_that_mean_nothing_are_refused(deployments: Deployments, add: Add) -> None:
    add(0.8)
    for alias in ("latest", "", "a b", "../x"):
        with pytest.raises(InvalidNameError):
            deployments.deploy("m:1", alias, ALICE)
    with pytest.raises(ModelNotFoundError):
        deployments.deploy("nothing", "production", ALICE)
    for ref in ("m@production", "m", "m:1@production", "x@y"):
        with pytest.raises(NotFoundError, match="is no deployment"):
            deployments.get(ref)
