"""What training costs a chat, and llmos a training: results/gives_way.json and .png.

First: the time from sending an interactive request to the moment the training process computes no
more, by the processor time the system counts for it; with steps so short that it pauses between
two, and so long that it has to be stopped within one. Then: the training loop's speed as a job of
a server that has nothing else to do, and in a process of its own, taking turns.

    python bench/gives_way.py [--requests 100] [--repeats 5] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from llmos.kernel.child import thread_environ
from llmos.sdk.client import Client
from llmos.sdk.connect import connect
from llmos.training.recipe import load, override
from machine import machine
from results import Plot, percentiles, say, spread, table, write

ROOT = Path(__file__).parents[1]
MODEL = "starter-chat"
MOST_MS, LEAST_SPEED = 100.0, 0.95
SHORT = {"batch_size": 12}
LONG = {"batch_size": 192}
"""Rows of a micro-batch: about 20 ms and 300 ms on two cores."""
YIELD_S = 0.2
LOOK_S = 0.5
ASK_S = 1.0
"""How often a job that is timed is asked about: each question takes a core some milliseconds."""
STILL_S, STILL_SHARE = 0.1, 0.03
"""A process that took less than this share of a core for so long computes no more."""
BARE = """
import json, os, sys
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import StartJob
from llmos.training import handler

recipe, home, threads = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
params = {"recipe": recipe, "name": "bare", "data": {}, "base": None}
start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="bare", params=params,
                 owner="admin", home=home, checkpoint_dir=home + "/bare", threads=threads,
                 heartbeat_s=10.0)
result = handler.run(JobContext(start, lambda message: None))
print(json.dumps(result.summary["seconds"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100, help="for each length of step")
    parser.add_argument("--repeats", type=int, default=5, help="trainings of each sort")
    parser.add_argument("--steps", type=int, default=600, help="of each training that is timed")
    parser.add_argument("--quick", action="store_true", help="a minute or two, rough")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.repeats, options.steps = 20, 2, 200
    with contextlib.ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="llmos-bench-"))
        home = held.enter_context(server(Path(folder)))
        client = held.enter_context(connect(home=home, environ={}))
        pauses = {
            name: pausing(client, home, rows, options.requests)
            for name, rows in (("short steps", SHORT), ("long steps", LONG))
        }
        speeds = speed(client, home, options.steps, options.repeats)
    report(pauses, speeds, options)


@contextlib.contextmanager
def server(home: Path) -> Iterator[Path]:
    """Run a server on a home of its own."""
    environ = os.environ | {"LLMOS_HOME": str(home), "LLMOS_PORT": "0"}
    environ |= {"LLMOS_YIELD_S": str(YIELD_S)}
    llmos = [sys.executable, "-m", "llmos.cli.main"]
    subprocess.run([*llmos, "up"], env=environ, check=True, capture_output=True)
    try:
        yield home
    finally:
        subprocess.run([*llmos, "down"], env=environ, check=True, capture_output=True)


def recipe_of(steps: int, **changes: int) -> dict[str, Any]:
    """The char-gpt recipe, on the text that comes with llmos."""
    seldom = {"eval_every": steps, "checkpoint_every": steps}
    wanted = {"steps": steps, **seldom, **changes}
    settings = [f"{key}={value}" for key, value in wanted.items()]
    return override(load(ROOT / "recipes" / "char-gpt.yaml"), settings)


# -- how soon it stands still ----------------------------------------------------------------------


def pausing(
    client: Client, home: Path, rows: dict[str, int], num_requests: int
) -> dict[str, list[float]]:
    """Return how long training went on computing, and how long the answer's first token took, for
    requests that come at any moment of a step; in ms."""
    ask(client)  # the model is in memory from now on
    job = client.train(recipe_of(10**6, **rows), "endless")
    chance = random.Random(0)
    found: dict[str, list[float]] = {"still_ms": [], "first_token_ms": []}
    try:
        until(lambda: bool(workers_of(home)))
        (worker,) = workers_of(home)
        until(lambda: (client.job(job["id"])["progress"] or {}).get("step", 0) > 2)
        for _ in range(num_requests):
            until(lambda: computes(worker))
            time.sleep(chance.uniform(0.0, 0.5))
            watch = Watch(worker)
            first_token_s = ask(client)
            found["still_ms"].append(watch.stands_still_after_s() * 1000)
            found["first_token_ms"].append(first_token_s * 1000)
    finally:
        client.cancel_job(job["id"])
        until(lambda: not workers_of(home))
    return found


def ask(client: Client) -> float:
    """Return the seconds until the first piece of an answer arrives."""
    messages = [{"role": "user", "content": "Hello, who are you?"}]
    begun = time.perf_counter()
    first_s = 0.0
    options = {"priority": "interactive", "max_tokens": 8}
    for chunk in client.chat(MODEL, messages, stream=True, **options):
        if chunk["text"] and not first_s:
            first_s = time.perf_counter() - begun
    return first_s


class Watch:
    """Notes how much processor time a process has had, each millisecond for half a second."""

    def __init__(self, process: psutil.Process) -> None:
        self._begun = time.perf_counter()
        self._pid = process.pid
        self._seen: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while (now := time.perf_counter() - self._begun) < LOOK_S:
            self._seen.append((now, cpu_s(self._pid)))
            time.sleep(0.001)

    def stands_still_after_s(self) -> float:
        """Return from when on it computed no more; a second, where it went on."""
        self._thread.join()
        for i, (at, had_s) in enumerate(self._seen):
            later = [seen for seen in self._seen[i:] if seen[0] <= at + STILL_S]
            covers = later[-1][0] - at
            if covers >= 0.9 * STILL_S and later[-1][1] - had_s < STILL_SHARE * covers:
                return at
        return 1.0


def cpu_s(pid: int) -> float:
    """Return the processor seconds that all threads of a process have had, to the microsecond."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def computes(process: psutil.Process) -> bool:
    """Whether a process takes much of a core."""
    before = cpu_s(process.pid)
    time.sleep(0.05)
    return cpu_s(process.pid) - before > 0.02


def workers_of(home: Path) -> list[psutil.Process]:
    """Return the job workers of a server."""
    server_pid = json.loads((home / "run" / "server.json").read_text("utf-8"))["pid"]
    found = []
    for child in psutil.Process(server_pid).children():
        with contextlib.suppress(psutil.Error):
            if "llmos.kernel.worker" in child.cmdline():
                found.append(child)
    return found


def until(is_so: Callable[[], bool], every_s: float = 0.01) -> None:
    while not is_so():
        time.sleep(every_s)


# -- how fast it trains ----------------------------------------------------------------------------


def speed(client: Client, home: Path, steps: int, repeats: int) -> dict[str, list[float]]:
    """Return the steps a second of the loop, as a job and bare, taking turns."""
    recipe = recipe_of(steps)
    found: dict[str, list[float]] = {"llmos": [], "bare": []}
    sorts = {"llmos": lambda: as_job(client, recipe), "bare": lambda: bare(home, recipe)}
    for turn in range(repeats):
        for name in list(sorts)[:: 1 if turn % 2 else -1]:
            found[name].append(steps / sorts[name]())
            print(f"{turn + 1}/{repeats} {name}: {found[name][-1]:.1f} steps/s", flush=True)
    return found


def as_job(client: Client, recipe: dict[str, Any]) -> float:
    """Return the seconds of the loop in a job."""
    job = client.train(recipe, "timed")
    until(lambda: client.job(job["id"])["finished_at"] is not None, every_s=ASK_S)
    ended = client.job(job["id"])
    if ended["state"] != "succeeded":
        sys.exit(f"the training failed: {ended['error']}")
    return float(ended["result"]["seconds"])


def bare(home: Path, recipe: dict[str, Any]) -> float:
    """Return the seconds of the same loop in a process that nobody watches."""
    threads = os.cpu_count() or 1
    command = [sys.executable, "-c", BARE, json.dumps(recipe), str(home), str(threads)]
    environ = os.environ | thread_environ(threads)
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    subprocess.run(["rm", "-rf", str(home / "bare")], check=True)
    return float(json.loads(done.stdout))


# -- the report ------------------------------------------------------------------------------------


def report(
    pauses: dict[str, dict[str, list[float]]],
    speeds: dict[str, list[float]],
    options: argparse.Namespace,
) -> None:
    rows, held = [], {}
    for name, found in pauses.items():
        p50, p95, worst = percentiles(found["still_ms"], 50, 95, 100)
        first = percentiles(found["first_token_ms"], 50, 95)
        held[name] = {
            "p50_ms": p50,
            "p95_ms": p95,
            "worst_ms": worst,
            "first_token_p50_ms": first[0],
            "first_token_p95_ms": first[1],
        }
        rows.append((name, p50, p95, worst, *first))
    header = ("training", "still p50 ms", "p95", "worst", "first token p50 ms", "p95")
    table(header, rows)
    pairs = zip(speeds["llmos"], speeds["bare"], strict=True)
    ratio = spread(ours / bare_speed for ours, bare_speed in pairs)
    print(f"speed as a job, of the bare loop's: {ratio['median']:.3f}", flush=True)
    slowest = max(one["p95_ms"] for one in held.values())
    say("pausing", f"p95 {slowest:.0f} ms, at most {MOST_MS:.0f}", slowest <= MOST_MS)
    text = f"{ratio['median']:.3f} of the bare loop's speed, at least {LEAST_SPEED}"
    say("training", text, ratio["median"] >= LEAST_SPEED)
    write(
        "gives_way",
        {
            "pausing": held,
            "still_ms": {name: found["still_ms"] for name, found in pauses.items()},
            "speed": {name: spread(values) for name, values in speeds.items()},
            "ratio": ratio,
            "targets": {"p95_ms": MOST_MS, "ratio": LEAST_SPEED},
            "requests": options.requests,
            "repeats": options.repeats,
            "steps": options.steps,
            "machine": machine(),
        },
    )
    plot = Plot("gives_way", "from request to stillness", "training without other load")
    bars = [
        {"median": one["p50_ms"], "low": one["p50_ms"], "high": one["p95_ms"]}
        for one in held.values()
    ]
    plot.bars(0, "ms: median, up to p95", list(held), {"llmos": bars})
    shown = {"llmos": [spread(speeds["llmos"])], "bare loop": [spread(speeds["bare"])]}
    plot.bars(1, "steps/s", ["char-gpt"], shown)
    plot.save()


if __name__ == "__main__":
    main()
