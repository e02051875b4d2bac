"""Interactive requests beside a batch that saturates the server: how long they wait, what it costs.

Sixteen closed-loop streams (128 tokens in, 128 out, priority batch) keep a server busy. Interactive
requests arrive as a Poisson process, 0.4 a second, with the lengths of Azure's conversation trace
divided by eight. The same arrivals are served without the batch first. Over HTTP, streamed.

Work is weighed by what a server's own tokens cost it alone (prefill of 8 prompts at a time,
decode of 16 rows): the total under load, interactive and batch, is a share of the batch's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import machine
from peers import NAMES
from repeats import Repeats
from results import Plot, percentiles, say, spread, table, write
from servers import Process, Server, ask_all, servers
from shapes import PEERS_HOME, SHAPES, make
from streams import Stream, merged_gaps, stream
from workloads import TRACE, Arrival, Prompts, conversation_lengths, poisson

DEFAULT = ("llmos int8", "llama.cpp q8_0", "openvino int8", "vllm bf16")
BATCH_ROWS, BATCH_IN, BATCH_OUT = 16, 128, 128
SETTLE_S = 10.0
METRICS = ("ttft_p50", "ttft_p95", "ttft_p99", "itl_p50", "itl_p95", "itl_p99", "stall")
LIMITS = {"itl_p50": 0.1, "itl_p99": 0.2, "stall": 0.5}
"""Seconds that llmos promises under load."""
LARGEST_TTFT_RATIO, LEAST_WORK = 2.0, 0.95


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that a token costs a server which does nothing else."""

    prefill_s: float
    decode_s: float

    def work(self, found: Iterable[Stream], begun: float, ended: float) -> float:
        """Return the seconds' worth of tokens that came between two moments."""
        total = 0.0
        for one in found:
            if not one.times:
                continue
            per_event = max(one.num_written / len(one.times), 1.0)
            if begun <= one.times[0] < ended:
                total += one.num_prompt * self.prefill_s
            num_later = sum(begun <= at < ended for at in one.times[1:])
            total += num_later * per_event * self.decode_s
        return total


@dataclass(slots=True)
class Load:
    """What ran in one phase."""

    interactive: list[Stream] = field(default_factory=list)
    batch: list[Stream] = field(default_factory=list)
    begun: float = 0.0
    ended: float = 0.0


def main() -> None:
    options = parse()
    files = make(options.peers_home, options.shape, ["hf"])
    lengths = conversation_lengths(options.trace)
    facts = machine()

    def run(name: str, repeat: int) -> dict[str, Any]:
        prompts = Prompts(files, 100 + repeat)
        arrivals = poisson(options.arrivals, options.rate, lengths, prompts, 7 + repeat)
        (server,) = servers(files, [name])
        server.start()
        try:
            return asyncio.run(measure(server, arrivals, prompts, options.batch_s))
        finally:
            server.stop()

    repeats = Repeats(options.name, vars(options))
    runs = repeats.measure(options.peers, options.repeats, run, line)
    measured = {name: summary(found) for name, found in runs.items()}
    report = {
        "shape": options.shape,
        "arrivals": options.arrivals,
        "rate_per_s": options.rate,
        "repeats": options.repeats,
        "measured": measured,
        "verdicts": verdicts(measured),
        "machine": facts,
    }
    show(report)
    write(options.name, report)
    repeats.end()
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--peers", nargs="*", default=[*DEFAULT], choices=NAMES)
    parser.add_argument("--arrivals", type=int, default=100, help="Requests per phase and repeat.")
    parser.add_argument("--rate", type=float, default=0.4, help="Of them, per second.")
    parser.add_argument("--batch-s", type=float, default=60.0, help="Seconds of batch alone.")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--name", default="serve_mixed", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="One repeat of 12 arrivals.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.arrivals, options.batch_s = 1, 12, 25.0
    return options


# -- one server ------------------------------------------------------------------------------------


async def measure(
    server: Process, arrivals: list[Arrival], prompts: Prompts, batch_s: float
) -> dict[str, Any]:
    """Return the delays without and with load, and the share of the work that was kept."""
    await ask_all(server, prompts.several(2, BATCH_IN), 4)
    costs = await token_costs(server, prompts)
    idle = await phase(server, arrivals, prompts, batch_rows=0)
    alone = await phase(server, [], prompts, batch_rows=BATCH_ROWS, at_least_s=batch_s)
    loaded = await phase(server, arrivals, prompts, batch_rows=BATCH_ROWS)
    rates = [
        costs.work(
            (*load.interactive, *load.batch), load.begun + SETTLE_S, load.ended
        ) / (load.ended - load.begun - SETTLE_S)
        for load in (alone, loaded)
    ]  # fmt: skip
    if not rates[0]:
        sys.exit(f"{server.name}: the batch alone wrote nothing: {failures(alone.batch)}")
    return {
        "idle": delays(idle.interactive),
        "loaded": delays(loaded.interactive),
        "work_kept": rates[1] / rates[0],
        "prefill_ms_per_token": 1000 * costs.prefill_s,
        "decode_ms_per_token": 1000 * costs.decode_s,
        "failed": failures((*idle.interactive, *alone.batch, *loaded.interactive, *loaded.batch)),
    }


async def token_costs(server: Server, prompts: Prompts) -> Costs:
    """Measure what tokens cost alone: 8 prompts at a time, then 16 rows."""

    async def seconds(count: int, length: int, max_tokens: int) -> float:
        begun = time.perf_counter()
        found = await ask_all(server, prompts.several(count, length), max_tokens)
        if any(one.error for one in found):
            sys.exit(f"{server.name}: {next(one.error for one in found if one.error)}")
        return time.perf_counter() - begun

    prefill_s = min([await seconds(8, 256, 1) for _ in range(2)]) / (8 * 256)
    read_s = await seconds(BATCH_ROWS, BATCH_IN, 1)
    written_s = await seconds(BATCH_ROWS, BATCH_IN, BATCH_OUT)
    return Costs(prefill_s, (written_s - read_s) / (BATCH_ROWS * (BATCH_OUT - 1)))


async def phase(
    server: Server,
    arrivals: list[Arrival],
    prompts: Prompts,
    *,
    batch_rows: int,
    at_least_s: float = 0.0,
) -> Load:
    """Serve the arrivals, with closed-loop batch rows beside them; ends when all are answered."""
    load = Load(begun=time.perf_counter())
    rows = [asyncio.create_task(_closed_loop(server, prompts, load)) for _ in range(batch_rows)]
    if rows:
        await asyncio.sleep(SETTLE_S)
    asked = [asyncio.create_task(_arrive(server, one, load)) for one in arrivals]
    try:
        if asked:
            await asyncio.wait(asked)
        await asyncio.sleep(max(at_least_s - (time.perf_counter() - load.begun), 0.0))
    finally:
        load.ended = time.perf_counter()
        for row in rows:
            row.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
    await asyncio.sleep(1.0)  # what was cancelled must have left the server
    return load


async def _closed_loop(server: Server, prompts: Prompts, load: Load) -> None:
    while True:
        one = Stream(num_prompt=BATCH_IN)
        load.batch.append(one)
        body = server.body(prompts.one(BATCH_IN), BATCH_OUT, "batch")
        await stream(server.port, body, server.headers, into=one)
        if one.error:
            await asyncio.sleep(0.5)


async def _arrive(server: Server, arrival: Arrival, load: Load) -> None:
    await asyncio.sleep(arrival.at_s)
    one = Stream(num_prompt=len(arrival.prompt))
    load.interactive.append(one)
    body = server.body(arrival.prompt, arrival.max_tokens, "interactive")
    await stream(server.port, body, server.headers, into=one)


def delays(found: list[Stream]) -> dict[str, Any]:
    """Return each request's time to its first token, and every gap after it."""
    return {
        "ttft_s": [one.ttft_s for one in found if one.times],
        "itl_s": merged_gaps(found),
    }


def failures(found: Iterable[Stream]) -> list[str]:
    return sorted({one.error for one in found if one.error})[:5]


# -- many runs -------------------------------------------------------------------------------------


def metrics(run: dict[str, Any]) -> dict[str, float]:
    """Return percentiles of one phase, by the names in METRICS; seconds."""
    values = [
        *percentiles(run["ttft_s"], 50, 95, 99),
        *percentiles(run["itl_s"], 50, 95, 99),
        max(run["itl_s"], default=float("nan")),
    ]
    return dict(zip(METRICS, values, strict=True))


def line(run: dict[str, Any]) -> str:
    parts = []
    for phase_name in ("idle", "loaded"):
        found = metrics(run[phase_name])
        shown = (f"{name} {value:.3f}" for name, value in found.items())
        parts.append(f"{phase_name} {', '.join(shown)}")
    failed = f"; FAILED: {run['failed']}" if run["failed"] else ""
    return f"{'; '.join(parts)}; kept {run['work_kept']:.2f}{failed}"


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return percentiles over all repeats' requests, and how far the repeats lie apart."""
    result: dict[str, Any] = {}
    for phase_name in ("idle", "loaded"):
        pooled = {
            key: [value for run in runs for value in run[phase_name][key]]
            for key in ("ttft_s", "itl_s")
        }
        each = [metrics(run[phase_name]) for run in runs]
        result[phase_name] = {
            name: {**spread(one[name] for one in each), "median": value}
            for name, value in metrics(pooled).items()
        }
    for key in ("work_kept", "prefill_ms_per_token", "decode_ms_per_token"):
        result[key] = spread(run[key] for run in runs)
    result["failed"] = sorted({text for run in runs for text in run["failed"]})
    return result


def verdicts(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what is promised of llmos, and whether it held."""
    found: dict[str, Any] = {}
    others = [name for name in measured if not name.startswith("llmos")]
    for name in (name for name in measured if name.startswith("llmos")):
        loaded, idle = measured[name]["loaded"], measured[name]["idle"]
        p95 = loaded["ttft_p95"]["median"]
        ratio = p95 / idle["ttft_p95"]["median"]
        checks = {f"TTFT p95 {ratio:.2f}x unloaded": ratio <= LARGEST_TTFT_RATIO}
        for metric, limit in LIMITS.items():
            value = loaded[metric]["median"]
            checks[f"{metric} {value * 1000:.0f} ms (at most {limit * 1000:.0f})"] = value <= limit
        if others:
            best = min(measured[other]["loaded"]["ttft_p95"]["median"] for other in others)
            checks[f"TTFT p95 {p95:.2f} s, best peer {best:.2f} s"] = p95 <= best
        kept = measured[name]["work_kept"]["median"]
        checks[f"work kept {kept:.1%}"] = kept >= LEAST_WORK
        found[name] = checks
    return found


def show(report: dict[str, Any]) -> None:
    for phase_name in ("idle", "loaded"):
        table(
            (phase_name, *METRICS, "work kept"),
            (
                (
                    name,
                    *(values[phase_name][metric]["median"] for metric in METRICS),
                    values["work_kept"]["median"] if phase_name == "loaded" else "",
                )
                for name, values in report["measured"].items()
            ),
        )
    for name, checks in report["verdicts"].items():
        for text, is_met in checks.items():
            say(name, text, is_met)


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "time to first token, p95", "between tokens, under load")
    series = {
        who: [values["idle"]["ttft_p95"], values["loaded"]["ttft_p95"]]
        for who, values in measured.items()
    }
    plot.bars(0, "s", ("without load", "with the batch"), series)
    shown = ("itl_p50", "itl_p99", "stall")
    series = {who: [values["loaded"][key] for key in shown] for who, values in measured.items()}
    plot.bars(1, "s", ("p50", "p99", "longest"), series, is_log=True)
    plot.save()


if __name__ == "__main__":
    sys.exit(main())
