"""The char-gpt recipe through llmos, in a bare PyTorch loop and by transformers' Trainer, in turns.

All read the text, train nanoGPT's CPU setting (the same network of transformers, the same batches,
the same fused AdamW, rates and validations) and end with the loss over the whole validation split;
llmos also writes checkpoints, and publishes and checks the model, as Trainer writes checkpoints.
Steps per second are of the loops, validations and checkpoints included. Prints the median, the
spread and the ratios, and writes results/train.json and results/train.png.

With --waiting it is llmos alone, on a dataset of the text's paragraphs in Parquet files, and what
is measured is the share of the loop in which a step waits for its rows: results/train_waiting.json.

    python bench/train.py TEXT [--repeats 3] [--steps 2000] [--waiting]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as llmos starts its workers

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob
from llmos.storage.parquet import write_rows
from llmos.training import handler
from llmos.training.objectives import TextStream
from llmos.training.recipe import Recipe, load, override, parse
from llmos.training.sampling import StreamSampler
from llmos.training.trainer import Trainer as TrainerOfLlmos
from machine import machine
from results import RESULTS, say, spread, table, write

ROOT = Path(__file__).parents[1]
LARGEST_LOSS, LARGEST_DIFFERENCE = 1.90, 0.01
LEAST_OF_BARE, LEAST_OF_TRAINER = 0.97, 1.0
MOST_WAITING = 0.01
NUM_SPECIAL = 2
"""Ids before the characters': the end of a text, and what is unknown."""
Curve = list[tuple[float, float]]
Run = tuple[dict[str, float], Curve]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="UTF-8 text to learn, such as tinyshakespeare.txt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--name", default="train", help="Of the files under results/.")
    parser.add_argument("--waiting", action="store_true", help="What a step waits for its rows.")
    options = parser.parse_args()
    wanted = ["data.path=mine.txt", f"steps={options.steps}"]
    recipe = override(load(ROOT / "recipes" / "char-gpt.yaml"), wanted)
    if options.waiting:
        show_waiting([waiting(recipe, options) for _ in range(options.repeats)])
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    curves: dict[str, Curve] = {}
    for turn in range(options.repeats):
        for name in list(ARMS)[turn % len(ARMS) :] + list(ARMS)[: turn % len(ARMS)]:
            torch.set_num_threads(options.threads)
            measured, curves[name] = ARMS[name](recipe, options.text, options.threads)
            measured["steps_per_s"] = options.steps / measured["loop_s"]
            runs[name].append(measured)
            print(name, *(f"{key} {value:.3f}" for key, value in measured.items()), flush=True)
    report = summary(runs) | {"steps": options.steps, "text": options.text.name}
    write(options.name, report | {"runs": runs, "machine": machine()})
    draw(RESULTS / f"{options.name}.png", curves, report)
    show(report, is_yardstick=options.steps == 2000 and "shakespeare" in options.text.name)


def waiting(recipe: dict[str, Any], options: argparse.Namespace) -> float:
    """The share of the loop's seconds in which rows are chosen and batches made of them."""
    spent = 0.0

    def timed_call(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent += time.perf_counter() - began

        return call

    in_batches, in_rows = TextStream.batch, TrainerOfLlmos._rows_of
    TextStream.batch = timed_call(in_batches)  # type: ignore[method-assign]
    TrainerOfLlmos._rows_of = timed_call(in_rows)  # type: ignore[method-assign]
    try:
        measured, _ = run_llmos(recipe, options.text, options.threads, from_dataset=True)
    finally:
        TextStream.batch, TrainerOfLlmos._rows_of = in_batches, in_rows  # type: ignore[method-assign]
    return spent / measured["loop_s"]


def show_waiting(shares: list[float]) -> None:
    found = spread(shares)
    write("train_waiting", {"share": found, "machine": machine()})
    value = found["median"]
    text = f"a step waits {value:.2%} of its time for its rows (at most {MOST_WAITING:.0%})"
    say("llmos", text, value <= MOST_WAITING)


def as_dataset(context: JobContext, text: Path, folder: Path) -> dict[str, Any]:
    """What a job is told of a dataset of the text's paragraphs, in two shards."""
    texts = [one for one in text.read_text("utf-8").split("\n\n") if one.strip()]
    rows = [{"id": str(number), "text": one} for number, one in enumerate(texts)]
    shards = []
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        write_rows(folder / "part.parquet", part, {"id": "string", "text": "string"})
        shards.append(context.blobs.put_file(folder / "part.parquet").digest)
    told = {"ref": "text:1", "digest": shards[0], "rows": len(rows), "license": ""}
    return {"dataset:text": {**told, "shards": shards}}


def run_llmos(
    recipe: dict[str, Any], text: Path, threads: int, *, from_dataset: bool = False
) -> Run:
    """The whole train job, from the text to the checked model."""
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as home:
        sent: list[FromWorker] = []
        start = StartJob(
            job_id=1,
            fence=1,
            attempt=1,
            handler="",
            name="bench",
            params={"recipe": recipe, "name": "bench", "data": {}, "base": None},
            owner="admin",
            home=home,
            checkpoint_dir=f"{home}/checkpoints",
            threads=threads,
            heartbeat_s=10.0,
        )
        context = JobContext(start, sent.append)
        if from_dataset:
            recipe = context.params["recipe"] = override(recipe, ["data.path=dataset:text"])
            context.params["datasets"] = as_dataset(context, text, Path(home))
        else:
            context.params["data"]["mine.txt"] = context.blobs.put_file(text).digest
        began, cpu_began = time.perf_counter(), time.process_time()
        result = handler.run(context)
        total, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        manifest = result.artifacts[0].manifest
        points = json.loads((context.checkpoint_dir / "model" / "loss.json").read_text())["points"]
    measured = {"total_s": total, "cpu_s": cpu, "loop_s": manifest["source"]["seconds"]}
    measured["validation_loss"] = manifest["metrics"]["validation_loss"]
    checked = [(p["step"], p["validation_loss"]) for p in points if "validation_loss" in p]
    return measured, checked


class Text:
    """A text as character tokens: a train and a validation part. The ids are llmos's own, so that
    the networks are of one size and begin with the same weights."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        characters = path.read_text("utf-8")
        index = {one: i for i, one in enumerate(sorted(set(characters)), start=NUM_SPECIAL)}
        tokens = np.array([index[character] for character in characters], dtype=np.uint16)
        cut = int(len(tokens) * (1 - recipe.data.validation))
        self.vocab_size = NUM_SPECIAL + len(index)
        self.train, self.validation = tokens[:cut], tokens[cut:]


def run_bare(recipe: dict[str, Any], text: Path, threads: int) -> Run:
    """The same training as a script would do it: encode, loop, evaluate."""
    return timed(recipe, text, bare_loop)


def run_trainer(recipe: dict[str, Any], text: Path, threads: int) -> Run:
    """The same training by transformers' Trainer."""
    return timed(recipe, text, trainer_loop)


def timed(
    recipe: dict[str, Any],
    text: Path,
    train: Callable[[PreTrainedModel, Recipe, Text], Curve],
) -> Run:
    began, cpu_began = time.perf_counter(), time.process_time()
    settings = parse(recipe)
    tokens = Text(text, settings)
    model = network(settings, tokens.vocab_size)
    loop_began = time.perf_counter()
    curve = train(model, settings, tokens)
    loop_s = time.perf_counter() - loop_began
    loss = mean_loss(model.eval(), tokens.validation, settings, 64, None)
    total, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return {"total_s": total, "cpu_s": cpu, "loop_s": loop_s, "validation_loss": loss}, curve


def network(recipe: Recipe, vocab_size: int) -> PreTrainedModel:
    """The recipe's network, as transformers makes it; biases stay at zero."""
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            **recipe.model.config,
            vocab_size=vocab_size,
            n_positions=recipe.block_size,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.endswith(".bias")
    return model.train()


def optimizer_for(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    section = recipe.optimizer
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.dim() >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in learned if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (section.betas[0], section.betas[1])
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=betas, fused=True)


def starts_of(step: int, recipe: Recipe, tokens: Text) -> np.ndarray:
    """Where the blocks of a step begin: as llmos takes them."""
    size = (len(tokens.train), recipe.block_size, recipe.batch_size, recipe.seed)
    return StreamSampler(*size).rows(step)


def bare_loop(model: PreTrainedModel, recipe: Recipe, tokens: Text) -> Curve:
    optimizer = optimizer_for(model, recipe)
    curve = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe)
        starts = starts_of(step, recipe, tokens)
        loss = batch_loss(model, tokens.train, starts, recipe.block_size)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.steps:
            rows, batches = recipe.batch_size, recipe.eval_batches
            model.eval()
            curve.append((step + 1.0, mean_loss(model, tokens.validation, recipe, rows, batches)))
            model.train()
    return curve


class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks of a text, in the order in which they are asked for."""

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, block: int) -> None:
        self._tokens, self._starts, self._block = tokens, starts, block

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        start = int(self._starts[row])
        read = torch.from_numpy(self._tokens[start : start + self._block + 1].astype(np.int64))
        return {"input_ids": read[:-1], "labels": read[1:]}


class InOrder(Trainer):
    """Trainer, with the rows in the order of its dataset."""

    def _get_train_sampler(self, *args: Any, **options: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def trainer_loop(model: PreTrainedModel, recipe: Recipe, tokens: Text) -> Curve:
    block, rows = recipe.block_size, recipe.batch_size
    order = np.concatenate([starts_of(step, recipe, tokens) for step in range(recipe.steps)])
    checked = validation_starts(tokens.validation, block, rows * recipe.eval_batches)
    optimizer = optimizer_for(model, recipe)
    lowest = recipe.optimizer.learning_rate
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(min(step, recipe.steps - 1), recipe) / lowest
    )
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder:
        trainer = InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=recipe.steps,
                per_device_train_batch_size=rows,
                per_device_eval_batch_size=rows,
                max_grad_norm=recipe.optimizer.grad_clip,
                eval_strategy="steps",
                eval_steps=recipe.eval_every,
                save_steps=recipe.checkpoint_every,
                logging_steps=recipe.eval_every,
                save_total_limit=2,
                prediction_loss_only=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                disable_tqdm=True,
                report_to="none",
                seed=recipe.seed,
                use_cpu=True,
            ),
            train_dataset=Blocks(tokens.train, order, block),
            eval_dataset=Blocks(tokens.validation, checked, block),
            optimizers=(optimizer, schedule),
            compute_loss_func=lambda outputs, labels, **_: cross_entropy(outputs.logits, labels),
        )
        trainer.train()
        history = trainer.state.log_history
    return [(float(one["step"]), one["eval_loss"]) for one in history if "eval_loss" in one]


def rate(step: int, recipe: Recipe) -> float:
    section = recipe.optimizer
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / (section.warmup_steps + 1)
    progress = (step - section.warmup_steps) / (recipe.steps - section.warmup_steps)
    span = section.learning_rate - section.min_learning_rate
    return section.min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * span


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def batch_loss(
    model: PreTrainedModel, tokens: np.ndarray, starts: np.ndarray, block: int
) -> Tensor:
    read = torch.from_numpy(tokens[starts[:, None] + np.arange(block + 1)].astype(np.int64))
    return cross_entropy(model(read[:, :-1], use_cache=False).logits, read[:, 1:])


def validation_starts(tokens: np.ndarray, block: int, count: int | None) -> np.ndarray:
    """Blocks side by side: all of them, or so many spread over the split."""
    starts = np.arange(0, len(tokens) - block, block)
    if count is None:
        return starts
    return starts[np.linspace(0, len(starts) - 1, count).astype(int)]


@torch.inference_mode()
def mean_loss(
    model: PreTrainedModel, tokens: np.ndarray, recipe: Recipe, rows: int, batches: int | None
) -> float:
    count = None if batches is None else rows * batches
    starts = validation_starts(tokens, recipe.block_size, count)
    total = 0.0
    for first in range(0, len(starts), rows):
        part = starts[first : first + rows]
        total += batch_loss(model, tokens, part, recipe.block_size).item() * len(part)
    return total / len(starts)


ARMS: dict[str, Callable[[dict[str, Any], Path, int], Run]] = {
    "bare": run_bare,
    "llmos": run_llmos,
    "trainer": run_trainer,
}
"""By turns; each turn begins with another one."""


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """What each measure comes to, and the ratios of each turn's runs."""
    found: dict[str, Any] = {
        name: {key: spread(run[key] for run in of) for key in of[0]} for name, of in runs.items()
    }
    for peer in ("bare", "trainer"):
        pairs = list(zip(runs["llmos"], runs[peer], strict=True))
        found[f"of_{peer}"] = {
            "steps_per_s": spread(a["steps_per_s"] / b["steps_per_s"] for a, b in pairs),
            "cpu_s": spread(a["cpu_s"] / b["cpu_s"] for a, b in pairs),
        }
    return found


def show(report: dict[str, Any], *, is_yardstick: bool) -> None:
    keys = ("steps_per_s", "loop_s", "total_s", "cpu_s", "validation_loss")
    table(("", *keys), ((name, *(report[name][key]["median"] for key in keys)) for name in ARMS))
    losses = {name: report[name]["validation_loss"]["median"] for name in ARMS}
    for peer, least in (("bare", LEAST_OF_BARE), ("trainer", LEAST_OF_TRAINER)):
        value = report[f"of_{peer}"]["steps_per_s"]["median"]
        say("llmos", f"{value:.2f}x the steps/s of {peer} (at least {least:g})", value >= least)
    if is_yardstick:
        loss, apart = losses["llmos"], abs(losses["llmos"] - losses["bare"])
        say("llmos", f"loss {loss:.3f} (at most {LARGEST_LOSS:.2f})", loss <= LARGEST_LOSS)
        text = f"{apart:.4f} from the bare loop's (at most {LARGEST_DIFFERENCE:g})"
        say("llmos", text, apart <= LARGEST_DIFFERENCE)


def draw(path: Path, curves: dict[str, Curve], report: dict[str, Any]) -> None:
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour in (("trainer", "#9aa5b1"), ("bare", "#8fb3d9"), ("llmos", "#c8553d")):
        steps, losses = zip(*curves[name], strict=True)
        speed, loss = (report[name][key]["median"] for key in ("steps_per_s", "validation_loss"))
        label = f"{name}: {speed:.1f} steps/s, loss {loss:.3f}"
        axes.plot(steps, losses, color=colour, marker="o", markersize=4, label=label)
    ratios = [report[f"of_{peer}"]["steps_per_s"]["median"] for peer in ("bare", "trainer")]
    title = f"char-gpt: {ratios[0]:.2f}× a bare loop's steps/s, {ratios[1]:.2f}× Trainer's"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss (nats per character)")
    axes.grid(color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
