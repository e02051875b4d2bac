"""Keys that hide personal data: behind every door, whatever the request says."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from tests.unit.tasks.finding import InProcess

from llmos.errors import AnonymiseError
from llmos.kernel.protocol import JobAsk
from llmos.security.actors import Actor
from llmos.server import anonymise
from llmos.server.access import action_of
from llmos.server.anonymise import ACTIONS, HEADER
from llmos.server.app import create_app
from llmos.server.asks import RouteAnswers
from llmos.server.bodies import SMALL_BYTES, BodyRoute
from llmos.server.routes import reading
from llmos.tasks.anonymise import Anonymiser
from llmos.types import Anonymise, NewVersion, Priority

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAIL = "rose@example.org"
WHO = f"ask {MAIL} now"
SAID = {"role": "user", "content": WHO}
CALL = {"type": "function", "function": {"name": "send", "arguments": json.dumps({"to": MAIL})}}
CALLED = [SAID, {"role": "assistant", "tool_calls": [{"id": "call_1", **CALL}]}]
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"to": {"$ref": "#/$defs/Mail"}, "copies": {"type": "integer", "default": 5}},
    "$defs": {"Mail": {"type": "string", "format": "email", "examples": [MAIL]}},
    "required": ["to"],
}
SEND = {"name": "send", "description": WHO, "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": SEND}]
ASKED: dict[str, tuple[dict[str, Any], int]] = {
    "/v1/chat/completions": (
        {
            "model": "talker",
            "messages": [
                {**SAID, "name": MAIL},
                *CALLED[1:],
                {"role": "tool", "tool_call_id": "call_1", "content": WHO},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": part} for part in (WHO[:8], WHO[8:])],
                },
            ],
            "tools": TOOLS,
            "tool_choice": "none",
            "user": MAIL,
            "stop": [MAIL],
        },
        9,
    ),
    "/v1/completions": ({"model": "writer", "prompt": [WHO, WHO]}, 2),
    "/v1/responses": (
        {
            "model": "talker",
            "instructions": WHO,
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": WHO}]},
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "send",
                    "arguments": json.dumps({"to": MAIL}),
                },
                {"type": "function_call_output", "call_id": "call_1", "output": WHO},
            ],
            "metadata": {"from": MAIL},
        },
        5,
    ),
    "/v1/embeddings": ({"model": "embedder", "input": [WHO, WHO]}, 2),
    "/v1/rerank": ({"model": "ranker", "query": WHO, "documents": [WHO, {"text": WHO}]}, 3),
    "/tokenize": ({"model": "talker", "messages": [SAID]}, 1),
    "/api/chat": (
        {
            "model": "talker",
            "stream": False,
            "messages": [
                SAID,
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "send", "arguments": {"to": MAIL}}}],
                },
                {"role": "tool", "content": WHO, "tool_name": "send"},
            ],
        },
        3,
    ),
    "/api/generate": ({"model": "talker", "stream": False, "prompt": WHO, "system": WHO}, 2),
    "/api/embed": ({"model": "embedder", "input": [WHO]}, 1),
    "/api/embeddings": ({"model": "embedder", "prompt": WHO}, 1),
    "/api/v1/generate": ({"model": "writer", "prompt": WHO}, 1),
    "/api/v1/translate": (
        {"model": "translator", "text": WHO, "source_lang": "en", "target_lang": "zh"},
        1,
    ),
    "/api/v1/classify": ({"model": "judge", "text": WHO}, 1),
    "/api/v1/entities": ({"model": "finder", "text": WHO}, 1),
    "/api/v1/answer": ({"model": "reader", "question": WHO, "context": WHO}, 2),
    "/api/v1/rate": ({"model": "rater", "text": WHO}, 1),
    "/api/v1/feedback/rows": ({"model": "writer", "rows": [{"text": WHO}]}, 1),
}
"""What to ask of each route that models learn or read from, and how much is to be hidden."""
REPEATING = {"/v1/completions", "/v1/responses", "/api/chat", "/api/generate", "/api/v1/generate"}
"""Routes that answer with what the model read."""
REFUSED = [
    ("/detokenize", {"model": "talker", "tokens": [1, 2]}),
    ("/api/v1/fill_mask", {"model": "filler", "text": "a [MASK]"}),
    ("/api/v1/answers/replay", {"id": "none"}),
    ("/api/v1/parse", {"model": "parser", "words": ["Rose", "Okafor"]}),
]
"""What cannot be done so."""
ELSEWHERE = {"/api/v1/feedback", "/api/v1/parse"}
"""Tried by tests of their own."""


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    find = InProcess()
    monkeypatch.setattr(Anonymiser, "_ask", lambda _, *asked: find._ask(*asked))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    """The usual models; one that embeds, one that ranks, one whose template speaks of somebody."""
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        writer = opened.library.resolve("writer")
        embedding = {"pooling": "mean", "normalize": True, "dimensions": 8, "prompts": {}}
        template = "Call Dr. Rose Okafor, who knows. {{ messages[-1].content }}"
        changes: dict[str, dict[str, Any]] = {
            "embedder": {"task": "embed", "embedding": embedding},
            "ranker": {"task": "rerank", "labels": ["no", "yes"]},
            "leaky": {"task": "chat", "chat_template": template},
        }
        for name, changed in changes.items():
            manifest = {**writer.manifest, "context_tokens": 2000, **changed}
            opened.library.add(NewVersion("model", name, writer.files, manifest), "admin")
        for name in ("talker", "writer"):
            version = opened.library.resolve(name)
            manifest = {**version.manifest, "context_tokens": 2000}
            opened.library.add(NewVersion("model", name, version.files, manifest), "admin")
        yield opened


@pytest.fixture(scope="module")
def app(system: Any) -> Any:
    return create_app(system)


@pytest.fixture
def hiding(new_client: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    return new_client("user", anonymise=Anonymise())


async def test_every_route_that_models_read_from_is_tried(app: Any) -> None:
    reading = {
        route.path
        for route in app.state.routes
        if isinstance(route, APIRoute) and action_of(route) in ACTIONS and route.methods == {"POST"}
    }
    assert reading == {*ASKED, *dict(REFUSED), *ELSEWHERE}
    routes = [one for one in app.state.routes if getattr(one, "path", "") in reading]
    assert all(isinstance(route, BodyRoute) for route in routes)


@pytest.mark.parametrize("path", ASKED)
async def test_no_route_sees_what_a_key_hides(
    hiding: httpx.AsyncClient, client: httpx.AsyncClient, path: str
) -> None:
    body, num = ASKED[path]
    answer = await hiding.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers[HEADER] == f"EMAIL={num}"
    assert MAIL not in answer.text
    assert "[EMAIL]" in answer.text or path not in REPEATING
    asked = await client.post(path, json={**body, "anonymise": {"types": ["EMAIL"]}})
    assert (asked.status_code, asked.headers[HEADER]) == (200, f"EMAIL={num}")
    plain = await client.post(path, json=body)
    assert (plain.status_code, HEADER in plain.headers) == (200, False)


@pytest.mark.parametrize(("path", "body"), REFUSED)
async def test_what_cannot_be_looked_at_is_refused(
    hiding: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = await hiding.post(path, json=body)
    assert answer.status_code in (400, 403)
    assert "ersonal data" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": [1, 2]}, "prompt"),
        ("/v1/completions", {"prompt": [[1, 2]]}, "prompt"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input"),
        ("/v1/completions", {"logprobs": 1}, "logprobs"),
        ("/v1/completions", {"choice": [MAIL, "b"]}, "choice.0"),
        ("/v1/completions", {"choice": ["a", "card-4111111111111111"]}, "choice.1"),
        ("/v1/completions", {"regex": WHO}, "regex"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {
            "name": "f", "parameters": {"properties": {"to": {
                "maximum": 13800138000, "enum": [1, 13800138000]}}}}}]},
         "tools.0.function.parameters.properties.to.enum.1"),
        ("/v1/completions", {"anonymise": {}}, "anonymise"),
        ("/v1/chat/completions", {"messages": [{**SAID, "tool_call_id": MAIL}]},
         "messages.0.tool_call_id"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {
            "name": "f", "parameters": {"properties": {MAIL: {}}}}}]},
         "tools.0.function.parameters.properties (the name of a field)"),
        ("/v1/completions", {"response_format": {"type": "json_schema", "json_schema": {
            "name": "f", "schema": {"properties": {"model": {"enum": [MAIL]}}}}}},
         "response_format.json_schema.schema.properties.model.enum.0"),
        ("/api/chat", {"logprobs": True}, "logprobs"),
        ("/v1/responses", {"top_logprobs": 2}, "logprobs"),
    ],
)  # fmt: skip
async def test_what_would_pass_unseen_is_refused(
    hiding: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = await hiding.post(path, json={**ASKED[path][0], **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert isinstance(error, str) or error["param"] == param  # Ollama's errors are texts


async def test_a_text_in_parts_of_any_kind_is_one(hiding: httpx.AsyncClient) -> None:
    parts = [{"type": "text", "text": WHO[:8]}, {"type": "refusal", "refusal": WHO[8:]}]
    asked = {"model": "talker", "messages": [SAID, {"role": "assistant", "content": parts}, SAID]}
    answer = await hiding.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "EMAIL=3")


async def test_a_text_is_parsed_as_it_is_hidden(
    hiding: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def parsed(tasks: Any, served: Any, text: str, terms: Any) -> list[Any]:
        seen.append(text)
        return []

    monkeypatch.setattr(reading, "parse_text", parsed)
    answer = await hiding.post("/api/v1/parse", json={"model": "parser", "text": WHO})
    assert (answer.status_code, answer.headers[HEADER]) == (200, "EMAIL=1")
    assert seen == ["ask [EMAIL] now"]


async def test_answers_are_looked_at_streamed_or_not(
    hiding: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    asked = {"model": "leaky", "messages": [{"role": "user", "content": "So it goes."}], "n": 2}
    said = "Call Dr. [NAME], who knows. So it goes."
    whole = (await hiding.post("/v1/chat/completions", json=asked)).json()
    assert [one["message"]["content"] for one in whole["choices"]] == [said, said]
    assert whole["usage"]["completion_tokens"] == 2 * len(
        "Call Dr. Rose Okafor, who knows. So it goes."
    )
    streamed = await hiding.post("/v1/chat/completions", json={**asked, "n": 1, "stream": True})
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in streamed.text.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(deltas) == said
    own = (await client.post("/v1/chat/completions", json={**asked, "anonymise": True})).json()
    assert own["choices"][0]["message"]["content"] == said
    kept = {**asked, "anonymise": {"answers": False}}
    shown = (await client.post("/v1/chat/completions", json=kept)).json()
    assert "Okafor" in shown["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/v1/responses", {"input": "So it goes."}),
        ("/api/chat", {"messages": [{"role": "user", "content": "So it goes."}]}),
        ("/api/generate", {"prompt": "So it goes."}),
        ("/api/v1/generate", {"messages": [{"role": "user", "content": "So it goes."}]}),
    ],
)
async def test_streams_of_every_door_are_looked_at(
    hiding: httpx.AsyncClient, path: str, given: dict[str, Any]
) -> None:
    answer = await hiding.post(path, json={"model": "leaky", "stream": True, **given})
    assert answer.status_code == 200
    lines = (line.removeprefix("data: ") for line in answer.text.splitlines())
    events = [json.loads(line) for line in lines if line.startswith("{")]
    pieces = [
        event.get("delta") or event.get("text") or event.get("response")
        or event.get("message", {}).get("content") or ""
        for event in events
        if "type" not in event or event["type"] == "response.output_text.delta"
    ]  # fmt: skip
    assert "".join(pieces) == "Call Dr. [NAME], who knows. So it goes."
    assert "Okafor" not in answer.text


async def test_what_is_kept_is_what_was_shown(
    hiding: httpx.AsyncClient, client: httpx.AsyncClient, system: Any
) -> None:
    assert (await hiding.put("/api/v1/answers", json={"keeps": True})).status_code == 200
    made = (await hiding.post("/v1/responses", json={"model": "leaky", "input": WHO})).json()
    stored = (await hiding.get(f"/v1/responses/{made['id']}")).text
    items = (await hiding.get(f"/v1/responses/{made['id']}/input_items")).text
    kept = await hiding.get(f"/api/v1/lineage/answers/{made['id']}")
    for text in (json.dumps(made), stored, items, kept.text):
        assert MAIL not in text
        assert "Okafor" not in text
    answer = kept.json()["answer"]
    assert answer["outputs"][0]["token_ids"] == []
    assert answer["request"]["anonymise"]["action"] == "replace"
    remark = {"response_id": made["id"], "correction": WHO, "comment": WHO}
    given = await hiding.post("/api/v1/feedback", json=remark)
    assert (given.status_code, given.headers[HEADER]) == (200, "EMAIL=2")
    again = await client.post("/api/v1/answers/replay", json={"id": made["id"]})
    assert again.status_code == 409


async def test_a_conversation_that_nothing_was_hidden_in_is_hidden_when_it_goes_on(
    new_client: Callable[..., httpx.AsyncClient],
) -> None:
    first = new_client("user", name="ida")
    hiding = new_client("user", name="ida", anonymise=Anonymise())
    begun = (await first.post("/v1/responses", json={"model": "talker", "input": WHO})).json()
    asked = {"model": "talker", "input": "and?", "previous_response_id": begun["id"]}
    assert MAIL.partition("@")[0] in str((await first.post("/v1/responses", json=asked)).json())
    shown = (await hiding.post("/v1/responses", json=asked)).json()["output"][0]["content"][0]
    assert shown["text"].startswith("u:ask [EMAIL] now\n")


async def test_jobs_hide_what_the_key_that_began_them_hides(system: Any, app: Any) -> None:
    actor = Actor("k", "user", "user", anonymise=Anonymise(action="mask"))
    assert Actor.from_dict(json.loads(json.dumps(actor.to_dict()))) == actor
    job = await system.kernel.jobs.submit(
        "train", {}, owner="user", priority=Priority.BATCH, asker=actor.to_dict()
    )
    ask = JobAsk(1, "/v1/completions", json.dumps({"model": "writer", "prompt": WHO}).encode())
    answer = await RouteAnswers(app, lambda key_id: None)(job, ask)
    assert answer.status == 200
    assert MAIL not in answer.body.decode()


async def test_a_job_is_told_no_places_in_a_text_that_it_does_not_have(
    system: Any, app: Any
) -> None:
    actor = Actor("k", "user", "user", anonymise=Anonymise())
    job = await system.kernel.jobs.submit(
        "train", {}, owner="user", priority=Priority.BATCH, asker=actor.to_dict()
    )
    answers = RouteAnswers(app, lambda key_id: None)
    for text, status in ((WHO, 400), ("ask now", 200)):
        body = json.dumps({"model": "finder", "text": text}).encode()
        answer = await answers(job, JobAsk(1, "/api/v1/entities", body))
        assert (answer.status, b"ersonal data" in answer.body) == (status, status == 400)


async def test_without_the_helper_nothing_is_passed_on(
    hiding: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*asked: Any) -> None:
        raise AnonymiseError

    monkeypatch.setattr(Anonymiser, "_ask", fail)
    asked = {"model": "writer", "prompt": "never seen before"}
    answer = await hiding.post("/v1/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "anonymise_failed")
    made = await system.tasks.anonymiser.find([""], Anonymise(), "x")
    assert made == [[]]


async def test_who_asks_for_it_gets_it_and_the_log_has_counts_alone(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmos.server")
    asked = {"model": "writer", "prompt": WHO, "anonymise": {"action": "mask"}}
    answer = await client.post("/v1/completions", json=asked)
    assert answer.json()["choices"][0]["text"] == "ask "  # this model has no token for "*"
    assert "EMAIL=1" in caplog.text
    assert MAIL not in caplog.text
    metrics = (await client.get("/metrics")).text
    assert 'llmos_personal_data_hidden_total{type="EMAIL",where="prompt"}' in metrics
    for wrong, param in (
        ({"types": ["AGE"]}, "anonymise.types.0"),
        ({"action": "drop"}, "anonymise.action"),
        ("yes", "anonymise"),
    ):
        refused = await client.post("/v1/completions", json={**asked, "anonymise": wrong})
        assert refused.json()["error"]["param"] == param


async def test_large_bodies_are_hidden_too(hiding: httpx.AsyncClient) -> None:
    asked = {"model": "embedder", "truncate": True, "input": ["It is so.\n" * 7000, WHO]}
    assert len(json.dumps(asked)) > SMALL_BYTES
    answer = await hiding.post("/v1/embeddings", json=asked)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "EMAIL=1")


async def test_more_text_than_is_looked_at_in_seconds_is_refused(
    hiding: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymise, "MAX_CHARS", 50)
    asked = {"model": "writer", "prompt": "It is so. " * 6}
    answer = await hiding.post("/v1/completions", json=asked)
    assert (answer.status_code, "in parts" in answer.text) == (413, True)
    assert (await hiding.post("/v1/completions", json={**asked, "prompt": WHO})).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_does_not_say_it_is_json_reaches_no_model(
    hiding: httpx.AsyncClient, kind: str
) -> None:
    body = json.dumps({"model": "writer", "prompt": WHO})
    headers = {"content-type": kind} if kind else {}
    answer = await hiding.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    ollama = await hiding.post(
        "/api/generate", content=json.dumps(ASKED["/api/generate"][0]), headers=headers
    )
    assert (ollama.status_code, ollama.headers[HEADER]) == (200, "EMAIL=2")


async def test_a_key_is_made_shown_and_audited_with_what_it_hides(
    client: httpx.AsyncClient, app: Any
) -> None:
    wanted = {"name": "desk", "anonymise": {"types": ["EMAIL"], "answers": False}}
    made = (await client.post("/api/v1/keys", json=wanted)).json()
    expected = {"types": ["EMAIL"], "language": "auto", "names": "cautious"}
    expected |= {"action": "replace", "answers": False}
    assert made["anonymise"] == expected
    audit = (await client.get("/api/v1/audit")).json()["data"]
    event = next(one for one in audit if one["object"] == made["id"])
    assert event["detail"]["anonymise"] == expected
    desk = httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1:8642",
        headers={"Authorization": f"Bearer {made['key']}"},
    )
    async with desk:
        body = (await desk.post("/v1/completions", json=ASKED["/v1/completions"][0])).json()
    assert body["choices"][0]["text"] == "ask [EMAIL] now"
    keyed = {"name": "desk", "anonymise": {"action": "pseudonym"}}
    refused = await client.post("/api/v1/keys", json=keyed)
    assert "LLMOS_PSEUDONYM_KEY_FILE" in refused.json()["error"]["message"]
