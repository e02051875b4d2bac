"""Who is asking: the identity every route and tool acts as.

An actor is what an API key stands for. Nothing here checks anything; see ``policy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmos.types import Priority

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
    """

    id: str
    owner: str
    role: Role
    actions: frozenset[str] | None = None
    models: frozenset[str] | None = None
    best_priority: Priority = Priority.INTERACTIVE


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
