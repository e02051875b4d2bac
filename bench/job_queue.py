"""The durable queue: jobs submitted, claimed and completed a second, and how long a claim takes.

Every change is on the disk before it counts (SQLite, WAL, synchronous=FULL), on the same file
system for llmos and for huey, taking turns. One caller is bound by the disk's fsync; the changes
of several, which wait together, llmos commits together.

A claim is what the kernel does for one: look at the queue, decide, take the job.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from llmos.kernel.jobs import JobKind, JobState
from llmos.kernel.queue import JobQueue
from llmos.kernel.scheduler import decide
from llmos.kernel.state import ReadyJob, Start, State
from llmos.security import audit
from llmos.storage.database import Database
from llmos.storage.schema import jobs
from llmos.types import JobResult, Priority
from machine import machine
from results import Plot, percentiles, say, spread, table, write
from shapes import PEERS_HOME

HERE = Path(__file__).parent
PHASES = ("submit", "claim and complete", "all")
DEPTHS = (1_000, 10_000, 100_000, 1_000_000)
LARGEST_CLAIM_RATIO = 2.0
KIND = JobKind("double", "nowhere:run", schema=lambda params: params, estimate=lambda params: 0)
ROWS_AT_ONCE = 10_000


def main() -> None:
    options = parse()
    runs: dict[str, list[dict[str, float]]] = {}
    for repeat in range(options.repeats):
        for callers in options.callers:
            for name, measure in contestants(options.peers_home).items():
                with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                    found = measure(Path(folder), options.jobs, callers)
                runs.setdefault(f"{name}, {callers} at once", []).append(found)
                shown = ", ".join(f"{phase} {found[phase]:.0f}/s" for phase in PHASES)
                print(
                    f"{repeat + 1}/{options.repeats} {name}, {callers} at once: {shown}", flush=True
                )
    rates = {
        name: {phase: spread(run[phase] for run in found) for phase in PHASES}
        for name, found in runs.items()
    }
    claims = {}
    for depth in options.depths:
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            claims[depth] = asyncio.run(claim_times(Path(folder), depth, options.claims))
        print(f"{depth} queued: claim p50 {claims[depth]['p50_ms']:.2f} ms", flush=True)
    report = {
        "jobs": options.jobs,
        "repeats": options.repeats,
        "fsync_ms": fsync_ms(options.directory),
        "jobs_per_s": rates,
        "claim": claims,
        "verdicts": verdicts(rates, claims, options.callers),
        "machine": machine(),
    }
    show(report)
    write(options.name, report)
    draw(options.name, rates, claims)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="Per measurement.")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16], help="At the same time.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="*", default=[*DEPTHS], help="Jobs queued.")
    parser.add_argument("--claims", type=int, default=1000, help="Timed at each depth.")
    parser.add_argument("--directory", type=Path, help="Whose file system is measured.")
    parser.add_argument("--name", default="job_queue", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="1,000 jobs, once, 10,000 queued.")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.repeats, options.depths = 1000, 1, [1_000, 10_000]
    return options


def contestants(
    peers_home: Path,
) -> dict[str, Callable[[Path, int, int], dict[str, float]]]:
    """Return what measures each contestant: folder, jobs, callers -> jobs a second by phase."""
    python = peers_home.expanduser() / "queue" / "bin" / "python"

    def llmos(folder: Path, count: int, callers: int) -> dict[str, float]:
        return asyncio.run(throughput(folder, count, callers))

    def huey(folder: Path, count: int, callers: int) -> dict[str, float]:
        asked = json.dumps({"folder": str(folder), "jobs": count, "callers": callers})
        command = [str(python), str(HERE / "workers" / "run_huey.py"), asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"huey: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    found = {"llmos": llmos}
    if python.exists():
        found["huey"] = huey
    else:
        print("huey is not installed: python bench/peers.py install --only queue", flush=True)
    return found


# -- jobs a second ---------------------------------------------------------------------------------


async def throughput(folder: Path, count: int, callers: int) -> dict[str, float]:
    """Return jobs a second that are submitted, claimed and completed, and all of it."""
    database, queue = opened(folder)
    try:
        ids: list[int] = []

        async def submit(number: int) -> None:
            job = await queue.submit(KIND.name, {"value": number}, owner="bench")
            ids.append(job.id)

        async def work(number: int) -> None:
            job = await queue.claim(ids[number], lease_s=30.0, threads=1)
            assert job is not None
            result = JobResult(summary={"doubled": 2 * number})
            await queue.complete(job.id, job.fence, result, commit=lambda *_: ())

        submit_s = await seconds_of(submit, count, callers)
        work_s = await seconds_of(work, count, callers)
        ended = await queue.list(states=[JobState.SUCCEEDED], limit=count)
        assert len(ended) == count
    finally:
        database.close()
    return rates(count, submit_s, work_s)


async def seconds_of(action: Callable[[int], Awaitable[None]], count: int, callers: int) -> float:
    """Return the seconds that ``count`` actions take, so many at a time."""
    numbers: Iterator[int] = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await action(number)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - begun


def rates(count: int, submit_s: float, work_s: float) -> dict[str, float]:
    values = (count / submit_s, count / work_s, count / (submit_s + work_s))
    return dict(zip(PHASES, values, strict=True))


def opened(folder: Path) -> tuple[Database, JobQueue]:
    database = Database.open(folder / "llmos.db")
    kinds = {KIND.name: KIND}
    return database, JobQueue(database, kinds, time.time, rng=random.Random(0), audit=audit.record)


def fsync_ms(directory: Path | None, repeats: int = 200) -> float:
    """Return how long writing a page and having it on the disk takes, which bounds one caller."""
    with tempfile.TemporaryFile(dir=directory) as file:
        begun = time.perf_counter()
        for _ in range(repeats):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    return 1000 * (time.perf_counter() - begun) / repeats


# -- how long a claim takes ------------------------------------------------------------------------


async def claim_times(folder: Path, depth: int, count: int) -> dict[str, float]:
    """Return percentiles of a claim's milliseconds with so many jobs queued."""
    database, queue = opened(folder)
    try:
        await fill(database, depth)
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            view = await queue.view()
            ready = tuple(
                ReadyJob(job.id, job.owner, job.priority, job.queued_at or 0.0, job.reserved_bytes)
                for job in view.ready
            )
            state = State(time.time(), 2**30, 2**30, 1, 900.0, 300.0, ready=ready)
            (start,) = [action for action in decide(state) if isinstance(action, Start)]
            job = await queue.claim(start.job_id, lease_s=30.0, threads=1)
            times.append(time.perf_counter() - begun)
            assert job is not None
            await queue.complete(job.id, job.fence, JobResult(), commit=lambda *_: ())
    finally:
        database.close()
    p50, p99 = percentiles(times, 50, 99)
    return {"p50_ms": 1000 * p50, "p99_ms": 1000 * p99}


async def fill(database: Database, depth: int) -> None:
    """Queue so many jobs of ten owners and all classes."""
    now = time.time()
    rows = [
        {
            "kind": KIND.name,
            "name": KIND.name,
            "params": {"value": number},
            "state": JobState.QUEUED,
            "priority": int(Priority(number % len(Priority))),
            "owner": f"owner-{number % 10}",
            "created_at": now,
            "queued_at": now,
        }
        for number in range(depth)
    ]
    for first in range(0, depth, ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        await database.write(lambda connection, part=part: connection.execute(insert(jobs), part))


# -- what came of it -------------------------------------------------------------------------------


def verdicts(
    found: dict[str, Any], claims: dict[int, dict[str, float]], callers: list[int]
) -> dict[str, bool]:
    """Return what is promised, and whether it held."""
    checks = {}
    for count in callers:
        ours, theirs = (found.get(f"{name}, {count} at once") for name in ("llmos", "huey"))
        if ours and theirs:
            ratio = ours["all"]["median"] / theirs["all"]["median"]
            checks[f"{count} at once: {ratio:.2f}x huey"] = ratio >= 1.0
    if len(claims) > 1:
        least, most = min(claims), max(claims)
        ratio = claims[most]["p99_ms"] / claims[least]["p99_ms"]
        text = f"claim p99 with {most:,} queued {ratio:.2f}x that with {least:,}"
        checks[text] = ratio <= LARGEST_CLAIM_RATIO
    return checks


def show(report: dict[str, Any]) -> None:
    table(
        ("jobs a second", *PHASES),
        (
            (name, *(values[phase]["median"] for phase in PHASES))
            for name, values in report["jobs_per_s"].items()
        ),
    )
    table(
        ("queued", "claim p50 ms", "p99 ms"),
        ((str(depth), one["p50_ms"], one["p99_ms"]) for depth, one in report["claim"].items()),
    )
    print(f"one fsync takes {report['fsync_ms']:.2f} ms", flush=True)
    for text, is_met in report["verdicts"].items():
        say("llmos", text, is_met)


def draw(name: str, found: dict[str, Any], claims: dict[int, dict[str, float]]) -> None:
    plot = Plot(name, "jobs through the queue", "one claim")
    shown = {who: [values[phase] for phase in PHASES] for who, values in found.items()}
    plot.bars(0, "jobs/s", PHASES, shown)
    labels = tuple(f"{depth:,} queued" for depth in claims)
    series = {
        f"llmos {key.removesuffix('_ms')}": [spread([one[key]]) for one in claims.values()]
        for key in ("p50_ms", "p99_ms")
    }
    plot.bars(1, "ms", labels, series)
    plot.save()


if __name__ == "__main__":
    main()
