"""Who is asking: the identity every route and tool acts as.

An actor is what an API key stands for. Nothing here checks anything; see ``policy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from llmos.types import Anonymise, Priority

Role = Literal["admin", "user"]


@dataclass(frozen=True, slots=True)
class Actor:
    """An authenticated caller.

    Attributes:
        id: the key's id, as written in the audit trail.
        owner: whose rows this actor makes and sees.
        role: decides the actions open to it (``policy.ACTIONS``).
        actions: narrows the role further; None means all the role has.
        models: names of the models it may use; None means all.
        best_priority: the most urgent class it may ask for.
        anonymise: personal data hidden in what it asks of models; None: nothing is.
    """

    id: str
    owner: str
    role: Role
    actions: frozenset[str] | None = None
    models: frozenset[str] | None = None
    best_priority: Priority = Priority.INTERACTIVE
    anonymise: Anonymise | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return this as plain JSON: with a job are kept the terms of whoever submitted it."""
        return {
            "id": self.id,
            "owner": self.owner,
            "role": self.role,
            "actions": None if self.actions is None else sorted(self.actions),
            "models": None if self.models is None else sorted(self.models),
            "best_priority": int(self.best_priority),
            "anonymise": msgspec.to_builtins(self.anonymise),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Actor:
        """Return the actor that `to_dict` was called on."""
        return cls(
            id=values["id"],
            owner=values["owner"],
            role=values["role"],
            actions=None if values["actions"] is None else frozenset(values["actions"]),
            models=None if values["models"] is None else frozenset(values["models"]),
            best_priority=Priority(values["best_priority"]),
            anonymise=msgspec.convert(values.get("anonymise"), Anonymise | None),
        )


SYSTEM = Actor(id="llmos", owner="llmos", role="admin")
"""llmos itself: first start, housekeeping, the commit of a finished job."""

KEYLESS = Actor(
    id="keyless",
    owner="keyless",
    role="user",
    actions=frozenset({"generate", "models.read", "catalog.read", "system.read"}),
    best_priority=Priority.STANDARD,
)
"""Whoever comes from this machine without a key, where the setting ``trust_loopback`` is on."""

OPERATORS = frozenset({"admin", SYSTEM.owner})
"""Owners who may add to anyone's name: the home's own admin key, and llmos."""
