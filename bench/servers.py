"""llmos and its peers as servers that speak OpenAI's completions, one adapter each.

All listen on a free port of 127.0.0.1, take prompts as token ids (transformers: text) and stream.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

import streams
from llmos.library.manifest import build_manifest
from llmos.settings import load_settings
from llmos.storage.blobs import BlobStore
from llmos.system import open_system
from llmos.types import NewVersion
from peers import (
    CONTEXT_TOKENS,
    HERE,
    Turn,
    end_group,
    environment_python,
    llama_program,
    peak_rss,
    spawn,
    vllm_environ,
)
from shapes import Files, make
from streams import Stream
from workers.turns import decoding

START_S = 300
NUM_SLOTS = 40
KV_TOKENS = 40960
MODEL = "bench"
PRIORITIES = ("interactive", "batch")


class Server(Protocol):
    """A server process and how to ask it."""

    name: str
    port: int
    headers: dict[str, str]

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def body(
        self, prompt: Sequence[int], max_tokens: int, priority: str = "interactive", model: str = ""
    ) -> dict[str, Any]:
        """Return a request that streams exactly ``max_tokens``, greedily."""
        ...

    async def residents(self) -> dict[str, str]:
        """Return what state each model of several is in: ``ready``, ``loading`` or else."""
        ...


class Process:
    """A server of its own session; subclasses say its command and what makes it differ.

    Args:
        weights_bytes: what one decode step reads.
    """

    ready_path = "/health"

    def __init__(self, name: str, weights_bytes: int = 0) -> None:
        self.name = name
        self.weights_bytes = weights_bytes
        self.port = 0
        self.headers: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(tempfile.mkstemp(prefix="llmos-bench-", suffix=".log")[1])

    def command(self) -> list[str]:
        """Return the command that serves on ``port``."""
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.port = free_port()
        with self._log.open("wb") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = spawn(self.command(), self.environ(), **pipes)
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.name} did not start:\n{self._log.read_text('utf-8')[-4000:]}")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            asyncio.run(streams.get_json(self.port, self.ready_path, self.headers))
        except (OSError, EOFError, ValueError, streams.HttpError):
            return False
        return True

    def stop(self) -> None:
        """End it and its children."""
        if self._process is not None:
            end_group(self._process)
            self._process = None
        self._log.unlink(missing_ok=True)

    def body(
        self, prompt: Sequence[int], max_tokens: int, priority: str = "interactive", model: str = ""
    ) -> dict[str, Any]:
        return {
            "model": model or MODEL,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def residents(self) -> dict[str, str]:
        return {}

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and its children."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time the server and its children have taken."""
        times = [one.cpu_times() for one in self.processes()]
        return sum(one.user + one.system for one in times)

    def peak_rss_bytes(self) -> int:
        return sum(peak_rss(one.pid) for one in self.processes())

    def turn(self, prompts: list[list[int]], num_tokens: int) -> Turn:
        """As a contestant's (see peers.py), through HTTP streams."""
        self.signal(signal.SIGCONT)
        half = len(prompts) // 2
        begun = time.perf_counter()
        self._ask(prompts[:half], 1)
        prefill_s = time.perf_counter() - begun
        decode_s, num_decode = decoding(self._ask(prompts[half:], num_tokens))
        self.signal(signal.SIGSTOP)
        num_prefill = sum(map(len, prompts[:half]))
        return Turn(prefill_s, decode_s, num_prefill, num_decode, half)

    def _ask(self, prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        found = asyncio.run(ask_all(self, prompts, max_tokens))
        for one in found:
            if one.error or one.num_written != max_tokens:
                sys.exit(f"{self.name}: {one.num_written} of {max_tokens} tokens {one.error}")
        return [one.token_times for one in found]

    def signal(self, number: int) -> None:
        """Send a signal to the server and its children."""
        assert self._process is not None
        os.killpg(self._process.pid, number)


class LlmosServer(Process):
    """llmos with a home of its own, into which the models are put before it starts.

    Their manifests say that nothing is to be guessed: see serve_throughput.py.

    Args:
        models: name -> directory.
        memory_bytes: what its ledger may give out; 0: as it likes.
    """

    ready_path = "/ready"

    def __init__(
        self, name: str, models: Mapping[str, Path], memory_bytes: int = 0, weights_bytes: int = 0
    ) -> None:
        super().__init__(name, weights_bytes)
        self._models = models
        self._memory_bytes = memory_bytes
        self.home = Path(tempfile.mkdtemp(prefix="llmos-bench-home-"))

    def command(self) -> list[str]:
        program = [sys.executable, "-P", "-m", "llmos.cli.main"]
        return [*program, "up", "--foreground", "--port", str(self.port)]

    def environ(self) -> dict[str, str]:
        memory = {"LLMOS_MEMORY_BYTES": str(self._memory_bytes)} if self._memory_bytes else {}
        return {"LLMOS_HOME": str(self.home), **memory}

    def start(self) -> None:
        system = open_system(load_settings({"home": self.home}, {}))
        for version in self.versions(system.blobs):
            system.library.add(version, "admin")
        system.database.close()
        system.lock.release()
        super().start()
        key = (self.home / "admin.key").read_text("ascii").strip()
        self.headers = {"Authorization": f"Bearer {key}"}

    def versions(self, blobs: BlobStore) -> Iterator[NewVersion]:
        """Store the models' files; yield what to add to the library."""
        for name, directory in self._models.items():
            files = {path.name: blobs.put_file(path) for path in directory.iterdir()}
            manifest = build_manifest(directory).to_dict() | {"speculates": False}
            yield NewVersion("model", name, files, manifest)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def body(
        self, prompt: Sequence[int], max_tokens: int, priority: str = "interactive", model: str = ""
    ) -> dict[str, Any]:
        return {**super().body(prompt, max_tokens, priority, model), "priority": priority}

    async def residents(self) -> dict[str, str]:
        status = await streams.get_json(self.port, "/api/v1/ps", self.headers)
        return {one["name"].partition(":")[0]: one["state"] for one in status["models"]}


class LlamaServer(Process):
    """llama.cpp's server with one model, or as a router over a directory of them.

    Args:
        model: a GGUF file, or for the router a directory of them.
        max_models: how many the router keeps in memory; None: no router.
    """

    def __init__(
        self, name: str, program: Path, model: Path, weights_bytes: int = 0, max_models: int = 0
    ) -> None:
        super().__init__(name, weights_bytes)
        self._program = program
        self._model = model
        self._max_models = max_models

    def command(self) -> list[str]:
        threads = str(os.cpu_count())
        command = [str(self._program), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["-t", threads, "-tb", threads, "-np", str(NUM_SLOTS), "-c", str(KV_TOKENS)]
        command += ["--kv-unified", "--no-webui"]
        if self._max_models:
            return [
                *command,
                "--models-dir",
                str(self._model),
                "--models-max",
                str(self._max_models),
            ]
        return [*command, "-m", str(self._model)]

    async def residents(self) -> dict[str, str]:
        listed = await streams.get_json(self.port, "/models", self.headers)
        names = {"loaded": "ready"}
        states = {one["id"]: one["status"]["value"] for one in listed["data"]}
        return {name: names.get(state, state) for name, state in states.items()}


class VllmServer(Process):
    """vLLM's CPU build, with its priority scheduling."""

    def __init__(self, name: str, home: Path, model: Path, weights_bytes: int = 0) -> None:
        super().__init__(name, weights_bytes)
        self._home = home
        self._model = model

    def command(self) -> list[str]:
        # Its own command looks for a package named vllm, which the CPU build is not.
        module = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(self._model)]
        command = [str(environment_python(self._home, "vllm")), *module]
        command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT_TOKENS)]
        return [*command, "--max-num-seqs", "64", "--scheduling-policy", "priority"]

    def environ(self) -> dict[str, str]:
        return vllm_environ(self._home)

    def body(
        self, prompt: Sequence[int], max_tokens: int, priority: str = "interactive", model: str = ""
    ) -> dict[str, Any]:
        body = super().body(prompt, max_tokens, priority, model)
        return {**body, "priority": PRIORITIES.index(priority)}


class OpenVinoServer(Process):
    """OpenVINO GenAI's pipeline behind workers/serve_openvino.py."""

    def __init__(self, name: str, home: Path, model: Path, weights_bytes: int = 0) -> None:
        super().__init__(name, weights_bytes)
        self._home = home
        self._model = model

    def command(self) -> list[str]:
        python = environment_python(self._home, "openvino")
        script = HERE / "workers" / "serve_openvino.py"
        return [str(python), str(script), str(self._model), str(self.port), str(os.cpu_count())]


class TransformersServer(Process):
    """`transformers serve`; a model is named by its directory, and one idle for long is dropped."""

    def __init__(self, name: str, models: Mapping[str, Path], weights_bytes: int = 0) -> None:
        super().__init__(name, weights_bytes)
        self._models = models
        tokenizer = (next(iter(models.values())) / "tokenizer.json").read_text("utf-8")
        self._words = re.findall(r'"Ġ([a-z]{3,})":', tokenizer)

    def command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("transformers"))
        command = [program, "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--device", "cpu", "--dtype", "bfloat16", "--continuous-batching"]
        return [*command, "--cb-num-blocks", "160"]

    def body(
        self, prompt: Sequence[int], max_tokens: int, priority: str = "interactive", model: str = ""
    ) -> dict[str, Any]:
        dice = random.Random(sum(prompt))
        body = super().body(prompt, max_tokens, priority, str(self._models[model or MODEL]))
        del body["ignore_eos"]
        return {**body, "prompt": "".join(f" {dice.choice(self._words)}" for _ in prompt)}


# -- who there is ----------------------------------------------------------------------------------


def servers(files: Files, names: Iterable[str]) -> list[Process]:
    """Return the servers of one model, by the names that peers.py knows."""
    return [_server(files, name) for name in names]


def _server(files: Files, name: str) -> Process:
    kind, dtype = name.split()
    forms = {"llmos": f"llmos-{dtype}", "llama.cpp": dtype, "openvino": f"ov-{dtype}"}
    form = "hf" if dtype == "bf16" else forms[kind]
    make(files.home, files.shape, [form], files.seed)
    path, weights = files.path(form), files.weights_bytes(form)
    match kind:
        case "llmos":
            return LlmosServer(name, {MODEL: path}, weights_bytes=weights)
        case "llama.cpp":
            program = llama_program(files.home, "llama-server")
            return LlamaServer(name, program, path, weights)
        case "openvino":
            return OpenVinoServer(name, files.home, path, weights)
        case "vllm":
            return VllmServer(name, files.home, path, weights)
        case _:
            return TransformersServer(name, {MODEL: path}, weights)


async def ask_all(
    server: Server, prompts: Iterable[Sequence[int]], max_tokens: int, priority: str = "batch"
) -> list[Stream]:
    """Return the streams of all prompts, asked at once."""
    bodies = [server.body(prompt, max_tokens, priority) for prompt in prompts]
    asked = (streams.stream(server.port, body, server.headers) for body in bodies)
    return list(await asyncio.gather(*asked))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
