"""What no request may do: hang, fail with a 500, or disturb the streams of others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from harness import Llmos

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MAX_ANSWER_S = 2.0
MAX_STALL_S = 2.0


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "starter-chat", "messages": [{"role": "user", "content": "hi"}], **fields}


def text(prompt: Any) -> dict[str, Any]:
    return {"model": "starter-chat", "prompt": prompt}


def schema(value: Any) -> dict[str, Any]:
    made = {"name": "x", "schema": value}
    return chat(response_format={"type": "json_schema", "json_schema": made})


def tool(**function: Any) -> Any:
    return {"type": "function", "function": function}


def said(content: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return chat(messages=[{"role": role, "content": content, **fields}])


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BIG = {f"field_{i}": {"type": "string", "pattern": "[a-z]{1,9}"} for i in range(25_000)}
LONG = "All the world's a stage, 而所有的男男女女不过是一些演员。" * 120_000
"""Ten megabytes."""
ANSWER = {"role": "assistant", "content": LONG}
CASES: list[tuple[str, str, Any, str]] = [
    ("schema of a megabyte", CHAT, schema({"properties": BIG}), "response_format"),
    ("schema of no meaning", CHAT, schema({"type": "nonsense"}), "response_format"),
    ("schema with a dead end", CHAT, schema({"$ref": "#/nowhere"}), "response_format"),
    ("regex bomb", CHAT, chat(regex="((a{0,999}){0,999}){0,999}b"), "regex"),
    ("regex that is none", CHAT, chat(regex="(["), "regex"),
    ("grammar that is none", CHAT, chat(grammar="begin: nothing"), "grammar"),
    ("n of a million", CHAT, chat(n=10**6), "n"),
    ("unknown ids", CHAT, chat(logit_bias={"99999999": 5}), "logit_bias"),
    ("tool without name", CHAT, chat(tools=[tool(description="?")]), "tools.0.function.name"),
    (
        "tool of no meaning",
        CHAT,
        chat(tools=[tool(name="f", parameters={"type": 7})], tool_choice="required"),
        "tools",
    ),
    ("no content", CHAT, chat(messages=[{"role": "user"}]), "messages.0.content"),
    ("tool message first", CHAT, said("x", "tool", tool_call_id="c"), "messages.0.role"),
    (
        "image",
        CHAT,
        said([{"type": "image_url", "image_url": {"url": "data:,"}}]),
        "messages.0.content",
    ),
    ("prompt of 10 MB", TEXT, text(LONG), "prompt"),
    ("prompt without spaces", TEXT, text("x" * 10_000_000), "prompt"),
    ("message of 10 MB", CHAT, said(LONG), "messages"),
    ("answer of 10 MB", CHAT, chat(messages=[ANSWER, *chat()["messages"]]), "messages"),
    ("prompt of a million ids", TEXT, text([7] * 1_000_000), "prompt"),
    ("100 000 messages", CHAT, chat(messages=chat()["messages"] * 100_000), "messages"),
    ("half a character", CHAT, b'{"model": "starter-chat", "messages": [{"role": "user", '
     b'"content": "\\ud83d"}]}', "messages.0.content"),
    ("deep JSON", CHAT, chat(tools=[tool(name="f", parameters=nested(200))]), "tools"),
    ("deeper JSON", CHAT, b'{"model": ' + b"[" * 100_000, ""),
]  # fmt: skip


class Canary:
    """A greedy stream that must go on, unchanged and without a stall, whatever others ask."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self._client = client
        self._body = {"model": model, "prompt": "ROMEO:", "temperature": 0, "max_tokens": 600}
        self._body |= {"ignore_eos": True, "stream": True}
        self.longest_stall_s = 0.0

    async def sing(self) -> str:
        text, at = "", time.monotonic()
        async with self._client.stream("POST", TEXT, json=self._body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                now = time.monotonic()
                self.longest_stall_s, at = max(self.longest_stall_s, now - at), now
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        return text


@asynccontextmanager
async def clients(llmos: Llmos) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {llmos.key}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(
        base_url=llmos.url, headers=headers, timeout=60, trust_env=False
    ) as client:
        yield client


async def test_every_bad_request_is_refused_soon_and_the_canary_sings_on(
    llmos: Llmos, my_model: str, starter_models: tuple[str, ...]
) -> None:
    async with clients(llmos) as client:
        assert (await client.post(CHAT, json=chat(max_tokens=1))).status_code == 200
        alone = await Canary(client, my_model).sing()
        assert len(alone) > 500
        faults = []
        canary = Canary(client, my_model)
        singing = asyncio.create_task(canary.sing())
        for name, path, body, param in CASES:
            if singing.done():
                assert singing.result() == alone
                singing = asyncio.create_task(canary.sing())
            content = (
                body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
            )
            began = time.monotonic()
            response = await client.post(path, content=content)
            took_s = time.monotonic() - began
            error = response.json().get("error", {})
            is_named = str(error.get("param") or "").startswith(param)
            if response.status_code != 400 or not is_named or took_s > MAX_ANSWER_S:
                faults.append((name, response.status_code, round(took_s, 2), error))
            await asyncio.sleep(0)
        assert faults == []
        assert await singing == alone
        assert canary.longest_stall_s < MAX_STALL_S


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_ends_a_request_and_not_the_next(
    llmos: Llmos, my_model: str, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": my_model, "prompt": "ROMEO:", "ignore_eos": True}
    asked |= {"max_tokens": 100_000, "stream": stream}
    async with clients(llmos) as client:
        assert (
            await client.post(TEXT, json={**asked, "max_tokens": 1, "stream": False})
        ).is_success
        response = await client.post(TEXT, json={**asked, "deadline_ms": 300})
        assert "deadline_exceeded" in response.text
        assert "[DONE]" not in response.text
        assert response.status_code == (200 if stream else 504)
        assert (
            await client.post(TEXT, json={**asked, "max_tokens": 2, "stream": False})
        ).is_success
