"""What became of requests, per model, task and language, as counts that fade; the router's memory.

The rule: an answer that was given is a success, one that the engine or a deadline cut short a
failure, and a person's verdict counts `FEEDBACK_WEIGHT` times. Counts halve every `HALF_LIFE_S`,
and at most `WINDOW` are remembered: each further one crowds out its share of the older, so that a
model that has become worse is found out after so many requests, however often it was good before.

What serving shows is everybody's and is written down every few seconds, but for what hangs on one
user's own terms, which counts for that user alone and until a restart; a verdict is its owner's and
is written at once. An operator's verdicts count for everyone, a user's for that user alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from llmos.errors import LlmosError
from llmos.security import audit
from llmos.security.actors import OPERATORS, SYSTEM, Actor
from llmos.storage.database import Database
from llmos.storage.schema import outcomes, verdicts

HALF_LIFE_S = 7 * 86400.0
WINDOW = 200.0
"""Most counts, successes and failures together, that are remembered of one kind."""
FEEDBACK_WEIGHT = 10.0
SAVE_EVERY_S = 5.0
MAX_ROWS = 10_000
"""Of one owner; beyond, the one that changed longest ago is forgotten."""
MAX_VERDICTS = 10_000
"""Of one owner on answers with an id; said once more of one that is forgotten, it counts again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Successes and failures as of ``at`` (Unix seconds)."""

    successes: float = 0.0
    failures: float = 0.0
    at: float = 0.0

    def faded(self, now: float) -> Counts:
        """Return what is left of them at ``now``."""
        share = 0.5 ** (max(now - self.at, 0.0) / HALF_LIFE_S)
        return Counts(self.successes * share, self.failures * share, now)

    def noted(self, good: bool, now: float, weight: float = 1.0) -> Counts:
        """Return them with one more, which crowds out older ones where there are too many."""
        old = self.faded(now)
        total = old.successes + old.failures
        share = min(1.0, max(WINDOW - weight, 0.0) / total) if total else 1.0
        successes, failures = old.successes * share, old.failures * share
        if good:
            return Counts(successes + weight, failures, now)
        return Counts(successes, failures + weight, now)


class _Kind(NamedTuple):
    """What one pair of counts is about, and whose word it is: the table's key."""

    model: str
    task: str
    language: str
    owner: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody said of an answer, and what that counted for; ``at`` in Unix seconds."""

    kind: _Kind
    good: bool
    at: float


class Outcomes:
    """Every count of one home, in memory; the table holds them over a restart.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
        self._counts: dict[tuple[str, str, str], dict[str, Counts]] = {}
        """By model, task and owner; then by language."""
        self._unsaved: set[_Kind] = set()
        self._saving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what was remembered."""
        rows = await self._db.read(lambda conn: conn.execute(sa.select(outcomes)).all())
        for row in rows:
            kind = _Kind(row.model, row.task, row.language, row.owner)
            self._put(kind, Counts(row.successes, row.failures, row.updated_at))

    async def stop(self) -> None:
        """Write down what is not yet."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait([self._saving])
        await self._save()

    def counts(self, model: str, task: str, language: str, owner: str) -> tuple[float, float]:
        """Return the successes and failures of a model that count for ``owner`` now.

        Args:
            language: those that are about no language count too; empty: those about any.
        """
        now, successes, failures = self._clock(), 0.0, 0.0
        for one in OPERATORS | {owner}:
            for its_language, counts in self._counts.get((model, task, one), {}).items():
                if not language or its_language in ("", language):
                    left = counts.faded(now)
                    successes += left.successes
                    failures += left.failures
        return successes, failures

    def note(
        self, model: str, task: str, language: str, good: bool, owner: str = SYSTEM.owner
    ) -> None:
        """Note how serving a request ended. Belongs to the event loop; costs microseconds.

        Args:
            owner: for whom alone that says something; an operator: for everyone.
        """
        is_everybodys = owner in OPERATORS
        kind = _Kind(model, task, language, SYSTEM.owner if is_everybodys else owner)
        self._put(kind, self._get(kind).noted(good, self._clock()))
        if not is_everybodys:
            return
        self._unsaved.add(kind)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_soon(), name="save-outcomes")

    async def judge(
        self,
        actor: Actor,
        model: str,
        task: str,
        language: str,
        good: bool,
        answer: str | None = None,
    ) -> None:
        """Note a person's verdict on an answer; it is durable when this returns, and audited.

        Args:
            answer: its id, where it has one: what is said of it again counts instead of what was
                said before, and the same is not counted twice.
        """
        kind, now = _Kind(model, task, language, actor.owner), self._clock()
        verdict = Verdict(kind, good, now)
        detail = {"good": good, "task": task, "language": language}

        def change(conn: sa.Connection) -> tuple[Verdict | None, list[_Kind]]:
            before = None if answer is None else _verdict_on(conn, actor.owner, answer)
            if before is not None and (before.kind, before.good) == (kind, good):
                return before, []
            if before is not None:
                _store(conn, before.kind, _without(_stored(conn, before.kind), before, now))
            _store(conn, kind, _stored(conn, kind).noted(good, now, FEEDBACK_WEIGHT))
            if answer is not None:
                _keep_verdict(conn, answer, verdict)
            audit.record(conn, actor.id, "feedback.create", model, detail, now)
            return before, _forget_oldest(conn, kind.owner)

        before, forgotten = await self._db.write(change)
        if before is not None:
            if (before.kind, before.good) == (kind, good):
                return
            self._put(before.kind, _without(self._get(before.kind), before, now))
        self._put(kind, self._get(kind).noted(good, now, FEEDBACK_WEIGHT))
        self._drop(forgotten)

    async def _save_soon(self) -> None:
        while self._unsaved:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self._save()
            except LlmosError as error:  # a full disk, say: they are kept, and tried again
                log.warning("what requests showed could not be written down: %s", error)

    async def _save(self) -> None:
        saved = {kind: self._get(kind) for kind in self._unsaved}
        if not saved:
            return

        def change(conn: sa.Connection) -> list[_Kind]:
            for kind, counts in saved.items():
                _store(conn, kind, counts)
            return _forget_oldest(conn, SYSTEM.owner)

        forgotten = await self._db.write(change)
        self._unsaved -= {kind for kind, counts in saved.items() if self._get(kind) is counts}
        self._drop(forgotten)

    def _get(self, kind: _Kind) -> Counts:
        return self._counts.get((kind.model, kind.task, kind.owner), {}).get(
            kind.language, Counts()
        )

    def _put(self, kind: _Kind, counts: Counts) -> None:
        key = (kind.model, kind.task, kind.owner)
        self._counts.setdefault(key, {})[kind.language] = counts

    def _drop(self, forgotten: Iterable[_Kind]) -> None:
        for kind in forgotten:
            self._counts.get((kind.model, kind.task, kind.owner), {}).pop(kind.language, None)


def _without(counts: Counts, verdict: Verdict, now: float) -> Counts:
    """Return counts without what is left of a verdict that was taken back."""
    left = Counts(FEEDBACK_WEIGHT, 0.0, verdict.at).faded(now).successes
    old = counts.faded(now)
    if verdict.good:
        return Counts(max(0.0, old.successes - left), old.failures, now)
    return Counts(old.successes, max(0.0, old.failures - left), now)


def _verdict_on(conn: sa.Connection, owner: str, answer: str) -> Verdict | None:
    """Return what an owner said of an answer; None: nothing, or it is forgotten."""
    this = (verdicts.c.owner == owner, verdicts.c.answer == answer)
    row = conn.execute(sa.select(verdicts).where(*this)).first()
    if row is None:
        return None
    return Verdict(_Kind(row.model, row.task, row.language, owner), row.good, row.at)


def _keep_verdict(conn: sa.Connection, answer: str, verdict: Verdict) -> None:
    """Keep what an owner says of an answer, in place of what was said before; forget its oldest
    verdicts where there are too many."""
    kind, mine = verdict.kind, verdicts.c.owner == verdict.kind.owner
    conn.execute(verdicts.delete().where(mine, verdicts.c.answer == answer))
    values = {**kind._asdict(), "answer": answer, "good": verdict.good, "at": verdict.at}
    conn.execute(verdicts.insert().values(**values))
    oldest = sa.select(verdicts.c.answer).where(mine).order_by(verdicts.c.at.desc())
    gone = conn.scalars(oldest.offset(MAX_VERDICTS)).all()
    for one in gone:
        conn.execute(verdicts.delete().where(mine, verdicts.c.answer == one))


def _where(kind: _Kind) -> list[sa.ColumnElement[bool]]:
    return [outcomes.c[name] == value for name, value in kind._asdict().items()]


def _stored(conn: sa.Connection, kind: _Kind) -> Counts:
    row = conn.execute(sa.select(outcomes).where(*_where(kind))).first()
    return Counts(row.successes, row.failures, row.updated_at) if row else Counts()


def _store(conn: sa.Connection, kind: _Kind, counts: Counts) -> None:
    conn.execute(outcomes.delete().where(*_where(kind)))
    values = {"successes": counts.successes, "failures": counts.failures, "updated_at": counts.at}
    conn.execute(outcomes.insert().values(**kind._asdict(), **values))


def _forget_oldest(conn: sa.Connection, owner: str) -> list[_Kind]:
    """Delete what an owner has too much of; return it."""
    own = outcomes.c.owner == owner
    count = conn.execute(sa.select(sa.func.count()).select_from(outcomes).where(own)).scalar_one()
    if count <= MAX_ROWS:
        return []
    columns = [outcomes.c[name] for name in _Kind._fields]
    oldest = sa.select(*columns).where(own).order_by(outcomes.c.updated_at).limit(count - MAX_ROWS)
    forgotten = [_Kind(*row) for row in conn.execute(oldest)]
    for kind in forgotten:
        conn.execute(outcomes.delete().where(*_where(kind)))
    return forgotten
