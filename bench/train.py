"""The char-gpt recipe through llmos and as the same loop in bare PyTorch, taking turns.

Both read the text, train nanoGPT's CPU setting and end with the loss over the whole validation
split; llmos also checkpoints, publishes and checks the model. Prints the median, the spread and
the ratio, and writes results/train.json and results/train.png.

    python bench/train.py TEXT [--repeats 3] [--steps 2000]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as llmos starts its workers

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob
from llmos.training import handler
from llmos.training.recipe import Recipe, load, override, parse

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LARGEST_LOSS, LARGEST_RATIO = 1.90, 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="UTF-8 text to learn, such as tinyshakespeare.txt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = ["data.path=mine.txt", f"steps={options.steps}"]
    recipe = override(load(ROOT / "recipes" / "char-gpt.yaml"), wanted)
    runs: dict[str, list[dict[str, float]]] = {"bare": [], "llmos": []}
    curves: dict[str, list[tuple[float, float]]] = {}
    for turn in range(options.repeats):
        for name in ("bare", "llmos") if turn % 2 == 0 else ("llmos", "bare"):
            run = run_bare if name == "bare" else run_llmos
            measured, curves[name] = run(recipe, options.text, options.threads)
            runs[name].append(measured)
            print(name, *(f"{key} {value:.3f}" for key, value in measured.items()), flush=True)
    report = summary(runs) | {"steps": options.steps, "runs": runs, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    draw(RESULTS / "train.png", curves, report)
    for key in ("bare_s", "llmos_s", "ratio", "cpu_ratio", "bare_loss", "llmos_loss"):
        low, high = report["spread"][key]
        print(f"{key:<12}{report[key]:>9.3f}   ({low:.3f} to {high:.3f})")
    is_yardstick = options.steps == 2000 and options.text.name == "tinyshakespeare.txt"
    if is_yardstick and (report["llmos_loss"] > LARGEST_LOSS or report["ratio"] > LARGEST_RATIO):
        sys.exit(f"missed: loss at most {LARGEST_LOSS}, ratio at most {LARGEST_RATIO}")


Run = tuple[dict[str, float], list[tuple[float, float]]]


def run_llmos(recipe: dict[str, Any], text: Path, threads: int) -> Run:
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


def run_bare(recipe: dict[str, Any], text: Path, threads: int) -> Run:
    """The same training as a script would do it: encode, loop, evaluate."""
    torch.set_num_threads(threads)
    began, cpu_began = time.perf_counter(), time.process_time()
    settings = parse(recipe)
    characters = text.read_text("utf-8")
    index = {character: i for i, character in enumerate(sorted(set(characters)))}
    tokens = np.array([index[character] for character in characters], dtype=np.uint16)
    cut = int(len(tokens) * (1 - settings.data.validation))
    train, validation = tokens[:cut], tokens[cut:]
    torch.manual_seed(settings.seed)
    model = BareGpt(len(index), settings)
    loop_began = time.perf_counter()
    curve = bare_loop(model, settings, train, validation)
    loop_s = time.perf_counter() - loop_began
    loss = bare_loss(model, validation, settings, 64, None)
    total, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    measured = {"total_s": total, "cpu_s": cpu, "loop_s": loop_s, "validation_loss": loss}
    return measured, curve


class Block(nn.Module):
    """Attention and MLP behind their norms, without biases, as in nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        heads = self.attention(self.norm_1(x)).split(width, dim=2)
        q, k, v = (h.view(rows, length, self.heads, -1).transpose(1, 2) for h in heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).contiguous().view(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class BareGpt(nn.Module):
    """nanoGPT's model in its CPU setting."""

    def __init__(self, vocab_size: int, recipe: Recipe) -> None:
        super().__init__()
        config = recipe.model.config
        width, layers = config["n_embd"], config["n_layer"]
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(recipe.block_size, width)
        self.blocks = nn.ModuleList(Block(width, config["n_head"]) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_residual = name.endswith(("attention_out.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * layers) if is_residual else 0.02
                nn.init.normal_(parameter, std=deviation)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def bare_loop(
    model: BareGpt, recipe: Recipe, train: np.ndarray, validation: np.ndarray
) -> list[tuple[float, float]]:
    section = recipe.optimizer
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=section.learning_rate, betas=tuple(section.betas))
    curve = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = bare_rate(step, recipe)
        starts = torch.randint(len(train) - recipe.block_size, (recipe.batch_size,))
        loss = batch_loss(model, train, starts.numpy(), recipe.block_size)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), section.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.steps:
            rows, batches = recipe.batch_size, recipe.eval_batches
            curve.append((step + 1, bare_loss(model, validation, recipe, rows, batches)))
    return curve


def bare_rate(step: int, recipe: Recipe) -> float:
    section = recipe.optimizer
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / (section.warmup_steps + 1)
    progress = (step - section.warmup_steps) / (recipe.steps - section.warmup_steps)
    span = section.learning_rate - section.min_learning_rate
    return section.min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * span


def batch_loss(model: BareGpt, tokens: np.ndarray, starts: np.ndarray, block: int) -> Tensor:
    x = torch.stack([torch.from_numpy(tokens[i : i + block].astype(np.int64)) for i in starts])
    y = torch.stack(
        [torch.from_numpy(tokens[i + 1 : i + 1 + block].astype(np.int64)) for i in starts]
    )
    logits = model(x)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


@torch.inference_mode()
def bare_loss(
    model: BareGpt, tokens: np.ndarray, recipe: Recipe, rows: int, batches: int | None
) -> float:
    """Mean loss over blocks side by side: all of them, or those of ``batches`` batches."""
    block = recipe.block_size
    starts = np.arange(0, len(tokens) - block, block)
    if batches is not None:
        starts = starts[np.linspace(0, len(starts) - 1, rows * batches).astype(int)]
    total = 0.0
    for first in range(0, len(starts), rows):
        part = starts[first : first + rows]
        total += batch_loss(model, tokens, part, block).item() * len(part)
    return total / len(starts)


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians and ranges. Ratios are of each turn's two runs, start to end.

    CPU seconds tell what the work costs where other programs took part of the machine.
    """
    pairs = list(zip(runs["llmos"], runs["bare"], strict=True))
    series = {
        "bare_s": [run["total_s"] for run in runs["bare"]],
        "llmos_s": [run["total_s"] for run in runs["llmos"]],
        "ratio": [ours["total_s"] / bare["total_s"] for ours, bare in pairs],
        "cpu_ratio": [ours["cpu_s"] / bare["cpu_s"] for ours, bare in pairs],
        "bare_loss": [run["validation_loss"] for run in runs["bare"]],
        "llmos_loss": [run["validation_loss"] for run in runs["llmos"]],
    }
    medians: dict[str, Any] = {name: statistics.median(values) for name, values in series.items()}
    return medians | {"spread": {name: [min(v), max(v)] for name, v in series.items()}}


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }


def draw(path: Path, curves: dict[str, list[tuple[float, float]]], report: dict[str, Any]) -> None:
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour in (("bare", "#8fb3d9"), ("llmos", "#c8553d")):
        steps, losses = zip(*curves[name], strict=True)
        label = f"{name}: {report[f'{name}_s']:.0f} s, loss {report[f'{name}_loss']:.3f}"
        axes.plot(steps, losses, color=colour, marker="o", markersize=4, label=label)
    title = f"char-gpt: llmos takes {report['ratio']:.2f}× the time of bare PyTorch"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss (nats per character)")
    axes.grid(color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
