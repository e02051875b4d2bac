"""Tokens a second of llmos and its peers, generating for 1, 4, 16 and 32 rows at a time.

Each row reads 128 tokens and writes 128 more, greedily, never ending early. The engines are called
in process (llama.cpp by its own batched benchmark), one turn each, over and over. Prefill is a run
that writes one token a row; decoding is counted from when every row has begun. Prompts are random
and never repeat, and speculation is off: random weights repeat themselves, so it would guess right
as it never does on text. With --http the servers are asked instead, by streams.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import machine
from peers import NAMES, Contestant, Turn, contestants
from results import Plot, spread, table, write
from servers import servers
from shapes import FIRST_WORD_ID, PEERS_HOME, SHAPES, make

DEFAULT = tuple(name for name in NAMES if name not in ("llmos bf16", "llama.cpp f16"))
PRECISE = ("int8", "q8_0", "bf16", "f16")
"""Weights at least as precise as int8: whom llmos int8 is compared with."""
Turns = dict[tuple[str, int], list[Turn]]


def main() -> None:
    options = parse()
    files = make(options.peers_home, options.shape, ["hf"])
    make_entrants = servers if options.http else contestants
    entrants: Sequence[Contestant] = make_entrants(files, options.peers)
    facts = machine()
    try:
        for entrant in entrants:
            print(f"starting {entrant.name}", flush=True)
            entrant.start()
        turns = take_turns(entrants, files.vocab_size, options)
        peaks = {entrant.name: entrant.peak_rss_bytes() for entrant in entrants}
    finally:
        for entrant in entrants:
            entrant.stop()
    bandwidth = facts["read_gb_per_s"] * 1e9
    rows = {
        entrant.name: summary(entrant, turns, options.concurrency, bandwidth)
        | {"peak_rss_gb": round(peaks[entrant.name] / 1e9, 2)}
        for entrant in entrants
    }
    report = {
        "shape": options.shape,
        "tokens_in": options.tokens_in,
        "tokens_out": options.tokens_out,
        "repeats": options.repeats,
        "through": "http" if options.http else "process",
        "measured": rows,
        "ratios": ratios(rows),
        "machine": facts,
    }
    name = "serve_throughput_http" if options.http else "serve_throughput"
    show(report, options.concurrency)
    write(options.name or name, report)
    draw(options.name or name, report, options.concurrency)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--peers", nargs="*", default=[*DEFAULT], choices=NAMES)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--tokens-in", type=int, default=128)
    parser.add_argument("--tokens-out", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--http", action="store_true", help="Ask servers, not engines.")
    parser.add_argument("--name", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument(
        "--quick", action="store_true", help="One repeat, 1 and 16 rows, 32 tokens."
    )
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.concurrency, options.tokens_out = 1, [1, 16], 32
    return options


def take_turns(
    entrants: Sequence[Contestant], vocab_size: int, options: argparse.Namespace
) -> Turns:
    """Let all take a turn at each number of rows, ``repeats`` times, after one to warm up."""
    dice = random.Random(2026)
    turns: Turns = {}
    for repeat in range(-1, options.repeats):
        for rows in options.concurrency:
            for entrant in entrants:
                length, count = options.tokens_in, 2 * rows
                prompts = [
                    [dice.randrange(FIRST_WORD_ID, vocab_size) for _ in range(length)]
                    for _ in range(count)
                ]
                turn = entrant.turn(prompts, options.tokens_out if repeat >= 0 else 8)
                if repeat < 0:
                    continue
                turns.setdefault((entrant.name, rows), []).append(turn)
                print(
                    f"{repeat + 1}/{options.repeats} {entrant.name:<20} {rows:>3} rows: "
                    f"{turn.decode_rate:7.1f} tokens/s, prefill {turn.prefill_rate:7.1f}",
                    flush=True,
                )
    return turns


def summary(
    entrant: Contestant, turns: Turns, concurrency: list[int], bandwidth: float
) -> dict[str, Any]:
    """Return medians and ranges by number of rows, and the share of what memory allows."""
    by_rows = {}
    for rows in concurrency:
        found = turns[entrant.name, rows]
        rate = spread(turn.decode_rate for turn in found)
        steps_per_s = rate["median"] / rows
        by_rows[str(rows)] = {
            "decode_tokens_per_s": rate,
            "prefill_tokens_per_s": spread(turn.prefill_rate for turn in found),
            "step_ms": spread(turn.step_ms for turn in found),
            "share_of_bandwidth": steps_per_s * entrant.weights_bytes / bandwidth,
        }
    return {"weights_mb": round(entrant.weights_bytes / 1e6), "rows": by_rows}


def ratios(measured: dict[str, Any]) -> dict[str, Any]:
    """Return llmos over the best peer of at least its precision, by number of rows.

    The machine's speed drifts, so each repeat is compared in itself: what counts is the median of
    its ratios.
    """
    found: dict[str, Any] = {}
    for ours in (name for name in measured if name.startswith("llmos")):
        is_int4 = ours.endswith("int4")
        peers = [
            name
            for name in measured
            if not name.startswith("llmos") and (is_int4 or name.endswith(PRECISE))
        ]
        if not peers:
            continue
        for what in ("decode_tokens_per_s", "prefill_tokens_per_s"):
            for rows, values in measured[ours]["rows"].items():
                best = max(peers, key=lambda p: measured[p]["rows"][rows][what]["median"])
                theirs = measured[best]["rows"][rows][what]["each"]
                pairs = zip(values[what]["each"], theirs, strict=True)
                ratio = spread(round(one / other, 3) for one, other in pairs)
                key = f"{ours}, {what.split('_')[0]}, {rows} rows"
                found[key] = {"ratio": ratio, "best_peer": best}
    return found


def show(report: dict[str, Any], concurrency: list[int]) -> None:
    columns = [f"decode {rows}" for rows in concurrency]
    columns += [f"prefill {rows}" for rows in concurrency]
    table(
        ("tokens/s", *columns, "ms/step", "of bandwidth", "GB peak"),
        (
            (
                name,
                *(one["decode_tokens_per_s"]["median"] for one in values["rows"].values()),
                *(one["prefill_tokens_per_s"]["median"] for one in values["rows"].values()),
                next(iter(values["rows"].values()))["step_ms"]["median"],
                next(iter(values["rows"].values()))["share_of_bandwidth"],
                values["peak_rss_gb"],
            )
            for name, values in report["measured"].items()
        ),
    )
    for what, found in report["ratios"].items():
        ratio = found["ratio"]
        between = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        print(f"{what}: {ratio['median']:.2f}x {found['best_peer']} ({between})")


def draw(name: str, report: dict[str, Any], concurrency: list[int]) -> None:
    title = f"{report['shape']}: {{}} tokens/s"
    plot = Plot(name, title.format("decode"), title.format("prefill"))
    groups = [f"{rows} rows" for rows in concurrency]
    for chart, what in enumerate(("decode_tokens_per_s", "prefill_tokens_per_s")):
        series = {
            contestant: [one[what] for one in values["rows"].values()]
            for contestant, values in report["measured"].items()
        }
        plot.bars(chart, "tokens/s", groups, series)
    plot.save()


if __name__ == "__main__":
    sys.exit(main())
