"""Adapters over HTTP: listed with the models, asked for by name, their bases found at import."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.types import NewVersion

MANIFEST = {
    "task": "chat",
    "base": "talker:1",
    "base_digest": "sha256:" + "0" * 64,
    "rank": 4,
    "target_modules": ["q_proj"],
    "parameters": 100,
    "dtype": "float32",
    "weights_bytes": 400,
}
NATIVE = {"task": "chat", "engine": "native", "architecture": "L", "model_type": "llama"}


@pytest.fixture
def poet(system: Any) -> Any:
    files = {"adapter_config.json": system.blobs.put_bytes(b"{}")}
    return system.library.add(NewVersion("adapter", "poet", files, MANIFEST), "admin")


@pytest.fixture
def base(system: Any) -> Any:
    files = {
        name: system.blobs.put_bytes(name.encode())
        for name in ("config.json", "model.safetensors", "README.md")
    }
    return system.library.add(NewVersion("model", "mini", files, NATIVE), "admin")


@pytest.fixture
def files(system: Any) -> dict[str, str]:
    config = json.dumps({"base_model_name_or_path": "org/mini"}).encode()
    return {
        "adapter_config.json": system.blobs.put_bytes(config).digest,
        "adapter_model.safetensors": system.blobs.put_bytes(b"x").digest,
    }


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_adapters_are_listed_and_read_like_models(
    client: httpx.AsyncClient, poet: Any
) -> None:
    ids = [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
    assert {"poet", "talker"} <= set(ids)
    assert (await client.get("/v1/models/talker%2Bpoet")).json()["id"] == "talker+poet"
    listed = (await client.get("/api/v1/models", params={"kind": "adapter"})).json()["data"]
    assert [one["ref"] for one in listed] == ["poet:1"]
    assert (await client.get("/api/v1/models/poet")).json()["kind"] == "adapter"
    both = (await client.get("/api/v1/models/writer%2Bpoet")).json()
    assert (both["ref"], both["kind"]) == ("writer:1+poet:1", "adapter")
    assert "| adapter of | talker:1 |" in (await client.get("/api/v1/models/poet/card")).text
    assert code(await client.get("/v1/models/poet%2Btalker")) == (404, "model_not_found")


async def test_an_adapter_gets_aliases_and_goes_like_a_model(
    client: httpx.AsyncClient, system: Any, poet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = await client.post("/api/v1/models/poet/aliases", json={"alias": "good"})
    assert moved.json()["aliases"] == ["good", "latest"]
    assert (await client.get("/api/v1/models/poet@good")).json()["ref"] == "poet:1"
    retired: list[str] = []
    monkeypatch.setattr(system.kernel.residency, "retire", retired.append)
    assert (await client.delete("/api/v1/models/poet")).status_code == 200
    assert retired == [poet.digest]
    assert code(await client.get("/api/v1/models/poet")) == (404, "model_not_found")


async def test_an_engine_without_adapters_refuses_them(
    client: httpx.AsyncClient, poet: Any
) -> None:
    body = {"model": "poet", "messages": [{"role": "user", "content": "hi"}]}
    for model in ("poet", "writer+poet"):
        response = await client.post("/v1/chat/completions", json=body | {"model": model})
        assert code(response) == (400, "unsupported_task"), response.text
        assert "no base for the adapter poet:1" in response.json()["error"]["message"]
    response = await client.post("/api/v1/classify", json={"model": "poet", "text": "hi"})
    assert response.status_code == 400


async def test_a_key_for_an_adapter_is_for_it_over_its_own_base(
    new_client: Callable[..., httpx.AsyncClient], poet: Any
) -> None:
    limited = new_client("user", models=["poet"])
    assert (await limited.get("/v1/models/poet")).status_code == 200
    assert code(await limited.get("/v1/models/writer%2Bpoet")) == (403, "permission_denied")
    ids = [one["id"] for one in (await limited.get("/v1/models")).json()["data"]]
    assert ids == ["poet"]


async def test_an_import_is_told_the_base_that_its_files_name(
    client: httpx.AsyncClient, base: Any, files: dict[str, str]
) -> None:
    for body in ({}, {"base": "mini:1"}):
        response = await client.post(
            "/api/v1/models/import", json={"name": "mine", "files": files, **body}
        )
        assert response.status_code == 202, response.text
        told = response.json()["params"]["base"]
        assert (told["ref"], told["digest"], told["task"]) == ("mini:1", base.digest, "chat")
        assert set(told["files"]) == {"config.json", "model.safetensors"}
    params = {"repo": "org/lora", "base": "mini"}
    pulled = (await client.post("/api/v1/models/pull", json=params)).json()
    assert pulled["params"]["base"]["ref"] == "mini:1"
    job = {"kind": "import", "name": "x", "params": {"name": "mine", "files": files}}
    queued = (await client.post("/api/v1/jobs", json=job)).json()
    assert queued["params"]["base"]["ref"] == "mini:1"


async def test_a_base_that_cannot_be_is_refused_before_the_job(
    client: httpx.AsyncClient, system: Any, base: Any, files: dict[str, str]
) -> None:
    async def imported(**body: Any) -> tuple[int, str]:
        return code(await client.post("/api/v1/models/import", json={"name": "mine", **body}))

    config = {"config.json": files["adapter_config.json"]}
    assert await imported(files=files, base="nobody") == (404, "model_not_found")
    assert await imported(files=files, base="judge") == (400, "invalid_model")
    assert await imported(files=config, base="mini") == (400, "invalid_request")
    assert await imported(files=files, base="a b") == (400, "invalid_name")
    forged = {"name": "mine", "files": files, "base": {"ref": "mini:1", "digest": "", "files": {}}}
    job = {"kind": "import", "name": "x", "params": forged}
    assert code(await client.post("/api/v1/jobs", json=job)) == (400, "invalid_request")
    assert await system.kernel.jobs.list() == []


async def test_a_key_of_other_models_finds_no_base(
    new_client: Callable[..., httpx.AsyncClient], system: Any, base: Any, files: dict[str, str]
) -> None:
    limited = new_client("user", models=["writer"])
    for digest in files.values():
        data = system.blobs.read_bytes(digest)
        assert (await limited.post("/api/v1/blobs", content=data)).status_code == 201
    body = {"name": "mine", "files": files}
    response = await limited.post("/api/v1/models/import", json=body)
    assert code(response) == (403, "permission_denied")


async def test_the_plan_of_an_adapters_import_is_its_files(
    client: httpx.AsyncClient, poet: Any
) -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "optimizer.pt"]
    body = {"name": "poet", "filenames": names}
    plan = (await client.post("/api/v1/models/import/plan", json=body)).json()
    assert plan["kept"] == names[:2]
    body = {"name": "writer", "filenames": names}
    response = await client.post("/api/v1/models/import/plan", json=body)
    assert code(response) == (409, "conflict")
