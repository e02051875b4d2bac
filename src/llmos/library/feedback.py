"""Feedback on kept answers, and rows given to be learned like it: given, listed, forgotten, and how
far they have been learned.

A piece of feedback holds what was asked and answered, so that it can be learned when the answer
itself is forgotten. Of each owner the newest 10,000 are kept, and at most 256 MiB, until they are
removed or the owner's answers are kept no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from llmos.errors import ConflictError, InvalidRequestError, NotFoundError
from llmos.kernel.jobs import Job
from llmos.library.answers import KEPT_S, AnswerNotFoundError, KeptAnswer
from llmos.library.lessons import (
    STREAM,
    Feedback,
    conversation,
    is_on,
    lesson,
    source_of,
    verdict,
)
from llmos.library.refs import ModelRef
from llmos.security import audit, policy
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import answer_keepers, answers, feedback, learned

MAX_OWNER_FEEDBACK = 10_000
MAX_OWNER_BYTES = 256 * 2**20


class FeedbackNotFoundError(NotFoundError):
    """There is no such feedback: `llmos feedback` lists what there is."""

    code = "feedback_not_found"


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says of an answer. ``choice``: which of several."""

    good: bool | None = None
    rating: int | None = None
    correction: str | None = None
    comment: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row that is given to be learned, without an answer of a model.

    Attributes:
        digest: of the row: the same is kept once.
        prompt: turns or a text, as plain JSON.
        target: what is to be answered.
        worse: what is not, or empty.
    """

    digest: str
    prompt: Any
    target: str
    worse: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """Pieces of feedback to be learned.

    Attributes:
        rows: as a data file has them.
        after, upto: the numbers of the last piece before them and of the last looked at.
    """

    rows: list[dict[str, Any]]
    after: int
    upto: int


class FeedbackStore:
    """The feedback of one home.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self.now = clock

    async def give(self, actor: Actor, answer: KeptAnswer, said: Said) -> Feedback:
        """Keep what an actor says of a kept answer, in place of what was said of it before.

        Raises:
            InvalidRequestError: as `output_of`.
            AnswerNotFoundError: its owner's answers are kept no more.
        """
        output = output_of(answer, said.choice)
        return await self._add(
            actor,
            {
                "answer": f"{answer.id}#{said.choice}" if said.choice else answer.id,
                "model": answer.model,
                "prompt": answer.request["prompt"],
                "text": output["text"],
                "finish_reason": output["finish_reason"],
                "good": verdict(said.good, said.rating, said.correction),
                "rating": said.rating,
                "correction": said.correction,
                "comment": said.comment,
                "owner": answer.owner,
            },
        )

    async def _add(self, actor: Actor, values: dict[str, Any]) -> Feedback:
        now, owner = self.now(), values["owner"]
        values |= {"actor": actor.id, "at": now}
        said = {
            name: values[name] is not None if name in ("correction", "comment") else values[name]
            for name in ("answer", "good", "rating", "correction", "comment")
        }

        def change(conn: sa.Connection) -> int:
            keeps = sa.select(answer_keepers.c.owner).where(answer_keepers.c.owner == owner)
            if conn.execute(keeps).first() is None:
                raise AnswerNotFoundError("The answer is kept no more: that was switched off.")
            old = (feedback.c.owner == owner, feedback.c.answer == values["answer"])
            conn.execute(feedback.delete().where(*old))
            row = feedback.insert().values(**values, size_bytes=_size_bytes(values))
            key = conn.execute(row).inserted_primary_key
            assert key is not None
            audit.record(conn, actor.id, "feedback.keep", values["model"], said, now)
            _make_room(conn, owner)
            return int(key[0])

        return Feedback(id=await self._db.write(change), **values)

    async def teach(self, actor: Actor, model: str, lessons: Sequence[Lesson]) -> int:
        """Keep rows to be learned by the models of a name, but for those that are there already;
        return how many were new.

        Args:
            model: the version that they are for, ``name:number``.
        """
        owner, now = actor.owner, self.now()
        shared = {"model": model, "actor": actor.id, "owner": owner, "at": now, "comment": None}
        rows = {f"row-{one.digest}": one for one in lessons}

        def values_of(key: str, one: Lesson) -> dict[str, Any]:
            values = shared | {"answer": key, "prompt": one.prompt}
            values |= {"text": one.worse, "correction": one.target}
            return values | {"size_bytes": _size_bytes(values)}

        def change(conn: sa.Connection) -> int:
            known = sa.select(feedback.c.answer, feedback.c.model).where(
                feedback.c.owner == owner, feedback.c.answer.in_(rows)
            )
            name = model.rpartition(":")[0]
            there = {row.answer for row in conn.execute(known) if row.model.startswith(f"{name}:")}
            new = [values_of(key, one) for key, one in rows.items() if key not in there]
            if new:
                conn.execute(feedback.insert(), new)
                audit.record(conn, actor.id, "feedback.teach", model, {"rows": len(new)}, now)
                _make_room(conn, owner)
            return len(new)

        return await self._db.write(change)

    async def of_owner(
        self,
        owner: str,
        name: str | None = None,
        *,
        before: int | None = None,
        limit: int = 100,
        shows: Callable[[Feedback], bool] = lambda _: True,
    ) -> list[Feedback]:
        """Return an owner's feedback, the newest first: on models of a name, with numbers below
        ``before``, and of that what ``shows`` says."""
        query = sa.select(*_COLUMNS).where(feedback.c.owner == owner).order_by(feedback.c.id.desc())
        if before is not None:
            query = query.where(feedback.c.id < before)

        def read(conn: sa.Connection) -> list[Feedback]:
            found: list[Feedback] = []
            for row in conn.execute(query).mappings():
                if len(found) == limit:
                    break
                one = Feedback(**row)
                if (name is None or one.is_on(name)) and shows(one):
                    found.append(one)
            return found

        return await self._db.read(read)

    async def remove(self, actor: Actor, number: int) -> None:
        """Forget a piece of feedback; what has learned it stays as it is.

        Raises:
            FeedbackNotFoundError: there is none of that number, it is another owner's, or the key
                is for other models.
        """

        def change(conn: sa.Connection) -> None:
            this = feedback.c.id == number
            row = conn.execute(sa.select(feedback.c.owner, feedback.c.model).where(this)).first()
            is_theirs = row is not None and policy.is_of(actor, row.owner)
            if row is None or not is_theirs or not may_see(actor, row.model):
                raise FeedbackNotFoundError(
                    f"There is no feedback {number}: `llmos feedback` lists what there is."
                )
            conn.execute(feedback.delete().where(this))
            audit.record(conn, actor.id, "feedback.remove", row.model, {"id": number}, self.now())

        await self._db.write(change)

    async def lessons(self, owner: str, name: str, reads: str) -> Taken:
        """Return all that an owner's feedback on the models of a name teaches, see `lesson`."""
        return await self._db.read(lambda conn: _taken(conn, owner, name, reads, 0, None))

    async def conversations(self, owner: str, name: str) -> list[dict[str, Any]]:
        """Return an owner's kept answers by models of a name, each a row of its conversation, the
        oldest first; there are some only of owners whose answers are kept."""
        own = (answers.c.owner == owner, answers.c.at >= self.now() - KEPT_S)
        query = sa.select(answers.c.id, answers.c.model, answers.c.request, answers.c.outputs)

        def read(conn: sa.Connection) -> list[dict[str, Any]]:
            found = []
            for row in conn.execute(query.where(*own).order_by(answers.c.at, answers.c.id)):
                if is_on(row.model, name):
                    rows = [conversation(row.request["prompt"], one) for one in row.outputs]
                    told = {"model": row.model, "answer": row.id}
                    found += [one | told for one in rows if one is not None]
            return found

        return await self._db.read(read)

    async def news(self, owner: str, learner: str, name: str, reads: str, limit: int) -> Taken:
        """Return the first ``limit`` lessons that the model ``learner`` has not taken yet."""

        def read(conn: sa.Connection) -> Taken:
            after = _upto(conn, owner, learner, source_of(name))
            return _taken(conn, owner, name, reads, after, limit)

        return await self._db.read(read)


def may_see(actor: Actor, model: str) -> bool:
    """Whether a key is for the version, or the base and the adapter, that gave an answer."""
    return all(policy.has_model(actor, ref) for ref in model.split("+"))


def output_of(answer: KeptAnswer, choice: int) -> dict[str, Any]:
    """Return the output that is judged.

    Raises:
        InvalidRequestError: the answer has no such choice, or was kept without its text.
    """
    if choice >= len(answer.outputs):
        raise InvalidRequestError(
            f"the answer has {len(answer.outputs)} choices, counted from 0", param="choice"
        )
    output = answer.outputs[choice]
    if "text" not in output:
        raise InvalidRequestError(
            "an older llmos kept this answer without its text: ask again, and judge that answer"
        )
    return output


def check_source(path: str) -> str:
    """Return the name in ``feedback:NAME``: of a model, or of one version of it.

    Raises:
        InvalidNameError: it is none, or has an alias.
    """
    ref = ModelRef.parse(path.removeprefix(source_of("")))
    if ref.alias is not None:
        raise InvalidRequestError(
            f"{path} must name a model or a version, and an alias is neither: use {ref.full_name}",
            param="params.recipe",
        )
    return str(ref)


def commit_learned(conn: sa.Connection, job: Job, at: float) -> None:
    """Note, inside the transaction that ends a train job, what it has learned of a stream: so it is
    learned once, whatever is killed when.

    Raises:
        ConflictError: another job has taken the same pieces meanwhile.
    """
    taken = job.params.get(STREAM)
    if taken is None:
        return
    name, source = job.params["name"], taken["source"]
    if _upto(conn, job.owner, name, source) != taken["after"]:
        raise ConflictError(
            f"another job of {name} has learned the same of {source} meanwhile: this one's is not "
            "published"
        )
    key = {"owner": job.owner, "name": name, "source": source}
    conn.execute(learned.delete().where(*(learned.c[part] == key[part] for part in key)))
    row = key | {"upto": taken["upto"], "job_id": job.id, "at": at}
    conn.execute(learned.insert().values(row))
    audit.record(conn, job.owner, "feedback.learn", name, dict(taken) | {"job_id": job.id}, at)


_COLUMNS = [feedback.c[name] for name in Feedback.__slots__]


def _taken(
    conn: sa.Connection, owner: str, name: str, reads: str, after: int, limit: int | None
) -> Taken:
    query = sa.select(*_COLUMNS).where(feedback.c.owner == owner, feedback.c.id > after)
    rows: list[dict[str, Any]] = []
    upto = after
    for row in conn.execute(query.order_by(feedback.c.id)).mappings():
        if len(rows) == limit:
            break
        one = Feedback(**row)
        upto = one.id
        if one.is_on(name) and (learnt := lesson(one, reads)) is not None:
            rows.append(learnt)
    return Taken(rows, after, upto)


def _size_bytes(values: dict[str, Any]) -> int:
    """Return how large the texts of a piece are."""
    texts = [values[name] for name in ("prompt", "text", "correction", "comment")]
    return len(msgspec.json.encode(texts))


def _upto(conn: sa.Connection, owner: str, name: str, source: str) -> int:
    """Return the number of the last piece that a model has taken; 0 for none."""
    key = (learned.c.owner == owner, learned.c.name == name, learned.c.source == source)
    return int(conn.scalar(sa.select(learned.c.upto).where(*key)) or 0)


def _make_room(conn: sa.Connection, owner: str) -> None:
    """Forget an owner's oldest feedback, as far as all together is too much or too large."""
    own = feedback.c.owner == owner
    sizes: Sequence[Any] = conn.execute(
        sa.select(feedback.c.id, feedback.c.size_bytes).where(own).order_by(feedback.c.id.desc())
    ).all()
    num_bytes = 0
    for place, row in enumerate(sizes):
        num_bytes += row.size_bytes
        if place >= MAX_OWNER_FEEDBACK or num_bytes > MAX_OWNER_BYTES:
            conn.execute(feedback.delete().where(own, feedback.c.id <= row.id))
            return
