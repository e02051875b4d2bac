"""A real llmos for acceptance tests: its own home and HOME, its CLI as processes, its kills."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import psutil

from llmos.cli import main
from llmos.sdk.client import Client
from llmos.sdk.connect import connect
from llmos.settings import load_settings
from llmos.system import System, open_system

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
POLL_S = 0.02
COMMAND_TIMEOUT_S = 120.0
SMALL = (
    "steps=40",
    "batch_size=4",
    "eval_every=20",
    "eval_batches=1",
    "checkpoint_every=10",
    "optimizer.warmup_steps=5",
)
"""Changes that make recipes/char-gpt.yaml a matter of seconds."""


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Return the first true value of ``condition``; fail with ``what`` was awaited otherwise."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(POLL_S)  # it is of other processes, which tell nobody
    return value


AS_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Llmos:
    """One llmos home and what a user does with it. Nothing outside ``root`` should be written."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.home = root / "home"
        self.user_home = root / "user"
        self.temp = root / "tmp"
        for folder in (self.user_home, self.temp):
            folder.mkdir(parents=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.user_home),
            "TMPDIR": str(self.temp),
            "LANG": "C.UTF-8",
            "LLMOS_HOME": str(self.home),
            "LLMOS_PORT": "0",
            "LLMOS_THREADS": "1",
            **environment,
        }

    def run(
        self,
        *arguments: str | Path,
        stdin: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run one `llmos` command to its end; text in, text out."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
        )

    def ok(self, *arguments: str | Path, **options: Any) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"llmos {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, *arguments: str | Path, exit_code: int | None = None, **given: str) -> str:
        """Run a command that must fail; return its one line on stderr, without ``error: ``.

        It runs inside this process, which is quicker and otherwise the same.

        Args:
            exit_code: the one it must end with; None means any but 0.
            given: more environment variables.
        """
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment | given, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main.invoke([str(argument) for argument in arguments])
        said = f"llmos {arguments}: {out.getvalue()}{err.getvalue()}"
        assert code != 0 if exit_code is None else code == exit_code, said
        lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert "Traceback" not in said
        return lines[0].removeprefix("error: ")

    def json(self, *arguments: str | Path, **options: Any) -> Any:
        """Run a command with ``--json``; return what it printed, parsed."""
        return json.loads(self.ok(*arguments, "--json", **options))

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start one `llmos` command without waiting for its end, as a terminal would.

        A shell's background job ignores SIGINT, and so would what it starts; Ctrl-C must reach it.
        """
        return subprocess.Popen(
            [sys.executable, "-c", AS_A_TERMINAL, *self.command(*arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            **options,
        )

    @staticmethod
    def command(*arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "llmos.cli.main", *map(str, arguments)]

    # -- the server ----------------------------------------------------------------------------

    def up(self) -> None:
        self.ok("up")

    def down(self) -> None:
        self.ok("down")

    @property
    def record(self) -> dict[str, Any]:
        """What the running server says about itself in ``run/server.json``."""
        record: dict[str, Any] = json.loads((self.home / "run" / "server.json").read_text("utf-8"))
        return record

    @property
    def url(self) -> str:
        return str(self.record["url"])

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text("ascii").strip()

    def client(self) -> Client:
        return connect(home=self.home, environ={})

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(self.record["pid"])

    def child(self, module: str) -> psutil.Process | None:
        """The server's child process that runs this module, or None."""
        try:
            children = self.server.children(recursive=True)
            return next((child for child in children if module in child.cmdline()), None)
        except psutil.Error:
            return None

    def engine(self) -> psutil.Process | None:
        return self.child("llmos.engines.host")

    def worker(self) -> psutil.Process | None:
        return self.child("llmos.kernel.worker")

    @contextlib.contextmanager
    def system(self) -> Iterator[System]:
        """The home itself, opened while no server runs."""
        system = open_system(load_settings({"home": self.home}, self.environment))
        try:
            yield system
        finally:
            system.database.close()
            system.lock.release()

    # -- jobs ------------------------------------------------------------------------------------

    def job(self, number: int) -> dict[str, Any]:
        job: dict[str, Any] = self.json("jobs", "show", str(number))
        return job

    def train(self, recipe: Path, name: str, *changes: str) -> int:
        """Start a training; return the job's number."""
        sets = [part for change in changes for part in ("--set", change)]
        job = self.json("train", recipe, "--name", name, "--detach", *sets)
        return int(job["id"])

    def reaches_step(self, number: int, step: int) -> Callable[[], bool]:
        """Return a condition: the job has reported at least this training step."""

        def reached() -> bool:
            with self.client() as client:
                job = client.job(number)
            assert job["state"] not in ("failed", "cancelled", "succeeded"), job
            return ((job.get("progress") or {}).get("step") or 0) >= step

        return reached

    def succeeds(self, number: int, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait for the job to succeed and return it."""

        def ended() -> dict[str, Any] | None:
            with self.client() as client:
                job = client.job(number)
            return job if job["state"] in ("failed", "cancelled", "succeeded") else None

        job = until(ended, f"job {number}", timeout_s)
        assert job is not None
        assert job["state"] == "succeeded", job
        return job

    def weights(self, ref: str) -> str:
        """The digest of a model's weights."""
        with self.client() as client:
            return str(client.model(ref)["files"]["model.safetensors"]["digest"])


@contextlib.contextmanager
def running(root: Path, **environment: str) -> Iterator[Llmos]:
    """A started llmos, taken down at the end whatever happened."""
    llmos = Llmos(root, **environment)
    try:
        llmos.up()
        yield llmos
    finally:
        stop(llmos)


def stop(llmos: Llmos) -> None:
    """Take a server down; kill it where it does not go, so that no test leaves one behind."""
    done = llmos.run("down")
    if done.returncode != 0:
        kill(llmos.server)
    assert done.returncode == 0, done.stderr


def kill(process: psutil.Process) -> None:
    """Send SIGKILL and wait until the process is gone."""
    process.send_signal(signal.SIGKILL)
    until(
        lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE,
        f"process {process.pid} to die",
    )
