"""Answers that are kept, with what they were asked and which version gave them, to be explained
and replayed. Only those of owners who switched that on; nobody else's words are written down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmos.errors import NotFoundError
from llmos.security import audit
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import answer_keepers, answers

KEPT_S = 30 * 86400.0
MAX_OWNER_ANSWERS = 10_000
SWEEP_EVERY = 100
"""Answers kept between two looks for what is too old or too much."""


class AnswerNotFoundError(NotFoundError):
    """That answer is not kept: it is older than 30 days, or keeping was off when it was given."""

    code = "answer_not_found"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer with all that its lineage and its replay need.

    Attributes:
        id: the last part of the response's id, which is the same behind every door.
        asked: the name that was asked for.
        model: the version that answered, ``name:number``, or two with a ``+`` between.
        digest: of what answered.
        runs_as: the version whose weights were computed with.
        request: the GenerateRequest, as plain JSON.
        outputs: of each choice, ``{"token_ids", "finish_reason"}``.
        settings: what else the numbers depend on: device, dtype, llmos' version.
        at: Unix seconds.
    """

    id: str
    owner: str
    asked: str
    model: str
    digest: str
    runs_as: str
    request: dict[str, Any]
    outputs: list[dict[str, Any]]
    settings: dict[str, Any]
    at: float


class Answers:
    """The kept answers of one home, and whose are.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self.now = clock
        self._keepers: frozenset[str] = frozenset()
        self._num_kept = 0

    def load(self) -> None:
        """Read whose answers are kept. Blocks."""
        rows = self._db.read_sync(lambda conn: conn.execute(sa.select(answer_keepers)).all())
        self._keepers = frozenset(row.owner for row in rows)

    def keeps(self, owner: str) -> bool:
        """Whether this owner's answers are kept."""
        return owner in self._keepers

    async def switch(self, actor: Actor, on: bool) -> None:
        """Keep the actor's owner's answers from now on, or keep no more and forget those kept."""
        owner, now = actor.owner, self.now()

        def change(conn: sa.Connection) -> None:
            conn.execute(answer_keepers.delete().where(answer_keepers.c.owner == owner))
            if on:
                conn.execute(answer_keepers.insert().values(owner=owner, since=now))
            else:
                conn.execute(answers.delete().where(answers.c.owner == owner))
            audit.record(conn, actor.id, "answers.keep", owner, {"on": on}, now)

        await self._db.write(change)
        self._keepers = self._keepers | {owner} if on else self._keepers - {owner}

    async def put(self, answer: KeptAnswer) -> None:
        """Keep an answer; now and then, forget those that are too old or too many."""
        self._num_kept += 1
        is_due = self._num_kept % SWEEP_EVERY == 0
        values = {name: getattr(answer, name) for name in answer.__slots__}

        def change(conn: sa.Connection) -> None:
            keeps = sa.select(answer_keepers.c.owner)
            if conn.execute(keeps.where(answer_keepers.c.owner == answer.owner)).first() is None:
                return  # it was switched off meanwhile
            conn.execute(answers.insert().values(values))
            if is_due:
                _sweep(conn, answer.owner, answer.at)

        await self._db.write(change)

    async def get(self, response_id: str, actor: Actor) -> KeptAnswer:
        """Return an answer by its response's id. Raises AnswerNotFoundError, too where it is
        another owner's and the actor no admin."""
        key = key_of(response_id)
        row = await self._db.read(
            lambda conn: conn.execute(sa.select(answers).where(answers.c.id == key)).first()
        )
        if row is None or (row.owner != actor.owner and actor.role != "admin"):
            hint = "" if self.keeps(actor.owner) else "; `llmos answers on` keeps those to come"
            raise AnswerNotFoundError(f"No answer {response_id[:100]!r} is kept{hint}.")
        return KeptAnswer(**dict(row._mapping))


def key_of(response_id: str) -> str:
    """Return under which key a response is kept: without what its door puts before it."""
    return response_id.replace("_", "-").rpartition("-")[2]


def _sweep(conn: sa.Connection, owner: str, now: float) -> None:
    conn.execute(answers.delete().where(answers.c.at < now - KEPT_S))
    newest = (
        sa.select(answers.c.at)
        .where(answers.c.owner == owner)
        .order_by(answers.c.at.desc())
        .offset(MAX_OWNER_ANSWERS)
        .limit(1)
    )
    if (oldest_at := conn.execute(newest).scalar()) is not None:
        conn.execute(answers.delete().where(answers.c.owner == owner, answers.c.at <= oldest_at))
