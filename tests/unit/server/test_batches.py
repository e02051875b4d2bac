"""Files and batches over HTTP: what is taken, what is refused, whose it is, how it stands."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.apps import batch_jobs
from llmos.apps.batch_files import KEPT_S, Files, plain_name
from llmos.apps.batch_store import commit_batch
from llmos.kernel.jobs import Job
from llmos.security.audit import list_events
from llmos.server.app import create_app
from llmos.types import JobResult

pytestmark = pytest.mark.asyncio(loop_scope="module")

NewClient = Callable[..., httpx.AsyncClient]
CHAT = "/v1/chat/completions"
NOW = 1_000_000.0


class Clock:
    """Stands still until told."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def hands(system: Any) -> Iterator[Clock]:
    """The clock of files and batches; the kernel's is another."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system.keys, "clock", clock)
        patch.setattr(system.batches, "clock", clock)
        patch.setitem(system.kernel.jobs.kinds, "batch", batch_jobs.KIND)
        yield clock


@pytest.fixture(scope="module")
def app(system: Any, hands: Clock) -> Any:
    return create_app(system)


@pytest.fixture
def clock(hands: Clock) -> Clock:
    """That clock, set anew."""
    hands.now = NOW
    return hands


@pytest.fixture
def owner() -> str:
    """Whoever makes what a test makes."""
    return uuid.uuid4().hex


@pytest.fixture
def client(clock: Clock, new_client: NewClient, owner: str) -> httpx.AsyncClient:
    return new_client("user", name=owner)


@pytest.fixture
def admin(clock: Clock, new_client: NewClient) -> httpx.AsyncClient:
    return new_client("admin")


def rows(*custom_ids: str, model: str = "talker", url: str = CHAT) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    made = [{"custom_id": i, "method": "POST", "url": url, "body": body} for i in custom_ids]
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


async def upload(client: httpx.AsyncClient, content: bytes, **fields: Any) -> httpx.Response:
    files = {"file": (fields.pop("filename", "in.jsonl"), content)}
    return await client.post("/v1/files", files=files, data={"purpose": "batch"} | fields)


async def begin(client: httpx.AsyncClient, file_id: str, **fields: Any) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
    return await client.post("/v1/batches", json=body)


async def batch_of(client: httpx.AsyncClient, *custom_ids: str, **fields: Any) -> dict[str, Any]:
    file = (await upload(client, rows(*custom_ids))).json()
    made = await begin(client, file["id"], **fields)
    assert made.status_code == 200, made.text
    return made.json()


def actions(system: Any, item_id: str) -> list[str]:
    events = list_events(system.database, 1000)
    return [event.action for event in events if event.object == item_id]


# -- files -----------------------------------------------------------------------------------------


async def test_a_file_is_stored_listed_read_and_deleted(
    client: httpx.AsyncClient, system: Any
) -> None:
    content = rows("a") * 20_000  # more than what is kept in memory
    made = (await upload(client, content, filename="C:\\dir/in \u202e你.jsonl")).json()
    assert made == {
        "id": made["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": int(NOW),
        "expires_at": int(NOW + KEPT_S),
        "filename": "in 你.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert (await client.get(f"/v1/files/{made['id']}")).json() == made
    got = await client.get(f"/v1/files/{made['id']}/content")
    assert got.content == content
    assert got.headers["content-disposition"].startswith("attachment; filename*=UTF-8''in%20")
    assert (await client.get("/v1/files")).json()["data"] == [made]
    gone = await client.delete(f"/v1/files/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
    for path in ("", "/content"):
        assert (await client.get(f"/v1/files/{made['id']}{path}")).status_code == 404
    assert (await client.delete(f"/v1/files/{made['id']}")).status_code == 404
    assert actions(system, made["id"]) == ["files.delete", "files.create"]


async def test_files_are_listed_in_pages(client: httpx.AsyncClient, clock: Clock) -> None:
    made = []
    for number in range(5):
        clock.now += number % 2  # some share a moment
        made.append((await upload(client, b"%d" % number)).json()["id"])
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/files", params={"limit": 2} | after)).json()
        seen += [file["id"] for file in page["data"]]
        assert (page["first_id"], page["last_id"]) == (seen[-len(page["data"])], seen[-1])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert sorted(seen) == sorted(made)
    params = {"order": "asc", "purpose": "batch"}
    oldest_first = (await client.get("/v1/files", params=params)).json()["data"]
    assert [file["id"] for file in oldest_first] == seen[::-1]
    params = {"purpose": "batch_output"}
    assert (await client.get("/v1/files", params=params)).json()["data"] == []
    unknown = await client.get("/v1/files", params={"after": "file-1"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")


async def test_a_files_time_is_its_uploaders_to_say(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, clock: Clock, system: Any
) -> None:
    times = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = (await upload(client, rows("a"), **times)).json()
    assert made["expires_at"] == NOW + 3600
    clock.now += 3600
    for path in (made["id"], f"{made['id']}/content"):
        assert (await client.get(f"/v1/files/{path}")).status_code == 404
    assert (await client.get("/v1/files")).json()["data"] == []
    assert (await admin.post("/api/v1/gc", json={"grace_s": 0})).status_code == 200
    assert actions(system, "") == ["files.sweep"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "assistants"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"other": "x"}, "other"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 500},
            "expires_after",
        ),
    ],
)
async def test_a_form_with_a_mistake_is_refused_by_field(
    client: httpx.AsyncClient, fields: dict[str, str], param: str
) -> None:
    response = await upload(client, rows("a"), **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_what_is_no_form_with_a_file_is_refused(client: httpx.AsyncClient) -> None:
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    for options in (
        {"json": {"purpose": "batch"}},
        {"data": {"purpose": "batch"}},
        {"data": {"purpose": "batch", "file": "text"}},
        {"content": b"--x\r\nnonsense", "headers": multipart},
        {"content": b"", "headers": {"Content-Type": "multipart/form-data"}},
        {"files": [("file", b"a"), ("file", b"b")], "data": {"purpose": "batch"}},
        {"files": {"file": b"a"}, "data": {"purpose": "b" * 5000}},
        {"files": {"file": b"a"}, "data": {f"f{i}": "x" for i in range(20)}},
    ):
        response = await client.post("/v1/files", **options)  # type: ignore[arg-type]
        assert response.status_code == 400, response.text
        assert response.json()["error"]["message"]


async def test_a_file_beyond_the_limit_is_refused_while_it_comes(
    client: httpx.AsyncClient,
) -> None:
    assert (await upload(client, b"x" * 2_000_000)).status_code == 200
    assert (await upload(client, b"x" * 3_500_000)).status_code == 413


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.jsonl", "a.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("a\\b.jsonl", "b.jsonl"),
        ("a\r\nb", "ab"),
        ("", "file"),
        ("/", "file"),
        ("x" * 300, "x" * 255),
    ],
)
async def test_names_of_files_are_plain(given: str, kept: str) -> None:
    assert plain_name(given) == kept


async def test_the_blobs_of_files_are_kept_as_long_as_the_files(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, system: Any, owner: str
) -> None:
    content = rows(owner)
    file = (await upload(client, content)).json()
    digest = (await Files(system.database, Clock()).get(file["id"])).digest
    await admin.post("/api/v1/gc", json={"grace_s": 0})
    assert (await client.get(f"/v1/files/{file['id']}/content")).content == content
    await client.delete(f"/v1/files/{file['id']}")
    await admin.post("/api/v1/gc", json={"grace_s": 0})
    assert not system.blobs.has(digest)


# -- batches ---------------------------------------------------------------------------------------


async def test_a_new_batch_is_as_openai_shows_it(client: httpx.AsyncClient, system: Any) -> None:
    made = await batch_of(client, "a", "b", metadata={"for": "test"})
    job = await system.kernel.jobs.get(made.pop("job_id"))
    file_id = (await client.get("/v1/files")).json()["data"][0]["id"]
    nothing = dict.fromkeys(
        [
            *("errors", "output_file_id", "error_file_id", "in_progress_at", "finalizing_at"),
            *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
        ]
    )
    assert made == nothing | {
        "id": made["id"],
        "object": "batch",
        "endpoint": CHAT,
        "model": "talker",
        "input_file_id": file_id,
        "completion_window": "24h",
        "status": "validating",
        "created_at": int(NOW),
        "expires_at": int(NOW + 86400),
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
        "metadata": {"for": "test"},
    }
    assert (job.kind, job.priority.name, job.name) == ("batch", "BATCH", "in.jsonl")
    assert actions(system, made["id"]) == ["batches.create"]


async def test_a_file_with_broken_rows_is_refused_with_lines_and_reasons(
    client: httpx.AsyncClient, system: Any, owner: str
) -> None:
    content = rows("a") + b"{\n" + rows("a") + rows("c", url="/v1/embeddings")
    file = (await upload(client, content)).json()
    response = await begin(client, file["id"])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_batch_file")
    assert error["param"] == "input_file_id"
    assert [(line["line"], line["code"]) for line in error["lines"]] == [
        (2, "invalid_row"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
    ]
    assert "line 3: custom_id 'a' is that of line 1 already" in error["message"]
    assert await system.kernel.jobs.list(owner=owner) == []
    assert (await client.get("/v1/batches")).json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_file_id": "file-1"}, 404, "input_file_id"),
        ({"input_file_id": ""}, 400, "input_file_id"),
        ({"endpoint": "/v1/responses"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ({"metadata": {str(i): "x" for i in range(17)}}, 400, "metadata"),
        ({"metadata": {"a": "x" * 513}}, 400, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, None),
        ({"more": 1}, 400, "more"),
    ],
)
async def test_a_batch_with_a_mistake_is_refused_by_field(
    client: httpx.AsyncClient,
    system: Any,
    owner: str,
    fields: dict[str, Any],
    status: int,
    param: str | None,
) -> None:
    file = (await upload(client, rows("a"))).json()
    response = await begin(client, file["id"], **fields)
    assert response.status_code == status, response.text
    if param is not None:
        assert response.json()["error"]["param"] == param
    assert await system.kernel.jobs.list(owner=owner) == []


@pytest.mark.parametrize(("model", "status"), [("nothing", 404), ("judge", 400)])
async def test_a_model_that_cannot_answer_is_refused_at_once(
    client: httpx.AsyncClient, model: str, status: int
) -> None:
    file = (await upload(client, rows("a", model=model))).json()
    response = await begin(client, file["id"])
    assert (response.status_code, response.json()["error"]["param"]) == (status, "model")


async def test_a_batch_may_ask_for_any_name_that_its_rows_may(
    client: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    route = {"targets": [{"model": "talker"}]}
    assert (await admin.put("/api/v1/routes/support", json=route)).status_code == 200
    for name in ("support", "auto", "chat", "talker:1"):
        file = (await upload(client, rows("a", model=name))).json()
        made = await begin(client, file["id"])
        assert (made.status_code, made.json().get("model")) == (200, name), made.text
    file = (await upload(client, rows("a", model="translate"))).json()
    refused = await begin(client, file["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


async def test_a_batch_is_made_by_its_route_alone(client: httpx.AsyncClient, system: Any) -> None:
    made = await batch_of(client, "a")
    params = (await system.kernel.jobs.get(made["job_id"])).params
    body = {"kind": "batch", "name": "x", "params": params}
    assert (await client.post("/api/v1/jobs", json=body)).status_code == 400


async def test_batches_are_listed_the_newest_first_in_pages(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    made = []
    for _ in range(3):
        clock.now += 1
        made.append((await batch_of(client, "a"))["id"])
    first = (await client.get("/v1/batches", params={"limit": 2})).json()
    assert [batch["id"] for batch in first["data"]] == [made[2], made[1]]
    assert first["has_more"]
    params = {"limit": 2, "after": first["last_id"]}
    rest = (await client.get("/v1/batches", params=params)).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == ([made[0]], False)
    unknown = await client.get("/v1/batches", params={"after": "batch_1"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")


async def test_what_one_owner_has_no_other_sees(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, new_client: NewClient
) -> None:
    ann, bob = client, new_client("user", name="bob")
    batch = await batch_of(ann, "a")
    file_id = batch["input_file_id"]
    for path in (
        f"/v1/files/{file_id}",
        f"/v1/files/{file_id}/content",
        f"/v1/batches/{batch['id']}",
    ):
        assert (await ann.get(path)).status_code == 200
        assert (await bob.get(path)).status_code == 403, path
    assert (await bob.delete(f"/v1/files/{file_id}")).status_code == 403
    assert (await bob.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 403
    assert (await begin(bob, file_id)).status_code == 403
    for path in ("/v1/files", "/v1/batches"):
        assert (await bob.get(path)).json()["data"] == []
        theirs = (await ann.get(path)).json()["data"]
        assert theirs[0] in (await admin.get(path)).json()["data"], "an admin sees everybody's"


async def test_a_key_needs_every_right_that_its_batch_will_use(
    clock: Clock, new_client: NewClient
) -> None:
    all_but = {"files.write", "files.read", "batches.write", "batches.read", "generate"}
    for missing in ("batches.read", "batches.write", "files.read", "generate"):
        able = new_client("user", name="ann")
        file = (await upload(able, rows("a"))).json()
        limited = new_client("user", name="ann", actions=all_but - {missing})
        assert (await begin(limited, file["id"])).status_code == 403, missing
    limited = new_client("user", name="ann", models={"writer"})
    assert (await begin(limited, file["id"])).status_code == 403


# -- how it stands ---------------------------------------------------------------------------------


async def started(system: Any, batch: dict[str, Any]) -> Job:
    job = await system.kernel.jobs.claim(batch["job_id"], 60.0, 1)
    assert job is not None
    return job


async def said(system: Any, job: Job, message: str) -> None:
    progress = {"step": 1, "total": 3, "message": message}
    await system.kernel.jobs.report(job.id, job.fence, 60.0, progress=progress)


async def ended(
    system: Any, job: Job, as_: str, output: bytes | None, errors: bytes | None
) -> None:
    def stored(data: bytes | None) -> dict[str, Any] | None:
        if data is None:
            return None
        ref = system.blobs.put_bytes(data)
        return {"digest": ref.digest, "size": ref.size}

    summary = {
        "ended_as": as_,
        "completed": 0 if output is None else output.count(b"\n"),
        "failed": 0 if errors is None else errors.count(b"\n"),
        "finalizing_at": NOW + 5,
        "output": stored(output),
        "errors": stored(errors),
    }

    def commit(conn: Any, job: Job, result: JobResult) -> None:
        commit_batch(conn, job, result, NOW + 6)

    await system.kernel.jobs.complete(job.id, job.fence, JobResult(summary=summary), commit)


async def status(client: httpx.AsyncClient, batch: dict[str, Any]) -> dict[str, Any]:
    return (await client.get(f"/v1/batches/{batch['id']}")).json()


async def test_a_batch_goes_through_its_states_to_its_files(
    client: httpx.AsyncClient, system: Any
) -> None:
    kept = {"anchor": "created_at", "seconds": 7200}
    batch = await batch_of(client, "a", "b", "c", output_expires_after=kept)
    job = await started(system, batch)
    assert (await status(client, batch))["status"] == "in_progress"
    await said(system, job, "1 completed, 1 failed")
    now = await status(client, batch)
    assert now["request_counts"] == {"total": 3, "completed": 1, "failed": 1}
    assert now["in_progress_at"] is not None
    await said(system, job, "finalizing: 2 completed, 1 failed")
    assert (await status(client, batch))["status"] == "finalizing"
    await ended(system, job, "completed", b"1\n2\n", b"3\n")
    done = await status(client, batch)
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (done["finalizing_at"], done["completed_at"]) == (NOW + 5, NOW + 6)
    for kind, content in (("output_file_id", b"1\n2\n"), ("error_file_id", b"3\n")):
        file = (await client.get(f"/v1/files/{done[kind]}")).json()
        assert (file["purpose"], file["expires_at"]) == ("batch_output", NOW + 6 + 7200)
        assert (await client.get(f"/v1/files/{done[kind]}/content")).content == content
        assert (await begin(client, done[kind])).status_code == 400, "an output is no input"
    assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409
    assert actions(system, batch["id"]) == ["batches.finish", "batches.create"]


async def test_a_batch_without_errors_has_no_error_file(
    client: httpx.AsyncClient, system: Any
) -> None:
    batch = await batch_of(client, "a")
    await ended(system, await started(system, batch), "expired", None, None)
    done = await status(client, batch)
    assert (done["status"], done["expired_at"]) == ("expired", NOW + 6)
    assert (done["output_file_id"], done["error_file_id"]) == (None, None)


async def test_a_batch_that_never_began_is_cancelled_at_once(
    client: httpx.AsyncClient, system: Any
) -> None:
    batch = await batch_of(client, "a")
    done = (await client.post(f"/v1/batches/{batch['id']}/cancel")).json()
    assert done["status"] == "cancelled"
    assert done["cancelling_at"] == NOW
    assert done["cancelled_at"] is not None
    again = await client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (again.status_code, again.json()) == (200, done)
    assert actions(system, batch["id"]).count("batches.cancel") == 1


async def test_a_running_batch_is_cancelling_until_its_job_has_seen_it(
    client: httpx.AsyncClient, system: Any
) -> None:
    batch = await batch_of(client, "a")
    job = await started(system, batch)
    for _ in range(2):
        now = (await client.post(f"/v1/batches/{batch['id']}/cancel")).json()
        assert (now["status"], now["cancelling_at"]) == ("cancelling", NOW)
    assert not (await system.kernel.jobs.get(job.id)).cancel_requested, "its job ends it in order"
    await ended(system, job, "cancelled", b"1\n", None)
    done = await status(client, batch)
    assert (done["status"], done["cancelled_at"]) == ("cancelled", NOW + 6)
    assert done["output_file_id"] is not None


async def test_a_batch_whose_job_fails_for_good_has_failed_with_its_error(
    client: httpx.AsyncClient, system: Any
) -> None:
    from llmos.errors import CorruptBlobError

    batch = await batch_of(client, "a")
    job = await started(system, batch)
    await system.kernel.jobs.fail(job.id, job.fence, CorruptBlobError("broken"), retryable=False)
    failed = await status(client, batch)
    assert failed["status"] == "failed"
    assert failed["failed_at"] is not None
    fault = {"code": "corrupt_blob", "message": "broken", "line": None, "param": None}
    assert failed["errors"] == {"object": "list", "data": [fault]}


async def test_a_commit_for_no_batch_keeps_nothing(client: httpx.AsyncClient, system: Any) -> None:
    from llmos.errors import InvalidRequestError

    batch = await batch_of(client, "a")
    params = (await system.kernel.jobs.get(batch["job_id"])).params
    other = await system.kernel.jobs.submit("batch", params, owner="user")
    job = await system.kernel.jobs.claim(other.id, 60.0, 1)
    with pytest.raises(InvalidRequestError, match="belongs to no batch"):
        await ended(system, job, "completed", b"1\n", None)
    files = (await client.get("/v1/files", params={"purpose": "batch_output"})).json()
    assert files["data"] == []
