"""Requests that share a 1,024-token prefix: the first has to read it, the others find it cached.

Each round takes a prefix nobody has seen and asks 64 times, one request after another, each with 32
tokens of its own at the end. Time to the first token of the first request is cold, of the others
warm. Servers take turns; those not at work are stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

from machine import machine
from peers import NAMES
from results import Plot, spread, table, write
from servers import Process, ask_all, servers
from shapes import PEERS_HOME, SHAPES, make
from workloads import Prompts

DEFAULT = ("llmos int8", "llama.cpp q8_0", "openvino int8", "vllm bf16")
LARGEST_WARM_SHARE = 0.1
SUFFIX_TOKENS, MAX_TOKENS = 32, 4


def main() -> None:
    options = parse()
    files = make(options.peers_home, options.shape, ["hf"])
    entrants = servers(files, options.peers)
    prompts = Prompts(files, 64)
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.peers}
    try:
        for server in entrants:
            server.start()
            asyncio.run(one_round(server, prompts, options.prefix_tokens, 2))
            server.signal(signal.SIGSTOP)
        for repeat in range(options.repeats):
            for server in entrants:
                server.signal(signal.SIGCONT)
                found = asyncio.run(
                    one_round(server, prompts, options.prefix_tokens, options.requests)
                )
                server.signal(signal.SIGSTOP)
                rounds[server.name].append(found)
                print(
                    f"{repeat + 1}/{options.repeats} {server.name}: cold {found['cold_s']:.3f} s, "
                    f"warm {found['warm_s']:.3f} s",
                    flush=True,
                )
    finally:
        for server in entrants:
            server.stop()
    measured = {
        name: {key: spread(one[key] for one in found) for key in found[0]}
        for name, found in rounds.items()
    }
    report = {
        "shape": options.shape,
        "prefix_tokens": options.prefix_tokens,
        "requests": options.requests,
        "repeats": options.repeats,
        "measured": measured,
        "machine": facts,
    }
    show(measured)
    write(options.name, report)
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--peers", nargs="*", default=[*DEFAULT], choices=NAMES)
    parser.add_argument("--prefix-tokens", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="serve_prefix", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="Two rounds of 6 requests.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.requests = 2, 6
    return options


async def one_round(
    server: Process, prompts: Prompts, prefix_tokens: int, requests: int
) -> dict[str, float]:
    """Return seconds to the first token: of the first request, and the others' median."""
    prefix = prompts.one(prefix_tokens)
    times = []
    for _ in range(requests):
        prompt = [*prefix, *prompts.one(SUFFIX_TOKENS)]
        (found,) = await ask_all(server, [prompt], MAX_TOKENS, "interactive")
        if found.error or not found.times:
            sys.exit(f"{server.name}: {found.error or 'no text came'}")
        times.append(found.ttft_s)
    warm_s = statistics.median(times[1:])
    return {"cold_s": times[0], "warm_s": warm_s, "warm_share": warm_s / times[0]}


def show(measured: dict[str, Any]) -> None:
    table(
        ("TTFT", "cold s", "warm s", "warm/cold"),
        (
            (name, *(values[key]["median"] for key in ("cold_s", "warm_s", "warm_share")))
            for name, values in measured.items()
        ),
    )
    for name in (name for name in measured if name.startswith("llmos")):
        share = measured[name]["warm_share"]["median"]
        verdict = "ok" if share <= LARGEST_WARM_SHARE else "MISSED"
        print(f"{name}: warm {share:.1%} of cold (at most {LARGEST_WARM_SHARE:.0%}): {verdict}")


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "time to first token, 1,024-token prefix")
    series = {who: [values["cold_s"], values["warm_s"]] for who, values in measured.items()}
    plot.bars(0, "s", ("cold", "warm"), series, is_log=True)
    plot.save()


if __name__ == "__main__":
    sys.exit(main())
