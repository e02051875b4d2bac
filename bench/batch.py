"""What a batch file costs beside the engine: rows a second through /v1/batches, and straight.

Both arms run in one process that is the server but for its sockets, over one engine process and
one model of random weights, and take turns. Straight means: tokens in, tokens out of the engine, as
many works at once as a batch has. In a batch a row is read, asked, checked, answered in JSON and
written to the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llmos.apps.batch import WINDOW_ROWS
from llmos.library.manifest import build_manifest
from llmos.server.app import create_app
from llmos.server.process import spare_the_collector
from llmos.settings import load_settings
from llmos.system import System, open_system
from llmos.types import GenerateWork, NewVersion, Priority, SamplingParams
from machine import machine
from results import Plot, say, spread, table, write
from shapes import FIRST_WORD_ID, PEERS_HOME, make

MODEL = "bench"
LEAST_SHARE = 0.9
MOST_CPU_MS = 0.5
"""Of the server, a row, more than where the engine is asked straight."""
WARM_UP_ROWS = 64
LOOK_EVERY_S = 0.2
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class Asked:
    """One row: its prompt, and how many tokens it wants."""

    prompt: tuple[int, ...]
    max_tokens: int


def main() -> None:
    options = parse()
    facts = machine()
    measured = {shape: asyncio.run(measure(shape, options)) for shape in options.shapes}
    show(measured)
    report = {"rows": options.rows, "repeats": options.repeats, "measured": measured}
    write(options.name, report | {"machine": facts})
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["tiny"], help="tiny, qwen2.5-0.5b, …")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--prompt-tokens", type=int, default=32, help="On the average.")
    parser.add_argument("--answer-tokens", type=int, default=24, help="On the average.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME, help="Models lie there.")
    parser.add_argument("--name", default="batch", help="Of the files under results/.")
    parser.add_argument("--quick", action="store_true", help="One repeat of 1,000 rows.")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.repeats = min(options.rows, 1000), 1
    return options


async def measure(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what both arms show with a model of one shape."""
    home = Path(tempfile.mkdtemp(prefix="llmos-bench-batch-"))
    system = open_system(load_settings({"home": home}, {}))
    try:
        vocab_size = add_model(system, shape, options.peers_home)
        await system.start()
        return await take_turns(system, vocab_size, shape, options)
    finally:
        await system.close()
        shutil.rmtree(home, ignore_errors=True)


def add_model(system: System, shape: str, peers_home: Path) -> int:
    """Put a model of random weights into the library; return the size of its vocabulary."""
    files = make(peers_home, shape, ["hf"])
    directory = files.path("hf")
    stored = {path.name: system.blobs.put_file(path) for path in directory.iterdir()}
    manifest = build_manifest(directory).to_dict() | {"speculates": False}
    system.library.add(NewVersion("model", MODEL, stored, manifest), "admin")
    return files.vocab_size


async def take_turns(
    system: System, vocab_size: int, shape: str, options: argparse.Namespace
) -> dict[str, Any]:
    dice = random.Random(1)
    key = system.settings.admin_key_path.read_text("ascii").strip()
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(system)),
        base_url="http://127.0.0.1:8642",
        headers={"Authorization": f"Bearer {key}"},
    )
    spare_the_collector()
    runs: dict[str, list[dict[str, float]]] = {"engine": [], "batch": []}
    async with client:
        await run_engine(system, rows(dice, vocab_size, options, WARM_UP_ROWS), "warm-up")
        for repeat in range(options.repeats):
            for arm in ("engine", "batch") if repeat % 2 == 0 else ("batch", "engine"):
                asked = rows(dice, vocab_size, options, options.rows)
                if arm == "engine":
                    took = Took()
                    await run_engine(system, asked, str(repeat))
                    took.stop()
                else:
                    took = await run_batch(client, asked)
                found = took.per_row(asked)
                runs[arm].append(found)
                shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
                print(f"{shape} {repeat + 1}/{options.repeats} {arm}: {shown}", flush=True)
    pairs = list(zip(runs["batch"], runs["engine"], strict=True))
    return {
        arm: {name: spread(run[name] for run in found) for name in found[0]}
        for arm, found in runs.items()
    } | {
        "share": spread(ours["rows_per_s"] / theirs["rows_per_s"] for ours, theirs in pairs),
        "more_cpu_ms_per_row": spread(
            ours["server_cpu_ms_per_row"] - theirs["server_cpu_ms_per_row"]
            for ours, theirs in pairs
        ),
    }


def rows(
    dice: random.Random, vocab_size: int, options: argparse.Namespace, count: int
) -> list[Asked]:
    """Return rows of lengths around the average, no two with the same beginning."""

    def about(average: int) -> int:
        return dice.randint(average // 2, average + average // 2)

    return [
        Asked(
            tuple(
                dice.randrange(FIRST_WORD_ID, vocab_size)
                for _ in range(about(options.prompt_tokens))
            ),
            about(options.answer_tokens),
        )
        for _ in range(count)
    ]


class Took:
    """The time from now to `stop`, and the CPU time of this process, which is the server, in it."""

    def __init__(self) -> None:
        self._cpu_s, self._s = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        self._cpu_s = time.process_time() - self._cpu_s
        self._s = time.perf_counter() - self._s

    def per_row(self, asked: Sequence[Asked]) -> dict[str, float]:
        """Return what it comes to, over the rows that were asked."""
        return {
            "rows_per_s": len(asked) / self._s,
            "tokens_per_s": sum(one.max_tokens for one in asked) / self._s,
            "server_cpu_ms_per_row": 1000 * self._cpu_s / len(asked),
        }


async def run_engine(system: System, asked: Sequence[Asked], salt: str) -> None:
    """Give the rows to the engine, as many at once as a batch does."""
    served = await system.tasks.serve(MODEL, {"generate", "chat"})
    left: Iterator[Asked] = iter(asked)

    async def ask_some() -> None:
        for one in left:
            work = GenerateWork(
                prompt_ids=one.prompt,
                sampling=SamplingParams(
                    max_tokens=one.max_tokens, temperature=0.0, ignore_eos=True
                ),
                priority=Priority.BATCH,
                tenant="bench",
                cache_salt=salt.encode(),
            )
            num_tokens = 0
            async with system.kernel.residency.lease(served.spec, Priority.BATCH) as lease:
                async for out in lease.generate(work):
                    num_tokens += len(out.pieces)
            if num_tokens != one.max_tokens:
                sys.exit(f"the engine gave {num_tokens} of {one.max_tokens} tokens")

    await asyncio.gather(*(ask_some() for _ in range(WINDOW_ROWS)))


async def run_batch(client: httpx.AsyncClient, asked: Sequence[Asked]) -> Took:
    """Upload the rows as a file, run it as a batch, and look through what came; return what it
    took from the batch's beginning, its check of the file included, to its end."""
    lines = (
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": MODEL,
                "prompt": list(one.prompt),
                "max_tokens": one.max_tokens,
                "temperature": 0,
                "ignore_eos": True,
            },
        }
        for number, one in enumerate(asked)
    )
    content = "\n".join(map(json.dumps, lines)).encode()
    files = {"file": ("rows.jsonl", content)}
    file = await _json(client.post("/v1/files", files=files, data={"purpose": "batch"}))
    body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    took = Took()
    batch = await _json(client.post("/v1/batches", json=body))
    while batch["status"] not in ENDED:
        await asyncio.sleep(LOOK_EVERY_S)
        batch = await _json(client.get(f"/v1/batches/{batch['id']}"))
    took.stop()
    counts = batch["request_counts"]
    if batch["status"] != "completed" or counts["completed"] != len(asked):
        sys.exit(f"the batch has {batch['status']}: {counts} {batch['errors']}")
    output = await client.get(f"/v1/files/{batch['output_file_id']}/content")
    answers = [json.loads(line) for line in output.text.splitlines()]
    tokens = {
        int(one["custom_id"]): one["response"]["body"]["usage"]["completion_tokens"]
        for one in answers
    }
    if len(answers) != len(asked) or tokens != {i: one.max_tokens for i, one in enumerate(asked)}:
        sys.exit("the output is not every row once")
    return took


async def _json(response: Any) -> dict[str, Any]:
    got = await response
    if got.status_code != 200:
        sys.exit(f"{got.status_code}: {got.text}")
    values: dict[str, Any] = got.json()
    return values


def show(measured: dict[str, Any]) -> None:
    names = ("rows_per_s", "tokens_per_s", "server_cpu_ms_per_row")
    table(
        ("", *(f"{shape} {arm}" for shape in measured for arm in ("engine", "batch"))),
        (
            (
                name,
                *(
                    values[arm][name]["median"]
                    for values in measured.values()
                    for arm in ("engine", "batch")
                ),
            )
            for name in names
        ),
    )
    for shape, values in measured.items():
        share = values["share"]["median"]
        say(shape, f"{share:.0%} of the engine's own rows/s (at least 90%)", share >= LEAST_SHARE)
        more = values["more_cpu_ms_per_row"]["median"]
        say(shape, f"{more:.2f} ms more of the server's CPU a row", more <= MOST_CPU_MS)


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "rows per second", "CPU of the server per row")
    labels = {"batch": "llmos /v1/batches", "engine": "straight to the engine"}
    for chart, (key, unit) in enumerate(
        (("rows_per_s", "rows/s"), ("server_cpu_ms_per_row", "ms"))
    ):
        series = {
            label: [values[arm][key] for values in measured.values()]
            for arm, label in labels.items()
        }
        plot.bars(chart, unit, tuple(measured), series)
    plot.save()


if __name__ == "__main__":
    main()
