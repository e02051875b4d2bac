"""llmos and its peers without a server around them: one small adapter each, all taking turns.

A contestant is a process of its own, in its own environment, that loads the model once and stays;
while others have their turn it is stopped (SIGSTOP), so that it takes neither cores nor memory
bandwidth. ``python bench/peers.py install`` makes the environments and builds llama.cpp.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from llmos.library.manifest import build_manifest
from shapes import PEERS_HOME, Files, make

HERE = Path(__file__).parent
CONTEXT_TOKENS = 4096
LLAMA_VERSION = "0.3.36"
ENVIRONMENTS = ("openvino", "convert", "vllm", "queue", "vectors", "datatrove")
LLAMA_TARGETS = ("llama-server", "llama-batched-bench", "llama-bench", "llama-quantize")


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement: reading all prompts, then writing with every row under way."""

    prefill_s: float
    decode_s: float
    num_prefill: int
    num_decode: int
    num_rows: int

    @property
    def prefill_rate(self) -> float:
        return self.num_prefill / self.prefill_s

    @property
    def decode_rate(self) -> float:
        return self.num_decode / self.decode_s

    @property
    def step_ms(self) -> float:
        return 1000 * self.decode_s / (self.num_decode / self.num_rows)


class Contestant(Protocol):
    """Something that generates; ``weights_bytes`` is what one decode step reads."""

    name: str
    weights_bytes: int

    def start(self) -> None: ...
    def turn(self, prompts: list[list[int]], num_tokens: int) -> Turn: ...
    def peak_rss_bytes(self) -> int: ...
    def stop(self) -> None: ...


class Worker:
    """A process that answers turns (see workers/turns.py).

    Args:
        python: of the environment to run in.
        script: under workers/.
        options: what the script loads.
    """

    def __init__(
        self,
        name: str,
        python: Path,
        script: str,
        options: Mapping[str, Any],
        weights_bytes: int,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.weights_bytes = weights_bytes
        self._command = [str(python), str(HERE / "workers" / script), json.dumps(options)]
        self._environ = environ or {}
        self._process: subprocess.Popen[str] | None = None
        self._log = Path(tempfile.mkstemp(prefix="llmos-bench-", suffix=".log")[1])

    def start(self) -> None:
        """Start it and wait until the model is loaded."""
        with self._log.open("w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = spawn(self._command, self._environ, text=True, bufsize=1, **pipes)
        self._answer()
        self._pause()

    def turn(self, prompts: list[list[int]], num_tokens: int) -> Turn:
        """Write one token for the first half of the prompts, ``num_tokens`` for the second."""
        self._signal(signal.SIGCONT)
        half = len(prompts) // 2
        first, second = prompts[:half], prompts[half:]
        prefill_s = self._generate(first, 1)["seconds"]
        whole = self._generate(second, num_tokens)
        self._pause()
        num_prefill = sum(len(prompt) for prompt in first)
        return Turn(prefill_s, whole["decode_s"], num_prefill, whole["num_decode"], half)

    def peak_rss_bytes(self) -> int:
        """Return the peak of the process and its children, summed."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return sum(peak_rss(one.pid) for one in (parent, *parent.children(recursive=True)))

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            end_group(self._process)
            self._process = None
        self._log.unlink(missing_ok=True)

    def _generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        print(json.dumps({"prompts": prompts, "max_tokens": max_tokens}), file=self._process.stdin)
        answer = self._answer()
        if answer["counts"] != [max_tokens] * len(prompts):
            sys.exit(f"{self.name} wrote {answer['counts']} tokens where {max_tokens} were asked")
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended:\n{self._log.read_text('utf-8', 'replace')[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


class BatchedBench:
    """llama.cpp's own batched benchmark: it times reading and writing apart, in one short run."""

    def __init__(self, name: str, program: Path, model: Path, weights_bytes: int) -> None:
        self.name = name
        self.weights_bytes = weights_bytes
        self._program = program
        self._model = model
        self._peak_bytes = 0

    def start(self) -> None:
        """Nothing stays between turns."""

    def turn(self, prompts: list[list[int]], num_tokens: int) -> Turn:
        """Measure as many rows of the same lengths; it makes up its own prompts."""
        rows, length = len(prompts) // 2, len(prompts[0])
        threads = str(os.cpu_count())
        sizes = ("-npp", str(length), "-ntg", str(num_tokens), "-npl", str(rows))
        context = ("-c", str(rows * (length + num_tokens) + 256), "-b", "2048", "-ub", "512")
        command = [str(self._program), "-m", str(self._model), *sizes, *context]
        command += ["-t", threads, "-tb", threads, "--output-format", "jsonl"]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            assert process.stdout is not None
            said: dict[str, Any] = {}
            for line in process.stdout:
                self._peak_bytes = max(self._peak_bytes, peak_rss(process.pid))
                if line.startswith("{"):
                    said = json.loads(line)
            if process.wait() != 0 or not said:
                log.seek(0)
                sys.exit(f"{self.name} failed:\n{log.read()[-4000:]}")
        return Turn(said["t_pp"], said["t_tg"], rows * length, rows * num_tokens, rows)

    def peak_rss_bytes(self) -> int:
        """Return the peak of the largest run so far."""
        return self._peak_bytes

    def stop(self) -> None:
        """Nothing stays between turns."""


# -- who there is ----------------------------------------------------------------------------------


def contestants(files: Files, names: Iterable[str]) -> list[Contestant]:
    """Return the contestants of these names, their models made."""
    return [_MAKERS[name](files, name) for name in names]


def _llmos(files: Files, name: str) -> Contestant:
    form = name.replace(" ", "-") if name != "llmos bf16" else "hf"
    make(files.home, files.shape, [form], files.seed)
    manifest = build_manifest(files.path(form)).to_dict()
    options = {"model": str(files.path(form)), "manifest": manifest, "threads": os.cpu_count()}
    weights = files.weights_bytes(form)
    environ = {"OMP_WAIT_POLICY": "PASSIVE"}
    return Worker(name, Path(sys.executable), "run_llmos.py", options, weights, environ)


def _llama(files: Files, name: str) -> Contestant:
    form = name.split()[-1]
    make(files.home, files.shape, [form], files.seed)
    program = llama_program(files.home, "llama-batched-bench")
    return BatchedBench(name, program, files.path(form), files.weights_bytes(form))


def _openvino(files: Files, name: str) -> Contestant:
    form = f"ov-{name.split()[-1]}"
    make(files.home, files.shape, [form], files.seed)
    options = {"model": str(files.path(form)), "threads": os.cpu_count()}
    python = environment_python(files.home, "openvino")
    return Worker(name, python, "run_openvino.py", options, files.weights_bytes(form))


def _vllm(files: Files, name: str) -> Contestant:
    options = {"model": str(files.path("hf")), "context_tokens": CONTEXT_TOKENS}
    weights, python = files.weights_bytes("hf"), environment_python(files.home, "vllm")
    return Worker(name, python, "run_vllm.py", options, weights, vllm_environ(files.home))


def _transformers(files: Files, name: str) -> Contestant:
    options = {"model": str(files.path("hf")), "threads": os.cpu_count()}
    weights = files.weights_bytes("hf")
    return Worker(name, Path(sys.executable), "run_transformers.py", options, weights)


_MAKERS = {
    "llmos int8": _llmos,
    "llmos int4": _llmos,
    "llmos bf16": _llmos,
    "llama.cpp f16": _llama,
    "llama.cpp q8_0": _llama,
    "llama.cpp q4_0": _llama,
    "openvino int8": _openvino,
    "openvino int4": _openvino,
    "vllm bf16": _vllm,
    "transformers bf16": _transformers,
}
NAMES = tuple(_MAKERS)


# -- processes -------------------------------------------------------------------------------------


def spawn(
    command: Sequence[str], environ: Mapping[str, str], **options: Any
) -> subprocess.Popen[Any]:
    """Start a process that leads its own group; this one ends it even where it is terminated."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return subprocess.Popen(command, env=environment(environ), start_new_session=True, **options)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with the hub out of reach, and ``more``."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "LLMOS_"))}
    return kept | offline | dict(more)


def vllm_environ(home: Path) -> dict[str, str]:
    """Return what vLLM's CPU build wants to be told: its cache's GiB, and the OpenMP it is fastest
    with (its documentation asks for it)."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CACHE_ROOT": str(home / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "LD_PRELOAD": str(home / "vllm" / "lib" / "libiomp5.so"),
    }


def environment_python(home: Path, name: str) -> Path:
    """Return the interpreter of a peer's environment."""
    python = home.expanduser() / name / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: run `python bench/peers.py install --peers-home {home}`")
    return python


def llama_program(home: Path, name: str) -> Path:
    """Return one of llama.cpp's programs."""
    program = home.expanduser() / "llama-cpp" / "build" / "bin" / name
    if not program.exists():
        sys.exit(f"{program} is missing: run `python bench/peers.py install --peers-home {home}`")
    return program


def peak_rss(pid: int) -> int:
    """Return the most memory a process ever held; 0 where it is gone or the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process that leads its own group, with all its children; first kindly."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- installing ------------------------------------------------------------------------------------


def install(home: Path, wanted: Sequence[str]) -> None:
    """Make the environments that are missing, and build llama.cpp where it is not built."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ENVIRONMENTS:
        if name in wanted and not (home / name).exists():
            _install_environment(home / name, HERE / "peers" / f"{name}.txt")
    if "llama-cpp" in wanted and not (home / "llama-cpp/build/bin/llama-server").exists():
        _build_llama(home / "llama-cpp")


def _install_environment(target: Path, requirements: Path) -> None:
    part = target.with_name(f"{target.name}.failed")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _run(sys.executable, "-m", "venv", target)
        pip = (target / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps")
        torch = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
        _run(*pip, *torch, "--requirement", requirements)
    except SystemExit:
        target.rename(part)
        raise


def _build_llama(target: Path) -> None:
    """Build the programs from llama-cpp-python's source distribution, for this processor."""
    target.mkdir(exist_ok=True)
    name = f"llama_cpp_python-{LLAMA_VERSION}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    source = ("--no-binary", "llama-cpp-python", f"llama-cpp-python=={LLAMA_VERSION}")
    _run(*pip, *source, "--dest", target)
    with tarfile.open(target / f"{name}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    build, vendored = target / "build", target / name / "vendor" / "llama.cpp"
    flags = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF")
    flags += ("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF")
    _run("cmake", "-S", vendored, "-B", build, *flags)
    _run("cmake", "--build", build, "-j", str(os.cpu_count()), "--target", *LLAMA_TARGETS)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    begun = time.monotonic()
    if subprocess.run(words).returncode != 0:
        sys.exit(f"failed: {' '.join(words)}")
    print(f"  {time.monotonic() - begun:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("install",))
    parser.add_argument("--only", nargs="*", default=[*ENVIRONMENTS, "llama-cpp"])
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    options = parser.parse_args()
    install(options.peers_home.expanduser(), options.only)


if __name__ == "__main__":
    main()
