"""Cleaning documents: what llmos' pipelines do a second beside datatrove, with the same steps.

Encodings mended, Gopher's repetition and quality rules, MinHash near duplicates, tokens, of made
documents in Parquet files, by as many processes as there are cores; documents a second and core, of
wall and of CPU time, and the most memory that all processes together held (their PSS). Then how
memory grows with the documents, and whether both find the same clusters of copies in documents that
no filter has thinned out. Prints the medians and ratios; writes results/data.json and .png.

    python bench/data.py [--documents 100000] [--repeats 3] [--full] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from documents import documents
from llmos.storage.parquet import write_rows
from machine import machine
from peers import end_group, environment_python
from results import Plot, say, spread, table, write
from shapes import END, PEERS_HOME

HERE = Path(__file__).parent
NAMES = ("llmos", "datatrove")
SHARD_ROWS = 5000
VOCABULARY = 8192
TOKENIZER_DOCUMENTS = 2000
LOOK_S = 0.2
LEAST_SPEED, LARGEST_GB, LARGEST_GROWTH = 1.5, 1.0, 1.2
AGREED_DOCUMENTS = 10_000

Run = dict[str, Any]


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="llmos-bench-", dir=options.scratch) as folder:
        bench = Bench(options, Path(folder))
        runs: dict[str, list[Run]] = {name: [] for name in bench.names}
        for repeat in range(options.repeats):
            for name in bench.names:
                runs[name].append(bench.run(name, options.documents))
                line(f"{repeat + 1}/{options.repeats} {name}", runs[name][-1])
        memory = {name: by_size(bench, name, options, runs[name]) for name in bench.names}
        agreed = agreement(bench) if len(bench.names) > 1 else {}
    report = summary(runs, memory, agreed)
    asked = {
        k: str(v) for k, v in vars(options).items() if k not in ("peers_home", "name", "scratch")
    }
    write(options.name, {"asked": asked, **report, "runs": told(runs), "machine": machine()})
    draw(options.name, report)
    show(report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=NAMES, help="Run one of them alone.")
    parser.add_argument("--full", action="store_true", help="Memory of 1,000,000 documents, too.")
    parser.add_argument("--name", default="data", help="Of the files under results/.")
    parser.add_argument("--scratch", type=Path, help="A folder with room for some GB.")
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    parser.add_argument("--quick", action="store_true", help="Once, 20,000 documents.")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.documents = 1, 20_000
    return options


# -- running ---------------------------------------------------------------------------------------


class Bench:
    """Documents, a tokenizer, and who takes turns."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self._folder = folder
        self.names = [options.only] if options.only else [*NAMES]
        python = options.peers_home.expanduser() / "datatrove" / "bin" / "python"
        if "datatrove" in self.names and not python.exists():
            print("datatrove is not installed: python bench/peers.py install --only datatrove")
            self.names.remove("datatrove")
        self._tokenizer = folder / "tokenizer" / "tokenizer.json"
        self._tokenizer.parent.mkdir()
        trained([text for text, _ in documents(TOKENIZER_DOCUMENTS)]).save(str(self._tokenizer))

    def source(self, count: int) -> Path:
        """Return a folder of so many documents; made once."""
        target = self._folder / f"documents-{count}"
        if not target.exists():
            target.mkdir()
            rows: list[dict[str, str]] = []
            for number, (text, _) in enumerate(documents(count), 1):
                rows.append({"id": f"doc-{number:08d}", "text": text})
                if len(rows) == SHARD_ROWS or number == count:
                    write_rows(target / f"{(number - 1) // SHARD_ROWS:05d}.parquet", rows)
                    rows = []
        return target

    def run(self, name: str, count: int, *, filters: bool = True) -> Run:
        """Return what a run over so many documents took, and its clusters."""
        source, work = self.source(count), self._folder / "work"
        work.mkdir()
        asked = {
            "source": str(source),
            "work": str(work),
            "workers": self.options.workers,
            "tokenizer": str(self._tokenizer),
            "filters": filters,
            "ngram": 5,
            "bands": 14,
            "rows": 8,
        }
        if name == "llmos":
            python, script = Path(sys.executable), "run_data.py"
        else:
            python = environment_python(self.options.peers_home, "datatrove")
            script = "run_datatrove.py"
        try:
            found = measured([str(python), str(HERE / "workers" / script), json.dumps(asked)])
        finally:
            shutil.rmtree(work)
        cores = self.options.workers
        return {
            **found,
            "documents": count,
            "documents_per_core_s": count / found["wall_s"] / cores,
            "documents_per_cpu_s": count / found["cpu_s"],
        }


def trained(texts: Sequence[str]) -> Tokenizer:
    """Return a byte-level BPE of texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def measured(command: Sequence[str]) -> Run:
    """Run a worker; return what it printed, its seconds and those of its CPUs, and its memory."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}
    before, began = cpu_s(), time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
        start_new_session=True,
    )
    watch = Watch(process.pid)
    try:
        out, errors = process.communicate()
    finally:
        watch.end()
        end_group(process)
    wall = time.perf_counter() - began
    if process.returncode != 0:
        sys.exit(f"{command[1]}: {errors[-3000:]}")
    told = json.loads(out.splitlines()[-1])
    return {**told, "wall_s": wall, "cpu_s": cpu_s() - before, "peak_bytes": watch.peak_bytes}


def cpu_s() -> float:
    """Return the CPU seconds of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """Looks at how much memory a process and all below it hold, pages that are shared once."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak_bytes = max(self.peak_bytes, sum(held_bytes(one.pid) for one in family))


def held_bytes(pid: int) -> int:
    """Return the memory of a process, its share of shared pages (PSS); 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


# -- what is asked ---------------------------------------------------------------------------------


def by_size(
    bench: Bench, name: str, options: argparse.Namespace, runs: Sequence[Run]
) -> dict[int, int]:
    """Return the most memory held, by the number of documents."""
    found = {options.documents: max(run["peak_bytes"] for run in runs)}
    sizes = {10_000, *((1_000_000,) if options.full else ())} - {options.documents}
    for count in sorted(sizes) if name == "llmos" else ():
        run = bench.run(name, count)
        line(f"{count:,} documents, {name}", run)
        found[count] = run["peak_bytes"]
    return dict(sorted(found.items()))


def agreement(bench: Bench) -> dict[str, int]:
    """Return how many clusters of copies each finds, and how many are the same, unfiltered; and of
    how many of those that were made so."""
    found = {}
    for name in bench.names:
        run = bench.run(name, AGREED_DOCUMENTS, filters=False)
        line(f"clusters, {name}", run)
        found[name] = {frozenset(cluster) for cluster in run["clusters"]}
    planted: dict[int, list[str]] = {}
    for number, (_, origin) in enumerate(documents(AGREED_DOCUMENTS), 1):
        planted.setdefault(origin, []).append(f"doc-{number:08d}")
    made = {frozenset(cluster) for cluster in planted.values() if len(cluster) > 1}
    return {
        "planted": len(made),
        **{name: len(clusters) for name, clusters in found.items()},
        "same": len(found["llmos"] & found["datatrove"]),
        "llmos_as_planted": len(found["llmos"] & made),
        "datatrove_as_planted": len(found["datatrove"] & made),
    }


# -- what came of it -------------------------------------------------------------------------------


def line(said: str, run: Run) -> None:
    print(
        f"{said}: {run['documents_per_core_s']:.0f} documents a second and core, "
        f"{run['documents_per_cpu_s']:.0f} a CPU second, {run['peak_bytes'] / 1e9:.2f} GB, "
        f"{run['kept']:,} kept, {len(run['clusters']):,} clusters",
        flush=True,
    )


def told(runs: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """Return runs with the number of clusters, without their members."""
    return {
        name: [{**run, "clusters": len(run["clusters"])} for run in turns]
        for name, turns in runs.items()
    }


def summary(
    runs: dict[str, list[Run]], memory: dict[str, dict[int, int]], agreed: dict[str, int]
) -> dict[str, Any]:
    keys = ("documents_per_core_s", "documents_per_cpu_s")
    medians = {
        name: {key: spread(run[key] for run in turns) for key in keys}
        for name, turns in runs.items()
    }
    ratios = {
        key: spread(
            ours[key] / theirs[key]
            for ours, theirs in zip(runs["llmos"], runs["datatrove"], strict=True)
        )
        for key in keys
        if len(runs) > 1
    }
    return {"medians": medians, "of_datatrove": ratios, "peak_bytes": memory, "clusters": agreed}


def show(report: dict[str, Any]) -> None:
    sizes = sorted({count for found in report["peak_bytes"].values() for count in found})
    header = ("", "documents/s/core", "documents/CPU s", *(f"GB, {count:,}" for count in sizes))
    rows = []
    for name, values in report["medians"].items():
        held = report["peak_bytes"][name]
        rows.append(
            (
                name,
                *(value["median"] for value in values.values()),
                *(held[count] / 1e9 if count in held else "" for count in sizes),
            )
        )
    table(header, rows)
    for key, ratio in report["of_datatrove"].items():
        value = ratio["median"]
        text = f"{value:.2f}x datatrove's {key} (at least {LEAST_SPEED:g})"
        say("llmos", text, value >= LEAST_SPEED)
    if "llmos" in report["peak_bytes"]:
        held = report["peak_bytes"]["llmos"]
        least, most = (held[count] / 1e9 for count in (min(held), max(held)))
        text = f"{most:.2f} GB at most (at most {LARGEST_GB:g})"
        say("llmos", text, max(held.values()) / 1e9 <= LARGEST_GB)
        text = f"{most / least:.2f}x the memory of {max(held) // min(held)}x the documents"
        say("llmos", f"{text} (at most {LARGEST_GROWTH:g})", most / least <= LARGEST_GROWTH)
    if agreed := report["clusters"]:
        text = f"{agreed['same']:,} clusters are datatrove's, of {agreed['llmos']:,} and"
        text += f" {agreed['datatrove']:,}; {agreed['planted']:,} were planted"
        say("llmos", text, agreed["same"] == agreed["llmos"] == agreed["datatrove"])


def draw(name: str, report: dict[str, Any]) -> None:
    plot = Plot(name, "documents a second and core", "most memory held")
    series = {who: [found["documents_per_core_s"]] for who, found in report["medians"].items()}
    plot.bars(0, "documents/s", ["clean, filter, MinHash, tokens"], series)
    sizes = sorted(set.intersection(*(set(held) for held in report["peak_bytes"].values())))
    memory = {
        who: [spread([held[count] / 1e9]) for count in sizes]
        for who, held in report["peak_bytes"].items()
    }
    plot.bars(1, "GB", [f"{count:,}" for count in sizes], memory)
    plot.save()


if __name__ == "__main__":
    main()
