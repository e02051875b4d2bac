"""The cluster in simulation: goodput of llmos against FIFO, a static partition and least-loaded.

For each trace the load is swept on a smaller cluster of the same make, from where policies do not
differ to where all fail. The gate is at load 1, as much as the devices could compute at best: there
all policies serve 10^5 requests on 1,000 devices. `--million` has llmos serve 10^6 instead. All on
one core; the same seed gives the same numbers, so nothing is repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmos.simulate.cluster import Outcome, simulate
from llmos.simulate.plots import draw_sweeps
from llmos.simulate.policies import POLICIES
from llmos.simulate.scenario import Scenario
from llmos.simulate.steptimes import FACTS, MEASURED
from llmos.simulate.traces import Trace, read_trace
from machine import machine
from results import RESULTS, say, table, write

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"
LOADS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
GOOD_SHARE = 0.9
LEAST_RATIOS = {"static": 1.5, "fifo": 2.0}
MOST_CPU_S = 120.0
Sweep = dict[str, dict[str, dict[str, Any]]]
"""Reports by policy and load."""
KEYS = ("goodput_per_s", "good_share", "all_good_share", "utilisation", "fairness", "worst_tenant")
KEYS += ("loads",)


def main() -> None:
    options = parse()
    paths = sorted(options.traces.glob("azure_llm_2023_*.csv"), reverse=True)
    if not paths:
        sys.exit(f"no azure_llm_2023_*.csv in {options.traces}: give --traces DIR")
    traces = [read_trace(path) for path in paths]  # conv, then code
    if options.million:
        million(traces[0], options)
        return
    report = _before(options.name)
    if options.part != "standard":
        report["sweeps"] = {trace.name: sweep(trace, options) for trace in traces}
        draw(options.name, report["sweeps"])
        write(options.name, report)
    for trace in traces if options.part != "sweep" else ():
        found = at_standard(trace, options.load, options)
        report["standard"] = report.get("standard", {}) | {trace.name: found}
        write(options.name, report)
    write(options.name, report | {"facts": facts(traces[0], options)})


def _before(name: str) -> dict[str, Any]:
    """Return what the parts that are not run again found."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def draw(name: str, sweeps: Mapping[str, Sweep]) -> None:
    path = RESULTS / f"{name}.png"
    lines = {
        trace: {who: list(reports.values()) for who, reports in found.items()}
        for trace, found in sweeps.items()
    }
    draw_sweeps(lines, path)
    print(f"written: {path}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="DIR")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--sweep-nodes", type=int, default=40)
    parser.add_argument("--sweep-requests", type=int, default=4000)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--load", type=float, default=1.0, help="Of the gate and --million.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=("sweep", "standard"), help="Only one of the two.")
    parser.add_argument("--million", action="store_true", help="Only 10^6 requests by llmos.")
    parser.add_argument("--quick", action="store_true", help="Small clusters: a minute or two.")
    parser.add_argument("--name", default="simulate", help="Of the files under results/.")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.requests = 50, 5000
        options.sweep_nodes, options.sweep_requests, options.loads = 30, 2000, (0.5, 1.0, 1.3)
    return options


def facts(trace: Trace, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the numbers depend on, and where they were made."""
    scenario = Scenario(trace)
    return {
        "step_cost": asdict(MEASURED.cost),
        "measured_steps": [asdict(fact) for fact in FACTS],
        "mix": asdict(scenario.mix),
        "hardware": asdict(scenario.hardware),
        "targets": asdict(scenario.targets),
        "nodes": options.nodes,
        "requests": options.requests,
        "seed": options.seed,
        "machine": machine(),
    }


def run(trace: Trace, name: str, load: float, nodes: int, requests: int, seed: int) -> Outcome:
    scenario = Scenario(trace, num_nodes=nodes, num_requests=requests, load=load, seed=seed)
    outcome = simulate(scenario, POLICIES[name], name)
    report = outcome.report
    print(
        f"{trace.name} load {load:g} {name}: {report.good_share:.1%} good, "
        f"{report.goodput_per_s:.1f}/s of {report.rate_per_s:.1f}/s, {outcome.cpu_s:.0f} s",
        flush=True,
    )
    return outcome


# -- as the load grows -----------------------------------------------------------------------------


def sweep(trace: Trace, options: argparse.Namespace) -> Sweep:
    size = options.sweep_nodes, options.sweep_requests, options.seed
    found: Sweep = {name: {} for name in POLICIES}
    for name, reports in found.items():
        for load in options.loads:
            reports[f"{load:g}"] = run(trace, name, load, *size).report.as_json()
    rows = ((name, *(one["good_share"] for one in found[name].values())) for name in found)
    table((f"{trace.name}: good at load", *(f"{load:g}" for load in options.loads)), rows)
    ends = ((name, most(reports), sustained(reports)) for name, reports in found.items())
    table((trace.name, "most goodput", "load with 90% good"), ends)
    return found


def most(reports: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the highest goodput at any load."""
    return max(float(one["goodput_per_s"]) for one in reports.values())


def sustained(reports: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the highest load at which nine answers in ten are good; 0 where there is none."""
    good = (float(load) for load, one in reports.items() if one["good_share"] >= GOOD_SHARE)
    return max(good, default=0.0)


# -- at the standard load --------------------------------------------------------------------------


def at_standard(trace: Trace, load: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return what each policy makes of the gate: so many requests on so many devices."""
    size = options.nodes, options.requests, options.seed
    outcomes = {name: run(trace, name, load, *size) for name in POLICIES}
    reports = {name: outcome.report for name, outcome in outcomes.items()}
    table(
        (f"{trace.name} at load {load:g}", *KEYS, "ttft p50", "p99", "itl p50", "p99"),
        (
            (
                name,
                *(getattr(report, key) for key in KEYS),
                *(report.ttft_s[key] for key in ("p50", "p99")),
                *(report.itl_s[key] for key in ("p50", "p99")),
            )
            for name, report in reports.items()
        ),
    )
    ours = reports["llmos"].goodput_per_s
    others = {name: report for name, report in reports.items() if name != "llmos"}
    ratios = {name: ours / max(report.goodput_per_s, 1e-9) for name, report in others.items()}
    ours_all = reports["llmos"].all_good_per_s
    with_batch = {name: ours_all / report.all_good_per_s for name, report in others.items()}
    for name, least in LEAST_RATIOS.items():
        text = f"goodput {ratios[name]:.2f}x {name}, {with_batch[name]:.2f}x with batch"
        say("llmos", f"{trace.name}: {text}", ratios[name] >= least)
    cpu_s = outcomes["llmos"].cpu_s
    say("llmos", f"{options.requests:,} requests in {cpu_s:.0f} s of one core", cpu_s <= MOST_CPU_S)
    return {
        "load": load,
        "goodput_ratios": ratios,
        "with_batch_ratios": with_batch,
        "policies": {name: outcome_json(outcome) for name, outcome in outcomes.items()},
    }


def million(trace: Trace, options: argparse.Namespace) -> None:
    """Have llmos serve 10^6 requests; say how long that took."""
    outcome = run(trace, "llmos", options.load, options.nodes, 10**6, options.seed)
    print(
        f"{trace.name}: {outcome.report.requests:,} requests in {outcome.cpu_s:.0f} s of one core"
    )
    found = {"facts": facts(trace, options), "load": options.load, "llmos": outcome_json(outcome)}
    write(f"{options.name}_million", found)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return a report, what was done for it, and how fast."""
    work, cpu_s = asdict(outcome.work), outcome.cpu_s
    made = sum(work[key] for key in ("plans", "decisions", "routes"))
    cost = {"cpu_s": cpu_s, "decisions_per_s": made / max(cpu_s, 1e-9)}
    return outcome.report.as_json() | {"work": work} | cost


if __name__ == "__main__":
    main()
