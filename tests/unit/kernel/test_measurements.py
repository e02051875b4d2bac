from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select

from llmos.errors import DiskFullError
from llmos.kernel import measurements as module
from llmos.kernel.estimates import MODEL, Measurement
from llmos.kernel.jobs import Job, JobKind
from llmos.kernel.measurements import MAX_ROWS, Measurements
from llmos.kernel.models import Model, ModelSpec
from llmos.kernel.queue import JobQueue
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import measurements as table

KIND = JobKind(
    "train",
    "m:f",
    lambda params: params,
    lambda params: params.get("bytes", 100),
    subject=lambda params: params.get("of", ""),
)
SPEC = ModelSpec("digest", "native", "/m", {}, 1000, "small:1")


def row(measured_bytes: int = 200, subject: str = "", kind: str = "train") -> Measurement:
    return Measurement(kind, subject, 100, 100, measured_bytes, None, None, 0.0, "o")


@pytest.fixture
def kept(database: MemoryDatabase, clock: Callable[[], float]) -> Measurements:
    return Measurements(database, 1000, clock)


async def count(database: MemoryDatabase) -> int:
    query = select(func.count()).select_from(table)
    return await database.read(lambda connection: connection.scalar(query))


async def test_what_was_measured_is_there_after_a_restart(
    kept: Measurements, database: MemoryDatabase, clock: Callable[[], float]
) -> None:
    await kept.add(row(200))
    await kept.add(row(300, "other"))
    again = Measurements(database, 1000, clock)
    assert again.job_bytes(KIND, {}, 100) == 100
    await again.load()
    assert again.of("train", "") == kept.of("train", "") == (row(200),)
    assert again.job_bytes(KIND, {"of": "other"}, 100) == 315


async def test_only_the_newest_of_a_subject_are_kept(
    kept: Measurements, database: MemoryDatabase
) -> None:
    for at in range(MAX_ROWS + 3):
        await kept.add(row(at))
    await kept.add(row(1, "other"))
    assert [one.measured_bytes for one in kept.of("train", "")] == [*range(3, MAX_ROWS + 3)]
    assert await count(database) == MAX_ROWS + 1


async def test_the_subject_measured_longest_ago_is_forgotten_where_there_are_too_many(
    kept: Measurements, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 2)
    for subject in ("a", "b", "a", "c"):
        await kept.add(row(subject=subject))
    assert {one.subject for one in kept} == {"a", "c"}
    assert await count(database) == 3
    await kept.add(row(subject="d"))
    assert {one.subject for one in kept} == {"c", "d"}


async def test_no_prediction_is_more_than_there_is_unless_it_was_declared(
    kept: Measurements,
) -> None:
    await kept.add(row(800))
    assert kept.job_bytes(KIND, {}, 100) == 800
    assert kept.job_bytes(KIND, {}, 500) == 1000
    assert kept.job_bytes(KIND, {}, 2000) == 2000


async def test_an_ended_attempt_is_noted_with_what_was_declared_reserved_and_taken(
    kept: Measurements, queue: JobQueue, clock: Callable[[], float]
) -> None:
    job = await queue.submit("train", {"bytes": 70, "of": "x"}, owner="a")
    kept.job_ended(KIND, job, 90, 12.0)
    await kept.written()
    kept.job_ended(KIND, job, 95, 14.0)
    await kept.written()
    first, second = kept.of("train", "x")
    assert first == Measurement("train", "x", 70, 70, 90, None, 12.0, clock(), "a")
    assert second == dataclasses.replace(
        first, measured_bytes=95, predicted_s=12.0, measured_s=14.0
    )
    assert kept.job_s(KIND, {"of": "x"}) == 13.0


async def test_a_queue_that_asks_reserves_what_others_like_it_took(
    kept: Measurements, queue: JobQueue
) -> None:
    await kept.add(row(120))
    queue.predict = kept.job_bytes

    async def reserved(**params: Any) -> int:
        job: Job = await queue.submit("train", params, owner="a")
        return job.reserved_bytes

    assert await reserved(bytes=100) == 126
    assert await reserved(bytes=0) == 0


async def test_a_loaded_model_is_noted_and_expected_to_take_as_much_again(
    kept: Measurements,
) -> None:
    assert kept.model_bytes(SPEC) == 1000
    model = Model(SPEC, kept.model_bytes(SPEC), num_bytes=1000)
    model.measured(600)
    model.load_s = 2.0
    kept.model_loaded(model)
    await kept.written()
    (noted,) = kept.of(MODEL, "native digest")
    assert (noted.declared_bytes, noted.predicted_bytes, noted.measured_bytes) == (1000, 1000, 600)
    assert noted.measured_s == 2.0
    assert kept.model_bytes(SPEC) == 600
    assert kept.model_bytes(dataclasses.replace(SPEC, key="another")) == 1000


async def test_a_model_with_a_smaller_cache_is_measured_as_if_it_had_it_all(
    kept: Measurements,
) -> None:
    model = Model(SPEC, 1000, num_bytes=700)
    model.measured(720)
    kept.model_loaded(model)
    await kept.written()
    assert kept.model_bytes(SPEC) == 1000  # 1020 were measured, and there are not so many
    (noted,) = kept.of(MODEL, "native digest")
    assert noted.measured_bytes == 1020
    assert model.status()["predicted_bytes"] == 700


async def test_what_cannot_be_kept_is_logged_and_breaks_nothing(
    clock: Callable[[], float], caplog: pytest.LogCaptureFixture
) -> None:
    async def full(change: object) -> None:
        raise DiskFullError

    kept = Measurements(SimpleNamespace(write=full), 1000, clock)
    job = SimpleNamespace(params={}, reserved_bytes=100, owner="o")
    with caplog.at_level(logging.WARNING):
        kept.job_ended(KIND, job, 200, None)
        await kept.written()
    assert "what a train took is not kept: The disk is full" in caplog.text
    assert list(kept) == []
