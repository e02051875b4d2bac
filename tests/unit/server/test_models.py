from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.errors import DiskFullError
from llmos.security.actors import SYSTEM
from llmos.storage.schema import evaluations
from llmos.types import FileRef, NewVersion

NewClient = Callable[..., httpx.AsyncClient]


async def test_a_version_is_shown_with_all_that_made_it(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/api/v1/models/writer")).json()
    assert (shown["ref"], shown["task"], shown["aliases"]) == ("writer:1", "generate", ["latest"])
    assert set(shown["files"]) == {"config.json", "tokenizer.json"}
    assert shown["manifest"]["engine"] == "echo"
    assert shown.pop("runs_as") == "writer:1"
    assert shown.pop("evaluations") == []
    listed = (await client.get("/api/v1/models")).json()["data"]
    assert shown in listed
    assert (await client.get("/api/v1/models?kind=dataset")).json()["data"] == []
    assert (await client.get("/api/v1/models?kind=secret")).status_code == 400


async def test_a_task_name_finds_its_model(client: httpx.AsyncClient, system: Any) -> None:
    from llmos.security.actors import SYSTEM

    await asyncio.to_thread(
        system.library.set_task_default, "machine_translation", "translator", SYSTEM
    )
    shown = (await client.get("/api/v1/models/machine_translation")).json()
    assert shown["ref"] == "translator:1"
    asked = {"text": "Hi", "source_lang": "en", "target_lang": "zh"}
    assert (await client.post("/api/v1/translate", json=asked)).json()["text"] == "Hi"


async def test_a_task_is_given_another_model(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    wanted = {"task": "sentiment", "model": "judge"}
    assert (await client.put("/api/v1/tasks", json=wanted)).json() == wanted
    assert (await client.get("/api/v1/tasks")).json()["data"] == [wanted]
    assert (await client.get("/api/v1/models/sentiment")).json()["ref"] == "judge:1"
    unknown = await client.put("/api/v1/tasks", json={**wanted, "model": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    user = new_client("user", models=["writer"])
    assert (await user.put("/api/v1/tasks", json=wanted)).status_code == 403
    assert (await user.get("/api/v1/tasks")).json()["data"] == []


async def test_a_key_limited_to_models_reads_only_those(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    limited = new_client("user", models=["writer"])
    await client.put("/api/v1/tasks", json={"task": "sentiment", "model": "judge"})
    for start in ("/api/v1/models", "/v1/models"):
        listed = (await limited.get(start)).json()["data"]
        assert [one.get("name", one.get("id")) for one in listed] == ["writer"]
        assert (await limited.get(f"{start}/writer:1")).status_code == 200
        for ref in ("judge", "judge:1", "judge@latest", "sentiment"):
            assert (await limited.get(f"{start}/{ref}")).status_code == 403
    for part in ("/card", "/files/config.json"):
        assert (await limited.get(f"/api/v1/models/writer{part}")).status_code == 200
        response = await limited.get(f"/api/v1/models/judge{part}")
        assert (response.status_code, response.json()["error"]["code"]) == (
            403,
            "permission_denied",
        )


async def test_files_come_back_as_attachments(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/models/writer:1/files/config.json")
    assert response.content == b'{"name": "writer"}'
    assert response.headers["content-disposition"] == "attachment"
    assert response.headers["content-length"] == "18"
    response = await client.get("/api/v1/models/writer/files/secret")
    assert response.status_code == 404
    assert "config.json" in response.json()["error"]["message"]


async def test_a_damaged_file_is_not_sent(client: httpx.AsyncClient, system: Any) -> None:
    digest = system.library.resolve("writer").files["config.json"].digest
    system.blobs.blobs[digest].data = b"other"
    response = await client.get("/api/v1/models/writer/files/config.json")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "corrupt_blob")


@pytest.mark.parametrize(
    "ref",
    [
        "../../etc/passwd",
        "..",
        "a/../b",
        "%2e%2e/%2e%2e/etc",
        "a//b",
        "a/b/c",
        "writer:0",
        "writer:x",
        "a%00b",
        "%ff",
        "writer@",
        "a" * 300,
        "\u202ewriter",
    ],
)
async def test_no_reference_leads_out_of_the_library(client: httpx.AsyncClient, ref: str) -> None:
    for path in ("", "/card", "/files/config.json", "/files/..%2f..%2fetc%2fpasswd"):
        response = await client.get(f"/api/v1/models/{ref}{path}")
        assert response.status_code in {400, 404}, path
        assert "root:" not in response.text


async def test_the_card_is_markdown(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/models/writer/card")
    assert response.headers["content-type"].startswith("text/markdown")
    assert response.text.startswith("#")


async def test_aliases_and_removal(client: httpx.AsyncClient) -> None:
    moved = await client.post("/api/v1/models/writer/aliases", json={"alias": "production"})
    assert "production" in moved.json()["aliases"]
    assert (await client.get("/api/v1/models/writer@production")).status_code == 200
    response = await client.delete("/api/v1/models/writer")
    assert response.json()["removed_at"] is not None
    gone = await client.get("/api/v1/models/writer")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    trail = (await client.get("/api/v1/audit")).json()["data"]
    assert {"models.alias", "models.remove"} <= {event["action"] for event in trail}


async def test_a_user_may_not_touch_anothers_model(new_client: NewClient) -> None:
    user = new_client("user")
    assert (await user.get("/api/v1/models/writer")).status_code == 200
    assert (await user.delete("/api/v1/models/writer")).status_code == 403
    response = await user.post("/api/v1/models/writer/aliases", json={"alias": "x"})
    assert response.status_code == 403


async def test_the_catalog_says_what_fits(client: httpx.AsyncClient) -> None:
    entries = (await client.get("/api/v1/catalog")).json()["data"]
    assert len(entries) > 10
    assert {"repo", "task", "parameters", "size_bytes", "license", "fits"} <= set(entries[0])


async def test_no_job_is_taken_that_would_add_to_anothers_name(
    new_client: NewClient, system: Any
) -> None:
    user = new_client("user")
    digest = (await user.post("/api/v1/blobs", content=b"x")).json()["digest"]
    requests = {
        "models/import": {"name": "writer", "files": {"config.json": digest}},
        "models/import/plan": {"name": "writer", "filenames": ["config.json", "model.safetensors"]},
        "models/pull": {"repo": "org/name", "name": "writer"},
        "jobs": {"kind": "pull", "name": "x", "params": {"repo": "org/name", "name": "writer"}},
    }
    for path, body in requests.items():
        response = await user.post(f"/api/v1/{path}", json=body)
        assert response.status_code == 409, response.text
        assert response.json()["error"]["code"] == "conflict"
        assert "choose another name" in response.json()["error"]["message"]
    assert await system.kernel.jobs.list() == []


async def test_imports_and_pulls_become_jobs(client: httpx.AsyncClient, system: Any) -> None:
    data = b"some file"
    stored = (await client.post("/api/v1/blobs", content=data)).json()
    body = {"name": "mine", "files": {"config.json": stored["digest"]}}
    response = await client.post("/api/v1/models/import", json=body)
    assert response.status_code == 202
    assert response.json()["params"] == body
    missing = {"name": "mine", "files": {"config.json": "sha256:" + "0" * 64}}
    response = await client.post("/api/v1/models/import", json=missing)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    pulled = (await client.post("/api/v1/models/pull", json={"repo": "org/name"})).json()
    assert (pulled["kind"], pulled["params"]) == ("pull", {"repo": "org/name"})


@pytest.mark.parametrize(
    ("name", "filenames", "code"),
    [
        ("a b", ["config.json", "model.safetensors"], "invalid_name"),
        ("mine", ["model.safetensors"], "invalid_model"),
        ("mine", ["config.json", "pytorch_model.bin"], "unsafe_file"),
    ],
)
async def test_a_hopeless_import_is_refused_before_the_upload(
    client: httpx.AsyncClient, name: str, filenames: list[str], code: str
) -> None:
    body = {"name": name, "filenames": filenames}
    response = await client.post("/api/v1/models/import/plan", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_an_import_is_planned(client: httpx.AsyncClient) -> None:
    filenames = ["config.json", "model.safetensors", "pytorch_model.bin", "x.py"]
    body = {"name": "mine", "filenames": filenames}
    plan = (await client.post("/api/v1/models/import/plan", json=body)).json()
    assert plan["kept"] == ["config.json", "model.safetensors"]


# -- blobs ---------------------------------------------------------------------------------------


async def test_an_upload_is_stored_under_its_digest(client: httpx.AsyncClient, system: Any) -> None:
    data = bytes(range(256)) * 8192

    async def pieces() -> Any:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    response = await client.post("/api/v1/blobs", content=pieces())
    assert response.status_code == 201
    stored = response.json()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert stored == {"digest": digest, "size": len(data)}
    assert system.blobs.read_bytes(digest) == data
    assert (await client.head(f"/api/v1/blobs/{digest}")).status_code == 200
    assert (await client.head("/api/v1/blobs/sha256:" + "0" * 64)).status_code == 404
    assert (await client.head("/api/v1/blobs/nonsense")).status_code == 400
    newest = (await client.get("/api/v1/audit")).json()["data"][0]
    assert (newest["action"], newest["object"]) == ("blobs.create", digest)
    assert newest["detail"] == {"size": len(data)}
    assert newest["actor"] in {key.id for key in system.keys.list()}


async def test_too_large_an_upload_leaves_nothing(client: httpx.AsyncClient, system: Any) -> None:
    before = len(system.blobs.blobs)

    async def endless() -> Any:
        for _ in range(10_000):
            yield b"x" * 100_000

    response = await client.post("/api/v1/blobs", content=endless())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert len(system.blobs.blobs) == before


async def test_a_full_disk_is_a_507(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmos.storage.memory import _MemoryBlobWriter

    def full(self: Any, data: bytes) -> None:
        raise DiskFullError

    monkeypatch.setattr(_MemoryBlobWriter, "write", full)
    response = await client.post("/api/v1/blobs", content=b"data")
    assert (response.status_code, response.json()["error"]["code"]) == (507, "disk_full")


# -- whose files are -----------------------------------------------------------------------------


async def test_knowing_a_digest_opens_nothing(new_client: NewClient, system: Any) -> None:
    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    secret = (await alice.post("/api/v1/blobs", content=b"prompts")).json()["digest"]
    assert (await alice.head(f"/api/v1/blobs/{secret}")).status_code == 200
    assert (await bob.head(f"/api/v1/blobs/{secret}")).status_code == 404
    files = {"config.json": secret, "README.md": secret}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("models/import", {"name": "x", "files": files}),
        ("jobs", {"kind": "import", "name": "x", "params": {"name": "x", "files": files}}),
        ("jobs", {"kind": "train", "name": "x", "params": {"data": {"a.txt": secret}}}),
        (
            "jobs",
            {"kind": "evaluate", "name": "x", "params": {"model": "judge", "data": {"a": secret}}},
        ),
        (
            "pipelines",
            {
                "pipeline": {
                    "name": "p",
                    "steps": {"s": {"kind": "train", "params": {"data": {"a": secret}}}},
                }
            },
        ),
    ]
    for path, body in requests:
        refused = await bob.post(f"/api/v1/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found"), path
        assert "was not uploaded by bob" in refused.json()["error"]["message"]
    assert await system.kernel.jobs.list() == []
    for path, body in requests:
        assert (await alice.post(f"/api/v1/{path}", json=body)).status_code in {201, 202}, path


async def test_the_files_of_models_one_may_read_need_no_upload(
    new_client: NewClient, system: Any
) -> None:
    known = system.library.resolve("writer").files["config.json"].digest
    for client, status in (
        (new_client("user", name="alice"), 200),
        (new_client("user", name="bob", models=["writer"]), 200),
        (new_client("user", name="carol", models=["judge"]), 404),
        (new_client("admin"), 200),
    ):
        assert (await client.head(f"/api/v1/blobs/{known}")).status_code == status


async def test_an_upload_is_its_owners_until_taken_back_swept_or_part_of_a_model(
    new_client: NewClient, system: Any
) -> None:
    admin, alice = new_client("admin"), new_client("user", name="alice")

    async def upload(data: bytes) -> str:
        return str((await alice.post("/api/v1/blobs", content=data)).json()["digest"])

    async def status(digest: str) -> int:
        return (await alice.head(f"/api/v1/blobs/{digest}")).status_code

    async def stored() -> int:
        usage = (await alice.get("/api/v1/quotas/alice")).json()
        return int(usage["used"]["stored_bytes"])

    taken_back, swept, named = [await upload(data) for data in (b"1", b"22", b"333")]
    assert await stored() == 6
    assert (await alice.delete(f"/api/v1/blobs/{taken_back}")).json()["removed"]
    assert (await alice.delete(f"/api/v1/blobs/{taken_back}")).status_code == 404
    assert (await status(taken_back), await stored()) == (404, 5)
    files = {"config.json": FileRef(named, 3)}
    system.library.add(NewVersion("dataset", "mine", files, {}), "alice")
    system.library.add(NewVersion("dataset", "other", {"a": FileRef(swept, 2)}, {}), "bob")
    assert await stored() == 5
    await admin.post("/api/v1/gc", json={"grace_s": 3600})
    assert await stored() == 5
    await admin.post("/api/v1/gc", json={"grace_s": 0})
    assert (await status(named), await stored()) == (200, 3)
    assert system.blobs.has(swept), "bob's dataset has it"
    system.library.remove("mine", SYSTEM, "dataset")
    assert (await status(named), await stored()) == (404, 0)


async def test_evaluations_of_others_are_told_without_their_files(
    new_client: NewClient, client: httpx.AsyncClient, system: Any
) -> None:
    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    data = {"t.jsonl": (await alice.post("/api/v1/blobs", content=b"{}")).json()["digest"]}
    body = {"kind": "evaluate", "name": "x", "params": {"model": "judge", "data": data}}
    job = (await alice.post("/api/v1/jobs", json=body)).json()
    row = {"namespace": "", "name": "judge", "number": 1, "dataset": "t", "num_rows": 1, "at": 1.0}
    row |= {"data_digest": data["t.jsonl"], "metrics": {"accuracy": 0.5}, "owner": "alice"}
    row |= {"job_id": job["id"]}
    await system.database.write(lambda conn: conn.execute(evaluations.insert().values(row)))

    async def seen_by(who: httpx.AsyncClient) -> dict[str, Any]:
        (one,) = (await who.get("/api/v1/models/judge")).json()["evaluations"]
        return {name: one[name] for name in ("metrics", "data_digest", "job_id", "owner")}

    everything = {name: row[name] for name in ("metrics", "data_digest", "job_id", "owner")}
    assert await seen_by(alice) == await seen_by(client) == everything
    hidden = {"data_digest": None, "job_id": None, "owner": None}
    assert await seen_by(bob) == {"metrics": {"accuracy": 0.5}, **hidden}
    cards = [(await who.get("/api/v1/models/judge/card")).text for who in (alice, bob)]
    assert all("| t/accuracy | 0.5 | 1 |" in card for card in cards)
    assert ["| alice |" in card for card in cards] == [True, False]
