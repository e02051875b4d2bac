"""What is asked of a job's submitter is known to be possible, and allowed, before it is queued."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmos.apps.submitting import Submitter
from llmos.compression import jobs as compression_jobs
from llmos.errors import (
    ConflictError,
    InvalidRequestError,
    LlmosError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
)
from llmos.evaluation import jobs as evaluation_jobs
from llmos.kernel.jobs import Job
from llmos.kernel.queue import JobQueue
from llmos.library import deploying
from llmos.library import jobs as library_jobs
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.feedback import FeedbackStore
from llmos.sdk.wire import JobBody
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.training import jobs as training_jobs
from llmos.types import JobResult, NewVersion

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
RECIPE = {
    "name": "r",
    "task": "generate",
    "steps": 1,
    "batch_size": 1,
    "model": {"architecture": "gpt2"},
    "tokenizer": {"kind": "character"},
    "optimizer": {"learning_rate": 0.1},
    "data": {"path": "x.txt"},
}
KINDS = {
    kind.name: kind
    for module in (training_jobs, compression_jobs, evaluation_jobs, deploying, library_jobs)
    for kind in module.llmos_job_kinds()
}


class Home:
    """A submitter, and what it looks things up in. Alice has the model m, measured on "test"."""

    def __init__(self, database: MemoryDatabase, directory: Path) -> None:
        self.database = database
        self.blobs = MemoryBlobStore()
        self.library = Library(database, self.blobs, lambda: 1000.0, directory)
        self.deployments = Deployments(database, lambda: 1000.0)
        self.queue = JobQueue(database, KINDS, lambda: 1000.0, rng=random.Random(0))
        self.feedback = FeedbackStore(database, lambda: 1000.0)
        self.submitter = Submitter(
            self.queue, self.library, self.blobs, self.deployments, self.feedback
        )
        self.text = self.blobs.put_bytes(b"text")
        self.data = {"x.txt": self.text.digest}
        files = {"config.json": self.blobs.put_bytes(b"{}")}
        manifest = {"task": "classify", "engine": "native", "metrics": {"test": {"f1": 0.8}}}
        manifest |= {"architecture": "BertForSequenceClassification", "model_type": "bert"}
        self.library.add(NewVersion("model", "m", files, manifest), "alice")

    async def submit(self, actor: Actor, kind: str, **params: Any) -> Job:
        return await self.submitter.submit(actor, JobBody(kind=kind, name="j", params=params))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    database = MemoryDatabase()
    home = Home(database, tmp_path)
    await home.library.blob_owners.add(ALICE, home.text, 1000.0)
    yield home
    database.close()


async def complete(home: Home, job: Job) -> None:
    claimed = await home.queue.claim(job.id, 30.0, 1)
    assert claimed is not None
    result = JobResult({})
    await home.queue.complete(
        job.id,
        claimed.fence,
        result,
        lambda conn, job, _: deploying.commit(conn, home.deployments, job),
    )


async def test_a_deploy_job_moves_the_alias_as_the_key_that_submitted_it(home: Home) -> None:
    job = await home.submit(ALICE, "deploy", model="m:1", gates=["test/f1 >= 0.8"])
    await complete(home, job)
    (event,) = home.deployments.history("m@production")
    assert (event.actor, event.to_number) == ("k1", 1)


@pytest.mark.parametrize(
    ("actor", "reason"),
    [
        (BOB, "another owner"),
        (dataclasses.replace(ALICE, actions=frozenset({"jobs.write"})), "other actions"),
        (dataclasses.replace(ALICE, models=frozenset({"a"})), "other models"),
    ],
)
async def test_a_job_deploys_nothing_that_its_key_may_not(
    home: Home, actor: Actor, reason: str
) -> None:
    with pytest.raises(PermissionDeniedError, match=reason):
        await home.submit(actor, "deploy", model="m:1", gates=[])
    assert await home.queue.list() == []


@pytest.mark.parametrize(
    ("params", "error", "param"),
    [
        ({"model": "nobody"}, ModelNotFoundError, "model"),
        ({"model": "m:2"}, ModelNotFoundError, "model"),
        ({"model": "m", "gates": ["no/such >= 1"]}, InvalidRequestError, "gates"),
        ({"model": "m", "gates": ["test/f1 > 1"]}, InvalidRequestError, "gates"),
        ({"model": "m", "weight": 1.5}, InvalidRequestError, "weight"),
        ({"model": "m", "rules": {"min_requests": 0}}, InvalidRequestError, "rules.min_requests"),
    ],
)
async def test_a_deploy_job_that_could_only_fail_is_refused(
    home: Home, params: dict[str, Any], error: type[LlmosError], param: str
) -> None:
    with pytest.raises(error) as caught:
        await home.submit(ALICE, "deploy", **params)
    assert caught.value.param == param
    assert await home.queue.list() == []


async def test_a_gate_that_does_not_hold_yet_is_no_reason_to_refuse_a_job(home: Home) -> None:
    job = await home.submit(ALICE, "deploy", model="m", gates=["test/f1 >= 0.9"])
    body = JobBody(
        kind="deploy", name="j", params={"model": "m", "gates": ["news/f1 >= 0.9"]}, after=[job.id]
    )
    assert (await home.submitter.submit(ALICE, body)).after == (job.id,)


@pytest.mark.parametrize("kind", ["train", "quantize", "import", "pull"])
async def test_jobs_that_make_a_model_need_to_be_allowed_to(home: Home, kind: str) -> None:
    file = home.blobs.put_bytes(b"{}").digest
    params: dict[str, Any] = {
        "train": {"recipe": RECIPE, "data": home.data, "name": "new"},
        "quantize": {"model": "m", "name": "new"},
        "import": {"files": {"config.json": file, "model.safetensors": file}, "name": "new"},
        "pull": {"repo": "a/new"},
    }[kind]
    limits = {
        "other actions": {"actions": frozenset({"jobs.write", "models.read"})},
        "other models": {"models": frozenset({"m"})},
    }
    for reason, limit in limits.items():
        with pytest.raises(PermissionDeniedError, match=f"models.write.*{reason}"):
            await home.submit(dataclasses.replace(ALICE, **limit), kind, **params)
    for_it = dataclasses.replace(ALICE, models=frozenset({"m", "new"}))
    assert (await home.submit(for_it, kind, **params)).params["name"] == "new"


async def test_a_model_of_several_tasks_is_evaluated_for_the_one_that_is_wanted(home: Home) -> None:
    files = {"config.json": home.blobs.put_bytes(b"several")}
    manifest = {"task": "classify", "heads": {"classify": ["a", "b"], "entities": []}}
    manifest |= {"architecture": "BertForSequenceClassification", "model_type": "bert"}
    new = NewVersion("model", "several", files, manifest | {"engine": "pipelines"})
    home.library.add(new, "alice")
    for given, task in ((None, "classify"), ("classify", "classify"), ("entities", "entities")):
        wanted = {"model": "several", "data": home.data, "task": given}
        job = await home.submit(ALICE, "evaluate", **wanted)
        assert (job.params["model"], job.params["task"]) == ("several:1", task)
    for model, says in (("several", "'rate', but for classify, entities"), ("m", "but for class")):
        with pytest.raises(InvalidRequestError, match=says) as caught:
            await home.submit(ALICE, "evaluate", model=model, data=home.data, task="rate")
        assert caught.value.param == "task"


EVALUATE: dict[str, Any] = {"model": "train", "data": {"x.txt": "sha256:" + "0" * 64}}


@pytest.mark.parametrize(
    ("kind", "params", "error", "says"),
    [
        ("evaluate", EVALUATE, NotFoundError, "was not uploaded"),
        ("evaluate", EVALUATE | {"data": {"x": "sha256:1"}}, InvalidRequestError, "64 hex"),
        ("evaluate", EVALUATE | {"data": {}}, InvalidRequestError, "one file"),
        ("evaluate", EVALUATE | {"rows": -5}, InvalidRequestError, "rows must"),
        ("evaluate", EVALUATE | {"dataset": "no name!"}, InvalidRequestError, "name a dataset"),
        ("evaluate", EVALUATE | {"fields": {"zz": "y"}}, InvalidRequestError, "no field"),
        ("deploy", {"model": "train", "alias": 3}, InvalidRequestError, "alias must"),
        ("deploy", {"model": "train", "rules": {"min_requests": 0}}, InvalidRequestError, "reque"),
        ("quantize", {"model": "train", "dtype": "int9"}, InvalidRequestError, "int9"),
    ],
)
async def test_what_waits_for_a_model_is_checked_in_all_else(
    home: Home, kind: str, params: dict[str, Any], error: type[LlmosError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await home.submitter.check_given(ALICE, kind, params, {"model"})


@pytest.mark.parametrize(
    ("kind", "params", "waiting", "error"),
    [
        ("quantize", {"model": "nobody", "dtype": "train"}, "dtype", ModelNotFoundError),
        ("evaluate", {"model": "nobody", "rows": "train"}, "rows", ModelNotFoundError),
        ("deploy", {"model": "nobody", "alias": "train"}, "alias", ModelNotFoundError),
        ("train", {"recipe": RECIPE, "data": "train", "name": "m"}, "data", ConflictError),
        (
            "train",
            {"recipe": RECIPE | {"model": {"base": "nobody"}}, "name": "train"},
            "name",
            ModelNotFoundError,
        ),
        (
            "train",
            {"recipe": "train", "data": {"x.txt": "sha256:" + "0" * 64}},
            "recipe",
            NotFoundError,
        ),
    ],
)
async def test_what_is_named_beside_what_waits_must_be_there(
    home: Home, kind: str, params: dict[str, Any], waiting: str, error: type[LlmosError]
) -> None:
    with pytest.raises(error):
        await home.submitter.check_given(BOB, kind, params, {waiting})


async def test_what_is_good_beside_what_waits_passes(home: Home) -> None:
    evaluate = {"model": "train", "data": home.data, "rows": 5, "fields": {"text": "t"}}
    await home.submitter.check_given(ALICE, "evaluate", evaluate, {"model"})
    known = {"model": "m", "data": home.data, "dataset": "train"}
    await home.submitter.check_given(ALICE, "evaluate", known, {"dataset"})
    deploy = {"model": "train", "gates": ["x/f1 >= 1"]}
    await home.submitter.check_given(ALICE, "deploy", deploy, {"model"})


async def test_the_word_vectors_that_a_recipe_names_are_looked_up(home: Home) -> None:
    files = {"config.json": home.blobs.put_bytes(b"{}")}
    manifest = {"task": "embed", "engine": "pipelines", "model_type": "word_vectors"}
    manifest |= {"architecture": "WordVectorsModel"}
    home.library.add(NewVersion("model", "words", files, manifest), "alice")

    def asked(named: str, **more: Any) -> dict[str, Any]:
        model = {"architecture": "convolutional", "vectors": named}
        recipe = RECIPE | {"task": "classify", "tokenizer": {"kind": "word"}, "model": model}
        return {"recipe": recipe, "name": "n", "data": home.data, **more}

    job = await home.submit(ALICE, "train", **asked("words"))
    assert job.params["vectors"]["ref"] == "words:1" and job.params["base"] is None
    with pytest.raises(InvalidRequestError, match="m:1 has no word vectors"):
        await home.submit(ALICE, "train", **asked("m"))
    with pytest.raises(ModelNotFoundError):
        await home.submit(ALICE, "train", **asked("nobody"))
    with pytest.raises(InvalidRequestError, match=r"no uploaded file for glove\.txt"):
        await home.submit(ALICE, "train", **asked("glove.txt"))
    with pytest.raises(InvalidRequestError, match=r"name a model in the recipe's model\.vectors"):
        await home.submit(ALICE, "train", **asked("words", vectors={"ref": "words:1"}))
