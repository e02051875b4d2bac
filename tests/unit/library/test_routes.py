"""Routes: what may be one, whose it is, and that what is behind it is checked when it is made."""

from __future__ import annotations

import math
import time
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
from llmos.library import routes as module
from llmos.library.artifacts import Library
from llmos.library.routes import MAX_MODELS, Routes, Target
from llmos.security.actors import SYSTEM, Actor
from llmos.security.audit import list_events
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.types import NewVersion

ADMIN = Actor("k0", "admin", "admin")
ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def library(database: MemoryDatabase, tmp_path: Any) -> Library:
    blobs = MemoryBlobStore()
    library = Library(database, blobs, time.time, tmp_path)
    for name, task in (("small", "chat"), ("big", "chat"), ("vectors", "embed")):
        manifest = {"task": task, "engine": "echo", "architecture": "e", "model_type": "e"}
        files = {"config.json": blobs.put_bytes(name.encode())}
        library.add(NewVersion("model", name, files, manifest), "admin")
    return library


@pytest.fixture
def routes(database: MemoryDatabase, library: Library) -> Routes:
    return Routes(database, library, lambda: 7.0, {"auto", "chat"})


def put(routes: Routes, name: str = "support", actor: Actor = ADMIN, **given: Any) -> Any:
    values = {"targets": [Target("small", 9), Target("big:1")], "fallbacks": ["small"]}
    return routes.put(name, **{**values, **given}, actor=actor)


def test_a_route_is_found_listed_replaced_and_survives_a_restart(
    routes: Routes, database: MemoryDatabase, library: Library
) -> None:
    made = put(routes)
    assert routes.find("support", BOB) == made
    assert "support" in routes
    assert "other" not in routes
    again = Routes(database, library, time.time)
    again.load()
    assert again.shown_to(ADMIN) == [made]
    put(routes, fallbacks=[])
    assert routes.find("support", BOB).fallbacks == ()  # type: ignore[union-attr]
    routes.remove("support", ADMIN)
    assert routes.find("support", ADMIN) is None
    events = [(event.action, event.object) for event in list_events(database, 3, None)]
    assert events == [("routes.remove", "support"), *[("routes.set", "support")] * 2]


def test_a_users_route_serves_that_user_alone(routes: Routes) -> None:
    put(routes, actor=ALICE)
    assert routes.find("support", ALICE) is not None
    assert routes.find("support", BOB) is None
    assert routes.find("support", ADMIN) is None
    assert [route.name for route in routes.shown_to(ADMIN)] == ["support"]
    assert routes.shown_to(BOB) == []
    with pytest.raises(NotFoundError, match="bob has no route"):
        routes.remove("support", BOB)
    with pytest.raises(PermissionDeniedError, match="another owner"):
        routes.remove("support", BOB, "alice")
    routes.remove("support", ADMIN, "alice")
    assert routes.find("support", ALICE) is None
    assert "support" not in routes


def test_each_owner_has_names_of_its_own_and_they_go_before_an_operators(routes: Routes) -> None:
    alices, admins = put(routes, actor=ALICE), put(routes, fallbacks=[])
    assert routes.find("support", ALICE) is alices
    assert routes.find("support", BOB) is routes.find("support", ADMIN) is admins
    assert (routes.shown_to(ALICE), routes.shown_to(BOB)) == ([alices], [admins])
    assert routes.shown_to(ADMIN) == [admins, alices]
    bobs = put(routes, actor=BOB)
    assert routes.find("support", BOB) is bobs
    routes.remove("support", ALICE)
    assert routes.find("support", ALICE) is admins
    routes.load()
    assert routes.shown_to(ADMIN) == [admins, bobs]


def test_an_owner_has_so_many_routes_and_may_go_on_changing_them(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROUTES", 2)
    for name in ("one", "two"):
        put(routes, name, ALICE)
    with pytest.raises(ConflictError, match="alice has 2 routes, which is all"):
        put(routes, "three", ALICE)
    assert routes.find("three", ALICE) is None
    assert put(routes, "two", ALICE, fallbacks=[]).fallbacks == ()
    put(routes, "three", BOB)
    routes.remove("one", ALICE)
    put(routes, "three", ALICE)


def test_a_route_hides_no_model_and_no_task(routes: Routes, library: Library) -> None:
    library.set_task_default("questions", "big", SYSTEM)
    for name, what in (("big", "model"), ("questions", "task")):
        with pytest.raises(ConflictError, match=f"the {what} '{name}'") as refused:
            put(routes, name)
        assert refused.value.param == "name"
    for name in ("auto", "chat", "", "a:1", "a@b", "team/a", "-a", "a" * 200, "é"):
        with pytest.raises(InvalidNameError) as unfit:
            put(routes, name)
        assert unfit.value.param == "name"
    assert routes.shown_to(ADMIN) == []


@pytest.mark.parametrize(
    ("given", "error", "param", "says"),
    [
        ({"targets": []}, InvalidRequestError, "targets", "weight above 0"),
        ({"targets": [Target("big", 0)]}, InvalidRequestError, "targets", "weight above 0"),
        (
            {"targets": [Target("big"), Target("small", -1)]},
            InvalidRequestError,
            "targets",
            "small",
        ),
        (
            {"targets": [Target("big"), Target("small", math.inf)]},
            InvalidRequestError,
            "targets",
            "small",
        ),
        ({"targets": [Target("big"), Target("big")]}, InvalidRequestError, "targets", "twice"),
        ({"fallbacks": ["big", "big"]}, InvalidRequestError, "fallbacks", "twice"),
        ({"fallbacks": ["none"]}, ModelNotFoundError, "fallbacks", "none"),
        ({"fallbacks": ["big:9"]}, ModelNotFoundError, "fallbacks", "no version 9"),
        ({"targets": [Target("a b")]}, InvalidNameError, "targets", "not a valid name"),
        ({"fallbacks": ["vectors"]}, InvalidRequestError, "targets", "one task"),
        (
            {"targets": [Target(f"m{at}") for at in range(MAX_MODELS + 1)]},
            InvalidRequestError,
            "targets",
            "at most",
        ),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    routes: Routes, given: dict[str, Any], error: type[Exception], param: str, says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        put(routes, **given)
    assert getattr(refused.value, "param", None) == param
    assert routes.shown_to(ADMIN) == []


def test_a_tasks_name_is_no_model(routes: Routes, library: Library) -> None:
    library.set_task_default("questions", "big", SYSTEM)
    with pytest.raises(InvalidRequestError, match="is a task"):
        put(routes, targets=[Target("questions")])


def test_a_key_makes_routes_of_its_own_models_alone(routes: Routes) -> None:
    limited = Actor("k3", "carol", "user", models=frozenset({"small"}))
    with pytest.raises(PermissionDeniedError, match="limited to other models"):
        put(routes, actor=limited)
    made = put(routes, targets=[Target("small")], fallbacks=[], actor=limited)
    assert made.owner == "carol"


def test_what_is_not_there_cannot_be_removed(routes: Routes) -> None:
    with pytest.raises(NotFoundError, match="no route 'support'"):
        routes.remove("support", ADMIN)
