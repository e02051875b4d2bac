"""What owners may still store: asked before an upload or a job, while an upload comes, and when a
job is about to commit what it made.

Summing what is stored looks at each of an owner's files. So a reader does it wherever that will do;
in a transaction, which others wait for, only a commit of artifacts asks.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from llmos.kernel import quotas, usage_store
from llmos.kernel.attempts import Commit
from llmos.kernel.jobs import Job
from llmos.kernel.quotas import Limits
from llmos.storage.database import Database
from llmos.types import JobResult


@dataclass(slots=True, eq=False)
class Arriving:
    """An upload on its way in."""

    num_bytes: int = 0


class Room:
    """Belongs to one event loop, but for `within_store`.

    Args:
        limits_of: returns the limits of an owner.
    """

    def __init__(self, db: Database, limits_of: Callable[[str], Limits]) -> None:
        self._db = db
        self._limits_of = limits_of
        self._arriving: defaultdict[str, set[Arriving]] = defaultdict(set)

    async def check(self, owner: str, num_more_bytes: int = 1) -> None:
        """Refuse what an owner has no room for, beside what it stores and what arrives now.

        Raises:
            QuotaExceededError: there would be more than the limit.
        """
        if self._limits_of(owner).stored_bytes is not None:
            num_bytes = num_more_bytes + sum(one.num_bytes for one in self._arriving[owner])
            await self._db.read(lambda connection: self._check(connection, owner, num_bytes))

    @contextlib.contextmanager
    def arriving(self, owner: str) -> Iterator[Arriving]:
        """Give what counts the bytes of an upload while it comes, until a row says that it came."""
        one = Arriving()
        self._arriving[owner].add(one)
        try:
            yield one
        finally:
            self._arriving[owner].discard(one)

    def within_store(self, commit: Commit) -> Commit:
        """Return a commit that keeps nothing where the job's owner would store too much."""

        def checked(connection: Connection, job: Job, result: JobResult) -> Sequence[str] | None:
            refs = commit(connection, job, result)
            if result.artifacts:
                self._check(connection, job.owner, 0)
            return refs

        return checked

    def _check(self, connection: Connection, owner: str, num_more_bytes: int) -> None:
        if (most := self._limits_of(owner).stored_bytes) is not None:
            used = usage_store.stored_bytes(connection, owner)
            verdict = quotas.at_once("stored_bytes", most, used, num_more_bytes)
            if verdict is not None and not verdict.is_granted:
                raise quotas.refusal(owner, verdict)
