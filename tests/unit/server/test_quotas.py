"""Quotas and usage over HTTP: each limit at each door, what clients are told, what is counted."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import openai
import pytest
import pytest_asyncio
from fastapi import APIRouter
from tests.unit.server.conftest import add_model, manifest

from llmos.kernel.protocol import JobAsk
from llmos.kernel.quotas import Limits
from llmos.security.actors import Actor
from llmos.server import receiving
from llmos.server.access import action_of, allow
from llmos.server.asks import RouteAnswers
from llmos.server.metering import duration, metered_paths
from llmos.types import NewVersion, Priority

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
PROMPT = "hello world"
COMPLETION = {"model": "writer", "prompt": PROMPT, "max_tokens": 100}
CHAT = {"model": "talker", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        vectors = manifest("embed", embedding={"dimensions": 8})
        add_model(opened.library, opened.blobs, "vectors", vectors)
        add_model(opened.library, opened.blobs, "ranker", manifest("rerank", labels=["score"]))
        yield opened


@pytest.fixture
async def owner(system: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An owner of its own for each test, whose quota is removed at the end."""
    name = re.sub(r"\W+", "-", request.node.name)[:100]
    yield name
    if system.kernel.accounts.row_of(name) == name:
        await system.kernel.accounts.remove_limits(name, "test")


@pytest.fixture
def limited(system: Any, new_client: NewClient, owner: str) -> Callable[..., Any]:
    """Return a function that makes a client of an owner with limits."""

    async def make(**limits: Any) -> httpx.AsyncClient:
        await system.kernel.accounts.set_limits(owner, Limits(**limits), "test")
        return new_client("user", name=owner)

    return make


async def used_by(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await client.get("/api/v1/usage", params=query)
    assert answer.status_code == 200
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- what is refused -------------------------------------------------------------------------------


async def test_a_rate_beyond_the_burst_is_429_with_when_to_come_again(limited: Any) -> None:
    client = await limited(requests_per_s=0.01)
    answers = [await client.post("/v1/completions", json=COMPLETION) for _ in range(2)]
    assert answers[0].status_code == 200
    assert code_of(answers[1]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answers[1].headers["retry-after"]) <= 100
    assert answers[1].json()["error"]["type"] == "rate_limit_error"
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"1m\d+s|[\d.]+s", answer.headers["x-ratelimit-reset-requests"])
        assert "x-ratelimit-limit-tokens" not in answer.headers


async def test_refused_before_the_body_is_looked_at(limited: Any) -> None:
    client = await limited(concurrency=0)
    answer = await client.post("/v1/chat/completions", content=b"{" * 50_000)
    assert code_of(answer) == (429, "rate_limit_exceeded")


async def test_requests_at_once_beyond_the_limit_are_refused_and_streams_count_to_their_end(
    limited: Any, owner: str, system: Any
) -> None:
    client = await limited(concurrency=2)
    body = {**CHAT, "model": "slow", "max_tokens": 3, "stream": True}
    asked = [client.post("/v1/chat/completions", json=body) for _ in range(3)]
    answers = sorted(await asyncio.gather(*asked), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert code_of(answers[-1]) == (429, "rate_limit_exceeded")
    assert system.kernel.accounts.tab(owner, "").account.num_live == 0
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_stream_ends_with_the_last_token_of_the_day_and_says_why(
    limited: Any, system: Any, owner: str
) -> None:
    client = await limited(tokens_per_day=20)
    answer = await client.post("/v1/completions", json={**COMPLETION, "stream": True})
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "20"
    events = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    *pieces, end = map(json.loads, events)
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == PROMPT[:9]
    assert end["error"]["code"] == "quota_exceeded"
    assert "tokens_per_day" in end["error"]["message"]
    (row,) = await used_by(client)
    assert (row["prompt_tokens"], row["completion_tokens"], row["failed"]) == (11, 9, 1)
    again = await client.post("/v1/completions", json=COMPLETION)
    assert code_of(again) == (429, "quota_exceeded")
    assert int(again.headers["retry-after"]) <= 86_400
    assert again.headers["x-ratelimit-remaining-tokens"] == "0"
    assert again.headers["x-should-retry"] == "false"


async def test_a_prompt_longer_than_the_rest_of_the_day_costs_nothing(
    limited: Any, system: Any, owner: str
) -> None:
    client = await limited(tokens_per_day=11)
    answer = await client.post("/v1/completions", json=COMPLETION)
    assert code_of(answer) == (429, "quota_exceeded")
    short = await client.post("/v1/completions", json={**COMPLETION, "prompt": "hi"})
    assert short.status_code == 200


async def test_a_spent_day_of_compute_refuses_requests(
    limited: Any, system: Any, owner: str
) -> None:
    client = await limited(compute_s_per_day=1)
    system.kernel.accounts.tab(owner, "m").computed(1.5)
    answer = await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    assert code_of(answer) == (429, "quota_exceeded")


async def test_ollamas_clients_are_told_in_their_own_form(limited: Any) -> None:
    client = await limited(concurrency=0)
    answer = await client.post("/api/generate", json={"model": "writer", "prompt": "x"})
    assert answer.status_code == 429
    assert "at once" not in answer.json()["error"] and "under way" in answer.json()["error"]


async def test_the_unmodified_openai_client_gets_its_own_errors(
    limited: Any, app: Any, owner: str
) -> None:
    http = await limited(tokens_per_day=20)
    key = http.headers["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(
        base_url="http://127.0.0.1:8642/v1",
        api_key=key,
        http_client=openai.DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(app)),
    ) as client:
        stream = await client.completions.create(
            model="writer", prompt=PROMPT, max_tokens=100, stream=True
        )
        with pytest.raises(openai.APIError, match="tokens of this day"):
            async for _ in stream:
                pass
        with pytest.raises(openai.RateLimitError) as refused:
            await client.completions.create(model="writer", prompt=PROMPT)
    assert refused.value.code == "quota_exceeded"
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_other_owners_and_other_addresses_are_not_touched(
    limited: Any, new_client: NewClient
) -> None:
    client = await limited(concurrency=0)
    assert (await client.get("/v1/models")).status_code == 200
    other = await new_client("user", name="untouched").post("/v1/completions", json=COMPLETION)
    assert other.status_code == 200
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]


async def test_what_a_job_asks_is_limited_by_its_owners_tokens_but_not_by_its_pace(
    limited: Any, app: Any, owner: str
) -> None:
    client = await limited(concurrency=0, tokens_per_day=30)
    asker = Actor("k", owner, "user").to_dict()
    job: Any = SimpleNamespace(id=1, asker=asker, priority=Priority.BATCH)
    ask = JobAsk(1, "/v1/completions", json.dumps(COMPLETION).encode())
    answers = [await RouteAnswers(app, lambda key_id: None)(job, ask) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert json.loads(answers[1].body)["error"]["code"] == "quota_exceeded"
    assert answers[1].retry_after_s is not None
    (row,) = await used_by(client)
    assert row["requests"] == 2


async def test_every_route_that_asks_a_model_is_metered(app: Any) -> None:
    asking = {route.path for route in app.state.routes if action_of(route) == "generate"}
    assert metered_paths(app.state.routes) == asking
    assert {"/v1/responses", "/v1/embeddings", "/api/chat", "/api/v1/translate"} <= asking
    routes = APIRouter()

    @routes.post("/ask/{model}")
    async def ask(model: str, actor: Any = allow("generate")) -> None: ...

    with pytest.raises(RuntimeError, match="without parameters"):
        metered_paths(routes.routes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0201, "21ms"),
        (1.0, "1s"),
        (8.64, "8.7s"),
        (86.4, "1m27s"),
        (25_392, "7h3m12s"),
    ],
)
async def test_times_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- jobs and storage ------------------------------------------------------------------------------


async def test_a_full_queue_takes_no_job(limited: Any, new_client: NewClient, owner: str) -> None:
    client = await limited(queue_depth=1)
    body = {"kind": "import", "name": f"{owner}-model", "params": {}}
    first = await client.post("/api/v1/jobs", json=body)
    assert first.status_code == 202
    refused = await client.post("/api/v1/jobs", json=body)
    assert code_of(refused) == (429, "quota_exceeded")
    assert len((await client.get("/api/v1/jobs")).json()["data"]) == 1


async def test_an_upload_beyond_the_store_is_refused_by_its_length(
    limited: Any, system: Any, owner: str
) -> None:
    client = await limited(stored_bytes=100)
    files = {"data": system.blobs.put_bytes(b"x" * 60)}
    system.library.add(NewVersion("dataset", f"{owner}-set", files, {}), owner)
    refused = await client.post("/api/v1/blobs", content=b"y" * 41)
    assert code_of(refused) == (429, "quota_exceeded")
    assert (await client.post("/api/v1/blobs", content=b"y" * 40)).status_code == 201


@pytest.mark.parametrize("path", ["/api/v1/blobs", "/v1/files"])
async def test_an_upload_of_no_announced_length_is_cut_off_where_the_store_is_full(
    limited: Any, system: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(receiving, "CHECK_BYTES", 1000)
    client, num_sent = await limited(stored_bytes=2000), 0
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )

    async def endless() -> Any:
        nonlocal num_sent
        yield head
        for _ in range(1000):
            num_sent += 500
            yield b"x" * 500

    before = set(system.blobs.blobs)
    refused = await client.post(path, content=endless(), headers=headers)
    assert code_of(refused) == (429, "quota_exceeded")
    assert num_sent <= 3500
    assert set(system.blobs.blobs) == before


async def test_uploads_that_no_model_has_count_and_may_be_taken_back(limited: Any) -> None:
    client = await limited(stored_bytes=100)
    first = await client.post("/api/v1/blobs", content=b"y" * 60)
    assert first.status_code == 201
    assert code_of(await client.post("/api/v1/blobs", content=b"z" * 60))[0] == 429
    await client.delete(f"/api/v1/blobs/{first.json()['digest']}")
    assert (await client.post("/api/v1/blobs", content=b"z" * 60)).status_code == 201


# -- usage -----------------------------------------------------------------------------------------

DOORS: list[tuple[str, dict[str, Any], str, int, int]] = [
    ("/v1/completions", COMPLETION, "writer", 11, 11),
    ("/v1/completions", {**COMPLETION, "n": 3}, "writer", 11, 33),
    ("/v1/completions", {**COMPLETION, "stream": True}, "writer", 11, 11),
    ("/v1/chat/completions", CHAT, "talker", 7, 5),
    ("/v1/responses", {"model": "talker", "input": "hi", "max_output_tokens": 5}, "talker", 7, 5),
    ("/api/v1/generate", {"model": "writer", "prompt": PROMPT}, "writer", 11, 11),
    ("/api/generate", {"model": "writer", "prompt": PROMPT}, "writer", 11, 11),
    ("/api/chat", {"model": "talker", "messages": CHAT["messages"]}, "talker", 7, 7),
    ("/v1/embeddings", {"model": "vectors", "input": ["abc", "de"]}, "vectors", 5, 0),
    ("/api/embed", {"model": "vectors", "input": "abc"}, "vectors", 3, 0),
    ("/v1/rerank", {"model": "ranker", "query": "ab", "documents": ["c"]}, "ranker", 3, 0),
    ("/api/v1/classify", {"model": "judge", "text": "abc"}, "judge", 3, 0),
    ("/api/v1/entities", {"model": "finder", "text": "abc"}, "finder", 3, 0),
    (
        "/api/v1/translate",
        {"model": "translator", "text": "abc", "source_lang": "en", "target_lang": "zh"},
        "translator",
        3,
        3,
    ),
]


@pytest.mark.parametrize(("path", "body", "model", "num_read", "num_written"), DOORS)
async def test_every_door_counts_its_tokens_once(
    limited: Any, path: str, body: dict[str, Any], model: str, num_read: int, num_written: int
) -> None:
    client = await limited(tokens_per_day=10_000)
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    (row,) = await used_by(client)
    assert (row["model"], row["requests"], row["failed"]) == (model, 1, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (num_read, num_written)
    assert row["joules"] is row["joules_per_1k_tokens"] is None
    left = 10_000 - num_read - num_written
    nothing = {"model": "writer", "prompt": ""}
    told = (await client.post("/v1/completions", json=nothing)).headers
    assert told["x-ratelimit-remaining-tokens"] == str(left)


async def test_compute_is_measured_by_the_engine(limited: Any) -> None:
    client = await limited()
    body = {**CHAT, "model": "slow", "max_tokens": 4}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    (row,) = await used_by(client)
    assert 0.2 <= row["compute_s"] < 2


async def test_usage_is_told_apart_as_asked_and_only_ones_own(
    limited: Any, new_client: NewClient, client: httpx.AsyncClient, owner: str
) -> None:
    user = await limited()
    for model in ("writer", "talker"):
        await user.post("/api/v1/generate", json={"model": model, "prompt": "hi"})
    today = datetime.now(UTC).date().isoformat()
    rows = await used_by(user, group_by="model")
    assert [row["model"] for row in rows] == ["talker", "writer"]
    assert all("day" not in row and "owner" not in row for row in rows)
    (total,) = await used_by(client, owner=owner, group_by="", **{"from": today, "to": today})
    assert total["requests"] == 2
    assert {row["owner"] for row in await used_by(user)} == {owner}
    assert {row["owner"] for row in await used_by(client)} > {owner}
    denied = await user.get("/api/v1/usage", params={"owner": "admin"})
    assert denied.status_code == 403


async def test_usage_comes_as_csv(limited: Any, owner: str) -> None:
    client = await limited()
    await client.post("/v1/completions", json=COMPLETION)
    answer = await client.get("/api/v1/usage", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["owner"], row["model"], row["prompt_tokens"]) == (owner, "writer", "11")
    assert row["joules"] == ""


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-22", "to": "2026-11-21"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"group_by": "day,weekday"}, "group_by"),
    ],
)
async def test_a_question_without_sense_is_refused_by_name(
    client: httpx.AsyncClient, query: dict[str, str], param: str
) -> None:
    answer = await client.get("/api/v1/usage", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# -- quotas ----------------------------------------------------------------------------------------


async def test_an_admin_sets_reads_and_removes_quotas(
    client: httpx.AsyncClient, new_client: NewClient, owner: str
) -> None:
    path = f"/api/v1/quotas/{owner}"
    put = await client.put(path, json={"concurrency": 3, "tokens_per_day": None})
    assert put.status_code == 200
    assert put.json()["limits"]["concurrency"] == 3
    assert put.json()["set_for"] == owner
    user = new_client("user", name=owner)
    own = (await user.get(path)).json()
    assert own["used"] == {
        "concurrency": 0,
        "tokens_per_day": 0,
        "compute_s_per_day": 0.0,
        "stored_bytes": 0,
        "queue_depth": 0,
    }
    assert (await user.get("/api/v1/quotas")).json()["data"] == [own]
    listed = (await client.get("/api/v1/quotas")).json()["data"]
    assert {"owner": owner, "limits": own["limits"]} in listed
    assert (await user.get("/api/v1/quotas/admin")).status_code == 403
    assert (await user.put(path, json={})).status_code == 403
    assert (await user.delete(path)).status_code == 403
    gone = await client.delete(path)
    assert (gone.status_code, gone.json()["set_for"]) == (200, None)
    assert (await client.delete(path)).status_code == 404


async def test_everybodys_quota_is_set_by_a_star(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    assert (await client.put("/api/v1/quotas/*", json={"concurrency": 7})).status_code == 200
    own = (await new_client("user", name="anyone").get("/api/v1/quotas/anyone")).json()
    assert (own["limits"]["concurrency"], own["set_for"]) == (7, "*")
    admins = (await client.get("/api/v1/quotas/admin")).json()
    assert (admins["limits"]["concurrency"], admins["set_for"]) == (None, None)
    star = (await client.delete("/api/v1/quotas/*")).json()
    assert "used" not in star


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tokens_per_day": -1}, "tokens_per_day"),
        ({"requests_per_s": 0}, "requests_per_s"),
        ({"requests_per_s": 1e300}, "requests_per_s"),
        ({"queue_depth": 1.5}, "queue_depth"),
        ({"concurrency": "3"}, "concurrency"),
        ({"compute_s_per_day": True}, "compute_s_per_day"),
        ({"tokens": 3}, "tokens"),
    ],
)
async def test_a_limit_without_sense_is_refused_by_name_and_nothing_is_written(
    client: httpx.AsyncClient, owner: str, body: dict[str, Any], param: str
) -> None:
    answer = await client.put(f"/api/v1/quotas/{owner}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].partition(".")[0] == param
    assert (await client.delete(f"/api/v1/quotas/{owner}")).status_code == 404


async def test_a_name_that_no_owner_can_have_is_refused(client: httpx.AsyncClient) -> None:
    for path in ("%20alice", "a%00b", "x" * 129):
        answer = await client.put(f"/api/v1/quotas/{path}", json={})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "owner")
