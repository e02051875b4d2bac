"""How long llmos takes to start, and what it weighs idle: prints and writes results/startup.json.

Everything is measured on a server of its own in a temporary home, as a user would see it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from llmos.sdk.client import Client
from llmos.sdk.connect import connect

RESULTS = Path(__file__).parent / "results" / "startup.json"
TARGETS = {
    "import_s": 0.3,
    "help_s": 0.5,
    "ready_s": 10.0,
    "idle_mb": 400.0,
    "first_token_ms": 100.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="starter-chat")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as home:
        measured = measure(Path(home), options.repeats, options.model)
    report = {
        "measured": measured,
        "targets": TARGETS,
        "repeats": options.repeats,
        "machine": machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    for name, target in TARGETS.items():
        verdict = "ok" if measured[name] < target else "MISSED"
        print(f"{name:<16}{measured[name]:>10.3f}   target < {target:g}   {verdict}")
    if any(measured[name] >= target for name, target in TARGETS.items()):
        sys.exit(1)


def measure(home: Path, repeats: int, model: str) -> dict[str, float]:
    """Return the median of each measurement, by the name of its target."""
    environment = os.environ | {"LLMOS_HOME": str(home), "LLMOS_PORT": "0"}

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")

    llmos = ("-m", "llmos.cli.main")
    measured = {
        "import_s": median(lambda: run("-c", "import llmos"), repeats)
        - median(lambda: run("-c", "pass"), repeats),
        "help_s": median(lambda: run(*llmos, "--help"), repeats),
        "first_ready_s": median(lambda: run(*llmos, "up"), 1),
    }
    run(*llmos, "down")
    measured["ready_s"] = median(lambda: run(*llmos, "up"), 1)
    try:
        pid = json.loads((home / "run" / "server.json").read_text("utf-8"))["pid"]
        measured["idle_mb"] = psutil.Process(pid).memory_info().rss / 1e6
        with connect(home=home, environ={}) as client:
            first_token_s(client, model)
            times = [first_token_s(client, model) for _ in range(4 * repeats)]
        measured["first_token_ms"] = statistics.median(times) * 1000
        measured["first_token_max_ms"] = max(times) * 1000
    finally:
        run(*llmos, "down")
    return measured


def median(action: Callable[[], None], repeats: int) -> float:
    """Return the median seconds that ``action`` takes."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def first_token_s(client: Client, model: str) -> float:
    """Return the seconds until the first piece of an answer arrives."""
    messages = [{"role": "user", "content": "Hello, who are you?"}]
    begun = time.perf_counter()
    for chunk in client.chat(model, messages, stream=True):
        if chunk["text"]:
            break
    return time.perf_counter() - begun


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


if __name__ == "__main__":
    main()
