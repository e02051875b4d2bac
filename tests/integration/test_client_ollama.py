"""The unmodified `ollama` client against a real server, with a key and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import pytest
from safetensors.numpy import save_file
from tests.echoserver import EchoServer
from tests.hubserver import running_hub
from tests.unit.library.conftest import tokenizer_json

HI: Any = [{"role": "user", "content": "你好, hi"}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
REPO = "tiny/llama"


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server that pulls from a hub of our own, which has one tiny model."""
    model = tmp_path_factory.mktemp("model")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8}
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").write_text(tokenizer_json())
    weights = {"model.embed_tokens.weight": np.ones((8, 64), np.float32)}
    save_file(weights, model / "model.safetensors")
    with running_hub() as hub:
        hub.add(REPO, model)
        environ = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("hf"))}
        started = EchoServer(
            tmp_path_factory.mktemp("home"), {**environ, "LLMOS_TRUST_LOOPBACK": "1"}
        )
        yield started
        started.stop()


@pytest.fixture(scope="module")
def client(server: EchoServer) -> Iterator[ollama.Client]:
    headers = {"Authorization": f"Bearer {server.key}"}
    with ollama.Client(host=server.url, headers=headers) as made:
        yield made


@pytest.fixture(scope="module")
def keyless(server: EchoServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


def test_a_chat_is_answered(client: ollama.Client) -> None:
    answer = client.chat("talker", messages=HI, options={"temperature": 0, "num_ctx": 2048})
    assert (answer.message.role, answer.message.content) == ("assistant", "你好, hi")
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 6)
    assert (answer.total_duration or 0) > 0


def test_a_chat_streams(client: ollama.Client) -> None:
    parts = list(client.chat("talker", messages=HI, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "你好, hi"
    assert [part.done for part in parts][-2:] == [False, True]


def test_a_prompt_is_answered_and_cut_at_num_predict(client: ollama.Client) -> None:
    assert client.generate("talker", prompt="Hello").response == "Hello"
    parts = list(client.generate("writer", prompt="Hello", stream=True))
    assert "".join(part.response or "" for part in parts) == "Hello"
    cut = client.generate("writer", prompt="Hello", options={"num_predict": 2})
    assert (cut.response, cut.done_reason) == ("He", "length")


def test_a_tool_is_called_and_answered(client: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": CALL}]
    for stream in (False, True):
        got = client.chat("talker", messages=messages, tools=[add], stream=stream)  # type: ignore[call-overload]
        replies = list(got) if stream else [got]
        (reply,) = [one.message for one in replies if one.message.tool_calls]
        (call,) = reply.tool_calls
        assert (call.function.name, call.function.arguments) == ("add", {"a": 1, "b": 2})
        answered = {"role": "tool", "tool_name": "add", "content": "3"}
        told = client.chat("talker", messages=[*messages, reply, answered], tools=[add])
        assert told.message.content == "3"


def test_a_format_is_a_schema_or_any_json(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    for wanted in (schema, "json"):
        asked: Any = {"messages": [{"role": "user", "content": '{"x": 1}'}], "format": wanted}
        assert json.loads(client.chat("talker", **asked).message.content or "") == {"x": 1}
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("talker", prompt="x", format={"type": "no such type"})
    assert caught.value.status_code == 400


def test_thoughts_are_told_apart_and_may_be_hidden(client: ollama.Client) -> None:
    told = client.chat("thinker", messages=HI).message
    assert (told.thinking, told.content) == ("你好, hi", "ok")
    told = client.chat("thinker", messages=HI, think=True).message
    assert (told.thinking, told.content) == ("你好, hi", "!ok")
    hidden = client.chat("thinker", messages=HI, think=False).message
    assert (hidden.thinking, hidden.content) == (None, "ok")


def test_texts_are_embedded(client: ollama.Client) -> None:
    got = client.embed("vectors", input=["one", "two"])
    assert len(got.embeddings) == 2
    assert got.prompt_eval_count == 6
    assert list(client.embeddings("vectors", prompt="one").embedding) == got.embeddings[0]


def test_models_are_listed_shown_and_seen_running(client: ollama.Client) -> None:
    models = {model.model: model for model in client.list().models}
    assert {"talker:latest", "writer:latest", "vectors:latest"} <= models.keys()
    details = models["talker:latest"].details
    assert details is not None
    assert (details.parameter_size, details.quantization_level) == ("494M", "BF16")
    shown = client.show("talker:latest")
    assert shown.capabilities == ["completion", "tools"]
    assert client.show("thinker").capabilities == ["completion", "thinking"]
    assert client.show("vectors").capabilities == ["embedding"]
    assert "messages[-1]" in (shown.template or "")
    assert "temperature" in (client.show("writer").parameters or "")
    assert (shown.modelinfo or {})["echo.context_length"] == 2000
    client.chat("talker", messages=HI)
    running = {model.model: model for model in client.ps().models}
    assert running["talker:latest"].context_length == 2000
    assert running["talker:latest"].expires_at is not None


def test_a_model_is_pulled_with_its_progress(client: ollama.Client) -> None:
    steps = list(client.pull(f"hf.co/{REPO}", stream=True))
    assert steps[0].status == "pulling manifest"
    assert steps[-1].status == "success"
    assert all((step.completed or 0) <= (step.total or 0) for step in steps)
    assert "llama:latest" in {model.model for model in client.list().models}
    assert client.pull(REPO).status == "success"
    assert "llama:1" in {model.model for model in client.list().models}


@pytest.mark.parametrize("stream", [False, True])
def test_a_pull_that_fails_says_why(client: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match="nobody/nothing"):
        list(client.pull("nobody/nothing", stream=stream))
    with pytest.raises(ollama.ResponseError, match="a/b/c") as caught:
        list(client.pull("a/b/c", stream=stream))
    assert caught.value.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_are_the_clients_own_errors(client: ollama.Client, stream: bool) -> None:
    for model, content, status, says in (
        ("nobody", "x", 404, "nobody"),
        ("talker", "x" * 3000, 400, "2000"),
        ("vectors", "x", 400, "embed"),
    ):
        messages = [{"role": "user", "content": content}]
        with pytest.raises(ollama.ResponseError, match=says) as caught:
            list(client.chat(model, messages=messages, stream=stream))  # type: ignore[call-overload]
        assert caught.value.status_code == status


def test_a_program_without_a_key_may_ask_but_not_change(keyless: ollama.Client) -> None:
    assert keyless.chat("talker", messages=HI).message.content == "你好, hi"
    assert keyless.list().models
    with pytest.raises(ollama.ResponseError) as caught:
        keyless.pull(REPO)
    assert caught.value.status_code == 403


def test_a_wrong_key_is_no_key(server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", server.key)
    with ollama.Client(host=server.url) as client:
        assert client.list().models
    monkeypatch.setenv("OLLAMA_API_KEY", "wrong")
    with ollama.Client(host=server.url) as client, pytest.raises(ollama.ResponseError) as caught:
        client.list()
    assert caught.value.status_code == 401


def test_a_home_without_trust_lets_nobody_in(tmp_path: Path) -> None:
    server = EchoServer(tmp_path / "home")
    try:
        with ollama.Client(host=server.url) as client, pytest.raises(ollama.ResponseError) as got:
            client.list()
        assert got.value.status_code == 401
        assert "API key" in got.value.error
    finally:
        server.stop()
