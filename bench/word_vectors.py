"""word2vec: words a second of llmos and gensim with equal settings, and how good the vectors are.

Both learn the same lines, in turns, on as many threads: sentences in which words stand in known
relations, which are asked for afterwards (the analogies of the starter text), and where a file is
given its lines, of which the last are held back: of these the loss is taken, the same one for both.
Words count as often as they are read, those that are thinned out too. Building the vocabulary is
not timed. Prints the medians, the spread and the ratios; writes results/word_vectors.json and .png.

    python bench/word_vectors.py [TEXT] [--repeats 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as llmos starts its workers

import numpy as np
import torch

from llmos.data.encoding import Ragged
from llmos.sdk.word_vectors import Vectors
from llmos.starter.relations import questions, records
from llmos.training.counted import BATCH_WORDS
from llmos.training.recipe_sections import VectorsSection
from llmos.training.vectors.windows import Text, pairs
from llmos.training.vectors.word2vec import POWER, Word2Vec
from machine import machine
from peers import environment_python
from results import Plot, say, spread, table, write
from shapes import PEERS_HOME

HERE = Path(__file__).parent
WORD = re.compile(r"\w+(?:['’-]\w+)*")
HELD_BACK = 0.02
MIN_COUNT, SIZE = 5, 100
LEAST_SPEED, LARGEST_LOSS, LARGEST_LOSS_OF_ANSWERS = 0.5, 1.01, 0.02
RELATIONS = "relations"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Lines of words: those that are learned, and those held back."""

    name: str
    lines: list[list[str]]
    held_back: list[list[str]]

    @property
    def num_words(self) -> int:
        return sum(map(len, self.lines))


@dataclass(frozen=True, slots=True)
class Learned:
    """Both tables of vectors, by word, and what learning them took."""

    words: list[str]
    inputs: np.ndarray
    outputs: np.ndarray
    wall_s: float
    cpu_s: float


def main() -> None:
    options = parse()
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for corpus in corpora(options):
        print(f"{corpus.name}: {corpus.num_words:,} words, {options.epochs} times", flush=True)
        for repeat in range(options.repeats):
            for name, learn in contestants(options).items():
                found = measured(corpus, learn(corpus, options, repeat + 1), options)
                runs.setdefault(corpus.name, {}).setdefault(name, []).append(found)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
                print(f"{repeat + 1}/{options.repeats} {name}: {shown}", flush=True)
    report = summary(runs)
    given = {k: v for k, v in vars(options).items() if k not in ("peers_home", "name")}
    asked = {k: v.name if isinstance(v, Path) else str(v) for k, v in given.items()}
    write(options.name, {"asked": asked, **report, "runs": runs, "machine": machine()})
    draw(options.name, report["medians"])
    show(report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, nargs="?", help="UTF-8 text, read line by line.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000, help="Sentences of relations.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", choices=("skip_gram", "cbow"), default="skip_gram")
    parser.add_argument("--learning-rate", type=float, default=0.025)
    parser.add_argument("--name", default="word_vectors", help="Of the files under results/.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="Once, 10,000 sentences.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.rows = 1, 10_000
    return options


# -- who learns ------------------------------------------------------------------------------------

Learn = Callable[[Corpus, argparse.Namespace, int], Learned]


def contestants(options: argparse.Namespace) -> dict[str, Learn]:
    """Return who takes turns; gensim where it is installed."""
    found: dict[str, Learn] = {"llmos": by_llmos}
    if (options.peers_home.expanduser() / "vectors" / "bin" / "python").exists():
        found["gensim"] = by_gensim
    else:
        print("gensim is not installed: python bench/peers.py install --only vectors", flush=True)
    return found


def by_llmos(corpus: Corpus, options: argparse.Namespace, seed: int) -> Learned:
    torch.set_num_threads(options.threads)
    counted = Counter(word for line in corpus.lines for word in line)
    words = ["<unk>", *(word for word, count in counted.most_common() if count >= MIN_COUNT)]
    ids = {word: place for place, word in enumerate(words)}
    train = Ragged.of([ids.get(word, 0) for word in line] for line in corpus.lines)
    counts = np.bincount(train.flat, minlength=len(words))
    counts[0] = 0
    section = VectorsSection(
        method=options.method, epochs=options.epochs, learning_rate=options.learning_rate
    )
    learner = Word2Vec(section, train, train, counts, 0, SIZE, BATCH_WORDS, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(learner.num_steps):
        learner.step(number)
    took = (time.perf_counter() - wall, time.process_time() - cpu)
    tables = [learner.module.get_buffer(name).numpy() for name in ("inputs", "outputs")]
    return Learned(words, *tables, *took)


def by_gensim(corpus: Corpus, options: argparse.Namespace, seed: int) -> Learned:
    section = VectorsSection()
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder:
        lines, out = Path(folder) / "lines.txt", Path(folder) / "vectors.npz"
        lines.write_text("".join(" ".join(line) + "\n" for line in corpus.lines), "utf-8")
        asked = {
            "lines": str(lines),
            "out": str(out),
            "seed": seed,
            "size": SIZE,
            "window": section.window,
            "negative": section.negative,
            "min_count": MIN_COUNT,
            "subsample": section.subsample,
            "learning_rate": options.learning_rate,
            "epochs": options.epochs,
            "threads": options.threads,
            "method": options.method,
        }
        python = environment_python(options.peers_home, "vectors")
        command = [str(python), str(HERE / "workers" / "run_gensim.py"), json.dumps(asked)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
        if done.returncode != 0:
            sys.exit(f"gensim: {done.stderr}")
        told, tables = json.loads(done.stdout), np.load(out)
        return Learned(
            told["words"], tables["inputs"], tables["outputs"], told["wall_s"], told["cpu_s"]
        )


# -- what is learned, and how well -----------------------------------------------------------------


def corpora(options: argparse.Namespace) -> list[Corpus]:
    """Return the sentences of relations, and the given text."""
    rows = [row["text"] for row in records("train", 1, options.rows)]
    found = [Corpus(RELATIONS, *split(rows))]
    if options.text is not None:
        found.append(Corpus(options.text.stem, *split(options.text.read_text().splitlines())))
    return found


def split(texts: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    lines = [line for text in texts if (line := WORD.findall(text.lower()))]
    cut = int(len(lines) * (1 - HELD_BACK))
    return lines[:cut], lines[cut:]


def measured(corpus: Corpus, learned: Learned, options: argparse.Namespace) -> dict[str, float]:
    num_words = corpus.num_words * options.epochs
    found = {
        "words_per_s": num_words / learned.wall_s,
        "words_per_cpu_s": num_words / learned.cpu_s,
        "loss": loss(corpus, learned),
    }
    if corpus.name == RELATIONS:
        vectors = Vectors(learned.words, learned.inputs)
        asked = [[word.lower() for word in one] for one in questions()]
        right = [vectors.analogy(a, b, c, 1)[0]["word"] == d for a, b, c, d in asked]
        found["analogies"] = sum(right) / len(right)
    return found


def loss(corpus: Corpus, learned: Learned) -> float:
    """Return the mean negative-sampling loss of every two words near each other in the lines held
    back, in nats, with the same negatives for all contestants."""
    section, chance = VectorsSection(), np.random.default_rng(0)
    counted = Counter(word for line in corpus.lines for word in line)
    names = sorted(word for word, count in counted.items() if count >= MIN_COUNT)
    ids = {word: place for place, word in enumerate(names)}
    rows = {word: row for row, word in enumerate(learned.words)}
    order = [rows[word] for word in names]
    inputs, outputs = learned.inputs[order], learned.outputs[order]
    known = [[ids[word] for word in line if word in ids] for line in corpus.held_back]
    lines = np.repeat(np.arange(len(known)), [len(line) for line in known])
    words = np.array([word for line in known for word in line])
    places, behind = pairs(Text(words, lines), section.window, section.window)
    read, wanted = words[places], words[places + behind]
    drawn = np.array([counted[word] for word in names]) ** POWER
    negatives = chance.choice(len(names), (len(read), section.negative), p=drawn / drawn.sum())
    total = np.logaddexp(0, -(inputs[read] * outputs[wanted]).sum(1))
    for column in negatives.T:
        total += np.logaddexp(0, (inputs[read] * outputs[column]).sum(1))
    return float(total.mean())


# -- what came of it -------------------------------------------------------------------------------


def summary(runs: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Return medians and spreads by corpus, contestant and measure, and ratios of each turn."""
    medians = {
        corpus: {
            name: {key: spread(one[key] for one in turns) for key in turns[0]}
            for name, turns in found.items()
        }
        for corpus, found in runs.items()
    }
    ratios = {
        corpus: {
            key: spread(
                ours[key] / theirs[key]
                for ours, theirs in zip(found["llmos"], found["gensim"], strict=True)
            )
            for key in ("words_per_s", "words_per_cpu_s", "loss")
        }
        for corpus, found in runs.items()
        if "gensim" in found
    }
    return {"medians": medians, "of_gensim": ratios}


def show(report: dict[str, Any]) -> None:
    keys = ("words_per_s", "words_per_cpu_s", "loss", "analogies")
    table(
        ("", *keys),
        (
            (f"{corpus}, {name}", *(values[k]["median"] if k in values else "" for k in keys))
            for corpus, found in report["medians"].items()
            for name, values in found.items()
        ),
    )
    for corpus, ratios in report["of_gensim"].items():
        for key in ("words_per_s", "words_per_cpu_s"):
            value = ratios[key]["median"]
            text = f"{corpus}: {value:.2f}x gensim's {key} (at least {LEAST_SPEED:g})"
            say("llmos", text, value >= LEAST_SPEED)
        value = ratios["loss"]["median"]
        text = f"{corpus}: {value:.3f}x gensim's loss (at most {LARGEST_LOSS:g})"
        say("llmos", text, value <= LARGEST_LOSS)
        found = report["medians"][corpus]
        if corpus == RELATIONS:
            ours, theirs = (found[name]["analogies"]["median"] for name in ("llmos", "gensim"))
            text = f"{ours:.3f} of the analogies, gensim {theirs:.3f}"
            say("llmos", text, ours >= theirs - LARGEST_LOSS_OF_ANSWERS)


def draw(name: str, medians: dict[str, Any]) -> None:
    plot = Plot(name, "words a CPU second", "loss on held-back lines")
    names = dict.fromkeys(who for found in medians.values() for who in found)
    for chart, (unit, key) in enumerate((("words/s", "words_per_cpu_s"), ("nats", "loss"))):
        series = {who: [found[who][key] for found in medians.values()] for who in names}
        plot.bars(chart, unit, [*medians], series)
    plot.save()


if __name__ == "__main__":
    main()
