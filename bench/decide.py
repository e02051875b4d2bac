"""How long deciding takes: `decide` with a long queue and a full memory, `route` of one request.

`decide` is called on every change of jobs and residency, once for the device that changed: the
first rows have all jobs and models on it. With a thousand devices a change is about one of them;
what it takes to decide about each, which nothing asks for at once, is told without a limit.
`replicas`, which spreads models over them, is asked once a second; `route` for every request that
names no model.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from llmos.kernel.replicas import DeviceRoom, ServedModel, replicas
from llmos.kernel.replicas import State as Spread
from llmos.kernel.router import Asked, Replica, route
from llmos.kernel.scheduler import decide
from llmos.kernel.state import ActiveJob, ReadyJob, ResidentModel, State, WantedModel
from llmos.types import Priority
from machine import machine
from results import say, table, write

JOBS, MODELS, OWNERS, RUNNING = 10_000, 1_000, 100, 16
DEVICES, MODELS_OF_DEVICE = 1_000, 4
ALL_CHANGED = "10,000 jobs on 1,000 devices, all changed"
DECIDE_LIMIT_MS, ROUTE_LIMIT_US = 20.0, 50.0
REPLICAS = (1, 2, 4, 8, 16, 64)
STANDARD_REPLICAS = 8
GB = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--name", default="decide", help="Of the files under results/.")
    options = parser.parse_args()
    decided = {
        name: milliseconds(lambda state=state: decide(state), options.repeats)
        for name, state in states().items()
    } | of_many_devices(options.repeats)
    routed = {count: microseconds_of_route(count, options.repeats) for count in REPLICAS}
    verdicts = {
        f"{name}: {values['median']:.3g} ms (at most {DECIDE_LIMIT_MS:g})": values["median"]
        <= DECIDE_LIMIT_MS
        for name, values in decided.items()
        if name != ALL_CHANGED
    }
    value = routed[STANDARD_REPLICAS]["median"]
    text = f"route among {STANDARD_REPLICAS}: {value:.1f} us (at most {ROUTE_LIMIT_US:g})"
    verdicts[text] = value <= ROUTE_LIMIT_US
    report = {
        "decide_ms": decided,
        "route_us": routed,
        "verdicts": verdicts,
        "machine": machine(),
    }
    show(report)
    write(options.name, report)


def states() -> dict[str, State]:
    """Return what is decided about: everything fits nowhere, or there is room for some."""
    rng = random.Random(0)
    ready = tuple(
        ReadyJob(
            number,
            f"owner-{rng.randrange(OWNERS)}",
            Priority(rng.randrange(1, 4)),
            1000.0 + rng.uniform(0, 900),
            rng.randrange(1, 8) * GB,
        )
        for number in range(JOBS)
    )
    active = tuple(
        ActiveJob(JOBS + number, 1, "owner-0", 1e9, GB, priority=Priority.BATCH, resumes=True)
        for number in range(RUNNING)
    )
    models = tuple(
        ResidentModel(
            f"model-{number}", GB, "ready", rng.choice((0, 0, 3)), 1900.0, 1.0, rng.random()
        )
        for number in range(MODELS)
    )
    wanted = tuple(
        WantedModel(f"new-{number}", 4 * GB, Priority.STANDARD, 1990.0) for number in range(8)
    )
    common: dict[str, Any] = {"now": 2000.0, "idle_s": 900.0, "ageing_s": 300.0}
    used = {"ready": ready, "active": active, "models": models, "wanted": wanted}
    capacity = (MODELS + RUNNING) * GB
    return {
        "10,000 jobs, 1,000 models, full": State(
            free_bytes=0, capacity_bytes=capacity, max_workers=RUNNING, **common, **used
        ),
        "10,000 jobs, 1,000 models, room": State(
            free_bytes=100 * GB,
            capacity_bytes=capacity + 100 * GB,
            max_workers=64,
            **common,
            **used,
        ),
    }


def of_many_devices(repeats: int) -> dict[str, dict[str, float]]:
    """Return how long it takes where the jobs are spread over many devices."""
    rng = random.Random(0)
    devices = [_device(number, rng) for number in range(DEVICES)]
    spread = _spread(rng)
    return {
        "10,000 jobs on 1,000 devices, one changed": milliseconds(
            lambda: decide(devices[0]), repeats
        ),
        ALL_CHANGED: milliseconds(lambda: [decide(state) for state in devices], repeats),
        "replicas of 1,000 models on 1,000 devices": milliseconds(
            lambda: replicas(spread), repeats
        ),
    }


def _device(device: int, rng: random.Random) -> State:
    """Return one device: a tenth of a hundredth of the jobs, and a memory that is full."""
    ready = tuple(
        ReadyJob(number, f"owner-{rng.randrange(OWNERS)}", Priority.BATCH, 1900.0 + number, GB)
        for number in range(JOBS // DEVICES)
    )
    active = (ActiveJob(JOBS, 1, "owner-0", 1e9, GB, priority=Priority.BATCH, resumes=True),)
    models = tuple(
        ResidentModel(f"model-{number}", GB, "ready", rng.choice((0, 3)), 1900.0, 1.0, rng.random())
        for number in range(MODELS_OF_DEVICE)
    )
    wanted = (WantedModel(f"new-{device}", GB, Priority.STANDARD, 1990.0),)
    return State(
        now=2000.0,
        free_bytes=0,
        capacity_bytes=(MODELS_OF_DEVICE + 1) * GB,
        max_workers=1,
        idle_s=900.0,
        ageing_s=300.0,
        ready=ready,
        active=active,
        models=models,
        wanted=wanted,
    )


def _spread(rng: random.Random) -> Spread:
    """Return models of which a tenth is short of replicas, and devices of which half have room."""
    rooms = tuple(
        DeviceRoom(
            str(number), rng.choice((0, 2 * GB)), rng.random(), rng.random(), holds=frozenset()
        )
        for number in range(DEVICES)
    )
    models = tuple(
        ServedModel(
            key=f"model-{number}",
            num_bytes=GB,
            devices=(str(number),),
            queue_s=1.0 if number % 10 == 0 else 0.1,
            peak_queue_s=1.0,
            peak_load=1.0,
            changed_at=0.0,
        )
        for number in range(MODELS)
    )
    return Spread(2000.0, 0.5, 2.0, 30.0, models, rooms)


def microseconds_of_route(count: int, repeats: int) -> dict[str, float]:
    """Return how long the choice among so many replicas takes."""
    rng = random.Random(0)
    replicas = [
        Replica(
            key=f"replica-{number}",
            model=f"model-{number % 4}",
            prefill_tokens_per_s=rng.uniform(100, 5000),
            decode_tokens_per_s=rng.uniform(10, 200),
            quality=rng.random(),
            queue_s=rng.uniform(0, 2),
            successes=rng.uniform(0, 500),
            failures=rng.uniform(0, 20),
        )
        for number in range(count)
    ]
    asked = Asked(200, 100, Priority.STANDARD, max_latency_ms=60_000, min_quality=0.0)
    found = milliseconds(lambda: [route(asked, replicas, rng) for _ in range(100)], repeats)
    return {name: value * 10 for name, value in found.items()}


def milliseconds(action: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the median and 99th percentile of what an action takes."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - begun))
    return {"median": statistics.median(times), "p99": sorted(times)[int(0.99 * len(times))]}


def show(report: dict[str, Any]) -> None:
    rows = [(name, v["median"], v["p99"]) for name, v in report["decide_ms"].items()]
    table(("decide", "median ms", "p99 ms"), rows)
    rows = [(f"{count} replicas", v["median"], v["p99"]) for count, v in report["route_us"].items()]
    table(("route", "median us", "p99 us"), rows)
    for text, is_met in report["verdicts"].items():
        say("llmos", text, is_met)


if __name__ == "__main__":
    main()
