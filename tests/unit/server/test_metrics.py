"""What /metrics says after real requests, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from llmos.types import EngineStats

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Return every sample: (name, label values in the order of their names) -> value."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_requests_tokens_and_times_are_counted_by_model_and_class(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "writer", "prompt": "hello"}
    for priority in ("interactive", "batch"):
        answer = await client.post("/api/v1/generate", json={**body, "priority": priority})
        assert answer.status_code == 200
    found = await samples(client)
    for priority in ("interactive", "batch"):
        labels = ("writer:1", priority)
        assert found["llmos_requests_total", "writer:1", "ok", priority] == 1
        assert found["llmos_prompt_tokens_total", *labels] == 5
        assert found["llmos_generated_tokens_total", *labels] == 5
        assert found["llmos_time_to_first_token_seconds_count", *labels] == 1
        assert found["llmos_inter_token_seconds_count", *labels] == 4
        assert found["llmos_time_to_first_token_seconds_bucket", "+Inf", *labels] == 1
        assert found["llmos_running", *labels] == 0
    assert ("llmos_requests_total", "writer:1", "ok", "background") not in found


async def test_what_the_engine_says_is_shown_and_counted_on_over_its_restarts(
    client: httpx.AsyncClient, system: Any
) -> None:
    await client.post("/api/v1/generate", json={"model": "talker", "prompt": "x"})
    await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    (model,) = [m for m in system.kernel.residency._models.values() if m.spec.name == "writer:1"]
    tally = system.kernel.residency.telemetry.of("writer:1")
    stats = EngineStats(
        running=(1, 0, 2, 0), waiting=(0, 0, 7, 0), kv_used_blocks=3, kv_blocks=4,
        preemptions=(0, 0, 5, 0), prefix_query_tokens=10, prefix_hit_tokens=4,
    )  # fmt: skip
    tally.absorb(model.stats, stats)
    tally.absorb(EngineStats(), stats)
    model.stats = stats
    found = await samples(client)
    assert found["llmos_running", "writer:1", "interactive"] == 1
    assert found["llmos_waiting", "writer:1", "batch"] == 7
    assert found["llmos_kv_cache_use_ratio", "writer:1"] == 0.75
    assert found["llmos_preemptions_total", "writer:1", "batch"] == 10
    assert found["llmos_prefix_hit_tokens_total", "writer:1"] == 8
    status = (await client.get("/api/v1/ps")).json()["models"]
    (shown,) = [one for one in status if one["name"] == "writer:1"]
    classes = ("interactive", "standard", "batch", "background")
    assert shown["running"] == dict(zip(classes, (1, 0, 2, 0), strict=True))
    assert shown["waiting"] == dict(zip(classes, (0, 0, 7, 0), strict=True))
    assert (shown["kv_use"], shown["prefix_hit_rate"]) == (0.75, 0.4)


async def test_a_key_limited_to_models_sees_the_numbers_of_those_alone(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    for model in ("writer", "talker"):
        await client.post("/api/v1/generate", json={"model": model, "prompt": "x"})
    limited = new_client("user", name="limited", models={"writer"})
    text = (await limited.get("/metrics")).text
    assert 'model="writer:1"' in text
    assert "talker" not in text
    assert "talker" in (await client.get("/metrics")).text
    seen = {one["name"] for one in (await limited.get("/api/v1/ps")).json()["models"]}
    assert seen == {"writer:1"}


async def test_engine_processes_are_counted(client: httpx.AsyncClient, system: Any) -> None:
    await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    before = await samples(client)
    assert before["llmos_engine_starts_total",] >= 1
    residency = system.kernel.residency
    residency.engine.kill("was ended by a test")
    await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    after = await samples(client)
    for counted in ("starts", "deaths"):
        name = f"llmos_engine_{counted}_total"
        assert after[name,] == before[name,] + 1


async def test_metrics_need_a_key(new_client: NewClient) -> None:
    assert (await new_client(None).get("/metrics")).status_code == 401
    assert (await new_client("user").get("/metrics")).status_code == 200
