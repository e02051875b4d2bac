"""The engine process as the server sees it: messages over a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engines.families import (
    MANIFEST,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)

from llmos.engines.native.engine import NativeEngine
from llmos.kernel.protocol import (
    Cancel,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Output,
    Stats,
    Submit,
    SyncChannel,
    Unload,
    Unloaded,
    WorkFailed,
)
from llmos.types import GenerateWork, SamplingParams, TokensOut

TIMEOUT_S = 60
ENDLESS = SamplingParams(max_tokens=10**9, ignore_eos=True)


class HostProcess:
    """One engine process and our end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT_S)
        self.sock = ours
        self.channel = SyncChannel(ours, FromEngine)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmos.engines.host", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"LLMOS_DEVICE": "cpu", "LLMOS_THREADS": "1"},
        )
        theirs.close()

    def send(self, *messages: Any) -> None:
        self.channel.send_all(messages)

    def receive(self) -> Any | None:
        """Return the next message that is no Stats, which come whenever they are due."""
        while isinstance(message := self.channel.receive(), Stats):
            pass
        return message

    def receive_until(self, is_last: Callable[[Any], bool]) -> list[Any]:
        messages = []
        while not messages or not is_last(messages[-1]):
            message = self.receive()
            assert message is not None, "the engine process has ended"
            messages.append(message)
        return messages

    def wait_for(self, of_type: type) -> Any:
        return self.receive_until(lambda message: isinstance(message, of_type))[-1]

    def finish(self, *work_ids: str) -> dict[str, list[int]]:
        """Receive until these works have ended; return the tokens of every work heard of."""
        left, tokens = set(work_ids), dict[str, list[int]]()
        while left:
            message = self.receive()
            assert isinstance(message, Output), message
            out = message.out
            assert isinstance(out, TokensOut)
            tokens.setdefault(message.id, []).extend(piece.token_id for piece in out.pieces)
            if out.finish_reason:
                left.discard(message.id)
        return tokens

    def has_torch(self) -> bool:
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def close(self) -> int:
        self.sock.close()
        return self.process.wait(TIMEOUT_S)


@contextmanager
def running() -> Iterator[HostProcess]:
    host = HostProcess()
    try:
        yield host
    finally:
        host.sock.close()
        host.process.kill()
        host.process.wait()


@pytest.fixture
def host() -> Iterator[HostProcess]:
    with running() as process:
        yield process


@pytest.fixture(scope="module")
def llama_host(llama: Path) -> Iterator[HostProcess]:
    """One process for several tests, with a llama loaded: importing torch takes seconds."""
    with running() as process:
        process.send(Load("one", "native", str(llama), MANIFEST))
        process.wait_for(Loaded)
        yield process


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama"), "llama")


def load_echo(key: str = "echo") -> Load:
    return Load(key, "echo", "", {})


def test_it_ends_when_its_socket_closes_even_in_the_middle_of_work(host: HostProcess) -> None:
    host.send(load_echo(), Submit("early", "echo", greedy((1,), 1)))
    host.wait_for(Loaded)
    host.send(Submit("a", "echo", GenerateWork((1, 2), ENDLESS)))
    host.receive_until(lambda message: isinstance(message, Output))
    assert host.close() == 0


def test_ctrl_c_in_the_terminal_is_left_to_the_server(host: HostProcess) -> None:
    host.send(load_echo())
    host.wait_for(Loaded)
    host.process.send_signal(signal.SIGINT)
    host.send(Submit("a", "echo", greedy((1, 2), 5)))
    assert host.finish("a") == {"a": [1, 2]}


def test_a_message_that_is_none_ends_the_process(host: HostProcess) -> None:
    host.sock.sendall(b"\0\0\0\2hi")
    assert host.receive() is None


def test_a_kill_leaves_nothing_behind_but_a_closed_socket(host: HostProcess) -> None:
    host.send(load_echo())
    host.wait_for(Loaded)
    host.process.kill()
    assert host.receive() is None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_torch_is_imported_for_the_first_model_that_needs_it_while_streams_go_on(
    host: HostProcess, llama: Path
) -> None:
    host.send(load_echo())
    host.wait_for(Loaded)
    host.send(Submit("a", "echo", GenerateWork((1, 2), ENDLESS)))
    host.wait_for(Output)
    assert not host.has_torch()
    host.send(Load("llama", "native", str(llama), MANIFEST))
    during = host.receive_until(lambda message: isinstance(message, Loaded))
    assert len(during) > 100
    assert host.has_torch()
    host.send(Cancel("a"), Unload("echo"))
    host.wait_for(Unloaded)


def test_models_that_stream_at_once_while_another_loads_all_equal_generate(
    llama_host: HostProcess, llama: Path
) -> None:
    host, model = llama_host, load_oracle(llama)
    works = {str(i): prompt for i, prompt in enumerate(prompts(6))}
    expected = {i: generate(model, prompt, 30) for i, prompt in works.items()}
    host.send(Load("two", "native", str(llama), MANIFEST))
    host.wait_for(Loaded)
    host.send(Load("three", "native", str(llama), MANIFEST))
    for i, prompt in works.items():
        host.send(Submit(i, "one" if int(i) % 2 else "two", greedy(prompt, 30)))
    tokens: dict[str, list[int]] = {i: [] for i in works}
    num_left = len(works) + 1
    while num_left:
        message = host.receive()
        if isinstance(message, Output):
            tokens[message.id] += [piece.token_id for piece in message.out.pieces]
        num_left -= isinstance(message, Loaded) or bool(message.out.finish_reason)
    assert tokens == expected


def test_a_killed_engines_stream_goes_on_in_another_with_the_same_tokens(
    host: HostProcess, llama: Path
) -> None:
    sampling = SamplingParams(max_tokens=30, temperature=30.0, seed=9)
    work = GenerateWork(prompts(6)[5], sampling)
    other = NativeEngine()
    other.load(llama, MANIFEST, "cpu", 1)
    whole = run_works(other, {"a": work})["a"]
    host.send(Load("m", "native", str(llama), MANIFEST))
    host.wait_for(Loaded)
    host.send(Submit("a", "m", work))
    sent: list[int] = []
    while len(sent) < 4:
        sent += [piece.token_id for piece in host.wait_for(Output).out.pieces]
    host.process.kill()
    rest = run_works(other, {"a": msgspec.structs.replace(work, generated_ids=tuple(sent))})["a"]
    assert [*sent, *rest] == whole


def test_bad_models_and_bad_work_fail_alone(llama_host: HostProcess, tmp_path: Path) -> None:
    host = llama_host
    host.send(Load("none", "native", str(tmp_path), MANIFEST), load_echo())
    failed = host.wait_for(LoadFailed)
    assert (failed.key, failed.code) == ("none", "invalid_model")
    host.wait_for(Loaded)
    host.send(
        Submit("empty", "echo", greedy((), 5)),
        Submit("nowhere", "none", greedy((1,), 5)),
        Submit("good", "echo", greedy((1, 2), 5)),
    )
    assert host.wait_for(WorkFailed).code == "invalid_request"
    assert host.wait_for(WorkFailed).code == "engine_error"
    assert host.finish("good") == {"good": [1, 2]}
