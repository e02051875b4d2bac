"""Ollama's API over the echo engine, which says again what its template makes of the turns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.errors import InvalidRequestError
from llmos.security.actors import SYSTEM
from llmos.server.ollama import _eval_ns
from llmos.server.ollama_wire import ChatBody, GenerateBody, hub_name, model_ref
from llmos.types import Grammar, NewVersion, ToolCall

pytestmark = pytest.mark.asyncio(loop_scope="module")
HI = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "talker", "messages": HI}
TEXT: dict[str, Any] = {"model": "writer", "prompt": "Hello"}
ENDED = {
    "done_reason",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_chat_streams_lines_unless_told_otherwise(client: httpx.AsyncClient) -> None:
    got = lines(await client.post("/api/chat", json=CHAT))
    assert "".join(line["message"]["content"] for line in got) == "u:hi\na:"
    assert {line["message"]["role"] for line in got} == {"assistant"}
    assert [line["done"] for line in got] == [False] * (len(got) - 1) + [True]
    assert got[-1].keys() >= ENDED
    whole = (await client.post("/api/chat", json={**CHAT, "stream": False})).json()
    assert (whole["model"], whole["message"]["content"]) == ("talker", "u:hi\na:")
    assert (whole["done"], whole["done_reason"]) == (True, "stop")
    assert (whole["prompt_eval_count"], whole["eval_count"]) == (7, 7)


async def test_a_prompt_goes_through_the_chat_template_unless_raw(
    client: httpx.AsyncClient,
) -> None:
    async def said(**asked: Any) -> str:
        response = await client.post("/api/generate", json={"stream": False, **asked})
        text: str = response.json()["response"]
        return text

    assert await said(model="talker", prompt="hi", system="S") == "s:S\nu:hi\na:"
    assert await said(model="talker:latest", prompt="hi", raw=True) == "hi"
    assert await said(**TEXT) == "Hello"
    assert await said(name="writer", prompt="Hi", options={"num_predict": 1}) == "H"
    assert await said(**TEXT, options={"stop": ["lo"], "seed": 1, "num_ctx": 4096}) == "Hel"


async def test_a_body_is_json_whatever_type_it_says_it_is(client: httpx.AsyncClient) -> None:
    body = json.dumps({**TEXT, "stream": False})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await client.post("/api/generate", content=body, headers=headers)
    assert response.json()["response"] == "Hello"


async def test_without_a_prompt_the_model_is_loaded_or_let_go(
    client: httpx.AsyncClient, new_client: Callable[..., httpx.AsyncClient], system: Any
) -> None:
    async def resident() -> set[str]:
        running = (await client.get("/api/ps")).json()["models"]
        return {model["name"] for model in running}

    loaded = (await client.post("/api/generate", json={"model": "writer"})).json()
    assert (loaded["done"], loaded["done_reason"]) == (True, "load")
    assert "writer:latest" in await resident()
    asked = {"model": "writer", "keep_alive": 0}
    refused = await new_client("user").post("/api/generate", json=asked)
    assert (refused.status_code, "admin" in refused.json()["error"]) == (403, True)
    assert "writer:latest" in await resident()
    spec = (await system.tasks.serve("writer", {"generate"})).spec
    async with system.kernel.residency.lease(spec):
        busy = await client.post("/api/generate", json=asked)
        assert (busy.status_code, "in use" in busy.json()["error"]) == (409, True)
    gone = (await client.post("/api/generate", json=asked)).json()
    assert gone["done_reason"] == "unload"
    assert "writer:latest" not in await resident()
    chat = (await client.post("/api/chat", json={"model": "talker", "messages": []})).json()
    assert (chat["message"]["content"], chat["done_reason"]) == ("", "load")


async def test_models_in_memory_have_the_names_of_the_list(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/generate", json={"model": "writer"})).status_code == 200
    (running,) = [
        one
        for one in (await client.get("/api/ps")).json()["models"]
        if one["name"].startswith("writer:")
    ]
    listed = {one["name"]: one for one in (await client.get("/api/tags")).json()["models"]}
    assert running["model"] == running["name"]
    assert running["digest"] == listed[running["name"]]["digest"]


async def test_a_model_that_was_removed_while_in_memory_is_not_listed(
    client: httpx.AsyncClient, system: Any
) -> None:
    first = system.library.resolve("talker")
    extra = {**first.manifest, "context_tokens": 150}
    system.library.add(NewVersion("model", "fleeting", first.files, extra), "admin")
    assert (await client.post("/api/generate", json={"model": "fleeting"})).status_code == 200
    system.library.remove("fleeting", SYSTEM)
    names = {one["name"] for one in (await client.get("/api/ps")).json()["models"]}
    assert not any("fleeting" in name for name in names)


async def test_a_model_that_is_here_is_pulled_at_once(
    client: httpx.AsyncClient, system: Any
) -> None:
    for name in ("writer", "writer:latest", "talker:1"):
        got = lines(await client.post("/api/pull", json={"model": name}))
        assert got == [{"status": "success"}]
        asked = {"model": name, "stream": False}
        assert (await client.post("/api/pull", json=asked)).json() == {"status": "success"}
    assert await system.kernel.jobs.list() == []


@pytest.mark.parametrize(
    ("ran_ns", "since_first_ns", "num_tokens", "expected"),
    [
        (1100, 900, 10, 900),  # a stream: as measured
        (1100, 0, 10, 1000),  # all at once: a token's share was reading
        (1100, 1, 10, 1000),
        (1000, 0, 1, 500),
        (1000, 0, 0, 0),
        (1000, 5000, 3, 1000),
    ],
)
async def test_an_answer_in_one_lump_took_time_to_write(
    ran_ns: int, since_first_ns: int, num_tokens: int, expected: int
) -> None:
    assert _eval_ns(ran_ns, since_first_ns, num_tokens) == expected


async def test_logprobs_come_with_the_text(client: httpx.AsyncClient) -> None:
    asked = {**TEXT, "stream": False, "logprobs": True, "top_logprobs": 1}
    got = (await client.post("/api/generate", json=asked)).json()["logprobs"]
    assert "".join(token["token"] for token in got) == "Hello"
    assert got[0]["top_logprobs"][0]["token"] == "H"


async def test_tags_are_models_that_can_be_asked(client: httpx.AsyncClient) -> None:
    models = {model["name"]: model for model in (await client.get("/api/tags")).json()["models"]}
    assert {"talker:latest", "writer:latest"} <= models.keys()
    assert not {"translator:latest", "judge:latest"} & models.keys()
    talker = models["talker:latest"]
    assert len(talker["digest"]) == 64
    assert talker["size"] > 0
    assert talker["details"]["family"] == "echo"
    assert talker["details"]["quantization_level"] == "F32"


async def test_older_versions_are_listed_by_their_numbers(
    client: httpx.AsyncClient, system: Any
) -> None:
    first = system.library.resolve("writer")
    system.library.add(NewVersion("model", "writer", first.files, first.manifest), "admin")
    names = [model["name"] for model in (await client.get("/api/tags")).json()["models"]]
    assert {"writer:latest", "writer:1"} <= set(names)
    assert "writer:2" not in names


async def test_show_says_what_is_known(client: httpx.AsyncClient) -> None:
    shown = (await client.post("/api/show", json={"model": "talker"})).json()
    assert "m.content" in shown["template"]
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["general.architecture"] == "echo"
    assert shown["model_info"]["echo.context_length"] == 200
    assert (await client.get("/api/version")).json()["version"].count(".") == 2


async def test_a_key_limited_to_models_sees_and_shows_only_those(
    new_client: Callable[..., httpx.AsyncClient],
) -> None:
    client = new_client("user", models={"writer"})
    names = {model["name"] for model in (await client.get("/api/tags")).json()["models"]}
    assert "writer:latest" in names
    assert "talker:latest" not in names
    for path, asked in (("show", {"model": "talker"}), ("chat", CHAT)):
        assert (await client.post(f"/api/{path}", json=asked)).status_code == 403


async def test_a_pull_needs_a_key_that_may_write(
    new_client: Callable[..., httpx.AsyncClient],
) -> None:
    client = new_client("user", actions={"generate", "models.read"})
    response = await client.post("/api/pull", json={"model": "org/name"})
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("path", "asked", "status", "says"),
    [
        ("chat", {**CHAT, "model": "nobody"}, 404, "nobody"),
        ("chat", {**CHAT, "model": "no such!"}, 400, "valid name"),
        ("chat", {"messages": HI}, 400, "model"),
        ("chat", {**CHAT, "messages": [{"role": "robot"}]}, 400, "role"),
        ("chat", {**CHAT, "messages": [{**HI[0], "images": ["aGk="]}]}, 400, "images"),
        ("chat", {**CHAT, "messages": [{"role": "tool", "content": "x"}]}, 400, "tool"),
        ("chat", {**CHAT, "options": {"temperature": "hot"}}, 400, "temperature"),
        ("chat", {**CHAT, "options": {"temperature": 2.5}}, 400, "temperature"),
        ("chat", {**CHAT, "options": {"warmth": 1}}, 400, "warmth"),
        ("chat", {**CHAT, "options": {"mirostat": 2}}, 400, "mirostat"),
        ("chat", {**CHAT, "format": "xml"}, 400, "format"),
        ("chat", {**CHAT, "think": True}, 400, "think"),
        ("chat", {**CHAT, "keep_alive": "soon"}, 400, "keep_alive"),
        ("chat", {**CHAT, "tools": [{"type": "function", "function": {}}]}, 400, "name"),
        ("chat", {**CHAT, "messages": [{**HI[0], "content": "x" * 300}]}, 400, "context"),
        ("generate", {**TEXT, "suffix": "x"}, 400, "suffix"),
        ("generate", {**TEXT, "context": [1, 2]}, 400, "context"),
        ("generate", {**TEXT, "model": "judge"}, 400, "classify"),
        ("embed", {"model": "writer", "input": "x"}, 400, "embed"),
        ("show", {"model": "nobody"}, 404, "nobody"),
        ("no/such/path", {}, 404, "nothing at"),
    ],
)
async def test_a_mistake_is_one_sentence_as_ollama_says_it(
    client: httpx.AsyncClient, path: str, asked: dict[str, Any], status: int, says: str
) -> None:
    for stream in (False, True):
        body = {**asked, "stream": stream} if path in ("chat", "generate", "pull") else asked
        response = await client.post(f"/api/{path}", json=body)
        assert response.status_code == status, response.text
        assert set(response.json()) == {"error"}
        assert says in response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"model": "talker", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "talker", "messages": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"model": "talker", "messages": [], "options": {"seed": 1e400}}',
    ],
    ids=["cut off", "no object", "no text", "half a character", "deep", "infinite"],
)
async def test_what_is_no_request_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show", "/api/pull"):
        response = await client.post(path, content=body)
        assert response.status_code == 400, response.text
        assert isinstance(response.json()["error"], str)


async def test_names_are_ours_without_what_ollama_adds() -> None:
    assert model_ref("starter-chat:latest") == "starter-chat"
    assert model_ref("team/my-model:3") == "team/my-model:3"
    assert hub_name("hf.co/org/name") == hub_name("org/name:latest") == "org/name"


async def test_answers_find_their_calls_by_id_by_name_and_by_order() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"a": 1}}, **more}

    body = ChatBody.model_validate(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "tool_calls": [call("a"), call("b"), call("c", id="mine")]},
                {"role": "tool", "content": "B", "tool_name": "b"},
                {"role": "tool", "content": "C", "tool_call_id": "mine"},
                {"role": "tool", "content": "A"},
            ],
        }
    )
    _, asked, *answers = body.to_messages()
    assert asked.tool_calls[0] == ToolCall("call_1_0", "a", '{"a": 1}')
    ids = [answer.tool_call_id for answer in answers]
    assert ids == ["call_1_1", "mine", "call_1_0"]
    with pytest.raises(InvalidRequestError, match="must come after"):
        ChatBody.model_validate({"model": "m", "messages": [{"role": "tool"}]}).to_messages()


async def test_options_and_formats_are_translated() -> None:
    body = GenerateBody.model_validate(
        {
            "model": "m",
            "format": {"type": "object"},
            "options": {"repeat_penalty": 1.2, "num_predict": -1, "top_p": 0, "min_p": 0.1},
        }
    )
    sampling = body.sampling()
    assert (sampling["repetition_penalty"], sampling["min_p"]) == (1.2, 0.1)
    assert (sampling["max_tokens"], sampling["top_p"]) == (2**31 - 1, None)
    for unlimited in (0, -2):
        asked = {"model": "m", "options": {"num_predict": unlimited}}
        assert GenerateBody.model_validate(asked).sampling()["max_tokens"] == 2**31 - 1
    assert body.grammar() == Grammar("json_schema", '{"type": "object"}')
    assert GenerateBody.model_validate({"model": "m", "format": "json"}).grammar() == Grammar(
        "json_object"
    )
    assert GenerateBody.model_validate({"model": "m", "format": ""}).grammar() is None


@pytest.mark.parametrize(
    ("keep_alive", "unloads"),
    [(None, False), (0, True), ("0", True), ("0s", True), (-1, False), ("5m", False), (300, False)],
)
async def test_a_model_kept_alive_for_no_time_is_let_go(keep_alive: Any, unloads: bool) -> None:
    body = GenerateBody.model_validate({"model": "m", "keep_alive": keep_alive})
    assert body.unloads is unloads
