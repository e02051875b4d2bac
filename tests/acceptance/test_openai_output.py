"""Tools, formats and scored prompts, as the unmodified `openai` client and lm-eval ask for them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from harness import Llmos
from pydantic import BaseModel, ConfigDict, Field

MODEL = "starter-chat"
ASK: Any = [{"role": "user", "content": "Hello, who are you?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 250}


class Weather(BaseModel):
    """What the weather tool takes, and what a structured answer looks like."""

    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=8)
    days: int = Field(ge=1, le=7)
    unit: Literal["C", "F"]


def tool(name: str, parameters: dict[str, Any]) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CLOCK = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS: Any = [tool("weather", Weather.model_json_schema()), tool("clock", CLOCK)]


def check_call(name: str, arguments: str) -> None:
    if name == "weather":
        Weather.model_validate_json(arguments)
    else:
        assert name == "clock"
        assert json.loads(arguments)["zone"] in ("UTC", "CET")


@pytest.fixture(scope="module")
def client(llmos: Llmos, starter_models: tuple[str, ...]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("seed", range(3))
def test_a_required_tool_is_called_with_valid_arguments(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.create(
        **GREEDY | {"temperature": 1, "max_tokens": 400},
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        seed=seed,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    check_call(call.function.name, call.function.arguments)


@pytest.mark.parametrize("name", ["weather", "clock"])
def test_a_named_tool_streams_its_arguments(client: openai.OpenAI, name: str) -> None:
    chunks = client.chat.completions.create(
        **GREEDY,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": name}},
        stream=True,
    )
    choices = [chunk.choices[0] for chunk in chunks]
    deltas = [call for choice in choices for call in choice.delta.tool_calls or ()]
    first, *others = deltas
    assert first.id
    assert (first.index, first.function and first.function.name) == (0, name)
    assert len(others) > 1
    arguments = "".join((delta.function and delta.function.arguments) or "" for delta in deltas)
    check_call(name, arguments)
    assert not any(choice.delta.content for choice in choices)
    assert choices[-1].finish_reason == "tool_calls"


def test_a_conversation_goes_on_after_a_tool_was_called(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    answer = client.chat.completions.create(**GREEDY | {"messages": messages, "max_tokens": 8})
    assert answer.choices[0].message.content


def test_an_answer_is_parsed_as_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**GREEDY, response_format=Weather)
    message = answer.choices[0].message
    assert isinstance(message.parsed, Weather)
    assert message.content
    assert message.tool_calls is None


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"regex": "[0-9]{3}-[a-c]{1,4}"}, "[0-9]{3}-[a-c]{1,4}"),
        ({"choice": ["yes", "是"]}, "yes|是"),
        ({"grammar": 'start: "a" ("b" | "c")'}, "a[bc]"),
        ({"response_format": {"type": "json_object"}, "temperature": 0.7, "seed": 1}, r"(?s)\{.*"),
    ],
)
def test_an_answer_matches_what_it_must(
    client: openai.OpenAI, extra: dict[str, Any], pattern: str
) -> None:
    answer = client.chat.completions.create(**GREEDY, extra_body=extra)
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")


def test_a_bias_decides_and_a_banned_token_does_not_come(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0, "max_tokens": 6}
    free = client.completions.create(**options, logprobs=0).choices[0]
    wanted = client.completions.create(**options, logit_bias={"40": 100}, logprobs=0).choices[0]
    assert wanted.logprobs is not None
    assert len(set(wanted.logprobs.tokens or ())) == 1
    assert wanted.text != free.text
    banned = client.completions.create(**options, logit_bias={"40": -100}, logprobs=0).choices[0]
    assert banned.logprobs is not None
    assert wanted.logprobs.tokens[0] not in (banned.logprobs.tokens or ())  # type: ignore[index]


# -- as lm-eval's local-completions does -----------------------------------------------------------


def post(llmos: Llmos, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {llmos.key}"}
    url = f"{llmos.url}/v1/completions"
    response = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_prompts_of_token_ids_are_scored(
    llmos: Llmos, starter_models: tuple[str, ...], max_tokens: int
) -> None:
    prompts = [[2, 40, 41, 42, 300], [50, 60, 70]]
    asked = {"model": MODEL, "prompt": prompts, "logprobs": 1, "echo": True, "temperature": 0}
    body = post(llmos, {**asked, "max_tokens": max_tokens, "seed": 1234})
    for ids, choice in zip(prompts, body["choices"], strict=True):
        scores = choice["logprobs"]
        lengths = {len(scores[name]) for name in ("tokens", "token_logprobs", "text_offset")}
        assert lengths == {len(scores["top_logprobs"])} == {len(ids) + max_tokens}
        assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
        for token, logprob, top in zip(
            scores["tokens"][1:],
            scores["token_logprobs"][1:],
            scores["top_logprobs"][1:],
            strict=True,
        ):
            assert logprob <= 0
            assert math.isclose(top[token], logprob)
            assert max(top.values()) >= logprob
    again = post(llmos, {**asked, "max_tokens": max_tokens, "prompt": prompts[0]})
    one, other = (made["choices"][0]["logprobs"]["token_logprobs"] for made in (body, again))
    assert one[1:] == pytest.approx(other[1:], abs=1e-3)


def test_a_score_does_not_depend_on_what_follows(
    llmos: Llmos, starter_models: tuple[str, ...]
) -> None:
    asked = {"model": MODEL, "logprobs": 1, "echo": True, "max_tokens": 0}
    short = post(llmos, {**asked, "prompt": [40, 41, 42]})["choices"][0]["logprobs"]
    long = post(llmos, {**asked, "prompt": [40, 41, 42, 43, 44]})["choices"][0]["logprobs"]
    got = long["token_logprobs"][1:3]
    assert short["token_logprobs"][1:] == pytest.approx(got, abs=1e-3)


def test_a_long_prompt_met_again_is_read_from_the_cache(client: openai.OpenAI) -> None:
    asked = {**GREEDY, "max_tokens": 2}
    asked["messages"] = [{"role": "user", "content": "Where is the station, please? " * 8}]
    first, second = (client.chat.completions.create(**asked) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert second.usage is not None
    details = second.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens
    assert details.cached_tokens > second.usage.prompt_tokens // 2
