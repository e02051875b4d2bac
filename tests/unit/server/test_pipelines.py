"""Pipelines over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from llmos.types import JobResult

NewClient = Callable[..., httpx.AsyncClient]
PIPELINE: dict[str, Any] = {
    "name": "nightly",
    "steps": {
        "first": {"kind": "train", "params": {"recipe": {}}},
        "second": {
            "kind": "train",
            "each": {"seed": [1, 2]},
            "params": {"seed": "${each.seed}", "on": "${first.model}"},
        },
    },
}


async def succeed(system: Any, job_id: int, ref: str) -> None:
    job = await system.kernel.jobs.claim(job_id, 30.0, 1)
    await system.kernel.jobs.complete(job.id, job.fence, JobResult({}), lambda *_: [ref])


async def test_a_pipeline_is_run_shown_and_listed(client: httpx.AsyncClient, system: Any) -> None:
    response = await client.post("/api/v1/pipelines", json={"pipeline": PIPELINE})
    assert response.status_code == 202, response.text
    run = response.json()
    first, second = run["steps"]
    assert (run["name"], run["state"], run["owner"]) == ("nightly", "running", "admin")
    assert (first["state"], first["total"], len(first["jobs"])) == ("queued", 1, 1)
    assert (second["after"], second["each"], second["state"]) == (["first"], ["seed"], "waiting")
    job = (await client.get(f"/api/v1/jobs/{first['jobs'][0]['id']}")).json()
    assert (job["run_id"], job["name"], job["priority"]) == (
        run["id"],
        "nightly/first",
        "background",
    )
    await succeed(system, job["id"], "mine:1")
    await system.runs.advance(run["id"])
    shown = (await client.get(f"/api/v1/pipelines/{run['id']}")).json()
    assert [step["state"] for step in shown["steps"]] == ["succeeded", "queued"]
    assert shown["steps"][0]["jobs"][0]["artifacts"] == ["mine:1"]
    assert [one["number"] for one in shown["steps"][1]["jobs"]] == [0, 1]
    (listed,) = (await client.get("/api/v1/pipelines")).json()["data"]
    assert listed == {key: value for key, value in shown.items() if key != "steps"}


async def test_a_run_is_cancelled_and_goes_on(client: httpx.AsyncClient) -> None:
    run = (await client.post("/api/v1/pipelines", json={"pipeline": PIPELINE})).json()
    path = f"/api/v1/pipelines/{run['id']}"
    cancelled = (await client.post(f"{path}/cancel")).json()
    assert cancelled["state"] == "cancelled"
    assert [step["state"] for step in cancelled["steps"]] == ["cancelled", "skipped"]
    going = (await client.post(f"{path}/retry")).json()
    assert (going["state"], going["steps"][0]["state"]) == ("running", "queued")
    assert (await client.post(f"{path}/retry")).status_code == 409
    trail = (await client.get("/api/v1/audit")).json()["data"]
    actions = [one["action"] for one in trail if one["action"].startswith("pipeline.")]
    assert actions == ["pipeline.retry", "pipeline.cancel", "pipeline.run"]


async def test_checking_says_which_steps_there_are_and_queues_nothing(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/api/v1/pipelines/check", json={"pipeline": PIPELINE})
    assert response.status_code == 200
    checked = response.json()
    assert [(step["name"], step["total"]) for step in checked["steps"]] == [
        ("first", 1),
        ("second", 2),
    ]
    assert (await client.get("/api/v1/pipelines")).json()["data"] == []
    assert (await client.get("/api/v1/jobs")).json()["data"] == []


BAD: list[tuple[Any, int, str, str]] = [
    ({}, 400, "name", "needs the key 'name'"),
    ({"name": "x", "steps": {"a": {"kind": "trian"}}}, 400, "steps.a.kind", "train"),
    ({"name": "x", "steps": {"a": {}}}, 400, "steps.a.kind", "step a needs the key 'kind'"),
    ({"name": "x", "steps": {"a": {"kind": "train"}}, "y": 1}, 400, "y", "no key 'y'"),
    (
        {"name": "x", "steps": {"a": {"kind": "train", "after": ["a"]}}, "lines": {"steps": 2}},
        400,
        "steps.a",
        "line 2: these steps wait for each other: a -> a",
    ),
    (
        {
            "name": "x",
            "steps": {"a": {"kind": "train", "params": {"recipe": {"model": {"base": "riter"}}}}},
            "lines": {"steps.a.params": 9},
        },
        404,
        "steps.a.params.recipe",
        "line 9: ",
    ),
]


async def test_a_bad_pipeline_is_refused_and_nothing_is_queued(client: httpx.AsyncClient) -> None:
    for pipeline, status, param, says in BAD:
        for path in ("/api/v1/pipelines", "/api/v1/pipelines/check"):
            response = await client.post(path, json={"pipeline": pipeline})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (status, param), error
            assert says in error["message"]
    assert (await client.get("/api/v1/pipelines")).json()["data"] == []
    assert (await client.get("/api/v1/jobs")).json()["data"] == []


async def test_what_would_be_too_large_written_out_is_refused(client: httpx.AsyncClient) -> None:
    long = {"v": ["y" * 50_000]}
    for each, param in (
        (long, "${each.v}" * 3000),
        (long, ["${each.v}"] * 3000),
        ({"v": [*range(500)]}, "y" * 50_000),
    ):
        step = {"kind": "train", "each": each, "params": {"recipe": {}, "p": param}}
        pipeline = {"name": "x", "steps": {"a": step}}
        for path in ("/api/v1/pipelines", "/api/v1/pipelines/check"):
            response = await client.post(path, json={"pipeline": pipeline})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "steps.a.params"), error
            assert "would have more than" in error["message"]
    assert (await client.get("/api/v1/jobs")).json()["data"] == []


async def test_malformed_bodies_are_a_400(client: httpx.AsyncClient) -> None:
    steps = PIPELINE["steps"]
    for body in (
        {},
        {"pipeline": 5},
        {"pipeline": []},
        {"pipeline": PIPELINE, "more": 1},
        {"pipeline": {"name": "x", "steps": {"a": {"kind": "train", "params": {"a": 2**70}}}}},
        {"pipeline": {"name": "x" * 500, "steps": steps}},
        {"pipeline": {"name": "x", "steps": {f"s{n}": {"kind": "train"} for n in range(101)}}},
        {"pipeline": {"name": "x", "steps": {"a": {"kind": "train", "each": {"s": {}}}}}},
    ):
        response = await client.post("/api/v1/pipelines", json=body)
        assert response.status_code == 400, response.text


async def test_a_user_sees_and_changes_only_its_own_runs(new_client: NewClient) -> None:
    mine, other = new_client("user", name="me"), new_client("user", name="other")
    run = (await mine.post("/api/v1/pipelines", json={"pipeline": PIPELINE})).json()
    assert (await other.get("/api/v1/pipelines")).json()["data"] == []
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        response = await other.request(method, f"/api/v1/pipelines/{run['id']}{path}")
        assert response.status_code == 403
    assert (await mine.get(f"/api/v1/pipelines/{run['id']}")).status_code == 200
    admin = new_client("admin")
    assert len((await admin.get("/api/v1/pipelines")).json()["data"]) == 1


async def test_a_run_that_is_not_there_is_a_404(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        response = await client.request(method, f"/api/v1/pipelines/12345{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "run_not_found")
    for number in ("0", "-1", "x", "9" * 30):
        assert (await client.get(f"/api/v1/pipelines/{number}")).status_code in {400, 404}
