"""Fine-tuning over HTTP: what is taken, what is refused, whose it is, how it stands."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.unit.server.conftest import TEMPLATE, add_model, manifest

from llmos.apps.tuning_files import check_file
from llmos.apps.tuning_store import commit_tuning
from llmos.errors import DataError, TrainingFileError
from llmos.security.audit import list_events
from llmos.server import fine_tuning
from llmos.server.app import create_app
from llmos.training import jobs as training_jobs
from llmos.types import FileRef, JobResult, NewVersion

pytestmark = pytest.mark.asyncio(loop_scope="module")

NewClient = Callable[..., httpx.AsyncClient]
JOBS = "/v1/fine_tuning/jobs"
ACTIONS = {"files.write", "files.read", "fine_tuning.write", "fine_tuning.read", "jobs.write"}
ACTIONS |= {"models.read", "models.write"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        (kind,) = training_jobs.llmos_job_kinds()
        native = manifest("chat", chat_template=TEMPLATE, parameters=2_000_000)
        student = native | {"engine": "native", "license": "apache-2.0"}
        add_model(opened.library, opened.blobs, "student", student)
        files = opened.library.resolve("student").files
        adapter = {"task": "chat", "base": "student:1", "base_digest": "", "rank": 1}
        adapter |= {"target_modules": [], "parameters": 1, "dtype": "float32", "weights_bytes": 4}
        opened.library.add(NewVersion("adapter", "polite", files, adapter), "admin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(opened.kernel.jobs.kinds, "train", kind)
            patch.setattr(opened.kernel.jobs, "_capacity_bytes", None)
            yield opened


@pytest.fixture(scope="module")
def app(system: Any) -> Any:
    return create_app(system)


@pytest.fixture
def client(new_client: NewClient) -> httpx.AsyncClient:
    """Of a new user."""
    return new_client("user", name=uuid.uuid4().hex)


def talk(question: str, answer: str = "yes") -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def pair(question: str) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }


TALKS = [talk(f"question {number}") for number in range(20)]


async def sent(
    client: httpx.AsyncClient, rows: list[Any] | bytes, purpose: str = "fine-tune"
) -> str:
    content = (
        rows if isinstance(rows, bytes) else b"".join(json.dumps(r).encode() + b"\n" for r in rows)
    )
    files = {"file": ("train.jsonl", content)}
    made = await client.post("/v1/files", files=files, data={"purpose": purpose})
    assert made.status_code == 200, made.text
    return made.json()["id"]


async def begin(client: httpx.AsyncClient, file_id: str, **fields: Any) -> httpx.Response:
    return await client.post(JOBS, json={"model": "student", "training_file": file_id} | fields)


async def begun(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    made = await begin(client, await sent(client, TALKS), **fields)
    assert made.status_code == 200, made.text
    return made.json()


async def test_a_fine_tuning_is_a_train_job_of_its_owner(
    client: httpx.AsyncClient, system: Any
) -> None:
    notes = {"team": "a"}
    made = await begun(client, suffix="kind", seed=5, metadata=notes)
    assert made["id"].startswith("ftjob-") and made["status"] == "queued"
    assert (made["model"], made["seed"], made["metadata"]) == ("student:1", 5, notes)
    assert made["hyperparameters"] == {
        "n_epochs": 5,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
    }
    job = await system.kernel.jobs.get(made["job_id"])
    assert (job.kind, job.priority.name, job.owner) == (
        "train",
        "BACKGROUND",
        made["organization_id"],
    )
    assert job.params["name"] == f"student-kind-{made['id'][6:14]}"
    recipe = job.params["recipe"]
    assert recipe["adapter"] == {} or "rank" in recipe["adapter"]
    trained = recipe["steps"] * 4 / 5
    assert 16 <= trained < 20, "some rows are held back"
    assert job.params["base"]["ref"] == "student:1"
    actions = [e.action for e in list_events(system.database, 100) if e.object == made["id"]]
    assert actions == ["fine_tuning.create"]


async def test_without_peft_all_of_the_model_is_trained(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_peft = await begun(client)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    without = await begun(client)
    recipes = [
        (await system.kernel.jobs.get(made["job_id"])).params["recipe"]
        for made in (with_peft, without)
    ]
    assert ["adapter" in recipe for recipe in recipes] == [True, False]
    rates = [recipe["optimizer"]["learning_rate"] for recipe in recipes]
    assert rates[1] == pytest.approx(rates[0] / 10)


async def test_a_validation_file_is_what_is_validated_on(
    client: httpx.AsyncClient, system: Any
) -> None:
    held_back = await sent(client, [talk("another")])
    made = await begun(client, validation_file=held_back)
    assert made["validation_file"] == held_back
    params = (await system.kernel.jobs.get(made["job_id"])).params
    assert params["recipe"]["steps"] == 5 * 20 // 4, "all rows of the training file are learned"
    assert set(params["data"]) == {
        f"{made['training_file']}/train.jsonl",
        f"{held_back}/train.jsonl",
    }


async def test_preferences_take_their_own_hyperparameters(client: httpx.AsyncClient) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": "auto"}}}
    file_id = await sent(client, [pair(f"question {number}") for number in range(8)])
    made = (await begin(client, file_id, method=method)).json()
    given = made["method"]["dpo"]["hyperparameters"]
    assert (given["beta"], given["n_epochs"], given["batch_size"]) == (0.3, 1, 4)


BAD_ROWS = [
    (b"{", "it is not JSON"),
    (b"[]", "it must be a JSON object"),
    (b"\xff", "it is not UTF-8"),
    ({"prompt": "a"}, "no list of 'messages'"),
    ({"messages": [{"role": "user", "content": "a"}]}, "no assistant message"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "a message needs a role"),
    (talk("a") | {"tools": [{}]}, "it has tools"),
    (talk("\ud800"), "half a character"),
    (talk("x" * 300), "it has 300 tokens or more, and the model takes 200"),
    (
        {"messages": [{"role": "assistant", "content": "a", "weight": 0}]},
        "no assistant message to learn from",
    ),
    (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "tool_calls",
    ),
]


@pytest.mark.parametrize(("row", "says"), BAD_ROWS)
async def test_a_bad_row_is_refused_with_its_line(
    client: httpx.AsyncClient, row: Any, says: str
) -> None:
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    content = json.dumps(TALKS[0]).encode() + b"\n\n" + line + b"\n"
    refused = await begin(client, await sent(client, content))
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert error["lines"][0]["line"] == 3 and says in error["lines"][0]["message"]
    assert (await client.get(JOBS)).json()["data"] == []


async def test_files_are_read_beside_what_others_wait_for(
    client: httpx.AsyncClient, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of its own reads one at a time, each file once, and no owner takes all turns."""
    begins, threads = threading.Semaphore(0), []
    real = fine_tuning.check_file

    def check(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        assert begins.acquire(timeout=60)
        return real(*args)

    monkeypatch.setattr(fine_tuning, "check_file", check)
    file_id = await sent(client, TALKS)
    other = new_client("user", name="another who tunes")
    others_id = await sent(other, TALKS)
    asked = {asyncio.create_task(begin(client, file_id, validation_file=file_id)) for _ in range(3)}
    refused, both = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [one.result().json()["error"]["code"] for one in refused] == ["overloaded"]
    third = asyncio.create_task(begin(other, others_id))
    assert (await client.get(JOBS)).status_code == 200, "the others do not wait"
    begins.release(3)
    assert [made.status_code for made in await asyncio.gather(*both, third)] == [200] * 3
    assert len(threads) == 3 and len(set(threads)) == 1, threads
    assert threads[0].startswith("tuning-files")


async def test_no_more_is_counted_of_a_row_that_is_too_long() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text)

    turns = [{"role": "user", "content": "x" * 30}, {"role": "assistant", "content": "y" * 40}]
    rows = [json.dumps({"messages": turns * 9}).encode(), json.dumps(pair("z" * 9)).encode()]
    with pytest.raises(TrainingFileError, match="100 tokens or more, and the model takes 99"):
        check_file(rows[:1], "supervised", 0, count, 99, "training_file")
    assert counted == [30, 40, 30]
    checked = check_file(rows[1:], "dpo", 0, count, 999, "training_file")
    assert checked.longest_tokens == 9 + len("yes") + 24 * 4


async def test_what_cannot_be_is_refused_by_its_field(client: httpx.AsyncClient) -> None:
    file_id = await sent(client, TALKS)
    other = await sent(client, b"{}\n", purpose="batch")
    hyper = {"hyperparameters": {"n_epochs": 2}}
    cases: list[tuple[dict[str, Any], str, int]] = [
        ({"model": "nobody"}, "model", 404),
        ({"model": "talker"}, "model", 400),
        ({"model": "polite"}, "model", 400),
        ({"training_file": "file-1"}, "training_file", 404),
        ({"training_file": other}, "training_file", 400),
        ({"validation_file": other}, "validation_file", 400),
        ({"suffix": "no spaces"}, "suffix", 400),
        ({"method": {"type": "reinforcement"}}, "method.type", 400),
        ({"method": {"type": "dpo", "supervised": hyper}}, "method.supervised", 400),
        ({"method": {"type": "supervised", "supervised": hyper}, **hyper}, "hyperparameters", 400),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", 400),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", 400),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta", 400),
        ({"integrations": [{"type": "wandb"}]}, "integrations", 400),
        ({"seed": -1}, "seed", 400),
    ]
    for fields, param, status in cases:
        refused = await begin(client, file_id, **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), fields
    same = await begin(client, await sent(client, [TALKS[0]] * 3))
    assert "at least 2 different ones" in same.json()["error"]["message"]
    empty = await begin(client, await sent(client, b"\n\n"))
    assert "no rows" in empty.json()["error"]["message"]


async def test_what_one_owner_has_no_other_sees(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    ann, bob, admin = client, new_client("user", name="bob"), new_client("admin")
    made = await begun(ann)
    at = f"{JOBS}/{made['id']}"
    for path in (at, f"{at}/events", f"{at}/checkpoints"):
        assert (await ann.get(path)).status_code == 200
        assert (await bob.get(path)).status_code == 403, path
    for verb in ("cancel", "pause", "resume"):
        assert (await bob.post(f"{at}/{verb}")).status_code == 403, verb
    assert (await begin(bob, made["training_file"])).status_code == 403
    assert (await bob.get(JOBS)).json()["data"] == []
    assert made["id"] in {job["id"] for job in (await admin.get(JOBS)).json()["data"]}
    assert (await ann.get(f"{JOBS}/ftjob-1")).status_code == 404


@pytest.mark.parametrize("missing", sorted(ACTIONS - {"files.write", "fine_tuning.read"}))
async def test_a_key_needs_every_right_that_it_uses(missing: str, new_client: NewClient) -> None:
    name = uuid.uuid4().hex
    file_id = await sent(new_client("user", name=name), TALKS)
    assert (await begin(new_client("user", name=name, actions=ACTIONS), file_id)).status_code == 200
    limited = new_client("user", name=name, actions=ACTIONS - {missing})
    assert (await begin(limited, file_id)).status_code == 403
    other = new_client("user", name=name, models={"writer"})
    assert (await begin(other, file_id)).status_code == 403


async def test_jobs_are_listed_the_newest_first_and_by_metadata(client: httpx.AsyncClient) -> None:
    made = [await begun(client, metadata={"n": str(n)} if n else None) for n in range(3)]
    ids = [one["id"] for one in reversed(made)]
    first = (await client.get(JOBS, params={"limit": 2})).json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = (await client.get(JOBS, params={"limit": 2, "after": first["last_id"]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
    for query, expected in (("metadata[n]=1", [ids[1]]), ("metadata=null", [ids[2]])):
        listed = (await client.get(f"{JOBS}?{query}")).json()["data"]
        assert [one["id"] for one in listed] == expected
    for query in ("metadata=x", 'metadata["]=x', "after=ftjob-1"):
        assert (await client.get(f"{JOBS}?{query}")).status_code == 400, query


async def test_how_it_stands_is_what_its_job_says(client: httpx.AsyncClient, system: Any) -> None:
    made = await begun(client)
    at, queue = f"{JOBS}/{made['id']}", system.kernel.jobs
    job = await queue.claim(made["job_id"], 60.0, 1)
    await queue.report(job.id, job.fence, 60.0, progress={"step": 5, "total": 25, "message": ""})
    running = (await client.get(at)).json()
    assert running["status"] == "running" and running["estimated_finish"] is not None
    assert (await client.post(f"{at}/pause")).json()["status"] == "paused"
    assert (await client.post(f"{at}/resume")).json()["status"] == "running"
    curve = FileRef("sha256:" + "0" * 64, 3)
    told = [{"step": 25, "loss": 0.5, "validation_loss": 0.6}]
    version = NewVersion("adapter", job.params["name"], {"step_metrics.csv": curve}, {})
    result = JobResult({"tokens": 77, "checkpoints": told}, (version,))
    system.database.write_sync(lambda conn: commit_tuning(conn, job, result, time.time()))
    row = (await client.get(at)).json()
    assert row["trained_tokens"] == 77
    (file_id,) = row["result_files"]
    assert (await client.get(f"/v1/files/{file_id}")).json()["purpose"] == "fine-tune-results"
    await queue.fail(job.id, job.fence, DataError("No good."), retryable=False)
    failed = (await client.get(at)).json()
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "invalid_data", "message": "No good.", "param": None}
    events = (await client.get(f"{at}/events")).json()["data"]
    assert (events[0]["level"], events[0]["message"]) == (
        "error",
        "Fine-tuning job failed: No good.",
    )
    assert (await client.get(f"{at}/events", params={"after": "7"})).status_code == 400
    assert (await client.post(f"{at}/cancel")).status_code == 409
