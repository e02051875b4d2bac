"""Taggers trained on treebanks and on named entities: how much they get right, and how quickly.

Sentences are split by their order, 80% to train on, 10% to choose the best step by, 10% to test on;
of wnut17 its own files are used, the last tenth of what it trains on to choose by. Words are the
treebank's: accuracy is the share of gold words whose part of speech is told right, where the
boundaries of words are given; F1 is of whole spans, found in the plain text.

    python bench/taggers.py DATA [--only NAME …] [--threads 1]

DATA holds treebank/*.conllu and ner/*.conll. Prints all, and writes results/taggers.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForTokenClassification

from llmos.data.record import Annotated, to_record
from llmos.data.sources import FileSource
from llmos.evaluation import evaluate
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob
from llmos.models.chain import names_of
from llmos.models.units import is_word_char
from llmos.training import handler
from llmos.training.recipe import load, override
from machine import machine
from results import say, table, write

ROOT = Path(__file__).parents[1]
PARTS = ("train", "validation", "test")
BATCH = 64
COMMON = ["data.rows=null", "labels=null", "evaluate.splits=[]", "max_tokens=1024"]


@dataclass(frozen=True, slots=True)
class Task:
    """A recipe on real data, and what was promised of it.

    Attributes:
        files: one, to be split, or those of PARTS.
        sets: what is changed in the recipe.
        goal: a metric and the least that it must be.
        is_cut: whether gold words are given by spaces between them; it learns from each sentence
            twice, as it is written and so.
    """

    name: str
    recipe: str
    files: tuple[str, ...]
    sets: tuple[str, ...]
    goal: tuple[str, float] | None = None
    is_cut: bool = False


TASKS = (
    Task(
        "pos_en",
        "tagger-pos-en",
        ("treebank/en_ewt-dev.conllu",),
        ("steps=800",),
        ("accuracy", 0.90),
        is_cut=True,
    ),
    Task(
        "words_zh",
        "tagger-words-zh",
        ("treebank/zh_gsdsimp-dev.conllu",),
        ("model.config.dictionary=jieba", "steps=150"),
        ("f1", 0.90),
    ),
    Task(
        "pos_zh",
        "tagger-pos-zh",
        ("treebank/zh_gsdsimp-dev.conllu",),
        ("model.config.dictionary=jieba", "model.config.hidden_size=128", "steps=200"),
        ("accuracy", 0.85),
        is_cut=True,
    ),
    Task(
        "ner_en", "tagger-ner", ("ner/wnut17-train.conll", "ner/wnut17-dev.conll"), ("steps=300",)
    ),
)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(), "threads": options.threads, "taggers": {}}
    for task in TASKS:
        if options.only and task.name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="llmos-bench-") as home:
            files = parts(task, options.data, Path(home))
            found = run(task, files, Path(home), options)
        report["taggers"][task.name] = found
        table(("", *found), [[task.name, *found.values()]])
        if task.goal is not None:
            metric, least = task.goal
            say(
                task.name, f"{metric} {found[metric]:.3f}, at least {least}", found[metric] >= least
            )
    if not options.only:
        write("taggers", report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", choices=[task.name for task in TASKS], default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    return parser.parse_args()


def parts(task: Task, data: Path, home: Path) -> dict[str, Path]:
    """Write the sentences of each part to a file of its own."""
    blocks = [(data / name).read_text("utf-8").strip().split("\n\n") for name in task.files]
    first = blocks[0]
    if len(blocks) == 1:
        cuts = [0, len(first) * 8 // 10, len(first) * 9 // 10, len(first)]
        split = [first[start:end] for start, end in pairwise(cuts)]
    else:
        cut = len(first) * 9 // 10
        split = [first[:cut], first[cut:], blocks[1]]
    found = {}
    for part, sentences in zip(PARTS, split, strict=True):
        path = home / f"{part}{Path(task.files[0]).suffix}"
        path.write_text("\n\n".join(sentences) + "\n", "utf-8")
        found[part] = twice(path) if task.is_cut and part != "test" else path
    return found


def twice(path: Path) -> Path:
    """Write each sentence as it is, and with spaces between its words."""
    rows = [row for _, row in FileSource(path, path.name).rows()]
    rows = [kind for row in rows for kind in (row, cut(row))]
    found = path.with_suffix(".jsonl")
    found.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return found


def cut(row: dict[str, Any]) -> dict[str, Any]:
    """Return a sentence with spaces between its words."""
    return {**row, "text": " ".join(row["tokens"])}


def trained(
    task: Task, files: dict[str, Path], home: Path, threads: int, sets: Sequence[str] = ()
) -> tuple[Path, dict[str, Any], float]:
    """Train; return where the model is, the recipe, and the seconds that it took."""
    named = [f"data.path={files['train'].name}"]
    named += [f"data.validation_path={files['validation'].name}"]
    recipe = override(
        load(ROOT / "recipes" / f"{task.recipe}.yaml"),
        [*COMMON, *named, *task.sets, *sets],
    )
    sent: list[FromWorker] = []
    start = StartJob(
        job_id=1,
        fence=1,
        attempt=1,
        handler="",
        name="bench",
        params={"recipe": recipe, "name": "bench", "data": {}, "base": None},
        owner="admin",
        home=str(home),
        checkpoint_dir=str(home / "checkpoints"),
        threads=threads,
        heartbeat_s=10.0,
    )
    context = JobContext(start, sent.append)
    for part in ("train", "validation"):
        context.params["data"][files[part].name] = context.blobs.put_file(files[part]).digest
    result = handler.run(context)
    seconds = result.artifacts[0].manifest["source"]["seconds"]
    return context.checkpoint_dir / "model", recipe, seconds


def run(
    task: Task, files: dict[str, Path], home: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train, and measure on what was not learned from."""
    directory, recipe, training_s = trained(task, files, home, options.threads, options.sets)
    model = AutoModelForTokenClassification.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    fields = recipe["data"].get("fields", {})
    source = FileSource(files["test"], files["test"].name, fields=fields)
    rows = [row for _, row in source.rows()]
    annotated = records(rows)
    words = records([cut(row) for row in rows]) if task.is_cut else annotated
    labels = names_of(model.config.id2label)
    begun = time.perf_counter()
    scores = evaluate.entities(model, tokenizer, annotated, labels)
    seconds = time.perf_counter() - begun
    count = sum(len(record.entities) for record in annotated)
    return {
        "seconds": training_s,
        "sentences": len(annotated),
        "spans": count,
        "precision": scores["precision"],
        "recall": scores["recall"],
        "f1": scores["f1"],
        "accuracy": accuracy(model, tokenizer, words, labels),
        "megabytes": round(sum(p.numel() * 4 for p in model.parameters()) / 1e6, 1),
        "characters_per_s": round(sum(len(one.text) for one in annotated) / seconds),
    }


def records(rows: Sequence[dict[str, Any]]) -> list[Annotated]:
    """Return what the spans of rows are."""
    made = [to_record("entities", row, "test") for row in rows]
    return [record for record in made if isinstance(record, Annotated)]


@torch.inference_mode()
def accuracy(
    model: Any, tokenizer: Tokenizer, sentences: Sequence[Annotated], labels: Sequence[str]
) -> float:
    """Return the share of gold spans whose label is told right, given where spans begin and end."""
    right = total = 0
    for record in sentences:
        encoded = tokenizer.encode(record.text)
        allowed = torch.ones(1, len(encoded.ids), len(labels), dtype=torch.bool)
        begins = torch.tensor([label.startswith("B-") for label in labels])
        inside = torch.tensor([label.startswith("I-") for label in labels])
        places: list[int | None] = []
        for entity in record.entities:
            own = [
                place
                for place, (start, end) in enumerate(encoded.offsets)
                if entity.start <= start < end <= entity.end
            ]
            first = [place for place in own if is_first(record.text, encoded.offsets[place][0])]
            for number, place in enumerate(first):
                allowed[0, place] = inside if number else begins
            places.append(first[0] if first else own[0] if own else None)
        logits = model(input_ids=torch.tensor([encoded.ids]), allowed=allowed).logits[0]
        told = logits.argmax(-1).tolist()
        for entity, at in zip(record.entities, places, strict=True):
            total += 1
            right += at is not None and labels[told[at]][2:] == entity.label
    return right / max(1, total)


def is_first(text: str, at: int) -> bool:
    """Whether a unit of the tagger begins at a character."""
    return at == 0 or not (is_word_char(text[at - 1]) and is_word_char(text[at]))


if __name__ == "__main__":
    main()
