"""Kept answers are explained and replayed; those of owners who did not ask for it are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from llmos.storage.schema import answers
from llmos.types import Priority

NewClient = Callable[..., httpx.AsyncClient]
ASKED = {"model": "writer", "prompt": "hello world", "max_tokens": 5, "temperature": 0.7, "seed": 3}


async def keep(client: httpx.AsyncClient, keeps: bool = True) -> None:
    assert (await client.put("/api/v1/answers", json={"keeps": keeps})).json()["keeps"] is keeps


@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_answer_says_who_gave_it_and_is_given_again(
    client: httpx.AsyncClient, stream: bool
) -> None:
    await keep(client)
    answer = await client.post("/v1/completions", json=ASKED | {"stream": stream, "n": 2})
    text = answer.text
    response_id = text[text.index("cmpl-") :].split('"')[0]
    found = (await client.get(f"/api/v1/lineage/answers/{response_id}")).json()
    kept = found["answer"]
    assert (kept["asked"], kept["model"], kept["owner"]) == ("writer", "writer:1", "admin")
    assert kept["request"]["prompt"] == "hello world"
    assert kept["request"]["sampling"]["seed"] == 3
    assert [one["finish_reason"] for one in kept["outputs"]] == ["length", "length"]
    assert [version["ref"] for version in found["versions"]] == ["writer:1"]
    assert found["versions"][0]["digest"] == kept["digest"]
    came = (await client.post("/api/v1/answers/replay", json={"id": response_id})).json()
    assert (came["same"], came["first_difference"]) == (True, None)
    assert came["texts"] == ["hello", "hello"]
    assert came["id"] != response_id


async def test_a_kept_answer_says_what_was_asked_for_where_its_model_was_chosen(
    client: httpx.AsyncClient,
) -> None:
    await keep(client)
    await client.put("/api/v1/routes/stories", json={"targets": [{"model": "writer:1"}]})
    answer = await client.post("/v1/completions", json=ASKED | {"model": "stories"})
    found = await client.get(f"/api/v1/lineage/answers/{answer.json()['id']}")
    kept = found.json()["answer"]
    assert (kept["asked"], kept["model"]) == ("stories", "writer:1")
    came = await client.post("/api/v1/answers/replay", json={"id": answer.json()["id"]})
    assert came.json()["same"] is True


async def test_every_door_leaves_an_answer_under_the_id_it_gave(client: httpx.AsyncClient) -> None:
    await keep(client)
    turns = [{"role": "user", "content": "hi"}]
    doors = {
        "/v1/chat/completions": {"model": "talker", "messages": turns},
        "/v1/responses": {"model": "talker", "input": "hi"},
        "/api/v1/generate": {"model": "writer", "prompt": "hi", "max_tokens": 2},
    }
    for path, body in doors.items():
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        response_id = answer.json()["id"]
        found = await client.get(f"/api/v1/lineage/answers/{response_id}")
        assert found.status_code == 200, (path, found.text)
        came = await client.post("/api/v1/answers/replay", json={"id": response_id})
        assert (came.status_code, came.json()["same"]) == (200, True), (path, came.text)


async def test_a_replay_runs_on_the_terms_of_who_asks_for_it_and_leaves_nothing(
    client: httpx.AsyncClient,
    new_client: NewClient,
    system: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases: list[tuple[str, Priority]] = []
    real = system.kernel.residency.lease

    def lease(spec: Any, priority: Priority, *given: Any, tenant: str, **more: Any) -> Any:
        leases.append((tenant, priority))
        return real(spec, priority, *given, tenant=tenant, **more)

    monkeypatch.setattr(system.kernel.residency, "lease", lease)
    alice = new_client("user", name="alice")
    patient = new_client("user", name="alice", best_priority=Priority.BATCH)
    await keep(alice)
    answer = await alice.post("/v1/completions", json=ASKED | {"priority": "interactive"})
    count = sa.select(sa.func.count()).select_from(answers)
    for asker in (client, patient, alice):
        asked = {"id": answer.json()["id"]}
        assert (await asker.post("/api/v1/answers/replay", json=asked)).json()["same"]
    assert leases == [
        ("alice", Priority.INTERACTIVE),
        ("admin", Priority.INTERACTIVE),
        ("alice", Priority.BATCH),
        ("alice", Priority.INTERACTIVE),
    ]
    assert await system.database.read(lambda conn: conn.execute(count).scalar()) == 1


async def test_nobodys_words_are_kept_unasked_and_all_are_forgotten_when_it_ends(
    client: httpx.AsyncClient, system: Any
) -> None:
    async def count() -> int:
        query = sa.select(sa.func.count()).select_from(answers)
        return int(await system.database.read(lambda conn: conn.execute(query).scalar()))

    answer = await client.post("/v1/completions", json=ASKED)
    missing = await client.get(f"/api/v1/lineage/answers/{answer.json()['id']}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "answer_not_found")
    assert "llmos answers on" in missing.json()["error"]["message"]
    assert await count() == 0
    await keep(client)
    await client.post("/v1/completions", json=ASKED)
    assert await count() == 1
    await keep(client, False)
    assert await count() == 0
    await client.post("/v1/completions", json=ASKED)
    assert await count() == 0


async def test_an_answer_is_its_owners(client: httpx.AsyncClient, new_client: NewClient) -> None:
    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    await keep(alice)
    response_id = (await alice.post("/v1/completions", json=ASKED)).json()["id"]
    assert (await alice.get(f"/api/v1/lineage/answers/{response_id}")).status_code == 200
    assert (await bob.get(f"/api/v1/lineage/answers/{response_id}")).status_code == 404
    assert (await bob.post("/api/v1/answers/replay", json={"id": response_id})).status_code == 404
    assert (await client.get(f"/api/v1/lineage/answers/{response_id}")).status_code == 200
    assert (await bob.get("/api/v1/answers")).json()["keeps"] is False


async def test_a_version_made_of_others_is_traced_to_its_data(
    client: httpx.AsyncClient, system: Any
) -> None:
    from llmos.types import NewVersion

    manifest = {"task": "generate", "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    files = {"config.json": system.blobs.put_bytes(b"{}")}
    data = "sha256:" + "0" * 64
    base = NewVersion("model", "base", files, manifest, inputs=(data,))
    tuned = NewVersion("model", "tuned", files, manifest, inputs=("base:1", "org/elsewhere"))
    system.library.add(base, "admin")
    system.library.add(tuned, "admin")
    (found,) = (await client.get("/api/v1/lineage/models/tuned")).json()["versions"]
    assert found["ref"] == "tuned:1"
    inner = {one["ref"]: one for one in found["inputs"]}
    assert inner["org/elsewhere"] == {"ref": "org/elsewhere"}
    assert inner["base:1"]["inputs"] == [{"ref": data}]
    assert (await client.get("/api/v1/lineage/models/nothing")).status_code == 404


async def test_a_dataset_is_traced_to_what_it_was_made_of_for_its_owner(
    client: httpx.AsyncClient, system: Any, new_client: NewClient
) -> None:
    from llmos.types import NewVersion

    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    steps = [{"whitespace": {"field": "text"}}, {"exact_dedup": {"fields": ["text"]}}]
    files = {"data-00000.parquet": system.blobs.put_bytes(b"rows")}
    told = {"rows": 1, "schema": {"id": "string"}}
    raw = NewVersion("dataset", "raw", files, told)
    clean = NewVersion(
        "dataset", "clean", files, {**told, "pipeline": {"steps": steps}}, ("dataset:raw:1",)
    )
    manifest = {"task": "generate", "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    model = NewVersion("model", "m", files, manifest, inputs=("dataset:clean:1",))
    for version in (raw, clean, model):
        system.library.add(version, "alice")
    for who in (alice, client):
        (found,) = (await who.get("/api/v1/lineage/datasets/clean")).json()["versions"]
        assert (found["ref"], found["kind"], found["pipeline"]["steps"]) == (
            "clean:1", "dataset", steps,
        )  # fmt: skip
        assert [one["ref"] for one in found["inputs"]] == ["raw:1"]
        (found,) = (await who.get("/api/v1/lineage/models/m")).json()["versions"]
        assert found["inputs"][0]["inputs"][0]["ref"] == "raw:1"
    assert (await bob.get("/api/v1/lineage/datasets/clean")).status_code == 403
    (found,) = (await bob.get("/api/v1/lineage/models/m")).json()["versions"]
    assert found["inputs"] == [{"ref": "dataset:clean:1"}]
    assert (await client.get("/api/v1/lineage/datasets/nothing")).status_code == 404


async def test_a_job_is_told_to_its_owner_alone_and_a_denied_base_is_only_named(
    client: httpx.AsyncClient, system: Any, new_client: NewClient
) -> None:
    from llmos.types import NewVersion

    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    files = {"config.json": system.blobs.put_bytes(b"{}")}
    data = {"secret.txt": (await alice.post("/api/v1/blobs", content=b"text")).json()["digest"]}
    body = {"kind": "train", "name": "x", "params": {"data": data}}
    job = (await alice.post("/api/v1/jobs", json=body)).json()
    manifest = {"task": "generate", "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    base = NewVersion("model", "base", files, manifest, inputs=tuple(data.values()))
    system.library.add(base, "alice", job["id"])
    system.library.add(NewVersion("model", "tuned", files, manifest, inputs=("base:1",)), "alice")

    async def base_seen_by(who: httpx.AsyncClient) -> dict[str, Any]:
        (found,) = (await who.get("/api/v1/lineage/models/tuned")).json()["versions"]
        return dict(found["inputs"][0])

    for insider in (alice, client):
        assert (await base_seen_by(insider))["made_by"]["data"] == data
    seen = await base_seen_by(bob)
    assert (seen["ref"], seen["made_by"]) == ("base:1", None)
    limited = new_client("user", name="carol", models=["tuned"])
    assert await base_seen_by(limited) == {"ref": "base:1"}
