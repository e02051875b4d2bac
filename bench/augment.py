"""What augmentation gains where labels are few: a small classifier on some labelled rows, without
and with copies of them, on rows that it has not seen.

Reads a TSV of `sentence` and `label` (SST-2's). Of its rows, in an order drawn once, the first are
held back; each seed draws the labelled ones from the rest, none of which is part of one held back
or has one in it. Word vectors are learned from the rest without labels. All arms of a seed train
the recipe text-cnn for the same number of steps, on the same labelled rows; the last weights are
measured, so that nothing is chosen by the rows held back. Prints mean and standard deviation of the
accuracy over seeds, and of the difference to none; writes results/augment.json and .png.

    python bench/augment.py sst2-train.tsv [--rows 200] [--held-back 2000] [--seeds 10]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as llmos starts its workers

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llmos.data.operators.eda import Eda
from llmos.data.operators.mixing import Mix
from llmos.data.operators.noise import Noise
from llmos.data.pipeline.operator import Operator
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply
from llmos.data.word_vectors import WordVectors, read_model
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import StartJob
from llmos.sdk.vectors import to_base64
from llmos.training import handler
from llmos.training.recipe import load, override
from machine import machine
from results import OTHERS, OURS, RESULTS, table, write

RECIPES = Path(__file__).parents[1] / "recipes"
NONE = "none"
LEAST_COSINE = 0.4
VECTORS = {"vectors.method": "cbow", "vectors.window": 3, "vectors.epochs": 10} | {
    "model.config.hidden_size": 50,
    "tokenizer.min_count": 20,
}
"""Phrases and their parts are rows of their own: words that are rarer stand in one sentence."""
Row = dict[str, str]
Arm = Callable[[WordVectors, int], list[Operator[Any]]]


def with_vectors(vectors: WordVectors, seed: int, **options: Any) -> Eda:
    """Return `eda` that finds synonyms in vectors, as a server with them would answer."""

    def ask(path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
        if path.endswith("tokenizer.json"):
            return [{"model": {"vocab": {word: i for i, word in enumerate(vectors.words)}}}]
        return [
            {
                "data": [
                    {"embedding": to_base64(vectors.matrix[i].tobytes())} for (i,) in body["input"]
                ]
            }
            for body in bodies
        ]

    operator = Eda(seed, model="vectors", copies=8, least=LEAST_COSINE, **options)
    operator.ask = ask
    return operator


ARMS: dict[str, Arm] = {
    NONE: lambda vectors, seed: [],
    "noise": lambda vectors, seed: [Noise(seed, copies=8)],
    "mix": lambda vectors, seed: [Mix(seed, copies=8)],
    "eda, own table": lambda vectors, seed: [Eda(seed, copies=8)],
    "eda, vectors": lambda vectors, seed: [with_vectors(vectors, seed)],
    "synonyms, vectors": lambda vectors, seed: [
        with_vectors(vectors, seed, kinds=["synonyms"], share=0.3)
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows_file", type=Path, metavar="FILE", help="TSV of sentence and label.")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--held-back", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--name", default="augment", help="Of the files under results/.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_back, rest = parted(read(options.rows_file), options.held_back)
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder:
        vectors = vectors_of(Path(folder), [row["text"] for row in rest])
        for seed in range(1, options.seeds + 1):
            chosen = drawn(rest, held_back, options.rows, seed)
            for arm in options.arms:
                rows = augmented(chosen, ARMS[arm](vectors, seed))
                place = Path(folder) / f"{seed}-{arm}"
                found = {"rows": len(rows), **measured(place, rows, held_back, seed, options.steps)}
                runs[arm].append(found)
                print(
                    seed, arm, *(f"{key} {value:.4g}" for key, value in found.items()), flush=True
                )
    report = summary(runs)
    asked = {key: str(value) for key, value in vars(options).items() if key != "name"}
    asked["rows_file"] = options.rows_file.name
    write(options.name, {"asked": asked, "arms": report, "runs": runs, "machine": machine()})
    draw(RESULTS / f"{options.name}.png", report)
    show(report)


# -- rows ------------------------------------------------------------------------------------------


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{"text": row["sentence"].strip(), "label": row["label"]} for row in rows]


def parted(rows: list[Row], held_back: int) -> tuple[list[Row], list[Row]]:
    order = list(rows)
    random.Random(0).shuffle(order)
    texts = {row["text"] for row in order[:held_back]}
    return order[:held_back], [row for row in order[held_back:] if row["text"] not in texts]


def drawn(rest: list[Row], held_back: list[Row], count: int, seed: int) -> list[Row]:
    """Return rows of which none is part of a text held back, or has one in it."""
    others = [f" {row['text']} " for row in held_back]
    order = list(rest)
    random.Random(seed).shuffle(order)
    found: list[Row] = []
    for row in order:
        text = f" {row['text']} "
        if len(found) < count and not any(text in one or one in text for one in others):
            found.append({**row, "id": f"r{len(found)}"})
    return found


def augmented(rows: list[Row], operators: Sequence[Operator[Any]]) -> list[Row]:
    records = [Record(row["id"], {"text": row["text"], "label": row["label"]}) for row in rows]
    done = apply(operators, records)
    assert not done.outcome.rejected, done.outcome.rejected[:3]
    return [dict(record.fields) for record in done.records]


# -- training --------------------------------------------------------------------------------------


def vectors_of(folder: Path, texts: list[str]) -> WordVectors:
    wanted = ["data.path=texts.txt", "data.rows=null", "evaluate.splits=[]", "seed=1"]
    wanted += [f"{key}={value}" for key, value in VECTORS.items()]
    recipe = override(load(RECIPES / "word-vectors.yaml"), wanted)
    context = context_of(folder / "vectors", recipe)
    context.params["data"] = {
        "texts.txt": context.blobs.put_bytes("".join(f"{one}\n" for one in texts).encode()).digest
    }
    (version,) = handler.run(context).artifacts
    model = folder / "vectors" / "model"
    model.mkdir()
    for name, file in version.files.items():
        (model / Path(name).name).write_bytes(context.blobs.read_bytes(file.digest))
    return read_model(model)


def measured(
    folder: Path, rows: list[Row], held_back: list[Row], seed: int, steps: int
) -> dict[str, float]:
    """Return the accuracy of the recipe's classifier on the rows held back."""
    wanted = [
        f"seed={seed}",
        f"steps={steps}",
        f"eval_every={steps}",
        f"checkpoint_every={steps}",
        "eval_batches=1",
        "publish=last",
        "data.path=train.jsonl",
        "data.rows=null",
        "data.validation_path=held_back.jsonl",
        f"data.validation_rows={len(held_back)}",
        "evaluate.splits=[validation]",
        f"evaluate.rows={len(held_back)}",
    ]
    context = context_of(folder, override(load(RECIPES / "text-cnn.yaml"), wanted))
    files = {"train.jsonl": rows, "held_back.jsonl": held_back}
    context.params["data"] = {
        name: context.blobs.put_bytes("".join(map(_line, some)).encode()).digest
        for name, some in files.items()
    }
    (version,) = handler.run(context).artifacts
    return {"accuracy": version.manifest["metrics"]["validation"]["accuracy"]}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def context_of(folder: Path, recipe: dict[str, Any]) -> JobContext:
    start = StartJob(
        job_id=1,
        fence=1,
        attempt=1,
        handler="",
        name="augment",
        params={"recipe": recipe, "name": "augment", "data": {}, "base": None},
        owner="admin",
        home=str(folder / "home"),
        checkpoint_dir=str(folder / "checkpoint"),
        threads=1,
        heartbeat_s=10.0,
    )
    return JobContext(start, lambda message: None)


# -- what came of it -------------------------------------------------------------------------------


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation of the accuracy of each arm, and of what it gains."""
    report = {}
    for arm, found in runs.items():
        each = [run["accuracy"] for run in found]
        report[arm] = {"rows": found[0]["rows"], **_mean_sd("accuracy", each)}
        if arm != NONE and NONE in runs:
            pairs = zip(found, runs[NONE], strict=True)
            gains = [run["accuracy"] - plain["accuracy"] for run, plain in pairs]
            report[arm] |= {**_mean_sd("gain", gains), "better": sum(gain > 0 for gain in gains)}
    return report


def _mean_sd(name: str, values: list[float]) -> dict[str, float]:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {name: statistics.mean(values), f"{name}_sd": sd}


def show(report: dict[str, dict[str, float]]) -> None:
    table(
        ("arm", "rows", "accuracy", "sd", "gain", "sd of gain", "seeds better"),
        (
            (
                arm,
                found["rows"],
                *(
                    "" if found.get(key) is None else f"{found[key]:.4f}"
                    for key in ("accuracy", "accuracy_sd", "gain", "gain_sd")
                ),
                found.get("better", ""),
            )
            for arm, found in report.items()
        ),
    )


def draw(path: Path, report: dict[str, dict[str, float]]) -> None:
    figure = Figure(figsize=(7, 0.5 * len(report) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(report)[::-1]
    axes.barh(
        names,
        [report[name]["accuracy"] for name in names],
        xerr=[report[name]["accuracy_sd"] for name in names],
        color=[OTHERS[0] if name == NONE else OURS for name in names],
    )
    axes.set_xlim(0.45, None)
    axes.set_xlabel("accuracy on rows held back: mean and standard deviation over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
