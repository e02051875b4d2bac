"""What the HTTP server itself costs: llmos with the echo engine, beside uvicorn sending a constant.

A hundred streams of ten tokens a second, then as fast as they come, then short requests. Every
stream has a text of its own, so a token that is lost, doubled, out of order or another stream's is
seen. CPU time is that of the server's processes (its engine included), from /proc. Last, twenty
readers take one byte a second: the others must not notice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmos.storage.blobs import BlobStore
from llmos.types import NewVersion
from machine import machine
from peers import HERE
from results import Plot, percentiles, spread, table, write
from servers import LlmosServer, Process
from shapes import FIRST_WORD_ID, word_tokenizer
from streams import PATH, Stream, merged_gaps, request, stream

VOCAB_SIZE = 4096
STEP_S = 0.1
CONTEXTS = {"paced": 10**6, "flat": 10**6 + 1}
LARGEST_CPU_US, LARGEST_SLOWDOWN = 150.0, 1.2
NUM_SLOW = 20
SLOW_TOKENS = 20_000


class EchoServer(LlmosServer):
    """llmos with two echo models: one takes STEP_S for a step, one no time at all."""

    def __init__(self) -> None:
        super().__init__("llmos", {})
        self.tokenizer = word_tokenizer(VOCAB_SIZE)

    def versions(self, blobs: BlobStore) -> Iterator[NewVersion]:
        files = {
            "config.json": blobs.put_bytes(b"{}"),
            "tokenizer.json": blobs.put_bytes(self.tokenizer.to_str().encode()),
        }
        facts = {"engine": "echo", "architecture": "Echo", "model_type": "echo", "task": "generate"}
        for name, context_tokens in CONTEXTS.items():
            pace = {"step_s": STEP_S if name == "paced" else 0.0, "vocab_size": VOCAB_SIZE}
            manifest = {**facts, **pace, "context_tokens": context_tokens}
            yield NewVersion("model", name, files, manifest)

    def asked(self, dice: random.Random, num_tokens: int, model: str) -> Asked:
        """Return a request whose answer is its own prompt."""
        prompt = [dice.randrange(FIRST_WORD_ID, VOCAB_SIZE) for _ in range(num_tokens)]
        expected = self.tokenizer.decode(prompt)
        return Asked(self.body(prompt, num_tokens, "interactive", model), expected, num_tokens)


class ConstantServer(Process):
    """uvicorn and a constant."""

    ready_path = "/"

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "workers" / "serve_constant.py"), str(self.port)]

    def asked(self, dice: random.Random, num_tokens: int, model: str) -> Asked:
        """Return a request for as many events."""
        pause_s = STEP_S if model == "paced" else 0.0
        body = {"max_tokens": num_tokens, "pause_s": pause_s}
        return Asked(body, " w1234" * num_tokens, num_tokens)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and the text that must come."""

    body: dict[str, Any]
    expected: str
    num_tokens: int


def main() -> None:
    options = parse()
    facts = machine()
    runs: dict[str, list[dict[str, float]]] = {"llmos": [], "uvicorn constant": []}
    entrants: list[EchoServer | ConstantServer] = [EchoServer(), ConstantServer("uvicorn constant")]
    try:
        for server in entrants:
            server.start()
            asyncio.run(ask(server, 4, 10, "flat"))
        for repeat in range(options.repeats):
            for server in entrants:
                found = measure(server, options)
                runs[server.name].append(found)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
                print(f"{repeat + 1}/{options.repeats} {server.name}: {shown}", flush=True)
    finally:
        for server in entrants:
            server.stop()
    measured = {
        name: {key: spread(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    report = {
        "streams": options.streams,
        "repeats": options.repeats,
        "measured": measured,
        "machine": facts,
    }
    show(measured)
    write(options.name, report)
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--paced-tokens", type=int, default=150, help="Each; ten a second.")
    parser.add_argument("--flat-tokens", type=int, default=300, help="Each.")
    parser.add_argument("--requests", type=int, default=1000, help="Short ones.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="serve_http", help="Of the files under results/.")
    parser.add_argument("--quick", action="store_true", help="One repeat of shorter streams.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.paced_tokens = 1, 50
        options.flat_tokens, options.requests = 100, 300
    return options


def measure(server: EchoServer | ConstantServer, options: argparse.Namespace) -> dict[str, float]:
    """Return what one turn of a server shows."""
    result: dict[str, float] = {}
    for model, num_tokens in (("paced", options.paced_tokens), ("flat", options.flat_tokens)):
        cpu_s, begun = server.cpu_seconds(), time.perf_counter()
        found = asyncio.run(ask(server, options.streams, num_tokens, model))
        seconds = time.perf_counter() - begun
        tokens = options.streams * num_tokens
        result[f"{model}_cpu_us_per_token"] = 1e6 * (server.cpu_seconds() - cpu_s) / tokens
        result[f"{model}_tokens_per_s"] = tokens / seconds
        result[f"{model}_gap_p95_s"] = percentiles(merged_gaps(found), 95)[0]
    result["requests_per_s"] = asyncio.run(requests_per_s(server, options.requests))
    result["slow_readers_cost"] = asyncio.run(slow_readers(server, options))
    return result


async def ask(
    server: EchoServer | ConstantServer, num_streams: int, num_tokens: int, model: str
) -> list[Stream]:
    """Ask all at once and check what came, to the letter."""
    dice = random.Random(num_tokens)
    asked = [server.asked(dice, num_tokens, model) for _ in range(num_streams)]
    found = await asyncio.gather(*(stream(server.port, a.body, server.headers) for a in asked))
    for one, wanted in zip(found, asked, strict=True):
        if one.error or one.text != wanted.expected:
            sys.exit(f"{server.name}: {one.error or 'a stream has not the text it must have'}")
    return list(found)


async def requests_per_s(server: EchoServer | ConstantServer, count: int) -> float:
    """Return how many requests of one token are answered a second, 16 at a time."""
    dice, left = random.Random(1), iter(range(count))

    async def ask_some() -> None:
        for _ in left:
            asked = server.asked(dice, 1, "flat")
            one = await stream(server.port, asked.body, server.headers)
            if one.error:
                sys.exit(f"{server.name}: {one.error}")

    begun = time.perf_counter()
    await asyncio.gather(*(ask_some() for _ in range(16)))
    return count / (time.perf_counter() - begun)


async def slow_readers(server: EchoServer | ConstantServer, options: argparse.Namespace) -> float:
    """Return how much later pieces come to others (p95) while some read a byte a second."""
    others = options.streams - NUM_SLOW
    undisturbed = await ask(server, others, options.paced_tokens, "paced")
    dice = random.Random(2)
    slow = [
        asyncio.create_task(_read_slowly(server, server.asked(dice, SLOW_TOKENS, "paced")))
        for _ in range(NUM_SLOW)
    ]
    await asyncio.sleep(1.0)
    disturbed = await ask(server, others, options.paced_tokens, "paced")
    for one in slow:
        one.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    before, after = (percentiles(merged_gaps(found), 95)[0] for found in (undisturbed, disturbed))
    return after / before


async def _read_slowly(server: Process, asked: Asked) -> None:
    """Read one byte a second, with as small a buffer as the system allows."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", server.port))
        body = json.dumps(asked.body).encode()
        await loop.sock_sendall(connection, request("POST", PATH, server.headers, body))
        while await loop.sock_recv(connection, 1):  # noqa: ASYNC110
            await asyncio.sleep(1.0)


def show(measured: dict[str, Any]) -> None:
    keys: Sequence[str] = list(next(iter(measured.values())))
    table(
        ("100 streams", *measured),
        ((key, *(values[key]["median"] for values in measured.values())) for key in keys),
    )
    ours = measured["llmos"]
    for model in ("paced", "flat"):
        value = ours[f"{model}_cpu_us_per_token"]["median"]
        _say(f"{model}: {value:.0f} µs of CPU per token (at most 150)", value <= LARGEST_CPU_US)
    cost = ours["slow_readers_cost"]["median"]
    _say(f"20 slow readers: the others' p95 is {cost:.2f}x (at most 1.2)", cost <= LARGEST_SLOWDOWN)
    _say("no token lost, doubled, out of order or another stream's", True)


def _say(text: str, is_met: bool) -> None:
    print(f"{text}: {'ok' if is_met else 'MISSED'}")


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "CPU per token", "tokens per second, flat out")
    keys = ("paced_cpu_us_per_token", "flat_cpu_us_per_token")
    series = {who: [values[key] for key in keys] for who, values in measured.items()}
    plot.bars(0, "µs", ("10 tokens/s", "flat out"), series)
    rates = {who: [values["flat_tokens_per_s"]] for who, values in measured.items()}
    plot.bars(1, "tokens/s", ("100 streams",), rates)
    plot.save()


if __name__ == "__main__":
    sys.exit(main())
