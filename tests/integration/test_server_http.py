"""A real server process with the echo engine, asked over TCP and its Unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from llmos import load_model
from llmos.errors import AuthenticationError, ContextLengthError, ModelNotFoundError, NotFoundError
from llmos.sdk.client import Client
from llmos.sdk.connect import Endpoint, find_server, read_admin_key, wait_for_server
from llmos.settings import Settings, load_settings
from llmos.system import open_system
from llmos.types import NewVersion

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?:\n你好世界，！"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDLESS = {"max_tokens": 10**7, "ignore_eos": True}
MAIN = """
import sys
from llmos.server.process import run_foreground
from llmos.settings import load_settings
run_foreground(load_settings({"home": sys.argv[1], "port": 0, "threads": 1}))
print("heavy:", sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""


def _add_models(settings: Settings) -> None:
    vocabulary = {"~": 0} | {char: i + 1 for i, char in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["~"])
    base = {"engine": "echo", "architecture": "Echo", "model_type": "echo"}
    base |= {"context_tokens": 10**8, "vocab_size": len(ALPHABET) + 1, "eos_ids": [0]}
    manifests = {
        "talker": {**base, "task": "chat", "chat_template": TEMPLATE},
        "small": {**base, "task": "generate", "context_tokens": 10},
        "translator": {
            **base,
            "task": "translate",
            "translation": {"prefix": "", "pairs": [["en", "zh"]]},
        },
        "judge": {**base, "task": "classify", "labels": ["bad", "good"]},
    }
    system = open_system(settings)
    for name, manifest in manifests.items():
        files = {
            "config.json": system.blobs.put_bytes(b"{}"),
            "tokenizer.json": system.blobs.put_bytes(tokenizer.to_str().encode()),
        }
        system.library.add(NewVersion("model", name, files, manifest), "admin")
    system.database.close()
    system.lock.release()


class Server:
    """The process and where it is."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings({"home": home}, {})
        _add_models(self.settings)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.endpoint = wait_for_server(self.settings, timeout_s=60)
        except BaseException:
            self.process.kill()
            print(self.process.communicate())
            raise
        self.key = read_admin_key(self.settings) or ""

    def client(self) -> Client:
        return Client(self.endpoint, self.key)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.endpoint.url}/v1", api_key=self.key, max_retries=0)

    def stop(self) -> tuple[str, str]:
        """End it and return what it wrote."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.fixture
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with server.openai() as made:
        yield made


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


def num_leases(client: Client) -> int:
    return sum(model["leases"] for model in client.ps()["models"])


# -- the unmodified openai client ------------------------------------------------------------------

HI: Any = [{"role": "user", "content": "你好, hi"}]


def test_openai_lists_and_retrieves_models(ai: openai.OpenAI) -> None:
    assert {"talker", "small"} <= {model.id for model in ai.models.list()}
    assert ai.models.retrieve("talker").object == "model"
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ai.models.retrieve("nobody")


def test_openai_chats(ai: openai.OpenAI) -> None:
    done = ai.chat.completions.create(model="talker", messages=HI, n=2, seed=1, temperature=0)
    assert [choice.message.content for choice in done.choices] == ["你好, hi"] * 2
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (6, 12)


def test_openai_streams_with_usage(ai: openai.OpenAI) -> None:
    stream = ai.chat.completions.create(
        model="talker", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "你好, hi"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12


def test_openai_stop_and_logprobs(ai: openai.OpenAI) -> None:
    done = ai.chat.completions.create(
        model="talker", messages=HI, stop=[", "], logprobs=True, top_logprobs=1
    )
    choice = done.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("你好", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.token for token in choice.logprobs.content] == ["你", "好"]
    assert bytes(choice.logprobs.content[0].bytes or []) == "你".encode()


def test_openai_completes(ai: openai.OpenAI) -> None:
    done = ai.completions.create(model="small", prompt="abc", max_tokens=2, logprobs=1, echo=False)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("ab", "length")
    stream = ai.completions.create(model="small", prompt="abc", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "abc"


def test_openai_gets_typed_errors(server: Server, ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="20 tokens") as raised:
        ai.completions.create(model="small", prompt="a" * 20)
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        ai.completions.create(model="small", prompt="a", max_tokens=-1)
    with (
        openai.OpenAI(base_url=f"{server.endpoint.url}/v1", api_key="no", max_retries=0) as wrong,
        pytest.raises(openai.AuthenticationError),
    ):
        wrong.models.list()


# -- the SDK ---------------------------------------------------------------------------------------


def test_load_model_over_http(server: Server) -> None:
    model = load_model("talker", url=server.endpoint.url, api_key=server.key)
    assert model.chat([{"role": "user", "content": "hello"}]) == "hello"
    chunks = list(model.generate("hello", stream=True))
    assert "".join(chunk.text for chunk in chunks) == "hello"
    judge = load_model("judge", url=server.endpoint.url, api_key=server.key)
    assert judge.classify("abc")["label"] == "good"
    translator = load_model("translator", url=server.endpoint.url, api_key=server.key)
    assert translator.translate("Hi. Hi.", source_lang="en", target_lang="zh") == "Hi.Hi."
    model.client.close()
    judge.client.close()
    translator.client.close()


def test_the_socket_answers_as_tcp_does(server: Server, client: Client) -> None:
    assert server.endpoint.socket is not None
    with Client(Endpoint(server.endpoint.url), server.key) as tcp:
        assert tcp.models() == client.models()
        with pytest.raises(ModelNotFoundError):
            tcp.model("nobody")
    with Client(server.endpoint) as keyless, pytest.raises(AuthenticationError):
        keyless.models()
    with pytest.raises(ContextLengthError):
        client.generate("small", "a" * 50)


def test_files_go_up_and_come_down(server: Server, client: Client, tmp_path: Path) -> None:
    data = os.urandom(5 * 2**20)
    (tmp_path / "data.bin").write_bytes(data)
    stored = client.upload(tmp_path / "data.bin")
    assert client.upload(tmp_path / "data.bin") == stored
    with pytest.raises(NotFoundError):
        client.transport.response("GET", "/api/v1/models/small/files/none")
    out = client.export_model("small", tmp_path / "out")
    expected = {"config.json", "tokenizer.json", "manifest.json"}
    assert {path.name for path in out.iterdir()} == expected


def test_the_servers_own_page_and_docs_answer(client: Client) -> None:
    assert "llm<span>os" in client.transport.response("GET", "/").text
    assert "/v1/chat/completions" in client.transport.response("GET", "/docs").text


# -- streams that end early ------------------------------------------------------------------------


def test_closing_a_stream_stops_the_generation(client: Client) -> None:
    stream = client.generate("talker", "abc", stream=True, n=3, **ENDLESS)
    assert next(stream)["text"]
    assert num_leases(client) == 1
    stream.close()  # type: ignore[attr-defined]
    until(lambda: num_leases(client) == 0)


def test_leaving_while_a_plain_answer_is_made_stops_the_generation(
    server: Server, client: Client
) -> None:
    host, _, port = server.endpoint.url.removeprefix("http://").partition(":")
    body = json.dumps({"model": "talker", "prompt": "abc", **ENDLESS}).encode()
    head = f"POST /api/v1/generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: num_leases(client) == 1)
    until(lambda: num_leases(client) == 0)


def test_leaving_during_an_upload_leaves_nothing(server: Server, client: Client) -> None:
    host, _, port = server.endpoint.url.removeprefix("http://").partition(":")
    temporary = server.settings.blobs_path / "tmp"
    head = f"POST /api/v1/blobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: {2**30}\r\n"
    head += f"Authorization: Bearer {server.key}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"x" * 2**21)
        until(lambda: any(temporary.iterdir()))
    until(lambda: not any(temporary.iterdir()))


def test_a_slow_reader_does_not_disturb_others(client: Client) -> None:
    slow = client.generate("talker", "abc", stream=True, **ENDLESS)
    next(slow)
    for _ in range(5):
        assert client.generate("talker", "abc")["text"] == "abc"
    slow.close()  # type: ignore[attr-defined]


def test_many_streams_at_once_keep_apart(server: Server) -> None:
    async def ask(ai: openai.AsyncOpenAI, text: str) -> str:
        stream = await ai.completions.create(model="talker", prompt=text, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_of(texts: list[str]) -> list[str]:
        url = f"{server.endpoint.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=server.key) as ai:
            return await asyncio.gather(*(ask(ai, text) for text in texts))

    texts = [f"{letter} likes {letter * 5}." for letter in "abcdefghijklmnopqrst"]
    assert asyncio.run(all_of(texts)) == texts


# -- the end ---------------------------------------------------------------------------------------


def test_shutdown_finishes_live_streams_and_never_saw_torch(tmp_path: Path) -> None:
    server = Server(tmp_path / "home")
    with server.client() as client:
        assert client.classify("abc", "judge")["label"] == "good"
        assert client.translate("Hi", "en", "zh", "translator")["text"] == "Hi"
        assert client.chat("talker", [{"role": "user", "content": "x"}])["text"] == "x"
        stream = client.generate("talker", "abc", stream=True, max_tokens=3000, ignore_eos=True)
        texts = [next(stream)["text"]]
        ending = threading.Thread(target=client.shutdown)
        ending.start()
        texts += [event["text"] for event in stream]
        ending.join()
        assert len("".join(texts)) == 3000
    out, err = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, err
    assert "Traceback" not in err
    assert out.strip() == "heavy: []"
    assert find_server(server.settings) is None
