"""A pinned model stays: it is neither evicted nor drained; what never fits beside it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.kernel.scheduler import decide
from llmos.kernel.state import Load, RefuseModel, ResidentModel, State, WantedModel
from llmos.types import Priority


def state(*models: ResidentModel, wanted: tuple[WantedModel, ...] = (), **changes: Any) -> State:
    used_bytes = sum(model.num_bytes for model in models)
    fields: dict[str, Any] = {"capacity_bytes": 100, "max_workers": 1, "idle_s": 10.0}
    fields |= {"now": 1000.0, "ageing_s": 300.0, "free_bytes": 100 - used_bytes}
    return State(**fields | changes, models=models, wanted=wanted)


def resident(key: str, num_bytes: int, **changes: Any) -> ResidentModel:
    fields: dict[str, Any] = {"num_users": 0, "last_used_at": 0.0, "load_s": 1.0, "demand": 0.0}
    fields |= {"turn_ends_at": 0.0, "is_pinned": True}
    return ResidentModel(key, num_bytes, "ready", **fields | changes)


def new(num_bytes: int) -> WantedModel:
    return WantedModel("new", num_bytes, Priority.INTERACTIVE, 0.0)


def test_a_pinned_model_is_not_evicted_for_being_idle() -> None:
    assert decide(state(resident("a", 50))) == []


@pytest.mark.parametrize("num_users", [0, 2])
def test_a_pinned_model_gives_way_to_nobody(num_users: int) -> None:
    pinned = resident("a", 60, num_users=num_users, priority=Priority.BACKGROUND)
    assert decide(state(pinned, wanted=(new(50),))) == [RefuseModel("new")]


def test_others_are_evicted_instead() -> None:
    models = (resident("a", 40), resident("b", 40, is_pinned=False, last_used_at=999.0))
    actions = decide(state(*models, wanted=(new(50),)))
    assert [type(action).__name__ for action in actions] == ["Evict"]
    assert decide(state(models[0], wanted=(new(50),))) == [Load("new", 50)]
