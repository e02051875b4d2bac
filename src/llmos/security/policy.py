"""The one table of what each role may do, and the check every route passes.

An action is ``noun.verb``. Rows have owners: besides the role, a user needs to own what an owned
action touches. Nothing here reads the database.
"""

from __future__ import annotations

from llmos.errors import PermissionDeniedError
from llmos.security.actors import Actor, Role
from llmos.types import Priority

_EVERYONE: frozenset[Role] = frozenset({"admin", "user"})
_ADMIN: frozenset[Role] = frozenset({"admin"})

ACTIONS: dict[str, frozenset[Role]] = {
    "models.read": _EVERYONE,
    "models.write": _EVERYONE,
    "datasets.read": _EVERYONE,
    "datasets.write": _EVERYONE,
    "blobs.read": _EVERYONE,
    "blobs.write": _EVERYONE,
    "catalog.read": _EVERYONE,
    "jobs.read": _EVERYONE,
    "jobs.write": _EVERYONE,
    "pipelines.read": _EVERYONE,
    "pipelines.write": _EVERYONE,
    "schedules.read": _EVERYONE,
    "schedules.write": _EVERYONE,
    "webhooks.read": _EVERYONE,
    "webhooks.write": _EVERYONE,
    "generate": _EVERYONE,
    "responses.read": _EVERYONE,
    "responses.write": _EVERYONE,
    "files.read": _EVERYONE,
    "files.write": _EVERYONE,
    "batches.read": _EVERYONE,
    "batches.write": _EVERYONE,
    "fine_tuning.read": _EVERYONE,
    "fine_tuning.write": _EVERYONE,
    "usage.read": _EVERYONE,
    "quotas.read": _EVERYONE,
    "quotas.manage": _ADMIN,
    "routes.read": _EVERYONE,
    "routes.write": _EVERYONE,
    "feedback.read": _EVERYONE,
    "feedback.write": _EVERYONE,
    "annotation.read": _EVERYONE,
    "annotation.write": _EVERYONE,
    "system.read": _EVERYONE,
    "system.manage": _ADMIN,
    "logs.read": _ADMIN,
    "keys.manage": _ADMIN,
    "audit.read": _ADMIN,
}
"""Every action there is, with the roles that have it."""

OWNED: frozenset[str] = frozenset(
    {
        "usage.read",
        "quotas.read",
        "models.write",
        "datasets.read",
        "datasets.write",
        "jobs.read",
        "jobs.write",
        "files.read",
        "files.write",
        "batches.read",
        "batches.write",
        "fine_tuning.read",
        "fine_tuning.write",
        "pipelines.read",
        "pipelines.write",
        "schedules.read",
        "schedules.write",
        "webhooks.write",
        "routes.write",
    }
)
"""Actions on a row that only its owner or an admin may do."""

OF_A_MODEL: frozenset[str] = frozenset({"generate", "models.read", "models.write"})
"""Actions on a model that a key limited to other models may not do."""


def check(actor: Actor, action: str, object: str = "", *, owner: str | None = None) -> None:
    """Pass silently when ``actor`` may do ``action``.

    Args:
        actor: who asks.
        action: a key of ``ACTIONS``.
        object: what it is done to; for a model its resolved name, version and alias or not.
        owner: the owner of the row touched, where there is one.

    Raises:
        PermissionDeniedError: it may not. An unknown action is denied to everyone.
    """
    if actor.role not in ACTIONS.get(action, frozenset()):
        raise PermissionDeniedError(_refusal(action, object, f"the role {actor.role!r} may not"))
    if actor.actions is not None and action not in actor.actions:
        raise PermissionDeniedError(
            _refusal(action, object, "this key is limited to other actions")
        )
    if action in OWNED and owner is not None and not is_of(actor, owner):
        raise PermissionDeniedError(_refusal(action, object, "it belongs to another owner"))
    if action in OF_A_MODEL and not has_model(actor, object):
        raise PermissionDeniedError(_refusal(action, object, "this key is limited to other models"))


def is_of(actor: Actor, owner: str) -> bool:
    """Whether what belongs to ``owner`` is the actor's to see: its own, an admin's everything."""
    return actor.role == "admin" or owner == actor.owner


def has_model(actor: Actor, model: str) -> bool:
    """Whether the actor's key is for this model, given by its resolved name."""
    return actor.models is None or _model(model) in actor.models


def check_priority(actor: Actor, priority: Priority) -> None:
    """Pass silently when ``actor`` may ask for ``priority``.

    Raises:
        PermissionDeniedError: its key allows only less urgent classes.
    """
    if priority < actor.best_priority:
        raise PermissionDeniedError(
            f"this key may not ask for priority {priority.name.lower()!r}: "
            f"its best is {actor.best_priority.name.lower()!r}",
            param="priority",
        )


def priority_for(actor: Actor, wanted: str | None) -> Priority:
    """Return the class to run something in: as asked, else standard or the actor's best.

    Args:
        wanted: the name of a class in lower case.

    Raises:
        PermissionDeniedError: the actor may not ask for this class.
    """
    if wanted is None:
        return max(Priority.STANDARD, actor.best_priority)
    priority = Priority[wanted.upper()]
    check_priority(actor, priority)
    return priority


def _model(text: str) -> str:
    return text.partition("@")[0].partition(":")[0]


def _refusal(action: str, object: str, reason: str) -> str:
    subject = f"{action} on {object[:200]!r}" if object else action
    return f"{subject} is not allowed: {reason}; ask an admin for another key"
