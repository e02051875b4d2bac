"""What quantising costs in quality: perplexity of int8 and int4 against float32.

A small Llama is trained on a text by llmos' own trainer (once: it is kept under --peers-home), its
weights quantised as for serving, and the held-back tenth of the text read by the native engine as
prompts, whose log-probabilities it reports. The same engine, paths and windows serve all three.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.quantize import quantize_directory
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob
from llmos.library.manifest import build_manifest
from llmos.training import handler
from llmos.types import GenerateWork, SamplingParams, TokensOut
from machine import machine
from results import Plot, table, write
from shapes import PEERS_HOME
from workloads import DATA

TEXT = DATA / "text" / "tinyshakespeare.txt"
DTYPES = ("float32", "int8", "int4")
LARGEST_INT8_COST = 1.01
HELD_BACK = 0.1
BLOCK = 128
RECIPE: dict[str, Any] = {
    "name": "perplexity",
    "task": "generate",
    "seed": 1337,
    "model": {
        "architecture": "llama",
        "config": {
            "num_hidden_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 704,
            "tie_word_embeddings": True,
        },
    },
    "tokenizer": {"kind": "byte_bpe", "vocab_size": 1024},
    "data": {"path": "mine.txt", "validation": HELD_BACK},
    "batch_size": 12,
    "block_size": BLOCK,
    "optimizer": {"learning_rate": 2.0e-3, "min_learning_rate": 1.0e-4, "warmup_steps": 50},
    "publish": "best",
    "card": {"description": "A small Llama for measuring what quantising costs.", "limits": "All."},
}


def main() -> None:
    options = parse()
    if not options.text.exists():
        sys.exit(f"{options.text} is missing: --text says which text to train on")
    home = options.peers_home.expanduser()
    home.mkdir(parents=True, exist_ok=True)
    trained = train(home, options.text, options.steps)
    windows = held_back(trained, options.text, options.windows)
    measured: dict[str, Any] = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory(prefix="llmos-bench-") as scratch:
            directory = trained
            if dtype != "float32":
                directory = Path(scratch) / dtype
                quantize_directory(trained, directory, dtype)
            begun = time.perf_counter()
            found = perplexity(directory, windows)
            seconds = time.perf_counter() - begun
        cost = found / measured["float32"]["perplexity"] if measured else 1.0
        measured[dtype] = {"perplexity": found, "cost": cost, "seconds": round(seconds, 1)}
        print(f"{dtype}: {found:.4f}", flush=True)
    report = {
        "text": options.text.name,
        "train_steps": options.steps,
        "tokens": sum(map(len, windows)),
        "measured": measured,
        "machine": machine(),
    }
    rows = ((name, one["perplexity"], f"{one['cost']:.4f}x") for name, one in measured.items())
    table(("weights", "perplexity", "of float32"), rows)
    verdict = "ok" if measured["int8"]["cost"] <= LARGEST_INT8_COST else "MISSED"
    print(f"int8 within 1% of float32: {verdict}")
    write(options.name, report)
    draw(options.name, measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--steps", type=int, default=1000, help="Of training.")
    parser.add_argument("--windows", type=int, default=10**6, help="Read at most so many.")
    parser.add_argument("--name", default="perplexity", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="100 steps, 40 windows.")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.windows = 100, 40
    return options


def train(home: Path, text: Path, steps: int) -> Path:
    """Return the directory of the model trained for so many steps, made where it is missing."""
    recipe = RECIPE | {"steps": steps, "eval_every": max(steps // 5, 1)}
    identity = json.dumps(recipe, sort_keys=True).encode() + text.read_bytes()
    target = home / f"perplexity-{zlib.crc32(identity):08x}"
    if target.exists():
        return target
    print(f"training {target}", flush=True)
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as scratch:
        start = StartJob(
            job_id=1,
            fence=1,
            attempt=1,
            handler="",
            name="bench",
            params={"recipe": recipe, "name": "bench", "data": {}, "base": None},
            owner="admin",
            home=scratch,
            checkpoint_dir=f"{scratch}/checkpoints",
            threads=os.cpu_count() or 1,
            heartbeat_s=10.0,
        )
        sent: list[FromWorker] = []
        context = JobContext(start, sent.append)
        context.params["data"]["mine.txt"] = context.blobs.put_file(text).digest
        files = handler.run(context).artifacts[0].files
        context.blobs.materialize(files, target)
    return target


def held_back(directory: Path, text: Path, most: int) -> list[list[int]]:
    """Return the end of the text, which was not trained on, in windows of token ids."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    characters = text.read_text("utf-8")
    ids = tokenizer.encode(characters[int(len(characters) * (1 - HELD_BACK)) :]).ids
    size = BLOCK - 1  # there must be room for the token that ends the request
    return [ids[i : i + size] for i in range(0, len(ids) - size, size)][:most]


def perplexity(directory: Path, windows: list[list[int]]) -> float:
    """Return the exponential of the mean negative log-probability the engine gives each token."""
    engine = NativeEngine(speculates=False)
    engine.load(directory, build_manifest(directory).to_dict(), "cpu", os.cpu_count() or 1)
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    for i, window in enumerate(windows):
        engine.submit(str(i), GenerateWork(tuple(window), params, prompt_logprobs=0))
    total, count = 0.0, 0
    while engine.has_work:
        for _, out in engine.step():
            if not isinstance(out, TokensOut):
                sys.exit(f"the engine answered {out!r}")
            for piece in out.prompt:
                assert piece.logprob is not None
                total -= piece.logprob
                count += 1
    engine.unload()
    if count != sum(len(window) - 1 for window in windows):
        sys.exit(f"the engine reported {count} tokens")
    return math.exp(total / count)


def draw(name: str, measured: dict[str, Any]) -> None:
    plot = Plot(name, "perplexity on held-back text")
    series = {
        f"llmos {dtype}": [{"median": found, "low": found, "high": found}]
        for dtype, found in ((dtype, one["perplexity"]) for dtype, one in measured.items())
    }
    plot.bars(0, "perplexity", ("tinyshakespeare",), series)
    plot.save()


if __name__ == "__main__":
    main()
