"""Trainings that learn from feedback: their rows are gathered when they are submitted."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmos.apps import search_jobs
from llmos.apps.submitting import Submitter
from llmos.errors import (
    DataError,
    InvalidRequestError,
    LlmosError,
    NothingNewError,
    PermissionDeniedError,
)
from llmos.kernel.jobs import Job
from llmos.kernel.queue import JobQueue
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.feedback import FeedbackStore, Lesson, commit_learned
from llmos.library.lessons import STREAM
from llmos.sdk.wire import JobBody
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.training import jobs as training_jobs
from llmos.types import JobResult, NewVersion

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
FEEDBACK = "feedback:helper"
RECIPE: dict[str, Any] = {
    "name": "helper",
    "task": "chat",
    "steps": 2,
    "batch_size": 4,
    "model": {"base": "helper@latest"},
    "tokenizer": {"kind": "base"},
    "optimizer": {"learning_rate": 0.1},
    "data": {"path": FEEDBACK},
}
ONLINE = RECIPE | {
    "replay": {"path": "starter:chat", "rows": 50, "share": 0.5},
    "online": {"min_rows": 3},
}
SEARCH = {"parameters": {"optimizer.learning_rate": [0.1, 0.2]}}
KINDS = {
    kind.name: kind for kind in (*training_jobs.llmos_job_kinds(), *search_jobs.llmos_job_kinds())
}


class Home:
    """Alice has the chat model helper."""

    def __init__(self, database: MemoryDatabase, directory: Path) -> None:
        self.database, self.blobs = database, MemoryBlobStore()
        self.library = Library(database, self.blobs, lambda: 1000.0, directory)
        self.queue = JobQueue(database, KINDS, lambda: 1000.0, rng=random.Random(0))
        self.feedback = FeedbackStore(database, lambda: 1000.0)
        deployments = Deployments(database, lambda: 1000.0)
        self.submitter = Submitter(self.queue, self.library, self.blobs, deployments, self.feedback)
        files = {"config.json": self.blobs.put_bytes(b"{}")}
        manifest = {"task": "chat", "engine": "native", "model_type": "llama"}
        manifest |= {"architecture": "LlamaForCausalLM"}
        self.library.add(NewVersion("model", "helper", files, manifest), "alice")

    async def teach(self, count: int, first: int = 0, worse: str = "") -> None:
        turns = [{"role": "user", "content": "hi"}]
        rows = [Lesson(f"{n}", turns, f"answer {n}", worse) for n in range(first, first + count)]
        await self.feedback.teach(ALICE, "helper:1", rows)

    async def submit(self, recipe: dict[str, Any], actor: Actor = ALICE, **more: Any) -> Job:
        params = {"recipe": recipe, "name": "helper", **more}
        return await self.submitter.submit(actor, body(params))

    async def check(self, recipe: dict[str, Any], *, begins: bool) -> None:
        params = {"recipe": recipe, "name": "helper"}
        await self.submitter.check(ALICE, body(params), lambda _: False, begins=begins)

    async def finish(self, job: Job) -> None:
        claimed = await self.queue.claim(job.id, 30.0, 1)
        assert claimed is not None

        def commit(conn: Any, job: Job, _: JobResult) -> list[str]:
            commit_learned(conn, job, 0.0)
            return []

        await self.queue.complete(job.id, claimed.fence, JobResult({}), commit)

    def rows(self, job: Job) -> list[dict[str, Any]]:
        lines = self.blobs.read_bytes(job.params["data"][FEEDBACK]).decode().splitlines()
        return [json.loads(line) for line in lines]


def body(params: dict[str, Any]) -> JobBody:
    return JobBody(kind="train", name="j", params=params)


def answers(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    database = MemoryDatabase()
    yield Home(database, tmp_path)
    database.close()


async def test_a_recipe_that_names_feedback_gets_its_rows_as_a_file_of_the_owner(
    home: Home,
) -> None:
    await home.teach(2)
    job = await home.submit(RECIPE)
    assert answers(home.rows(job)) == ["answer 0", "answer 1"]
    assert STREAM not in job.params
    digest = job.params["data"][FEEDBACK]
    assert await home.library.blob_owners.keep(ALICE, [digest]) == {digest}
    assert await home.library.blob_owners.keep(BOB, [digest]) == frozenset()
    await home.teach(1, first=2)
    again = await home.submit(RECIPE, data={FEEDBACK: digest})
    assert home.rows(again) == home.rows(job), "by its digest it is the same again"


async def test_preferences_learn_from_answers_that_were_corrected(home: Home) -> None:
    await home.teach(1)
    await home.teach(1, first=1, worse="worse")
    recipe = RECIPE | {"objective": "dpo"}
    (row,) = home.rows(await home.submit(recipe))
    assert (row["chosen"], row["rejected"]) == ("answer 1", "worse")


async def test_where_there_is_nothing_to_learn_that_is_said_at_once(home: Home) -> None:
    with pytest.raises(DataError, match="llmos feedback --response"):
        await home.submit(RECIPE)
    await home.teach(1)
    with pytest.raises(DataError, match="no corrections of helper"):
        await home.submit(RECIPE | {"objective": "dpo"})
    public = Actor("k2", "bob", "admin")
    with pytest.raises(DataError):
        await home.submit(RECIPE, public)
    with pytest.raises(PermissionDeniedError, match="other actions"):
        limits = frozenset({"jobs.write", "models.read", "models.write"})
        await home.submit(RECIPE, Actor("k1", "alice", "user", actions=limits))


async def test_a_micro_update_takes_what_is_new_and_as_much_as_its_steps_see(home: Home) -> None:
    await home.teach(5)
    job = await home.submit(ONLINE)
    assert answers(home.rows(job)) == ["answer 0", "answer 1", "answer 2", "answer 3"]
    assert job.params[STREAM] == {"source": FEEDBACK, "after": 0, "upto": 4, "rows": 4}
    await home.finish(job)
    with pytest.raises(NothingNewError, match="1 of at least 3 new lessons"):
        await home.submit(ONLINE)
    await home.teach(2, first=5)
    job = await home.submit(ONLINE)
    assert answers(home.rows(job)) == ["answer 4", "answer 5", "answer 6"]
    assert job.params[STREAM]["after"] == 4


async def test_what_an_update_took_that_failed_is_taken_again(home: Home) -> None:
    await home.teach(3)
    first = await home.submit(ONLINE)
    await home.queue.cancel(first.id, "k1")
    again = await home.submit(ONLINE)
    assert again.params[STREAM] == first.params[STREAM]


async def test_of_two_updates_of_the_same_rows_one_is_learned(home: Home) -> None:
    await home.teach(3)
    first, second = await home.submit(ONLINE), await home.submit(ONLINE)
    await home.finish(first)
    with pytest.raises(LlmosError, match="meanwhile"):
        await home.finish(second)


async def test_a_pipeline_may_wait_for_what_is_new_but_does_not_begin_before(home: Home) -> None:
    await home.check(ONLINE, begins=False)
    with pytest.raises(NothingNewError):
        await home.check(ONLINE, begins=True)
    waiting = {"recipe": ONLINE, "name": "${other.result.name}"}
    await home.submitter.check_given(ALICE, "train", waiting, {"name"})
    assert home.blobs.blobs.keys() == {home.blobs.put_bytes(b"{}").digest}, "nothing was stored"


async def test_a_search_over_feedback_is_known_to_have_its_rows(home: Home) -> None:
    await home.teach(2)
    known = {"recipe": RECIPE, "data": {}, "search": SEARCH}
    await home.submitter.check_given(ALICE, "search", known, {"name"})


@pytest.mark.parametrize(
    ("recipe", "more", "says"),
    [
        (ONLINE, {"stream": {"source": FEEDBACK}}, "stream is the server's"),
        (ONLINE | {"model": {"base": "helper:1"}}, {}, "must be an alias of helper"),
        (ONLINE, {"name": "another"}, "must be an alias of another"),
        (RECIPE | {"data": {"path": "feedback:helper@latest"}}, {}, "use helper"),
    ],
)
async def test_a_request_that_could_not_learn_on_is_refused(
    home: Home, recipe: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    await home.teach(3)
    with pytest.raises(InvalidRequestError, match=says):
        await home.submit(recipe, **more)
