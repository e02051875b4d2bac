"""The tables of quotas and of what was used by day: reading and writing, inside a transaction.

Rules are `quotas`' business, live numbers `accounts`'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    union,
    update,
)

from llmos.kernel.jobs import JobState
from llmos.kernel.quotas import Limits
from llmos.kernel.tabs import Counts
from llmos.storage.schema import (
    blob_owners,
    jobs,
    quotas,
    uploads,
    usage_daily,
    version_files,
    versions,
)
from llmos.types import Priority

GROUPS = ("day", "owner", "model")
"""What usage can be told apart by."""
_SUMMED = tuple(one.name for one in dataclasses.fields(Counts) if one.name != "joules")
COLUMNS = (*_SUMMED, "joules", "joules_per_1k_tokens")
"""What is told of each group, in this order."""


@dataclass(frozen=True, slots=True)
class UsageKey:
    """Whose use of what, when: the key of one row. ``model`` is empty for jobs."""

    day: str
    owner: str
    model: str


# -- quotas ----------------------------------------------------------------------------------------


def read_limits(connection: Connection) -> dict[str, Limits]:
    """Return every owner's limits, and those of ``*``."""
    return {row.owner: Limits.of(row.limits) for row in connection.execute(select(quotas))}


def write_limits(connection: Connection, owner: str, limits: Limits, now: float) -> None:
    """Let an owner have these limits."""
    kept = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    values = {"limits": kept, "updated_at": now}
    done = connection.execute(update(quotas).where(quotas.c.owner == owner).values(values))
    if done.rowcount == 0:
        connection.execute(insert(quotas).values(owner=owner, **values))


def remove_limits(connection: Connection, owner: str) -> bool:
    """Let an owner have the limits of ``*``; returns whether it had its own."""
    return connection.execute(delete(quotas).where(quotas.c.owner == owner)).rowcount > 0


# -- usage -----------------------------------------------------------------------------------------


def add_usage(connection: Connection, used: Mapping[UsageKey, Counts]) -> None:
    """Add what was used to the rows there are, or make them."""
    table = usage_daily.c
    for key, counts in used.items():
        values: dict[str, Any] = {name: table[name] + getattr(counts, name) for name in _SUMMED}
        if counts.joules is not None:
            values["joules"] = func.coalesce(table.joules, 0.0) + counts.joules
        is_it = and_(table.day == key.day, table.owner == key.owner, table.model == key.model)
        if connection.execute(update(usage_daily).where(is_it).values(values)).rowcount == 0:
            row = dataclasses.asdict(key) | dataclasses.asdict(counts)
            connection.execute(insert(usage_daily).values(row))


def add_joules(connection: Connection, joules: Mapping[int, float]) -> None:
    """Add the energy that jobs took, by their ids."""
    for job_id, more in joules.items():
        total = func.coalesce(jobs.c.joules, 0.0) + more
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(joules=total))


def used_in(connection: Connection, day: str) -> dict[str, tuple[int, float]]:
    """Return the tokens and compute seconds of each owner in a day."""
    table = usage_daily.c
    query = (
        select(
            table.owner,
            func.sum(table.prompt_tokens + table.completion_tokens),
            func.sum(table.compute_s),
        )
        .where(table.day == day)
        .group_by(table.owner)
    )
    return {owner: (tokens, compute_s) for owner, tokens, compute_s in connection.execute(query)}


def read_usage(
    connection: Connection,
    first_day: str,
    last_day: str,
    *,
    owner: str | None = None,
    group_by: Collection[str] = GROUPS,
) -> list[dict[str, Any]]:
    """Return sums of what was used, days included, by what ``group_by`` names of `GROUPS`.

    ``joules_per_1k_tokens`` is of the answers of models whose energy was measured; None where none
    was.
    """
    table = usage_daily.c
    groups = [table[name] for name in GROUPS if name in group_by]
    is_answer = and_(table.model != "", table.joules.is_not(None))
    num_tokens = table.prompt_tokens + table.completion_tokens
    sums = [func.sum(table[name]).label(name) for name in (*_SUMMED, "joules")]
    measured = (
        func.sum(case((is_answer, table.joules), else_=0.0)).label("measured_joules"),
        func.sum(case((is_answer, num_tokens), else_=0)).label("measured_tokens"),
    )
    query = select(*groups, *sums, *measured).where(table.day >= first_day, table.day <= last_day)
    if owner is not None:
        query = query.where(table.owner == owner)
    rows = connection.execute(query.group_by(*groups).order_by(*groups)).mappings()
    return [_with_rate(dict(row)) for row in rows if row["requests"] is not None]


def _with_rate(row: dict[str, Any]) -> dict[str, Any]:
    joules, num_tokens = row.pop("measured_joules"), row.pop("measured_tokens")
    rate = joules / num_tokens * 1000 if num_tokens else None
    return row | {"joules_per_1k_tokens": rate}  # the last of COLUMNS


# -- what is there ---------------------------------------------------------------------------------


def queue_depth(connection: Connection, owner: str, most: int | None = None) -> int:
    """Return how many jobs of an owner wait or are queued, counted up to ``most``."""
    waiting = select(literal(1)).where(
        jobs.c.state.in_((JobState.WAITING, JobState.QUEUED)),
        jobs.c.priority.in_([int(priority) for priority in Priority]),  # so the index serves
        jobs.c.owner == owner,
    )
    counted = select(func.count()).select_from(waiting.limit(most).subquery())
    return int(connection.scalar(counted) or 0)


def stored_bytes(connection: Connection, owner: str) -> int:
    """Return the bytes of an owner's versions and uploads, each content counted once. It looks at
    every file: not for a transaction that others wait for, but where it must be exact."""
    kept = versions.c.removed_at.is_(None) & (versions.c.owner == owner)
    files = (
        select(version_files.c.digest, version_files.c.size)
        .join(versions, versions.c.id == version_files.c.version_id)
        .where(kept)
    )
    sent = select(uploads.c.digest, uploads.c.size_bytes).where(uploads.c.owner == owner)
    loose = select(blob_owners.c.digest, blob_owners.c.size_bytes).where(
        blob_owners.c.owner == owner
    )
    contents = union(files, sent, loose).subquery()
    return int(connection.scalar(select(func.coalesce(func.sum(contents.c.size), 0))) or 0)
