from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.kernel.estimates import MODEL, Measurement

NewClient = Callable[..., httpx.AsyncClient]
OF_ME = Measurement("train", "x", 100, 100, 80, 2.0, 1.0, 0.0, "me")
JOB: dict[str, Any] = {
    "id": 3,
    "kind": "train",
    "name": "mine",
    "owner": "me",
    "predicted_bytes": 150,
    "reserved_bytes": 110,
    "measured_bytes": 90,
    "peak_bytes": 100,
    "file_bytes": 5,
    "held": False,
    "error": 0.5,
}


async def test_memory_shows_what_was_expected_reserved_and_taken(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.kernel.memory, "status", lambda: [JOB])
    await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    told = (await client.get("/api/v1/memory")).json()
    assert told["capacity_bytes"] == 2**30
    assert told["available_bytes"] > told["floor_bytes"] > 0
    shown = {name: value for name, value in JOB.items() if name != "owner"}
    assert told["jobs"] == [shown]
    (model,) = told["models"]
    assert (model["name"], model["state"], model["error"]) == ("writer:1", "ready", None)
    assert told["engine"].keys() == {"reserved_bytes", "measured_bytes"}


async def test_memory_shows_how_good_predictions_were(
    client: httpx.AsyncClient, system: Any
) -> None:
    await system.kernel.memory.measurements.add(OF_ME)
    told = (await client.get("/api/v1/memory")).json()
    (quality,) = [one for one in told["history"] if one["kind"] == "train"]
    assert quality == {
        "kind": "train",
        "num_rows": 1,
        "median_error": 0.25,
        "worst_error": 0.25,
        "num_short": 0,
        "median_error_s": 1.0,
    }


async def test_a_user_is_told_of_its_own_jobs_and_its_keys_models(
    client: httpx.AsyncClient,
    new_client: NewClient,
    system: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system.kernel.memory, "status", lambda: [JOB])
    of_a_model = dataclasses.replace(OF_ME, kind=MODEL, owner="kernel")
    for one in (OF_ME, of_a_model):
        await system.kernel.memory.measurements.add(one)
    for name in ("writer", "talker"):
        await client.post("/api/v1/generate", json={"model": name, "prompt": "x"})

    async def told(**limits: Any) -> dict[str, list[Any]]:
        found = (await new_client("user", **limits).get("/api/v1/memory")).json()
        keys = {"jobs": "id", "models": "name", "history": "kind"}
        return {part: [one[key] for one in found[part]] for part, key in keys.items()}

    me, other = await told(name="me", models=["writer"]), await told(name="other")
    assert me == {"jobs": [3], "models": ["writer:1"], "history": ["model", "train"]}
    assert other == {"jobs": [], "models": ["writer:1", "talker:1"], "history": ["model"]}


async def test_memory_is_among_the_metrics(client: httpx.AsyncClient, system: Any) -> None:
    await system.kernel.memory.measurements.add(OF_ME)
    lines = (await client.get("/metrics")).text.splitlines()
    assert "llmos_memory_capacity_bytes 1.073741824e+09" in lines
    assert 'llmos_memory_prediction_error_ratio{kind="train"} 0.25' in lines
