"""Answers that are kept, with what they were asked and which version gave them, to be explained
and replayed. Only those of owners who switched that on; nobody else's words are written down.

Each is kept for 30 days, of each owner the newest 10,000 and at most 256 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from llmos.errors import NotFoundError
from llmos.security import audit
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import answer_keepers, answers, feedback

KEPT_S = 30 * 86400.0
MAX_OWNER_ANSWERS = 10_000
MAX_OWNER_BYTES = 256 * 2**20


class AnswerNotFoundError(NotFoundError):
    """That answer is not kept: it is older than 30 days, was too much beside newer ones, or keeping
    was off when it was given."""

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
        outputs: of each choice, ``{"token_ids", "finish_reason", "text"}``.
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

    def load(self) -> None:
        """Read whose answers are kept. Blocks."""
        rows = self._db.read_sync(lambda conn: conn.execute(sa.select(answer_keepers)).all())
        self._keepers = frozenset(row.owner for row in rows)

    def keeps(self, owner: str) -> bool:
        """Whether this owner's answers are kept."""
        return owner in self._keepers

    async def switch(self, actor: Actor, on: bool) -> None:
        """Keep the actor's owner's answers from now on; or keep no more, and forget those kept and
        what was said of them."""
        owner, now = actor.owner, self.now()

        def change(conn: sa.Connection) -> None:
            conn.execute(answer_keepers.delete().where(answer_keepers.c.owner == owner))
            if on:
                conn.execute(answer_keepers.insert().values(owner=owner, since=now))
            else:
                conn.execute(answers.delete().where(answers.c.owner == owner))
                conn.execute(feedback.delete().where(feedback.c.owner == owner))
            audit.record(conn, actor.id, "answers.keep", owner, {"on": on}, now)

        await self._db.write(change)
        self._keepers = self._keepers | {owner} if on else self._keepers - {owner}

    async def put(self, answer: KeptAnswer) -> None:
        """Keep an answer, and forget those of its owner that are too old or too much beside it."""
        values = {name: getattr(answer, name) for name in answer.__slots__}
        values["size_bytes"] = len(msgspec.json.encode([answer.request, answer.outputs]))

        def change(conn: sa.Connection) -> None:
            keeps = sa.select(answer_keepers.c.owner)
            if conn.execute(keeps.where(answer_keepers.c.owner == answer.owner)).first() is None:
                return  # it was switched off meanwhile
            conn.execute(answers.insert().values(values))
            conn.execute(answers.delete().where(_too_old(answer.at), _of(answer.owner)))
            _make_room(conn, answer.owner)

        await self._db.write(change)

    async def get(self, response_id: str, actor: Actor) -> KeptAnswer:
        """Return an answer by its response's id. Raises AnswerNotFoundError, too where it is
        another owner's and the actor no admin."""
        columns = [answers.c[name] for name in KeptAnswer.__slots__]
        found = sa.select(*columns).where(answers.c.id == key_of(response_id))
        live = found.where(answers.c.at >= self.now() - KEPT_S)
        row = await self._db.read(lambda conn: conn.execute(live).first())
        if row is None or (row.owner != actor.owner and actor.role != "admin"):
            hint = "" if self.keeps(actor.owner) else "; `llmos answers on` keeps those to come"
            raise AnswerNotFoundError(f"No answer {response_id[:100]!r} is kept{hint}.")
        return KeptAnswer(**dict(row._mapping))

    async def sweep(self, actor: Actor) -> int:
        """Forget every answer whose time is over; return how many."""
        now = self.now()

        def change(conn: sa.Connection) -> int:
            removed = conn.execute(answers.delete().where(_too_old(now))).rowcount
            if removed:
                audit.record(conn, actor.id, "answers.sweep", "", {"removed": removed}, now)
            return removed

        return await self._db.write(change)


def key_of(response_id: str) -> str:
    """Return under which key a response is kept: without what its door puts before it."""
    return response_id.replace("_", "-").rpartition("-")[2]


def _of(owner: str) -> sa.ColumnElement[bool]:
    return answers.c.owner == owner


def _too_old(now: float) -> sa.ColumnElement[bool]:
    return answers.c.at < now - KEPT_S


def _make_room(conn: sa.Connection, owner: str) -> None:
    """Forget an owner's oldest answers, as far as all together are too many or too large."""
    sizes = sa.select(sa.func.count(), sa.func.sum(answers.c.size_bytes)).where(_of(owner))
    num, num_bytes = conn.execute(sizes).one()
    too_many, too_much = num - MAX_OWNER_ANSWERS, num_bytes - MAX_OWNER_BYTES
    if too_many > 0 or too_much > 0:
        oldest_first = sa.select(answers.c.id, answers.c.size_bytes).order_by(answers.c.at)
        gone = []
        for row in conn.execute(oldest_first.where(_of(owner))):
            if too_many <= 0 and too_much <= 0:
                break
            gone.append(row.id)
            too_many, too_much = too_many - 1, too_much - row.size_bytes
        conn.execute(answers.delete().where(answers.c.id.in_(gone)))
