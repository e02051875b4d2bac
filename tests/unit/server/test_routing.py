"""Requests that leave the choice of a model to llmos, over every door."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from llmos.errors import EngineError, LlmosError, OverloadedError, QuotaExceededError
from llmos.security.actors import SYSTEM
from llmos.server import routing
from llmos.server.app import create_app
from llmos.server.routing import HEADER
from llmos.types import NewVersion

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
HI = [{"role": "user", "content": "hi"}]
CHATS = {"talker:1", "caller:1", "slow:1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        files = opened.library.resolve("talker").files
        base = {"engine": "echo", "architecture": "Echo", "model_type": "echo"}
        for name, task in (("vectors", "embed"), ("ranker", "rerank")):
            manifest = {**base, "task": task, "labels": ["no", "yes"], "vocab_size": 200}
            opened.library.add(NewVersion("model", name, files, manifest), "admin")
        yield opened


@pytest.fixture(scope="module")
def app(system: Any) -> Any:
    return create_app(system)


@pytest.fixture(autouse=True)
def no_routes(system: Any) -> Iterator[None]:
    yield
    for route in system.choosing.routes.shown_to(SYSTEM):
        system.choosing.routes.remove(route.name, SYSTEM, route.owner)


def told(response: httpx.Response) -> dict[str, Any]:
    """What the header says of the choice."""
    assert response.status_code == 200, response.text
    assert response.headers[HEADER].isascii()
    found: dict[str, Any] = json.loads(response.headers[HEADER])
    return found


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def ask(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    asked = {"model": model, "messages": HI, **more}
    return await client.post("/v1/chat/completions", json=asked)


@pytest.fixture
def breaks(system: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float | None]]:
    """Return a function that lets models fail; it returns where their deadlines are noted."""

    def let_fail(error: LlmosError, *names: str, after_tokens: bool = False) -> list[float | None]:
        real, deadlines = system.kernel.residency.lease, []

        @asynccontextmanager
        async def lease(spec: Any, priority: Any, deadline_s: Any = None, **more: Any) -> Any:
            deadlines.append(deadline_s)
            if spec.name in names and not after_tokens:
                raise error
            async with real(spec, priority, deadline_s, **more) as held:
                yield _Failing(held, error) if spec.name in names else held

        monkeypatch.setattr(system.kernel.residency, "lease", lease)
        return deadlines

    return let_fail


class _Failing:
    """A lease whose streams end with an error after their first token."""

    def __init__(self, lease: Any, error: LlmosError) -> None:
        self._lease = lease
        self._error = error

    async def generate(self, work: Any) -> Any:
        async with aclosing(self._lease.generate(work)) as outs:
            async for out in outs:
                yield msgspec.structs.replace(out, pieces=out.pieces[:1], finish_reason=None)
                raise self._error


# -- every door ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "models"),
    [
        ("/v1/chat/completions", {"messages": HI}, CHATS),
        ("/v1/completions", {"prompt": "hi"}, {*CHATS, "writer:1"}),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, {*CHATS, "writer:1"}),
        ("/v1/responses", {"input": "hi"}, CHATS),
        ("/v1/embeddings", {"input": ["a", "b"]}, {"vectors:1"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, {"ranker:1"}),
        ("/api/v1/generate", {"prompt": "hi"}, {*CHATS, "writer:1"}),
        ("/api/v1/generate", {"messages": HI}, CHATS),
        (
            "/api/v1/translate",
            {"text": "hi", "source_lang": "en", "target_lang": "zh"},
            {"translator:1"},
        ),
        ("/api/v1/classify", {"text": "hi"}, {"judge:1"}),
        ("/api/v1/entities", {"text": "hi"}, {"finder:1"}),
    ],
)
async def test_auto_is_answered_by_a_model_made_for_it_and_says_by_which(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], models: set[str]
) -> None:
    response = await client.post(path, json={"model": "auto", **body})
    why = told(response)
    assert response.json()["model"] == why["model"]
    assert why["model"] in models
    assert set(why["candidates"]) == models
    assert why["name"] == "auto"
    if path.startswith("/api/v1"):
        route = response.json()["route"]
        assert (route["model"], route["rule"]) == (why["model"], why["rule"])
        assert {one["model"] for one in route["candidates"]} == models


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        ("/v1/chat/completions", "chat", {"messages": HI}),
        ("/v1/completions", "generate", {"prompt": "hi"}),
        ("/v1/embeddings", "embed", {"input": "a"}),
        ("/v1/embeddings", "embeddings", {"input": "a"}),
        ("/v1/rerank", "rerank", {"query": "a", "documents": ["b"]}),
        ("/api/v1/translate", "translate", {"text": "x", "source_lang": "en", "target_lang": "zh"}),
        ("/api/v1/translate", None, {"text": "x", "source_lang": "en", "target_lang": "zh"}),
        ("/api/v1/classify", "classify", {"text": "x"}),
        ("/api/v1/classify", None, {"text": "x"}),
        ("/api/v1/entities", None, {"text": "x"}),
        ("/api/chat", "auto", {"messages": HI, "stream": False}),
        ("/api/generate", "auto:latest", {"prompt": "hi", "stream": False}),
    ],
)
async def test_so_is_a_tasks_name(
    client: httpx.AsyncClient, path: str, name: str | None, body: dict[str, Any]
) -> None:
    named = {} if name is None else {"model": name}
    why = told(await client.post(path, json={**named, **body}))
    assert why["rule"] in ("measured", "fixed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/api/v1/generate", {"prompt": "hi"}),
    ],
)
async def test_a_stream_says_so_before_its_first_event(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json={"model": "auto", "stream": True, **body})
    model = told(response)["model"]
    got = events(response)
    if path == "/v1/responses":
        assert got[-1]["response"]["model"] == model
        assert got[-1]["type"] == "response.completed"
    elif path == "/api/v1/generate":
        assert got[0]["route"]["model"] == model
        assert all("route" not in event for event in got[1:])
        assert got[-1]["finish_reason"] == "stop"
    else:
        assert {event["model"] for event in got} == {model}
        choices = [choice for event in got for choice in event["choices"]]
        texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in choices]
        assert "hi" in "".join(text or "" for text in texts)


async def test_a_named_model_passes_by_the_choice(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.choosing, "choose", None)
    response = await ask(client, "talker:1")
    assert (response.status_code, HEADER in response.headers) == (200, False)
    asked = {"model": "writer", "prompt": "x"}
    assert "route" not in (await client.post("/api/v1/generate", json=asked)).json()


async def test_a_limited_key_is_answered_by_its_own_models(new_client: NewClient) -> None:
    client = new_client("user", models={"talker", "judge"})
    why = told(await ask(client, "auto"))
    assert (why["model"], why["rule"]) == ("talker:1", "fixed")
    refused = await client.post("/v1/completions", json={"model": "generate", "prompt": "x"})
    assert told(refused)["model"] == "talker:1"
    other = new_client("user", models={"judge"})
    response = await ask(other, "auto")
    assert (response.status_code, response.json()["error"]["param"]) == (403, "model")


# -- constraints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/api/v1/generate", {"prompt": "hi"}),
        ("/api/v1/translate", {"text": "x", "source_lang": "en", "target_lang": "zh"}),
        ("/api/v1/classify", {"text": "x"}),
        ("/api/v1/entities", {"text": "x"}),
    ],
)
async def test_constraints_that_exclude_every_model_are_named(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    for field, value in (("min_quality", 1.0), ("max_latency_ms", 0.001), ("max_cost", 1e-12)):
        response = await client.post(path, json={"model": "auto", field: value, **body})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "no_model_fits"), error
        assert error["param"] == field
        assert field in error["message"]


async def test_constraints_on_a_named_model_are_refused(client: httpx.AsyncClient) -> None:
    for field in ("max_latency_ms", "min_quality", "max_cost"):
        error = (await ask(client, "talker", **{field: 1})).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_request", field)
        assert "names one" in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_latency_ms", 0),
        ("max_latency_ms", "fast"),
        ("min_quality", 1.5),
        ("min_quality", True),
        ("max_cost", -1),
    ],
)
async def test_a_constraint_that_is_none_is_refused(
    client: httpx.AsyncClient, field: str, value: Any
) -> None:
    response = await ask(client, "auto", **{field: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


# -- fallbacks -------------------------------------------------------------------------------------

ROUTE = {"targets": [{"model": "talker"}], "fallbacks": ["slow", "caller"]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [EngineError("it died"), OverloadedError("full")])
async def test_the_next_in_line_answers_when_one_fails_before_it_said_anything(
    client: httpx.AsyncClient, breaks: Any, stream: bool, error: LlmosError
) -> None:
    assert (await client.put("/api/v1/routes/support", json=ROUTE)).status_code == 200
    breaks(error, "talker:1", "slow:1")
    response = await ask(client, "support", stream=stream)
    why = told(response)
    assert why["model"] == "caller:1"
    assert why["failed"] == {"talker:1": error.code, "slow:1": error.code}
    model = events(response)[0]["model"] if stream else response.json()["model"]
    assert model == "caller:1"


async def test_what_a_broken_model_did_is_remembered(
    client: httpx.AsyncClient, system: Any, breaks: Any
) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "someone")
    breaks(EngineError("it died"), "talker:1")
    told(await ask(client, "support"))
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "someone")
    assert after[1] - before[1] == pytest.approx(1.0, abs=0.01)


async def test_after_the_first_token_no_other_model_goes_on(
    client: httpx.AsyncClient, breaks: Any
) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    breaks(EngineError("it died"), "talker:1", after_tokens=True)
    response = await ask(client, "support", stream=True)
    assert told(response)["model"] == "talker:1"
    assert events(response)[-1]["error"]["code"] == "engine_error"
    assert "[DONE]" not in response.text
    whole = await ask(client, "support")  # nothing of it was sent
    assert whole.json()["model"] == "slow:1"


async def test_a_mistake_of_the_client_is_told_at_once(
    client: httpx.AsyncClient, breaks: Any
) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    deadlines = breaks(EngineError(), "talker:1")
    response = await ask(client, "support", logit_bias={"100000": 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")
    assert deadlines == []


async def test_a_quota_that_is_used_up_is_told_at_once(
    client: httpx.AsyncClient, breaks: Any
) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    leases = breaks(QuotaExceededError(), "talker:1")
    response = await ask(client, "support")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "quota_exceeded")
    assert len(leases) == 1


async def test_when_all_fail_the_last_error_is_told(client: httpx.AsyncClient, breaks: Any) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    breaks(EngineError("it died"), "talker:1", "slow:1", "caller:1")
    for stream in (False, True):
        response = await ask(client, "support", stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_error")


async def test_the_next_in_line_has_what_is_left_of_the_deadline(
    client: httpx.AsyncClient, breaks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.put("/api/v1/routes/support", json=ROUTE)
    deadlines = breaks(EngineError("it died"), "talker:1")
    times = itertools.count(0.0, 5.0)  # read when it begins, at each try and when one has failed
    monkeypatch.setattr(routing, "time", SimpleNamespace(monotonic=lambda: next(times)))
    told(await ask(client, "support", deadline_ms=60_000))
    first, second = deadlines
    assert 50.0 < first <= 60.0
    assert 30.0 < second <= 45.0
    times = itertools.count(0.0, 25.0)
    response = await ask(client, "support", deadline_ms=60_000)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_choice_has_fallbacks_too(
    client: httpx.AsyncClient, system: Any, breaks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.choosing.outcomes, "counts", lambda *_: (0.0, 0.0))
    breaks(EngineError("it died"), "talker:1", "slow:1")
    whys = [told(await ask(client, "auto")) for _ in range(10)]
    assert {why["model"] for why in whys} == {"caller:1"}
    assert any("failed" in why for why in whys)


# -- routes over HTTP ------------------------------------------------------------------------------


async def test_a_route_is_made_listed_used_and_removed(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    made = (await client.put("/api/v1/routes/support", json=ROUTE)).json()
    assert made["targets"] == [{"model": "talker", "weight": 1.0}]
    assert made["fallbacks"] == ["slow", "caller"]
    user = new_client("user")
    assert (await user.get("/api/v1/routes")).json()["data"] == [made]
    why = told(await ask(user, "support"))
    assert (why["name"], why["rule"], why["model"]) == ("support", "weights", "talker:1")
    assert (await user.delete("/api/v1/routes/support")).status_code == 404
    theirs = await user.delete("/api/v1/routes/support", params={"owner": "admin"})
    assert theirs.status_code == 403
    assert (await client.delete("/api/v1/routes/support")).status_code == 200
    gone = await client.delete("/api/v1/routes/support")
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "name")
    assert (await ask(user, "support")).status_code == 404
    actions = [event["action"] for event in (await client.get("/api/v1/audit")).json()["data"]]
    assert {"routes.set", "routes.remove"} <= set(actions)


async def test_a_name_that_one_took_is_not_taken_from_others(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    first, second = new_client("user", name="first"), new_client("user", name="second")
    for who, model in ((first, "talker"), (second, "caller"), (client, "slow")):
        body = {"targets": [{"model": model}]}
        assert (await who.put("/api/v1/routes/support", json=body)).status_code == 200
    for who, model in ((first, "talker:1"), (second, "caller:1"), (client, "slow:1")):
        assert told(await ask(who, "support"))["model"] == model
    assert len((await client.get("/api/v1/routes")).json()["data"]) == 3
    for owner in ("first", "second"):
        gone = await client.delete("/api/v1/routes/support", params={"owner": owner})
        assert gone.status_code == 200
    assert told(await ask(first, "support"))["model"] == "slow:1"


@pytest.mark.parametrize(
    ("name", "body", "status", "param"),
    [
        ("talker", ROUTE, 409, "name"),
        ("auto", ROUTE, 400, "name"),
        ("chat", ROUTE, 400, "name"),
        ("a:1", ROUTE, 400, "name"),
        ("r", {"targets": []}, 400, "targets"),
        ("r", {"targets": [{"model": "talker", "weight": -1}]}, 400, "targets.0.weight"),
        ("r", {"targets": [{"model": "talker", "weight": 0}]}, 400, "targets"),
        ("r", {"targets": [{"model": "none"}]}, 404, "targets"),
        ("r", {**ROUTE, "fallbacks": ["judge"]}, 400, "targets"),
        ("r", {**ROUTE, "fallbacks": ["x"] * 17}, 400, "fallbacks"),
        ("r", {**ROUTE, "other": 1}, 400, "other"),
    ],
)
async def test_a_route_that_cannot_work_is_refused(
    client: httpx.AsyncClient, name: str, body: dict[str, Any], status: int, param: str
) -> None:
    response = await client.put(f"/api/v1/routes/{name}", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert (await client.get("/api/v1/routes")).json()["data"] == []


# -- explanations and verdicts ---------------------------------------------------------------------


async def test_a_choice_is_explained_without_asking(client: httpx.AsyncClient, breaks: Any) -> None:
    leases = breaks(EngineError())
    path = "/api/v1/routes/explain"
    why = (await client.post(path, json={"text": "hello", "task": "chat"})).json()
    assert why["model"] in CHATS
    assert {one["model"] for one in why["candidates"]} == CHATS
    named = (await client.post(path, json={"text": "hello", "model": "slow"})).json()
    assert (named["rule"], named["model"]) == ("named", "slow:1")
    pair = {"source_lang": "en", "target_lang": "zh"}
    found = await client.post(path, json={"text": "hello", "task": "translate", **pair})
    assert found.json()["model"] == "translator:1"
    assert leases == []


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"text": "x", "task": "poems"}, 400, "task"),
        ({"text": "x", "min_quality": 1.0}, 400, "min_quality"),
        ({"text": "x", "model": "none"}, 404, "model"),
        ({"text": "x", "source_lang": "en"}, 400, None),
        ({}, 400, "text"),
    ],
)
async def test_what_cannot_be_explained_says_why(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = await client.post("/api/v1/routes/explain", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_a_verdict_is_noted_for_a_model_or_for_a_stored_response(
    client: httpx.AsyncClient, system: Any
) -> None:
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    body = {"model": "talker", "good": False, "language": "zh"}
    noted = (await client.post("/api/v1/feedback", json=body)).json()
    assert noted == {"model": "talker:1", "task": "chat", "language": "zh", "good": False}
    stored = (await client.post("/v1/responses", json={"model": "talker", "input": "hi"})).json()
    body = {"response_id": stored["id"], "good": True}
    noted = (await client.post("/api/v1/feedback", json=body)).json()
    assert noted["model"] == "talker:1"
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert after[0] - before[0] == pytest.approx(10, abs=0.1)
    assert after[1] - before[1] == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"good": True}, 400, None),
        ({"good": True, "model": "talker", "response_id": "resp_1"}, 400, None),
        ({"good": "yes", "model": "talker"}, 400, "good"),
        ({"model": "talker"}, 400, "good"),
        ({"good": True, "model": "none"}, 404, None),
        ({"good": True, "model": "talker", "task": "embed"}, 400, "task"),
        ({"good": True, "model": "talker", "language": "no such"}, 400, "language"),
        ({"good": True, "response_id": "resp_none"}, 404, None),
    ],
)
async def test_a_verdict_on_nothing_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = await client.post("/api/v1/feedback", json=body)
    assert response.status_code == status, response.text
    if param is not None:
        assert response.json()["error"]["param"] == param


async def test_another_owners_response_cannot_be_judged(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    stored = (await client.post("/v1/responses", json={"model": "talker", "input": "hi"})).json()
    user = new_client("user", name="someone", owner="someone")
    body = {"response_id": stored["id"], "good": True}
    assert (await user.post("/api/v1/feedback", json=body)).status_code == 404
