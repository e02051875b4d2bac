"""The unmodified `openai` client leaves the choice of a model to llmos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from harness import Llmos

HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture(scope="module")
def client(llmos: Llmos) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key, max_retries=0) as made:
        yield made


def test_auto_is_answered_by_the_chat_model_and_says_why(
    client: openai.OpenAI, starter_models: tuple[str, ...]
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, max_tokens=8, extra_body={"max_latency_ms": 600_000}
    )
    answer, why = raw.parse(), json.loads(raw.headers["x-llmos-route"])
    assert answer.model == why["model"] == "starter-chat:1"
    assert answer.choices[0].message.content
    assert (why["name"], why["candidates"].keys()) == ("auto", {"starter-chat:1"})


def test_auto_streams(client: openai.OpenAI, starter_models: tuple[str, ...]) -> None:
    stream = client.chat.completions.create(model="auto", messages=HELLO, max_tokens=8, stream=True)
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {"starter-chat:1"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_constraints_that_nothing_meets_are_named(
    client: openai.OpenAI, starter_models: tuple[str, ...]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="auto", messages=HELLO, extra_body={"max_latency_ms": 0.001}
        )
    assert (refused.value.code, refused.value.param) == ("no_model_fits", "max_latency_ms")
    with pytest.raises(openai.BadRequestError) as named:
        client.chat.completions.create(
            model="starter-chat", messages=HELLO, extra_body={"min_quality": 0.5}
        )
    assert named.value.param == "min_quality"


def test_a_route_is_made_explained_asked_judged_and_removed(
    llmos: Llmos, client: openai.OpenAI, starter_models: tuple[str, ...]
) -> None:
    made = llmos.run("route", "set", "support", "--to", "starter-chat:1=1")
    assert made.returncode == 0, made.stderr
    assert json.loads(llmos.run("route", "list", "--json").stdout)[0]["name"] == "support"
    answer = client.chat.completions.create(model="support", messages=HELLO, max_tokens=8)
    assert answer.model == "starter-chat:1"
    why = json.loads(llmos.run("route", "--explain", "Hello", "--json").stdout)
    assert why["model"] == "starter-chat:1"
    judged = llmos.run("feedback", "starter-chat", "--good")
    assert (judged.returncode, judged.stdout) == (0, "noted for starter-chat:1 (chat): good\n")
    shadow = llmos.run("route", "set", "starter-chat", "--to", "starter-chat:1")
    assert shadow.returncode == 5
    assert "a route may not hide it" in shadow.stderr
    assert llmos.run("route", "rm", "support").returncode == 0
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="support", messages=HELLO)
