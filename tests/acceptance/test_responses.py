"""The Responses API and Ollama's, by their unmodified clients, with a real model behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from harness import Llmos

MODEL = "starter-chat"
HELLO = "Hello, who are you?"
MOODS = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
MOODS |= {"additionalProperties": False}


@pytest.fixture(scope="module")
def ai(llmos: Llmos, starter_models: tuple[str, ...]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def client(llmos: Llmos, starter_models: tuple[str, ...]) -> Iterator[ollama.Client]:
    headers = {"Authorization": f"Bearer {llmos.key}"}
    with ollama.Client(host=llmos.url, headers=headers) as made:
        yield made


def test_every_door_gives_the_same_answer(ai: openai.OpenAI, client: ollama.Client) -> None:
    turn: Any = [{"role": "user", "content": HELLO}]
    chat = ai.chat.completions.create(model=MODEL, messages=turn, temperature=0, max_tokens=24)
    wanted = chat.choices[0].message.content
    asked: Any = {"model": MODEL, "input": HELLO, "temperature": 0, "max_output_tokens": 24}
    assert ai.responses.create(**asked).output_text == wanted
    with ai.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == wanted
    assert len(deltas) > 3
    options = {"temperature": 0, "num_predict": 24}
    assert client.chat(MODEL, messages=turn, options=options).message.content == wanted
    assert client.generate(MODEL, prompt=HELLO, options=options).response == wanted


def test_a_conversation_is_remembered(ai: openai.OpenAI) -> None:
    first = ai.responses.create(model=MODEL, input=HELLO, temperature=0, max_output_tokens=24)
    told = ai.responses.create(
        model=MODEL, input="And you?", previous_response_id=first.id, max_output_tokens=24
    )
    alone = ai.responses.create(model=MODEL, input="And you?", max_output_tokens=24)
    assert told.usage is not None
    assert alone.usage is not None
    assert first.usage is not None
    said_before = first.usage.input_tokens + first.usage.output_tokens
    assert told.usage.input_tokens > alone.usage.input_tokens + said_before // 2


def test_a_schema_is_kept_to_by_either_door(ai: openai.OpenAI, client: ollama.Client) -> None:
    form: Any = {"type": "json_schema", "name": "mood", "schema": MOODS, "strict": True}
    made = ai.responses.create(model=MODEL, input="How are you?", text={"format": form}, top_p=0.9)
    assert json.loads(made.output_text)["mood"] in ("good", "bad")
    turn = [{"role": "user", "content": "How are you?"}]
    said = client.chat(MODEL, messages=turn, format=MOODS).message.content
    assert json.loads(said or "")["mood"] in ("good", "bad")
