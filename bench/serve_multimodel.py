"""Four models where memory holds two: who answers in time, and what the swapping costs.

Every model is asked in bursts (lengths of Azure's conversations divided by eight). An answer counts
when its first token came within 2 s and the others 200 ms apart in the mean. llmos gets a byte
budget that holds two models, llama.cpp's router keeps two, `transformers serve` knows no budget.
Then requests alternate between two loaded models: what that costs over one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import machine
from peers import llama_program
from repeats import Repeats
from results import Plot, percentiles, say, spread, table, write
from servers import LlamaServer, LlmosServer, Process, TransformersServer
from shapes import PEERS_HOME, SHAPES, Files, make
from streams import Stream, stream
from workloads import TRACE, Arrival, Prompts, bursts, conversation_lengths

MODELS = ("alpha", "beta", "gamma", "delta")
PEERS = ("llmos int8", "llama.cpp q8_0", "transformers bf16")
RESIDENT = 2
BUDGET_IN_MODELS = 2.5
CACHE_BYTES = 2**30
"""Of each, in the budget."""
LARGEST_TTFT_S, LARGEST_ITL_S = 2.0, 0.2
POLL_S = 0.2
MOST_SETTLING = 100
"""Requests to two models at most until both are in memory, to stay."""
LEAST_RATIO, LARGEST_PAIR_COST = 2.0, 1.05
PAIR_IN, PAIR_OUT = 64, 32


@dataclass(slots=True)
class Swaps:
    """What was seen of the models in memory, looking five times a second."""

    loads: int = 0
    load_s: float = 0.0
    most_resident: int = 0
    busy_evicted: int = 0
    _since: dict[str, float] = field(default_factory=dict)
    _before: dict[str, str] = field(default_factory=dict)

    def note(self, states: dict[str, str], busy: set[str], now: float) -> None:
        """Compare with what was seen before."""
        for model, state in states.items():
            if state == "loading":
                self._since.setdefault(model, now)
            elif state == "ready" and self._before.get(model) != "ready":
                self.loads += 1
                self.load_s += now - self._since.pop(model, now)
        was_ready = {model for model, state in self._before.items() if state == "ready"}
        ready = {model for model, state in states.items() if state == "ready"}
        self.busy_evicted += len((was_ready - ready) & busy)
        self.most_resident = max(self.most_resident, len(ready))
        self._before = states


def main() -> None:
    options = parse()
    lengths = conversation_lengths(options.trace)
    forms = {"llmos int8": "llmos-int8", "llama.cpp q8_0": "q8_0", "transformers bf16": "hf"}
    files = [
        make(options.peers_home, options.shape, ["hf", *(forms[peer] for peer in options.peers)], i)
        for i in range(len(MODELS))
    ]
    facts = machine()

    def run(name: str, repeat: int) -> dict[str, Any]:
        prompts = Prompts(files[0], 300 + repeat)
        arrivals = bursts(
            MODELS, options.seconds, options.every, options.size, lengths, prompts, 11 + repeat
        )
        return run_server(name, files, arrivals, prompts, options)

    repeats = Repeats(options.name, vars(options))
    runs = repeats.measure(options.peers, options.repeats, run, line)
    measured = {
        name: {key: spread(run[key] for run in found) for key in found[0] if key != "failed"}
        | {"failed": sorted({text for run in found for text in run["failed"]})[:5]}
        for name, found in runs.items()
    }
    report = {
        "shape": options.shape,
        "seconds": options.seconds,
        "burst_every_s": options.every,
        "burst_size": options.size,
        "repeats": options.repeats,
        "measured": measured,
        "machine": facts,
    }
    show(measured)
    write(options.name, report)
    repeats.end()
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--peers", nargs="*", default=[*PEERS], choices=PEERS)
    parser.add_argument("--seconds", type=float, default=300.0, help="Of arrivals.")
    parser.add_argument("--every", type=float, default=30.0, help="Seconds between bursts.")
    parser.add_argument("--size", type=float, default=6.0, help="Requests in a burst, in the mean.")
    parser.add_argument("--pair-requests", type=int, default=20, help="To each of two models.")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--name", default="serve_multimodel", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="One repeat of 60 s.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds, options.pair_requests = 1, 60.0, 4
    return options


# -- one server ------------------------------------------------------------------------------------


def run_server(
    name: str,
    files: Sequence[Files],
    arrivals: Sequence[Arrival],
    prompts: Prompts,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Start a server with room for two models, and measure it."""
    server = make_server(name, files)
    server.start()
    try:
        asyncio.run(warm_up(server, prompts))
        if isinstance(server, TransformersServer):
            return asyncio.run(serve_bursts(server, arrivals))
        found = asyncio.run(serve_bursts(server, arrivals))
        return found | asyncio.run(serve_pair(server, prompts, options.pair_requests))
    finally:
        server.stop()


async def warm_up(server: Process, prompts: Prompts) -> None:
    """Have one model loaded: what a server does once in its life is no swap."""
    body = server.body(prompts.one(PAIR_IN), 2, model=MODELS[0])
    await stream(server.port, body, server.headers)


def make_server(name: str, files: Sequence[Files]) -> Process:
    home = files[0].home
    match name:
        case "llmos int8":
            paths = {
                model: one.path("llmos-int8") for model, one in zip(MODELS, files, strict=True)
            }
            weights = files[0].weights_bytes("llmos-int8")
            budget_bytes = int(BUDGET_IN_MODELS * (weights + CACHE_BYTES))
            return LlmosServer(name, paths, memory_bytes=budget_bytes)
        case "llama.cpp q8_0":
            folder = home / "shapes" / f"{files[0].shape}-router"
            folder.mkdir(exist_ok=True)
            for model, one in zip(MODELS, files, strict=True):
                link = folder / f"{model}.gguf"
                link.unlink(missing_ok=True)
                link.symlink_to(one.path("q8_0"))
            program = llama_program(home, "llama-server")
            return LlamaServer(name, program, folder, max_models=RESIDENT)
        case _:
            paths = {model: one.path("hf") for model, one in zip(MODELS, files, strict=True)}
            return TransformersServer(name, paths)


async def serve_bursts(server: Process, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Serve the arrivals; return how many were answered in time, and what was swapped."""
    swaps, busy = Swaps(), dict.fromkeys(MODELS, 0)
    watcher = asyncio.create_task(_watch(server, swaps, busy))
    begun = time.perf_counter()
    found = await asyncio.gather(*(_arrive(server, one, busy) for one in arrivals))
    seconds = time.perf_counter() - begun
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    good = sum(is_good(one) for one in found)
    ttfts = [one.ttft_s for one in found if one.times]
    return {
        "requests": len(found),
        "good_share": good / len(found),
        "goodput_per_s": good / seconds,
        "ttft_p50_s": percentiles(ttfts, 50)[0],
        "ttft_p95_s": percentiles(ttfts, 95)[0],
        "loads": swaps.loads,
        "load_s": swaps.load_s / swaps.loads if swaps.loads else 0.0,
        "most_resident": swaps.most_resident,
        "busy_evicted": swaps.busy_evicted,
        "failed": sorted({one.error[:200] for one in found if one.error}),
    }


def is_good(one: Stream) -> bool:
    """Whether the answer is whole, began in time and went on fast enough."""
    if one.error or not one.times or one.ttft_s > LARGEST_TTFT_S:
        return False
    num_later = max(one.num_written - 1, 1)
    return (one.times[-1] - one.times[0]) / num_later <= LARGEST_ITL_S


async def _arrive(server: Process, arrival: Arrival, busy: dict[str, int]) -> Stream:
    await asyncio.sleep(arrival.at_s)
    one = Stream()
    body = server.body(arrival.prompt, arrival.max_tokens, model=arrival.model)
    asking = asyncio.create_task(stream(server.port, body, server.headers, into=one))
    is_counted = False
    while not asking.done():
        await asyncio.wait({asking}, timeout=POLL_S / 2)
        if one.times and not is_counted:
            is_counted = True
            busy[arrival.model] += 1
    busy[arrival.model] -= is_counted
    return one


async def _watch(server: Process, swaps: Swaps, busy: dict[str, int]) -> None:
    """Look which models are in memory; one that is writing must stay."""
    while True:
        were_busy = {model for model, count in busy.items() if count}
        states = await server.residents()
        still_busy = {model for model, count in busy.items() if count}
        swaps.note(states, were_busy & still_busy, time.perf_counter())
        await asyncio.sleep(POLL_S)


async def serve_pair(server: Process, prompts: Prompts, count: int) -> dict[str, float]:
    """Return what alternating between two loaded models costs over one after the other: how much
    longer a request takes that follows one to the other model than one that follows one to its own.
    Both kinds take turns, so that a machine whose speed drifts does not count. Before, the two are
    asked in turn until both are in memory: after bursts on four, a third may stay for a while."""

    async def seconds(model: str) -> float:
        begun = time.perf_counter()
        body = server.body(prompts.one(PAIR_IN), PAIR_OUT, model=model)
        found = await stream(server.port, body, server.headers)
        if found.error:
            sys.exit(f"{server.name}: {found.error}")
        return time.perf_counter() - begun

    first, second = MODELS[:2]
    num_settling = 0
    while num_settling < MOST_SETTLING:
        num_settling += 2
        for model in (first, second):
            await seconds(model)
        states = await server.residents()
        if all(states.get(model) == "ready" for model in (first, second)):
            break
    for model in (first, second):
        await seconds(model)
    alternating, staying = 0.0, 0.0
    for model in (first, second) * count:
        alternating += await seconds(model)
        staying += await seconds(model)
    return {"pair_cost": alternating / staying, "pair_settling": num_settling}


# -- what came of it -------------------------------------------------------------------------------


def line(run: dict[str, Any]) -> str:
    parts = [f"{key} {value:.3g}" for key, value in run.items() if key != "failed"]
    return ", ".join(parts) + (f"; FAILED: {run['failed']}" if run["failed"] else "")


def show(measured: dict[str, Any]) -> None:
    keys = ("good_share", "goodput_per_s", "ttft_p50_s", "ttft_p95_s", "loads", "load_s")
    keys += ("most_resident", "busy_evicted", "pair_cost", "pair_settling")
    none = {"median": float("nan")}
    table(
        ("four models", *keys),
        (
            (name, *(values.get(key, none)["median"] for key in keys))
            for name, values in measured.items()
        ),
    )
    peers = [name for name in measured if not name.startswith("llmos")]
    for name in (name for name in measured if name.startswith("llmos")):
        ours = measured[name]
        if peers:
            best = max(peers, key=lambda peer: measured[peer]["goodput_per_s"]["median"])
            peer_goodput = max(measured[best]["goodput_per_s"]["median"], 1e-9)
            ratio = ours["goodput_per_s"]["median"] / peer_goodput
            say(name, f"goodput {ratio:.2f}x {best}", ratio >= LEAST_RATIO)
        cost = ours["pair_cost"]["median"]
        say(name, f"alternating costs {cost:.3f}x", cost <= LARGEST_PAIR_COST)
        evicted = ours["busy_evicted"]["high"]
        say(name, f"{evicted:.0f} busy models evicted", evicted == 0)


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "answers in time, four models where two fit", "loads, and seconds each")
    goodput = {who: [values["goodput_per_s"]] for who, values in measured.items()}
    plot.bars(0, "requests/s", ("goodput",), goodput)
    loads = {who: [values["loads"], values["load_s"]] for who, values in measured.items()}
    plot.bars(1, "", ("loads", "seconds a load"), loads)
    plot.save()


if __name__ == "__main__":
    sys.exit(main())
