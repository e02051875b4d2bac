"""A key that hides personal data, by the unmodified `openai` client, over a real server process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest
from tests.echoserver import EchoServer, manifests, tokenizer_json

from llmos.sdk.client import Client
from llmos.sdk.connect import Endpoint
from llmos.settings import load_settings
from llmos.system import open_system
from llmos.types import NewVersion

HELPER = "llmos.tasks.anonymise"
TEMPLATE = "{{ messages[-1].content | replace('^', '@') | replace('~', '.') }}"
SPELT = "Write to fern^example~org, who knows more of it. That is all there is to say. Good luck!"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """One more model, which says what nobody told it."""
    home = tmp_path_factory.mktemp("home")
    system = open_system(load_settings({"home": home}, {}))
    files = {
        "config.json": system.blobs.put_bytes(b'{"name": "speller"}'),
        "tokenizer.json": system.blobs.put_bytes(tokenizer_json()),
    }
    manifest = {**manifests()["talker"], "chat_template": TEMPLATE}
    system.library.add(NewVersion("model", "speller", files, manifest), "admin")
    system.database.close()
    system.lock.release()
    started = EchoServer(home)
    yield started
    if started.process.poll() is None:
        started.stop()


def helper_of(server: EchoServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if HELPER in child.cmdline())


def text_of(stream: Any) -> list[str]:
    return [event.choices[0].delta.content or "" for event in stream if event.choices]


def test_personal_data_is_hidden_from_the_model_the_client_the_disk_and_the_log(
    server: EchoServer,
) -> None:
    with Client(Endpoint(server.url), server.key) as admin:
        made = admin.create_key("desk", anonymise={"types": ["EMAIL", "PHONE"]})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=made["key"], max_retries=0) as ai:
        said: Any = [{"role": "user", "content": "Ask rose@example.org or +44 20 7946 0018."}]
        raw = ai.chat.completions.with_raw_response.create(model="talker", messages=said)
        assert raw.headers["x-llmos-anonymised"] == "EMAIL=1,PHONE=1"
        done = raw.parse()
        assert done.choices[0].message.content == "Ask [EMAIL] or [PHONE]."
        assert done.usage is not None
        assert done.usage.prompt_tokens == len("Ask [EMAIL] or [PHONE].")
        spelt: Any = [{"role": "user", "content": SPELT}]
        deltas = text_of(ai.chat.completions.create(model="speller", messages=spelt, stream=True))
        assert "".join(deltas) == SPELT.replace("fern^example~org", "[EMAIL]")
        assert len(deltas) > 2
        asked: Any = {"model": "speller", "input": SPELT + " rose@example.org"}
        kept_raw = ai.responses.with_raw_response.create(**asked)
        assert kept_raw.headers["x-llmos-anonymised"] == "EMAIL=1"
        assert kept_raw.parse().output_text.count("[EMAIL]") == 2
        os.kill(helper_of(server).pid, signal.SIGKILL)
        with pytest.raises(openai.InternalServerError, match="nothing was passed on") as failed:
            ai.completions.create(model="writer", prompt="not seen before")
        assert failed.value.code == "anonymise_failed"
        again = ai.completions.create(model="writer", prompt="mail rose@example.org")
        assert again.choices[0].text == "mail [EMAIL]"
    server.stop()
    files = [path for path in server.settings.home.rglob("*") if path.is_file()]
    kept = {path.name: path.read_bytes() for path in files}
    assert not [name for name, data in kept.items() if b"rose@" in data or b"fern@" in data]
    log = b"".join(data for name, data in kept.items() if name.endswith((".log", "said.txt")))
    assert b"EMAIL=1,PHONE=1" in log
