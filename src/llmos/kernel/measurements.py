"""What jobs and models took, kept in the database and at hand: and what that says of the next ones.

Bounded: the newest few of each subject, and the subjects measured last. One process owns a home, so
what is at hand is what the database has.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from llmos.errors import LlmosError
from llmos.kernel.estimates import (
    MODEL,
    OF_JOBS,
    OF_MODELS,
    Measurement,
    predict_bytes,
    predict_s,
)
from llmos.kernel.jobs import Job, JobKind
from llmos.kernel.models import Expectations, Model, ModelSpec
from llmos.kernel.transitions import KERNEL_ACTOR
from llmos.storage.database import Database
from llmos.storage.schema import measurements

MAX_ROWS = 32
"""Of one subject."""
MAX_SUBJECTS = 1000

log = logging.getLogger(__name__)


class Measurements(Expectations):
    """Belongs to one event loop. Empty until `load`, and then everything is as declared.

    Args:
        capacity_bytes: what a prediction is never more than, unless more was declared: a job that
            once took too much may be tried again, with all there is.
        clock: Unix seconds.
    """

    def __init__(self, db: Database, capacity_bytes: int, clock: Callable[[], float]) -> None:
        self._db = db
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._rows: dict[tuple[str, str], deque[Measurement]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Measurement]:
        """Yield all that are kept."""
        for rows in self._rows.values():
            yield from rows

    async def load(self) -> None:
        """Read what was kept."""
        columns = [measurements.c[field.name] for field in dataclasses.fields(Measurement)]
        query = select(*columns).order_by(measurements.c.id)
        for row in await self._db.read(lambda connection: connection.execute(query).all()):
            self._remember(Measurement(*row))

    async def add(self, new: Measurement) -> None:
        """Keep a measurement, and forget what is too much."""
        forgotten: list[tuple[str, str]] = []
        if (new.kind, new.subject) not in self._rows and len(self._rows) >= MAX_SUBJECTS:
            forgotten.append(next(iter(self._rows)))

        def write(connection: Connection) -> None:
            connection.execute(insert(measurements).values(dataclasses.asdict(new)))
            _drop_old(connection, new.kind, new.subject, MAX_ROWS)
            for kind, subject in forgotten:
                _drop_old(connection, kind, subject, 0)

        await self._db.write(write)
        for key in forgotten:
            self._rows.pop(key, None)
        self._remember(new)

    async def written(self) -> None:
        """Wait until everything noted so far is kept."""
        await asyncio.gather(*self._writing)

    def of(self, kind: str, subject: str) -> tuple[Measurement, ...]:
        """Return what is kept of a subject, the oldest first."""
        return tuple(self._rows.get((kind, subject), ()))

    # -- of jobs ---------------------------------------------------------------------------------

    def job_bytes(self, kind: JobKind, params: dict[str, Any], declared_bytes: int) -> int:
        """Return what to reserve for a job with these checked params."""
        history = self.of(kind.name, kind.subject(params))
        return self._within(declared_bytes, predict_bytes(declared_bytes, history, OF_JOBS))

    def job_s(self, kind: JobKind, params: dict[str, Any]) -> float | None:
        """Return how many seconds a job with these checked params will take; None: not known."""
        return predict_s(self.of(kind.name, kind.subject(params)))

    def job_ended(self, kind: JobKind, job: Job, peak_bytes: int, seconds: float | None) -> None:
        """Note what an attempt took at most, and the seconds where they are those of a whole job.

        Args:
            job: as it was when the attempt began.
        """
        self._note(
            Measurement(
                kind.name,
                kind.subject(job.params),
                kind.estimate(job.params),
                job.reserved_bytes,
                peak_bytes,
                self.job_s(kind, job.params),
                seconds,
                self._clock(),
                job.owner,
            )
        )

    # -- of models -------------------------------------------------------------------------------

    def model_bytes(self, spec: ModelSpec) -> int:
        history = self.of(MODEL, _subject(spec))
        predicted_bytes = predict_bytes(spec.estimate_bytes, history, OF_MODELS)
        return self._within(spec.estimate_bytes, predicted_bytes)

    def model_loaded(self, model: Model) -> None:
        subject = _subject(model.spec)
        self._note(
            Measurement(
                MODEL,
                subject,
                model.spec.estimate_bytes,
                model.expected_bytes,
                model.wanted_bytes,
                predict_s(self.of(MODEL, subject)),
                model.load_s,
                self._clock(),
                KERNEL_ACTOR,
            )
        )

    # -- parts -----------------------------------------------------------------------------------

    def _note(self, new: Measurement) -> None:
        """Keep a measurement in the background."""
        task = asyncio.create_task(self._add_or_say(new), name="measurement")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _add_or_say(self, new: Measurement) -> None:
        try:
            await self.add(new)
        except LlmosError as error:
            log.warning("what a %s took is not kept: %s", new.kind, error)

    def _within(self, declared_bytes: int, predicted_bytes: int) -> int:
        return min(predicted_bytes, max(declared_bytes, self._capacity_bytes))

    def _remember(self, new: Measurement) -> None:
        """Put a measurement at its place; the subject measured last comes last."""
        rows = self._rows.pop((new.kind, new.subject), None) or deque(maxlen=MAX_ROWS)
        rows.append(new)
        self._rows[new.kind, new.subject] = rows


def _subject(spec: ModelSpec) -> str:
    return f"{spec.engine} {spec.key}"


def _drop_old(connection: Connection, kind: str, subject: str, num_kept: int) -> None:
    """Delete all but the newest rows of a subject."""
    of_it = (measurements.c.kind == kind) & (measurements.c.subject == subject)
    newest = select(measurements.c.id).where(of_it).order_by(measurements.c.id.desc())
    connection.execute(
        delete(measurements).where(of_it, measurements.c.id.not_in(newest.limit(num_kept)))
    )
