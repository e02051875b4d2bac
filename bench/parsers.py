"""Parsers trained on treebanks: how many words they hang where they should, and how quickly.

Sentences are split by their order, 80% to train on, 10% to validate, 10% to test on, as in
taggers.py. Words are the treebank's; their parts of speech are told by the parser itself. Of all
words, punctuation among them, UAS is the share with the right head, and LAS that with its relation
too, without what is behind the relation's colon.

    python bench/parsers.py DATA [--only NAME …] [--threads 1]

DATA holds treebank/*.conllu. Prints all, and writes results/parsers.json, with
--only beside what it has of the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from llmos.data.record import to_record
from llmos.data.sources import FileSource
from llmos.data.trees import Parsed
from llmos.evaluation import evaluate_trees
from llmos.models.chain import names_of
from machine import machine
from results import table, write
from taggers import Task, parts, trained

RESULT = Path(__file__).parent / "results" / "parsers.json"
TASKS = (
    Task("parse_en", "parser-en", ("treebank/en_ewt-dev.conllu",), ("steps=1200",)),
    Task(
        "parse_zh",
        "parser-zh",
        ("treebank/zh_gsdsimp-dev.conllu",),
        ("model.config.dictionary=jieba", "steps=600"),
    ),
)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    measured: dict[str, Any] = {}
    for task in TASKS:
        if options.only and task.name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="llmos-bench-") as home:
            found = run(task, parts(task, options.data, Path(home)), Path(home), options)
        measured[task.name] = found
        table(("", *found), [[task.name, *found.values()]])
    kept = json.loads(RESULT.read_text())["parsers"] if options.only and RESULT.exists() else {}
    report = {"machine": machine(), "threads": options.threads, "parsers": kept | measured}
    write("parsers", report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", choices=[task.name for task in TASKS], default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    return parser.parse_args()


def run(
    task: Task, files: dict[str, Path], home: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train, and measure on what was not learned from."""
    begun = time.process_time()
    directory, _, seconds = trained(task, files, home, options.threads, options.sets)
    cpu_s = time.process_time() - begun
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    rows = FileSource(files["test"], files["test"].name).rows()
    made = [to_record("parse", row, where) for where, row in rows]
    records = [record for record in made if isinstance(record, Parsed)]
    begun = time.process_time()
    scores = evaluate_trees.trees(model, tokenizer, records, names_of(model.config.id2label))
    words = sum(len(record.words) for record in records)
    return {
        "seconds": seconds,
        "cpu_seconds": round(cpu_s, 1),
        "sentences": scores.pop("rows"),
        "words": words,
        **scores,
        "megabytes": round(sum(p.numel() * 4 for p in model.parameters()) / 1e6, 1),
        "words_per_cpu_s": round(words / (time.process_time() - begun)),
    }


if __name__ == "__main__":
    main()
