"""Every route the application has, tried with what must not get in."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter

from llmos.errors import AuthenticationError, InvalidRequestError
from llmos.security.actors import Actor
from llmos.server import gate
from llmos.server.access import action_of, allow, check_every_route
from llmos.server.app import create_app
from llmos.server.errors import is_ollama_path
from llmos.server.gate import KEY_CACHE_S, OPEN_PATHS, KeyCache
from llmos.server.process import run_foreground
from llmos.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
NewClient = Callable[..., httpx.AsyncClient]


def paths(app: Any) -> list[str]:
    """Every path of the route table, its parameters filled in."""
    found = {re.sub(r"\{[^}]*\}", "1", route.path_format) for route in app.state.routes}
    assert len(found) > 25
    return sorted(found | {"/openapi.json", "/no/such/path", "/api/v1/models/a/b/files/c"})


async def test_every_route_and_method_without_a_key_is_refused(
    app: Any, new_client: NewClient
) -> None:
    client = new_client(None)
    for path in paths(app):
        for method in METHODS:
            response = await client.request(method, path)
            if path in OPEN_PATHS:
                assert response.status_code != 401
            else:
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    error = response.json()["error"]
                    if is_ollama_path(path):
                        assert "API key" in error
                    else:
                        assert error["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "authorization",
    [b"Bearer", b"Bearer ", b"Basic abc", b"Bearer llmos_" + b"0" * 77, b"llmos", b"Bearer \xff"],
)
async def test_every_route_refuses_a_wrong_key(
    app: Any, new_client: NewClient, authorization: bytes
) -> None:
    client = new_client(None)
    for path in paths(app):
        if path not in OPEN_PATHS:
            response = await client.get(path, headers=[(b"Authorization", authorization)])
            assert response.status_code == 401, path


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "", "a b"]
)
async def test_every_route_refuses_another_host(
    app: Any, client: httpx.AsyncClient, host: str
) -> None:
    for path in paths(app):
        for method in METHODS:
            response = await client.request(method, path, headers={"Host": host})
            assert response.status_code == 403, (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Cookie": "a=b"},
    ],
)
async def test_every_unsafe_method_refuses_another_sites_page(
    app: Any, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in paths(app):
        for method in UNSAFE:
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 403, (method, path)


async def test_this_servers_own_page_may_ask(client: httpx.AsyncClient) -> None:
    headers = {"Origin": "http://127.0.0.1:8642", "Sec-Fetch-Site": "same-origin"}
    body = {"model": "writer", "prompt": "x"}
    response = await client.post("/api/v1/generate", json=body, headers=headers)
    assert response.status_code == 200


async def test_a_user_may_not_do_what_admins_do(
    app: Any, new_client: NewClient, system: Any
) -> None:
    user = new_client("user")
    admin_only = {"quotas.manage", "system.manage", "keys.manage", "audit.read", "logs.read"}
    tried = 0
    for route in app.state.routes:
        if action_of(route) in admin_only:
            path = re.sub(r"\{[^}]*\}", "1", route.path_format)
            for method in route.methods:
                response = await user.request(method, path, json={"name": "x", "grace_s": 0})
                assert response.status_code == 403, (method, path)
                tried += 1
    assert tried >= 6


async def test_a_route_without_an_action_cannot_be_added() -> None:
    routes = APIRouter()

    @routes.get("/api/v1/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="forgotten"):
        check_every_route(routes.routes)
    with pytest.raises(ValueError, match=r"no\.such"):
        allow("no.such")


async def test_a_key_limited_to_models_may_use_no_other(new_client: NewClient) -> None:
    client = new_client("user", models={"writer"})
    for model, status in (("writer", 200), ("writer:1", 200), ("talker", 403)):
        response = await client.post("/api/v1/generate", json={"model": model, "prompt": "x"})
        assert response.status_code == status
    openai = {"model": "talker", "prompt": "x"}
    assert (await client.post("/v1/completions", json=openai)).status_code == 403


async def test_a_key_may_not_ask_for_a_better_class_than_its_own(new_client: NewClient) -> None:
    from llmos.types import Priority

    client = new_client("user", best_priority=Priority.BATCH)
    body = {"model": "writer", "prompt": "x"}
    assert (await client.post("/api/v1/generate", json=body)).status_code == 200
    asked = {**body, "priority": "standard"}
    response = await client.post("/api/v1/generate", json=asked)
    assert (response.status_code, response.json()["error"]["param"]) == (403, "priority")


async def test_bodies_over_the_limit_are_refused_while_they_come(
    client: httpx.AsyncClient,
) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 10**9:
            sent += 10_000
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/generate", content=endless(), headers=headers)
    assert response.status_code == 413
    assert sent < 10**6
    response = await client.post("/api/v1/generate", content=b" " * 200_000, headers=headers)
    assert response.status_code == 413


async def test_answers_carry_safe_headers_and_a_request_id(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/version", headers={"X-Request-ID": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-content-type-options"] == "nosniff"
    response = await client.get("/api/v1/version", headers={"X-Request-ID": "a b\\"})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_an_unexpected_error_is_a_plain_500(
    client: httpx.AsyncClient,
    system: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(kind: str) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(system.library, "list", broken)
    with caplog.at_level(logging.ERROR):
        response = await client.get("/api/v1/models")
    assert response.status_code == 500
    message = response.json()["error"]["message"]
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in message
    assert "secret detail" in caplog.text


async def test_not_found_and_wrong_method_look_alike(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = await client.put("/api/v1/jobs")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert response.headers["allow"]


def trusting(system: Any, **changes: Any) -> httpx.AsyncClient:
    """Return a client without a key of an application that trusts its machine's programs."""
    settings = dataclasses.replace(system.settings, trust_loopback=True, **changes)
    app = create_app(SimpleNamespace(**{**vars(system), "settings": settings}))
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642")


async def test_where_loopback_is_trusted_no_key_is_needed_to_ask_and_read(system: Any) -> None:
    async with trusting(system) as client:
        chat = {"model": "talker", "messages": [{"role": "user", "content": "hi"}]}
        for method, path, body in (
            ("POST", "/api/chat", chat),
            ("POST", "/v1/chat/completions", chat),
            ("GET", "/v1/models", None),
            ("GET", "/api/tags", None),
            ("GET", "/api/ps", None),
        ):
            assert (await client.request(method, path, json=body)).status_code == 200, path
        asked = {"model": "talker", "input": "hi"}
        made = (await client.post("/v1/responses", json=asked)).json()
        assert made["store"] is False, "what one keyless program says, another could read"


async def test_who_has_no_key_changes_nothing(system: Any) -> None:
    async with trusting(system) as client:
        for method, path, body in (
            ("POST", "/api/pull", {"model": "org/name"}),
            ("POST", "/api/v1/models/pull", {"repo": "org/name"}),
            ("DELETE", "/api/v1/models/talker", None),
            ("POST", "/api/v1/keys", {"name": "x"}),
            ("POST", "/api/v1/shutdown", None),
            ("GET", "/api/v1/jobs", None),
            ("GET", "/v1/responses/resp_1", None),
        ):
            assert (await client.request(method, path, json=body)).status_code == 403, path


async def test_trust_is_for_no_web_page_and_no_wrong_key(system: Any) -> None:
    async with trusting(system) as client:
        body = {"model": "writer", "prompt": "x"}
        for headers, status in (
            ({"Host": "evil.example"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": ""}, 401),
        ):
            response = await client.post("/api/generate", json=body, headers=headers)
            assert response.status_code == status, headers


@pytest.mark.parametrize(
    "changes",
    [{"host": "0.0.0.0"}, {"host": "192.168.1.2"}, {"behind_proxy": True}],
    ids=["every address", "the network", "a proxy"],
)
async def test_trust_ends_where_others_can_come(changes: dict[str, Any]) -> None:
    settings = Settings(trust_loopback=True, **changes)
    with pytest.raises(InvalidRequestError, match="trust_loopback"):
        gate.trusts_loopback(settings)
    assert not gate.trusts_loopback(dataclasses.replace(settings, trust_loopback=False))


async def test_a_server_that_would_trust_others_does_not_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", trust_loopback=True, behind_proxy=True)
    with pytest.raises(InvalidRequestError, match="trust_loopback"):
        run_foreground(settings)
    assert not settings.home.exists()


async def test_keys_are_looked_up_again_after_a_moment() -> None:
    actor = Actor("id", "me", "user")
    now, answers = 0.0, [actor, AuthenticationError()]

    class Reader:
        num_reads = 0

        def authenticate(self, text: str) -> Actor:
            self.num_reads += 1
            answer = answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

    reader = Reader()
    cache = KeyCache(reader, lambda: now)
    assert await cache.authenticate("k") is await cache.authenticate("k") is actor
    assert reader.num_reads == 1
    answers.pop(0)
    assert await cache.authenticate("k") is actor
    now += KEY_CACHE_S
    with pytest.raises(AuthenticationError):
        await cache.authenticate("k")
    answers.insert(0, actor)
    await cache.authenticate("k")
    answers.pop(0)
    cache.clear()
    with pytest.raises(AuthenticationError):
        await cache.authenticate("k")


async def test_a_key_revoked_while_it_is_looked_up_is_not_let_in_again() -> None:
    actor = Actor("key:1", "alice", "user")
    reading, revoked = threading.Event(), threading.Event()

    class Reader:
        def authenticate(self, text: str) -> Actor:
            if revoked.is_set():
                raise AuthenticationError
            reading.set()
            assert revoked.wait(10)
            return actor  # as it was read before

    cache = KeyCache(Reader(), lambda: 0.0)
    first = asyncio.ensure_future(cache.authenticate("k"))
    assert await asyncio.to_thread(reading.wait, 10)
    cache.clear()
    revoked.set()
    assert await first is actor
    with pytest.raises(AuthenticationError):
        await cache.authenticate("k")


async def test_too_many_requests_at_once_are_turned_away(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_LIVE_REQUESTS", 0)
    response = await client.get("/api/v1/version")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
    assert response.headers["retry-after"]


async def test_one_owners_requests_leave_room_for_others_and_jobs_take_none(
    system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_OWNER_REQUESTS", 2)
    monkeypatch.setattr(gate, "MAX_LIVE_REQUESTS", 3)
    entered, ends, under_way = asyncio.Queue[None](), asyncio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.put_nowait(None)
        await ends.wait()

    reader = SimpleNamespace(authenticate=lambda text: Actor("k", text, "user"))
    gated = gate.Gate(app, keys=KeyCache(reader), settings=system.settings)

    async def status_of(owner: str, is_own: bool = False) -> int | None:
        """Send a request, of a job where ``is_own``; None: it is under way."""
        statuses = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        state = {"actor": Actor("k", owner, "user"), "is_own": True} if is_own else {}
        headers = [(b"host", b"127.0.0.1:8642"), (b"authorization", f"Bearer {owner}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "state": state}
        asking = asyncio.ensure_future(gated(scope, lambda: None, send))
        entering = asyncio.ensure_future(entered.get())
        await asyncio.wait({asking, entering}, return_when=asyncio.FIRST_COMPLETED)
        if entering.done():
            under_way.append(asking)
            return None
        entering.cancel()
        return int(statuses[0])

    assert [await status_of("alice", is_own=True) for _ in range(5)] == [None] * 5
    assert [await status_of("alice") for _ in range(3)] == [None, None, 429]
    assert [await status_of("bob"), await status_of("carol")] == [None, 429]
    assert await status_of("carol", is_own=True) is None
    ends.set()
    await asyncio.gather(*under_way)
    assert await status_of("alice") is None, "what has ended counts no more"
    await asyncio.gather(*under_way)


async def test_the_log_names_who_asked_for_what_but_not_the_text(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llmos.server"):
        await client.post("/api/v1/generate?q=canary", json={"model": "writer", "prompt": "canary"})
        await client.get("/api/v1/version")
        await client.get("/api/v1/a%0Ab")
    lines = [record.getMessage() for record in caplog.records if record.name == "llmos.server"]
    assert len(lines) == 2
    assert lines[0].startswith("POST /api/v1/generate 200 ")
    assert "GET /api/v1/a\\nb 404" in lines[1]
    assert "canary" not in caplog.text


async def test_websockets_are_turned_away(app: Any) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
