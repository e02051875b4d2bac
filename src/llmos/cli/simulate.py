"""`llmos simulate`: what a cluster would do under a load, without having either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmos.cli.options import JsonOption
from llmos.cli.output import note, percent, print_json, print_table

if TYPE_CHECKING:
    from llmos.simulate.cluster import Outcome
    from llmos.simulate.scenario import Scenario

ALL_POLICIES = "llmos,fifo,static,least-loaded"
MOST_MODELS = 24


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("simulate", rich_help_panel="Server")(simulate)


def read_count(text: str) -> int:
    """Return a whole number that may be written as 100000, 1e5 or 1_000.

    Raises:
        BadParameter: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 1.0 <= number <= 1e15 or number != int(number):
        raise typer.BadParameter(f"{text!r} is not a whole number above 0, such as 1000 or 1e6.")
    return int(number)


def simulate(
    nodes: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="Devices, each one alike.")
    ] = 50,
    num_requests: Annotated[
        int, typer.Option("--requests", parser=read_count, metavar="N", help="Such as 1e6.")
    ] = 2000,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Azure trace of 2023 as CSV; without it, one made up."),
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAMES", help="What to compare, separated by commas.")
    ] = ALL_POLICIES,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Requests a second, instead of --load.")
    ] = None,
    load: Annotated[
        float, typer.Option(metavar="SHARE", help="Of what the devices could compute at best.")
    ] = 0.8,
    models: Annotated[
        int | None, typer.Option(metavar="N", help="Models, of which four fit on a device.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same report.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture: .png, .svg or .pdf.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a cluster under a load, with llmos's own scheduler and with simpler ones.

    Devices are alike: the machine that step times were measured on, with room for four models.
    What is made up about requests, docs/simulator.md says.

    Examples:
      llmos simulate
      llmos simulate --nodes 1000 --requests 1e5 --trace azure_llm_2023_conv.csv --policy llmos
      llmos simulate --load 1.0 --policy llmos,static --json
      llmos simulate --nodes 100 --requests 1e4 --rate 60 --plot policies.png
    """
    from llmos.simulate.cluster import simulate as run
    from llmos.simulate.plots import check_format, draw_policies
    from llmos.simulate.policies import POLICIES

    names = _policies(policy)
    if plot is not None:
        check_format(plot)
    scenario = _scenario(trace, nodes, num_requests, rate, load, models, seed)
    note(_described(scenario, num_requests, nodes))
    outcomes = []
    for name in names:
        with _progress(name) as on_progress:
            outcomes.append(run(scenario, POLICIES[name], name, on_progress=on_progress))
    if plot is not None:
        draw_policies([one.report for one in outcomes], plot)
        note(f"written: {plot}")
    if as_json:
        print_json([_as_json(one) for one in outcomes])
    else:
        _show(outcomes)


def _described(scenario: Scenario, num_requests: int, nodes: int) -> str:
    return (
        f"{num_requests:,} requests of {scenario.trace.name} at {scenario.offered_per_s:.1f}/s for "
        f"{scenario.mix.num_models} models on {nodes:,} devices"
    )


def _policies(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ALL_POLICIES.split(","):
            raise typer.BadParameter(f"{name!r} is no policy: there are {ALL_POLICIES}.")
    if not names:
        raise typer.BadParameter(f"name a policy at least: there are {ALL_POLICIES}.")
    return list(dict.fromkeys(names))


def _scenario(
    trace: Path | None,
    nodes: int,
    num_requests: int,
    rate: float | None,
    load: float,
    models: int | None,
    seed: int,
) -> Scenario:
    from llmos.simulate.scenario import Scenario
    from llmos.simulate.traces import Mix, read_trace, synthetic_trace

    return Scenario(
        trace=synthetic_trace(seed) if trace is None else read_trace(trace),
        num_nodes=nodes,
        num_requests=num_requests,
        load=load,
        rate_per_s=rate,
        seed=seed,
        mix=Mix(num_models=min(MOST_MODELS, nodes) if models is None else models),
    )


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``on_progress(done, total)``: a bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(f"{name:<12}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _as_json(one: Outcome) -> dict[str, object]:
    return one.report.as_json() | {"work": asdict(one.work), "cpu_s": round(one.cpu_s, 3)}


def _show(outcomes: Sequence[Outcome]) -> None:
    times = ("ttft p50", "p95", "p99", "itl p50", "p99")
    shares = ("busy", "fairness", "worst tenant")
    ends = ("loads", "J/1k tokens", "unserved", "took")
    rows = []
    for one in outcomes:
        report = one.report
        ttft = [_time(report.ttft_s.get(name)) for name in ("p50", "p95", "p99")]
        itl = [_time(report.itl_s.get(name)) for name in ("p50", "p99")]
        good = (percent(report.good_share), percent(report.all_good_share))
        numbers = (report.policy, f"{report.goodput_per_s:.2f}", *good)
        found = (percent(report.utilisation), f"{report.fairness:.3f}")
        worst, joules = percent(report.worst_tenant), f"{report.joules_per_1k_tokens:.0f}"
        last = (worst, report.loads, joules, report.unserved, f"{one.cpu_s:.1f} s")
        rows.append((*numbers, *ttft, *itl, *found, *last))
    columns = ("policy", "good/s", "good", "with batch", *times, *shares, *ends)
    print_table(columns, rows, empty="nothing was simulated")


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"
