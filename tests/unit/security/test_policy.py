"""The policy table: every action for every role, and every way a key is narrowed."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from llmos.errors import PermissionDeniedError
from llmos.security.actors import SYSTEM, Actor, Role
from llmos.security.policy import ACTIONS, OF_A_MODEL, OWNED, check, check_priority
from llmos.types import Priority

USER = Actor("k1", "alice", "user")
ADMIN = Actor("k0", "admin", "admin")
ADMIN_ONLY = {"quotas.manage", "system.manage", "logs.read", "keys.manage", "audit.read"}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("role", get_args(Role))
def test_the_table_decides_for_every_action_and_role(action: str, role: Role) -> None:
    actor = Actor("k", "o", role)
    if role in ACTIONS[action]:
        check(actor, action, "x")
    else:
        with pytest.raises(PermissionDeniedError, match=action):
            check(actor, action, "x")


def test_admins_may_do_everything_and_users_not_what_is_the_admins() -> None:
    assert all("admin" in roles for roles in ACTIONS.values())
    assert {action for action, roles in ACTIONS.items() if "user" not in roles} == ADMIN_ONLY
    for action in ACTIONS:
        check(SYSTEM, action)


@pytest.mark.parametrize(
    "action", ["", "models", "models.*", "models.read ", "MODELS.READ", "root"]
)
def test_an_unknown_action_is_denied_even_to_admins(action: str) -> None:
    with pytest.raises(PermissionDeniedError):
        check(ADMIN, action)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_key_limited_to_actions_has_only_those(action: str) -> None:
    check(dataclasses.replace(ADMIN, actions=frozenset({action})), action)
    with pytest.raises(PermissionDeniedError, match="limited to other actions"):
        check(dataclasses.replace(ADMIN, actions=frozenset()), action)


def test_a_limit_never_widens_a_role() -> None:
    with pytest.raises(PermissionDeniedError):
        check(dataclasses.replace(USER, actions=frozenset({"keys.manage"})), "keys.manage")


@pytest.mark.parametrize("action", sorted(OF_A_MODEL))
@pytest.mark.parametrize("text", ["a", "a:3", "a@production", "a:3@b"])
def test_a_key_limited_to_models_uses_and_reads_only_those(text: str, action: str) -> None:
    limited = dataclasses.replace(USER, models=frozenset({"a"}))
    check(limited, action, text)
    for other in ("b", "team/a", "", text.replace("a", "A", 1)):
        with pytest.raises(PermissionDeniedError, match="limited to other models"):
            check(limited, action, other)


@pytest.mark.parametrize("action", sorted(OWNED))
def test_what_is_owned_is_its_owners_and_the_admins(action: str) -> None:
    check(USER, action, "x", owner="alice")
    check(ADMIN, action, "x", owner="alice")
    with pytest.raises(PermissionDeniedError, match="another owner"):
        check(USER, action, "x", owner="bob")


@pytest.mark.parametrize("best", list(Priority))
@pytest.mark.parametrize("wanted", list(Priority))
def test_a_key_asks_at_best_for_its_class(best: Priority, wanted: Priority) -> None:
    actor = dataclasses.replace(USER, best_priority=best)
    if wanted >= best:
        check_priority(actor, wanted)
    else:
        with pytest.raises(PermissionDeniedError, match=best.name.lower()):
            check_priority(actor, wanted)


def test_an_endless_object_does_not_fill_the_message() -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        check(USER, "keys.manage", "x" * 100_000)
    assert len(caught.value.message) < 500
