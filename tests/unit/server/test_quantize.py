"""Quantised models over HTTP: the job, what its base runs as, and whose names it may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.compression import jobs as compression_jobs
from llmos.library import jobs as library_jobs
from llmos.types import NewVersion

NewClient = Callable[..., httpx.AsyncClient]
MANIFEST: dict[str, Any] = {
    "task": "generate",
    "engine": "native",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "dtype": "bfloat16",
    "weights_bytes": 1000,
}


@pytest.fixture
def library(system: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library with the model ``big``; the job kinds are the real ones."""
    kinds = [*compression_jobs.llmos_job_kinds(), *library_jobs.llmos_job_kinds()]
    for kind in kinds:
        monkeypatch.setitem(system.kernel.jobs.kinds, kind.name, kind)
    add(system, "big", MANIFEST)
    return system.library


def add(
    system: Any, name: str, manifest: dict[str, Any], *inputs: str, owner: str = "admin"
) -> Any:
    files = {"config.json": system.blobs.put_bytes(name.encode())}
    return system.library.add(NewVersion("model", name, files, manifest, inputs), owner)


def quantized(system: Any, owner: str = "admin") -> Any:
    base = system.library.resolve("big")
    facts = {"base": base.ref, "base_digest": base.digest, "base_weights_bytes": 1000}
    metrics = {"relative_error": 0.021, "top1_agreement": 0.97, "tokens": 160}
    made = {"dtype": "int8", "weights_bytes": 510, "quantization": facts}
    made["metrics"] = {"quantization": metrics}
    return add(system, "big-int8", MANIFEST | made, base.digest, owner=owner)


async def submit(client: httpx.AsyncClient, **params: Any) -> httpx.Response:
    job = {"kind": "quantize", "name": "x", "params": params}
    return await client.post("/api/v1/jobs", json=job)


async def test_a_job_is_queued_with_the_base_that_the_server_found(
    library: Any, client: httpx.AsyncClient
) -> None:
    response = await submit(client, model="big")
    assert response.status_code == 202, response.text
    params = response.json()["params"]
    assert (params["model"], params["dtype"], params["name"]) == ("big:1", "int8", "big-int8")
    assert params["base"]["digest"] == library.resolve("big").digest


@pytest.mark.parametrize(
    ("params", "status", "says"),
    [
        ({}, 400, "model"),
        ({"model": 5}, 400, "model"),
        ({"model": "bigg"}, 404, "did you mean 'big'"),
        ({"model": "big", "dtype": "int3"}, 400, "int8 or int4"),
        ({"model": "big", "name": "a b"}, 400, "a b"),
        ({"model": "big", "base": {"ref": "big:1"}}, 400, "model"),
        ({"model": "big", "more": 1}, 400, "more"),
        ({"model": "judge"}, 400, "only models that generate text"),
    ],
)
async def test_a_bad_request_is_refused(
    library: Any, client: httpx.AsyncClient, params: dict[str, Any], status: int, says: str
) -> None:
    response = await submit(client, **params)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


async def test_a_model_one_may_not_read_or_a_name_of_another_is_refused(
    library: Any, system: Any, client: httpx.AsyncClient, new_client: NewClient
) -> None:
    limited = new_client("user", models=["judge"])
    assert (await submit(limited, model="big")).status_code == 403
    quantized(system)
    other = new_client("user", name="other")
    assert (await submit(other, model="big")).status_code == 409
    assert (await submit(other, model="big", name="mine")).status_code == 202
    response = await submit(client, model="big-int8")
    assert (response.status_code, "quantised already" in response.text) == (400, True)


async def test_a_model_shows_what_it_runs_as(
    library: Any, system: Any, client: httpx.AsyncClient
) -> None:
    assert (await client.get("/api/v1/models/big")).json()["runs_as"] == "big:1"
    assert "runs as" not in (await client.get("/api/v1/models/big/card")).text
    quantized(system)
    assert (await client.get("/api/v1/models/big")).json()["runs_as"] == "big-int8:1"
    assert "| runs as | big-int8:1 (int8) |" in (await client.get("/api/v1/models/big/card")).text
    card = (await client.get("/api/v1/models/big-int8/card")).text
    assert "| quantised from | big:1; 51% of its size; logits 2.1% off" in card
    assert "runs as" not in card


async def test_another_users_quantised_version_does_not_take_its_place(
    library: Any, system: Any, client: httpx.AsyncClient
) -> None:
    quantized(system, owner="mallory")
    assert (await client.get("/api/v1/models/big")).json()["runs_as"] == "big:1"


async def test_a_quantised_model_is_no_base_for_training_or_adapters(
    library: Any, system: Any, client: httpx.AsyncClient
) -> None:
    quantized(system)
    recipe = {"model": {"base": "big-int8"}}
    job = {"kind": "train", "name": "x", "params": {"recipe": recipe}}
    response = await client.post("/api/v1/jobs", json=job)
    assert (response.status_code, "cannot be trained" in response.text) == (400, True)
    files = {
        name: system.blobs.put_bytes(name.encode()).digest
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    body = {"name": "lora", "files": files, "base": "big-int8"}
    response = await client.post("/api/v1/models/import", json=body)
    assert (response.status_code, "name the model that it was made of" in response.text) == (
        400,
        True,
    )


async def test_an_import_quantises_unless_the_name_for_that_is_anothers(
    library: Any, system: Any, new_client: NewClient
) -> None:
    client = new_client("user", name="alice")
    files = {
        name: (await client.post("/api/v1/blobs", content=name.encode())).json()["digest"]
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    }

    async def imported(name: str, **body: Any) -> httpx.Response:
        given = {"name": name, "files": files, **body}
        return await client.post("/api/v1/models/import", json=given)

    add(system, "theirs-int4", MANIFEST, owner="bob")
    assert "dtype" not in (await imported("mine")).json()["params"]
    assert (await imported("mine", dtype="int4")).json()["params"]["dtype"] == "int4"
    assert (await imported("theirs")).json()["params"]["dtype"] == "stored"
    assert (await imported("theirs", dtype="int8")).status_code == 202
    response = await imported("theirs", dtype="int4")
    assert (response.status_code, "belongs to bob" in response.text) == (409, True)
    assert (await imported("mine", dtype="int3")).status_code == 400
