"""Runs over a real queue and library in memory; the workers are played by the tests."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from llmos.apps import runs as runs_module
from llmos.apps.pipeline_file import read
from llmos.apps.pipelines import MAX_SOURCE_BYTES
from llmos.apps.run_rows import SUMMARY
from llmos.apps.runs import Runs
from llmos.apps.steps import RunState
from llmos.apps.submitting import Submitter
from llmos.compression import jobs as compression_jobs
from llmos.errors import (
    AuthenticationError,
    ConflictError,
    DataError,
    DiskFullError,
    InvalidRequestError,
    LlmosError,
    OutOfMemoryError,
    OverloadedError,
    PermissionDeniedError,
    PipelineError,
    QuotaExceededError,
    RunNotFoundError,
)
from llmos.evaluation import jobs as evaluation_jobs
from llmos.kernel.events import EventBus, owners_topic
from llmos.kernel.jobs import Job, JobKind, JobState
from llmos.kernel.queue import JobQueue
from llmos.library import deploying
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.feedback import FeedbackStore
from llmos.security import audit
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.storage.schema import audit as audit_table
from llmos.storage.schema import runs as runs_table
from llmos.training import jobs as training_jobs
from llmos.types import JobResult, NewVersion, Priority

ALICE = Actor("k1", "alice", "user")
CHAIN = """
name: chain
steps:
  first:
    kind: make
    params: {value: 1}
  second:
    kind: make
    each: {n: [1, 2]}
    params: {value: "${each.n}", model: "${first.model}"}
  third:
    kind: make
    params: {values: "${second.results.value}"}
"""


def make_schema(params: dict[str, Any]) -> dict[str, Any]:
    for key in ("bad", "worse"):
        if key in params:
            raise InvalidRequestError(f"{key} is not a parameter", param=key)
    return {"steps": 1} | params


KINDS = {
    "make": JobKind("make", "m:f", make_schema, lambda params: params.get("bytes", 0)),
    **{kind.name: kind for kind in training_jobs.llmos_job_kinds()},
    **{kind.name: kind for kind in compression_jobs.llmos_job_kinds()},
    **{kind.name: kind for kind in evaluation_jobs.llmos_job_kinds()},
    **{kind.name: kind for kind in deploying.llmos_job_kinds()},
}


def source(text: str) -> dict[str, Any]:
    values, lines = read(text, "file.yaml")
    return values | {"lines": lines}


class Killed(BaseException):
    """The server is, in the middle of something."""


class Outbox:
    """Remembers what was put."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def wants(self, owner: str) -> bool:
        return owner == "alice"

    def put(self, connection: Any, owner: str, event: str, data: dict[str, Any], at: float) -> None:
        self.events.append((event, data["state"]))

    def wake(self) -> None:
        pass


class World:
    """One home; each `start` is a server's start on it."""

    def __init__(self, database: MemoryDatabase, directory: Path) -> None:
        self.database = database
        self.blobs = MemoryBlobStore()
        self.library = Library(database, self.blobs, lambda: 1000.0, directory)
        self.deployments = Deployments(database, lambda: 1000.0)
        self.outbox = Outbox()
        self.bus = EventBus()
        self.dead_keys: set[str] = set()
        self.start()

    def check_key(self, key_id: str) -> None:
        if key_id in self.dead_keys:
            raise AuthenticationError(f"the key {key_id!r} was revoked")

    def start(self) -> None:
        """Begin anew on the same database; nobody listens to what ends until `runs.open`."""
        self.queue = JobQueue(
            self.database,
            KINDS,
            lambda: 1000.0,
            rng=random.Random(0),
            bus=self.bus,
            audit=audit.record,
            capacity_bytes=10**12,
        )
        self.submitter = Submitter(
            self.queue,
            self.library,
            self.blobs,
            self.deployments,
            FeedbackStore(self.database, lambda: 1000.0),
        )
        self.runs = Runs(
            self.database,
            self.queue,
            self.submitter,
            lambda: 1000.0,
            self.check_key,
            outbox=self.outbox,
        )

    async def jobs(self) -> list[Job]:
        return sorted(await self.queue.list(), key=lambda job: job.id)

    async def named(self, label: str) -> Job:
        (found,) = (job for job in await self.jobs() if job.name == f"chain/{label}")
        return found

    async def succeed(self, label: str, **summary: Any) -> None:
        """Run a job of the chain to its end."""
        job = await self.queue.claim((await self.named(label)).id, 30.0, 1)
        assert job is not None
        result = JobResult({"value": job.params.get("value")} | summary)
        await self.queue.complete(job.id, job.fence, result, lambda *_: [f"{label}:1"])

    async def fail(self, label: str) -> None:
        job = await self.queue.claim((await self.named(label)).id, 30.0, 1)
        assert job is not None
        await self.queue.fail(job.id, job.fence, DataError("it is empty"), retryable=False)

    async def state(self, run_id: int) -> RunState:
        return (await self.runs.get(run_id)).state

    async def trail(self) -> list[tuple[str, str]]:
        query = select(audit_table.c.actor, audit_table.c.action)
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [(row.actor, row.action) for row in rows if row.action.startswith("pipeline.")]

    async def num_runs(self) -> int:
        query = select(runs_table.c.id)
        return len(await self.database.read(lambda connection: connection.execute(query).all()))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = MemoryDatabase()
    yield World(database, tmp_path)
    database.close()


async def test_a_run_submits_what_need_not_wait_and_the_rest_as_it_can(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    (first,) = await world.jobs()
    assert (first.name, first.kind, first.owner) == ("chain/first", "make", "alice")
    assert (first.run_id, first.idempotency_key) == (run.id, f"run:{run.id}:first[0]")
    assert (first.priority, first.params) == (Priority.BACKGROUND, {"value": 1, "steps": 1})
    await world.succeed("first")
    await world.runs.advance(run.id)
    assert [(job.name, job.params["value"]) for job in (await world.jobs())[1:]] == [
        ("chain/second[0]", 1),
        ("chain/second[1]", 2),
    ]
    assert (await world.named("second[1]")).params["model"] == "first:1"
    await world.succeed("second[1]")
    await world.runs.advance(run.id)
    assert len(await world.jobs()) == 3
    await world.succeed("second[0]")
    await world.runs.advance(run.id)
    assert (await world.named("third")).params["values"] == [1, 2]
    await world.succeed("third")
    await world.runs.advance(run.id)
    ended = await world.runs.get(run.id)
    assert (ended.state, ended.error, ended.finished_at) == (RunState.SUCCEEDED, None, 1000.0)
    assert [str(step.state) for step in await world.runs.steps(ended)] == ["succeeded"] * 3
    assert world.outbox.events == [("run.started", "running"), ("run.succeeded", "succeeded")]
    assert await world.trail() == [("k1", "pipeline.run"), ("kernel", "pipeline.finish")]


async def test_the_end_of_a_job_makes_its_run_go_on(world: World) -> None:
    await world.runs.open()
    with world.bus.subscribe(owners_topic("alice")) as events:
        await world.runs.start(ALICE, source(CHAIN))
        await world.succeed("first")
        made = set()
        async for event in events:
            made.add(event.job_id)
            if len(made) == 3:
                break
    await world.runs.close()


async def test_what_ended_while_nobody_listened_is_made_up_for_at_the_next_start(
    world: World,
) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    world.start()  # killed: the queue that tells of the end has no listener that is awake
    await world.succeed("first")
    world.start()
    with world.bus.subscribe(owners_topic("alice")) as events:
        await world.runs.open()
        await anext(events)
        await anext(events)
    await world.runs.close()
    for _ in range(2):
        await world.runs.advance(run.id)
    assert [job.name for job in await world.jobs()] == [
        "chain/first",
        "chain/second[0]",
        "chain/second[1]",
    ]


async def test_a_kill_in_the_middle_of_a_fan_out_costs_no_job_and_doubles_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.succeed("first")
    submit = Submitter.submit

    async def killed(self: Submitter, actor: Actor, body: Any, **given: Any) -> Job:
        if body.name == "chain/second[1]":
            raise KeyboardInterrupt
        return await submit(self, actor, body, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Submitter, "submit", killed)
        with pytest.raises(KeyboardInterrupt):
            await world.runs.advance(run.id)
    world.start()
    await asyncio.gather(*(world.runs.advance(run.id) for _ in range(5)))
    names = [job.name for job in await world.jobs()]
    assert names == ["chain/first", "chain/second[0]", "chain/second[1]"]


async def test_a_failed_step_fails_the_run_once_what_runs_has_ended(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.succeed("first")
    await world.runs.advance(run.id)
    failed = await world.named("second[0]")
    await world.fail("second[0]")
    await world.runs.advance(run.id)
    assert await world.state(run.id) is RunState.RUNNING
    await world.succeed("second[1]")
    await world.runs.advance(run.id)
    ended = await world.runs.get(run.id)
    message = f"step second[0]: job {failed.id} failed: it is empty"
    assert (ended.state, ended.error) == (
        RunState.FAILED,
        {"code": "job_failed", "message": message},
    )
    assert [str(step.state) for step in await world.runs.steps(ended)] == [
        "succeeded",
        "failed",
        "skipped",
    ]
    assert world.outbox.events[-1] == ("run.failed", "failed")


async def test_a_retry_goes_on_from_the_failed_jobs_alone(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.succeed("first")
    await world.runs.advance(run.id)
    await world.fail("second[0]")
    await world.succeed("second[1]")
    await world.runs.advance(run.id)
    with pytest.raises(ConflictError, match="has failed"):
        await world.runs.cancel(run.id, ALICE)
    going = await world.runs.retry(run.id, ALICE)
    assert (going.state, going.error, going.finished_at) == (RunState.RUNNING, None, None)
    assert len(await world.jobs()) == 3
    assert (await world.named("second[0]")).state is JobState.QUEUED
    with pytest.raises(ConflictError, match="is running"):
        await world.runs.retry(run.id, ALICE)
    await world.succeed("second[0]")
    await world.runs.advance(run.id)
    await world.succeed("third")
    await world.runs.advance(run.id)
    assert await world.state(run.id) is RunState.SUCCEEDED
    assert ("k1", "pipeline.retry") in await world.trail()


async def test_a_cancelled_run_ends_its_jobs_and_may_go_on_later(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    cancelled = await world.runs.cancel(run.id, ALICE)
    assert (cancelled.state, cancelled.finished_at) == (RunState.CANCELLED, 1000.0)
    assert (await world.named("first")).state is JobState.CANCELLED
    assert (await world.runs.cancel(run.id, ALICE)).state is RunState.CANCELLED
    await world.runs.advance(run.id)
    assert len(await world.jobs()) == 1
    await world.runs.retry(run.id, ALICE)
    await world.succeed("first")
    await world.runs.advance(run.id)
    assert len(await world.jobs()) == 3


async def test_a_run_whose_job_is_still_being_cancelled_is_not_retried(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    job = await world.queue.claim((await world.named("first")).id, 30.0, 1)
    assert job is not None
    await world.runs.cancel(run.id, ALICE)
    with pytest.raises(ConflictError, match="have not ended"):
        await world.runs.retry(run.id, ALICE)
    await world.queue.cancelled(job.id, job.fence)
    assert (await world.runs.retry(run.id, ALICE)).state is RunState.RUNNING


async def test_a_kill_in_the_middle_of_a_cancellation_leaves_no_job_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))

    async def killed(*_: Any) -> Job:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "cancel", killed)
        with pytest.raises(Killed):
            await world.runs.cancel(run.id, ALICE)
    assert (await world.named("first")).state is JobState.QUEUED
    world.start()
    with world.bus.subscribe(owners_topic("alice")) as events:
        await world.runs.open()
        assert (await anext(events)).data["state"] == "cancelled"
    await world.runs.close()


async def test_a_job_that_was_cancelled_alone_fails_its_run(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.queue.cancel((await world.named("first")).id, "k1")
    await world.runs.advance(run.id)
    ended = await world.runs.get(run.id)
    assert ended.state is RunState.FAILED
    assert ended.error is not None and "was cancelled" in ended.error["message"]


async def test_what_may_pass_is_waited_for_and_what_will_not_fails_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.succeed("first")

    async def refuse(*_: Any, **__: Any) -> Job:
        raise refusal

    refusal: LlmosError
    with monkeypatch.context() as patch:
        patch.setattr(Submitter, "submit", refuse)
        passing = OverloadedError("it is busy"), QuotaExceededError("the queue is full")
        for refusal in (*passing, DiskFullError()):
            with pytest.raises(type(refusal)):
                await world.runs.advance(run.id)
            assert await world.state(run.id) is RunState.RUNNING
        refusal = OutOfMemoryError("there is too little")
        await world.runs.advance(run.id)
    ended = await world.runs.get(run.id)
    assert ended.error == {
        "code": "out_of_memory",
        "message": "step second[0]: there is too little",
    }
    assert (await world.runs.retry(run.id, ALICE)).state is RunState.RUNNING
    assert len(await world.jobs()) == 3


def full(connection: Connection, owner: str) -> None:
    raise QuotaExceededError("your queue is full")


async def test_a_run_that_finds_the_queue_full_goes_on_once_it_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "QUOTA_RETRY_S", 0.0)
    await world.runs.open()
    run = await world.runs.start(ALICE, source(CHAIN))
    refused = asyncio.Event()

    def refuse_once(connection: Connection, owner: str) -> None:
        if not refused.is_set():
            loop.call_soon_threadsafe(refused.set)
            full(connection, owner)

    loop = asyncio.get_running_loop()
    world.queue.admit = refuse_once
    with world.bus.subscribe(owners_topic("alice")) as events:
        first = (await world.named("first")).id
        await world.succeed("first")
        async for event in events:
            if event.job_id != first:
                break
    assert refused.is_set()
    assert await world.state(run.id) is RunState.RUNNING
    await world.runs.close()


async def test_a_run_whose_first_job_finds_the_queue_full_is_not_begun(world: World) -> None:
    world.queue.admit = full
    with pytest.raises(QuotaExceededError):
        await world.runs.start(ALICE, source(CHAIN))
    assert (await world.jobs(), await world.num_runs()) == ([], 0)


async def test_a_run_submits_nothing_for_a_key_that_was_revoked(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    world.dead_keys.add("k1")
    await world.succeed("first")
    await world.runs.advance(run.id)
    ended = await world.runs.get(run.id)
    assert ended.error == {
        "code": "invalid_api_key",
        "message": "step second[0]: the key 'k1' was revoked",
    }
    await world.runs.retry(run.id, dataclasses.replace(ALICE, id="k9", owner="admin", role="admin"))
    assert await world.state(run.id) is RunState.FAILED
    going = await world.runs.retry(run.id, dataclasses.replace(ALICE, id="k2"))
    assert (going.state, going.actor.id) == (RunState.RUNNING, "k2")
    assert len(await world.jobs()) == 3


async def test_a_run_is_cancelled_in_the_middle_of_a_fan_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    await world.succeed("first")
    submit = Submitter.submit
    asked = asyncio.Event()

    async def slow(self: Submitter, actor: Actor, body: Any, **given: Any) -> Job:
        if body.name == "chain/second[1]":
            asked.set()
            while await world.state(run.id) is RunState.RUNNING:
                pass
        return await submit(self, actor, body, **given)

    monkeypatch.setattr(Submitter, "submit", slow)
    advancing = asyncio.create_task(world.runs.advance(run.id))
    await asked.wait()
    cancelled = await world.runs.cancel(run.id, ALICE)
    await advancing
    assert (cancelled.state, cancelled.error) == (RunState.CANCELLED, None)
    assert [job.name for job in await world.jobs()] == ["chain/first", "chain/second[0]"]
    assert (await world.named("second[0]")).state is JobState.CANCELLED


async def test_a_runs_jobs_are_cancelled_side_by_side_and_what_runs_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "name: chain\nsteps:\n  s: {kind: make, each: {n: [1, 2, 3]}, params: {n: '${each.n}'}}"
    run = await world.runs.start(ALICE, source(text))
    await world.queue.claim((await world.named("s[2]")).id, 30.0, 1)
    cancel = JobQueue.cancel
    begun: list[int] = []
    all_begun = asyncio.Event()

    async def together(self: JobQueue, job_id: int, actor: str) -> Job:
        begun.append(job_id)
        if len(begun) == 3:
            all_begun.set()
        await all_begun.wait()
        return await cancel(self, job_id, actor)

    monkeypatch.setattr(JobQueue, "cancel", together)
    await world.runs.cancel(run.id, ALICE)
    numbers = [job.id for job in await world.jobs()]
    assert begun == [numbers[2], numbers[0], numbers[1]]


async def test_a_run_that_takes_long_to_submit_holds_no_other_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = [await world.runs.start(ALICE, source(CHAIN)) for _ in range(2)]
    advance = Runs.advance
    never = asyncio.Event()

    async def stuck(self: Runs, run_id: int) -> None:
        await (never.wait() if run_id == slow.id else advance(self, run_id))

    monkeypatch.setattr(Runs, "advance", stuck)
    for job in await world.jobs():
        claimed = await world.queue.claim(job.id, 30.0, 1)
        assert claimed is not None
        result = JobResult({"value": 1})
        await world.queue.complete(job.id, claimed.fence, result, lambda *_: ["first:1"])
    with world.bus.subscribe(owners_topic("alice")) as events:
        await world.runs.open()
        made = await world.queue.get((await anext(events)).job_id)
    assert made.run_id == other.id
    await world.runs.close()


EVALUATED = """
name: x
steps:
  small:
    kind: quantize
    params: {model: m}
  judge:
    kind: evaluate
    params:
      model: ${small.model}
      data: {news.txt: DIGEST}
      rows: 5
  ship:
    kind: deploy
    after: judge
    params:
      model: ${small.model}
      gates: [news/loss <= current * 1.1]
"""


async def test_the_last_steps_of_a_pipeline_are_checked_before_the_first_runs(
    world: World,
) -> None:
    files = {"config.json": world.blobs.put_bytes(b"{}")}
    manifest = {"task": "generate", "engine": "native", "architecture": "A", "model_type": "a"}
    world.library.add(NewVersion("model", "m", files, manifest), "alice")
    news = world.blobs.put_bytes(b"news")
    await world.library.blob_owners.add(ALICE, news, 1000.0)
    good = EVALUATED.replace("DIGEST", news.digest)
    assert len((await world.runs.check(ALICE, source(good))).steps) == 3
    literal = good.replace("model: ${small.model}", "model: m:1")
    await world.runs.check(ALICE, source(literal))
    for bad, line, says in (
        (EVALUATED.replace("DIGEST", "sha256:" + "0" * 64), 11, "was not uploaded"),
        (good.replace("rows: 5", "rows: 0"), 12, "rows must be"),
        (good.replace("news/loss", "no/such"), 18, "'no/such' will not have been measured"),
        (good.replace("news/loss", "news/f1x"), 18, "'news/f1x' will not have been measured"),
        (literal.replace("news/loss", "no/such"), 18, "m:1 has no metric 'no/such'"),
        (
            literal.replace("      model: m:1\n      gates", "      model: n\n      gates"),
            17,
            "'n'",
        ),
    ):
        with pytest.raises(LlmosError) as caught:
            await world.runs.check(ALICE, source(bad))
        assert caught.value.message.startswith(f"line {line}: "), caught.value.message
        assert says in caught.value.message
    assert (await world.jobs(), await world.num_runs()) == ([], 0)


async def test_a_fan_out_over_what_is_not_made_yet_passes_the_check(world: World) -> None:
    text = """
name: x
steps:
  split: {kind: make}
  work:
    kind: make
    each: {part: "${split.result.parts}", model: "${split.models}", n: [1, 2]}
    params: {part: "${each.part}", model: "${each.model}", n: "${each.n}"}
"""
    pipeline = await world.runs.check(ALICE, source(text))
    assert pipeline.steps[1].after == ("split",)
    with pytest.raises(InvalidRequestError, match="line 8: bad is not"):
        await world.runs.check(ALICE, source(text.replace('n: "', 'bad: "')))


@pytest.mark.parametrize(
    ("text", "line", "error", "says"),
    [
        ("kind: mkae", 4, InvalidRequestError, "Did you mean 'make'"),
        ("kind: make\n    params:\n      x: 1\n      bad: 2", 7, InvalidRequestError, "bad is not"),
        (
            "kind: make\n    params:\n      x: '${b.model}'\n      bad: 2\n  b: {kind: make}",
            7,
            InvalidRequestError,
            "bad is not",
        ),
        (
            "kind: quantize\n    params:\n      model: '${b.model}'\n      dtype: int9\n"
            "  b: {kind: make}",
            7,
            InvalidRequestError,
            "int9",
        ),
        (
            "kind: quantize\n    params:\n      model: '${b.model}'\n      dtpe: int8\n"
            "  b: {kind: make}",
            7,
            InvalidRequestError,
            "unknown parameter dtpe",
        ),
        (
            "kind: quantize\n    params:\n      dtype: int8\n      model: nobody",
            7,
            LlmosError,
            "nobody",
        ),
        (
            "kind: train\n    params:\n      recipe: {data: {path: x.txt}, name: r, "
            "task: generate, steps: 1, batch_size: 1, model: {architecture: gpt2}, "
            "tokenizer: {kind: character}, optimizer: {learning_rate: 0.1}}\n"
            "      data: {x.txt: 'sha256:" + "0" * 64 + "'}",
            7,
            LlmosError,
            "was not uploaded",
        ),
        ("kind: train\n    params:\n      recipe: {stepz: 1}", 6, LlmosError, "stepz"),
        (
            "kind: make\n    each: {n: [1, 2]}\n    params:\n      bytes: 9000000000000",
            6,
            OutOfMemoryError,
            "memory",
        ),
    ],
)
async def test_what_would_be_refused_later_is_refused_now_with_its_line_and_nothing_is_kept(
    world: World, text: str, line: int, error: type[LlmosError], says: str
) -> None:
    for act in (world.runs.check, world.runs.start):
        with pytest.raises(error) as caught:
            await act(ALICE, source(f"name: x\nsteps:\n  a:\n    {text}\n"))
        assert caught.value.message.startswith(f"line {line}: "), caught.value.message
        assert says in caught.value.message
        assert (caught.value.param or "").startswith("steps.a")
    assert (await world.jobs(), await world.num_runs()) == ([], 0)


async def test_a_run_may_do_what_its_starter_may(world: World) -> None:
    blind = dataclasses.replace(ALICE, actions=frozenset({"pipelines.write"}))
    with pytest.raises(PermissionDeniedError, match=r"jobs\.write"):
        await world.runs.start(blind, source(CHAIN))
    slow = dataclasses.replace(ALICE, best_priority=Priority.BACKGROUND)
    with pytest.raises(PermissionDeniedError, match="priority"):
        await world.runs.start(slow, source(CHAIN) | {"priority": "standard"})
    run = await world.runs.start(slow, source(CHAIN))
    assert run.actor == slow
    assert await world.num_runs() == 1


async def test_the_keys_of_a_runs_jobs_are_nobody_elses(world: World) -> None:
    from llmos.sdk.wire import JobBody

    body = JobBody(kind="make", name="x")
    with pytest.raises(InvalidRequestError, match="steps of pipelines"):
        await world.submitter.submit(ALICE, body, idempotency_key="run:1:first[0]")
    assert await world.jobs() == []


async def test_a_failed_job_of_one_run_is_no_others(world: World) -> None:
    one = await world.runs.start(ALICE, source(CHAIN))
    world.bus = EventBus()
    other = await world.runs.start(dataclasses.replace(ALICE, owner="bob"), source(CHAIN))
    first, _ = await world.jobs()
    await world.queue.cancel(first.id, "k1")
    for run in (one, other):
        await world.runs.advance(run.id)
    assert await world.state(one.id) is RunState.FAILED
    assert await world.state(other.id) is RunState.RUNNING
    assert [run.id for run in await world.runs.list(owner="bob")] == [other.id]
    assert [run.id for run in await world.runs.list()] == [other.id, one.id]
    assert [run.id for run in await world.runs.list(before=other.id)] == [one.id]


async def test_a_pipeline_that_is_too_large_is_not_started(world: World) -> None:
    large = source(CHAIN)
    large["lines"] = {"x" * MAX_SOURCE_BYTES: 1}
    with pytest.raises(PipelineError, match="upload what is long"):
        await world.runs.start(ALICE, large)
    assert await world.runs.list() == []


async def test_runs_are_listed_and_told_without_their_pipelines(world: World) -> None:
    run = await world.runs.start(ALICE, source(CHAIN))
    (listed,) = await world.runs.list()
    assert not hasattr(listed, "source")
    assert listed.to_dict() == run.to_dict()
    assert run.source == source(CHAIN)
    assert "pipeline" not in {column.name for column in SUMMARY}


async def test_a_run_that_is_not_there_is_said_so(world: World) -> None:
    for run_id in (0, -1, 5, 2**63):
        with pytest.raises(RunNotFoundError, match="llmos pipeline list"):
            await world.runs.get(run_id)


async def test_data_of_a_run_that_goes_on_is_not_swept(world: World) -> None:
    kept = world.blobs.put_bytes(b"later")
    text = f"""
name: chain
steps:
  first: {{kind: make}}
  second: {{kind: make, after: first, params: {{data: "{kept.digest}"}}}}
"""
    run = await world.runs.start(ALICE, source(text))
    await world.succeed("first")
    assert world.library.gc(0.0, 10**10).blobs == 0
    await world.runs.cancel(run.id, ALICE)
    assert world.library.gc(0.0, 10**10).blobs == 1
