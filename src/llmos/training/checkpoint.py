"""Checkpoints a killed run goes on from, bit for bit: safetensors and JSON only.

A checkpoint is a directory `step-NNNNNNNN` of weights, optimizer state, random streams and loss
curve. It is written beside, fsynced and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llmos.storage.files import sync_directory, sync_file
from llmos.training.distribution import part_like

KEEP = 2
WEIGHTS, OPTIMIZER, BEST, AVERAGE, STATE, DIGESTS = (
    "weights.safetensors",
    "optimizer.safetensors",
    "best.safetensors",
    "average.safetensors",
    "state.json",
    "digests.json",
)

Weights = dict[str, Tensor]


@dataclass(slots=True)
class Progress:
    """Where a run stands: optimizer steps done, its loss curve, and the best validation so far."""

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = float("inf")
    best_step: int = 0
    best_weights: Weights | None = None
    average: Weights | None = None
    """The moving average of the weights, where the recipe wants one."""
    seconds: float = 0.0
    tokens: int = 0
    """That went through the model to learn from, padding included."""
    unreported: list[float] = field(default_factory=list)
    """Losses of the last steps that are in no point of the curve yet."""


def weights_of(model: nn.Module) -> Weights:
    """The model's tensors by name; of tied ones the first name only; of a base with an adapter
    those of the adapter. They share memory with it."""
    tensors = model.state_dict(keep_vars=True)
    if getattr(model, "peft_config", None):
        tensors = {name: own for name, own in model.named_parameters() if own.requires_grad}
    seen: set[int] = set()
    weights: Weights = {}
    for name, tensor in tensors.items():
        place = id(tensor) if isinstance(tensor, DTensor) else tensor.data_ptr()
        if place not in seen:
            seen.add(place)
            weights[name] = tensor.detach()
    return weights


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Copy weights into the model in place, so tied tensors stay tied."""
    with torch.no_grad():
        for name, tensor in weights_of(model).items():
            tensor.copy_(part_like(weights[name], tensor))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint of one step holds: tensors by file name and by their names, and the rest.

    As `snapshot` makes it, the tensors are those that training goes on to change.
    """

    step: int
    files: dict[str, Weights]
    state: str
    """JSON."""


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Snapshot:
    """Return what a checkpoint of this step holds; the tensors are not copied."""
    files = {WEIGHTS: weights_of(model), OPTIMIZER: _optimizer_tensors(model, optimizer)}
    if progress.best_weights is not None:
        files[BEST] = progress.best_weights
    if progress.average is not None:
        files[AVERAGE] = progress.average
    state = {
        "step": progress.step,
        "curve": progress.curve,
        "best_loss": progress.best_loss,
        "best_step": progress.best_step,
        "seconds": progress.seconds,
        "tokens": progress.tokens,
        "unreported": progress.unreported,
        "random": _random_state(),
    }
    return Snapshot(progress.step, files, json.dumps(state))


def save(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write a checkpoint of this step under ``root`` and keep the newest two."""
    write(root, snapshot(model, optimizer, progress))


def write(root: Path, taken: Snapshot, keep_at: Collection[int] = ()) -> None:
    """Write a snapshot under ``root``, whole or not at all; keep the newest two, and those of the
    steps ``keep_at``.

    Those of later steps are what a run could not go on from: they go.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / _name(taken.step)
    temporary = root / f".{final.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, tensors in taken.files.items():
        _save_tensors(tensors, temporary / name)
    (temporary / STATE).write_text(taken.state)
    digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / DIGESTS).write_text(json.dumps(digests, indent=1))
    for path in temporary.iterdir():
        sync_file(path)
    sync_directory(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(root)
    earlier = [path for path in _checkpoints(root) if path.name <= final.name]
    pinned = {_name(step) for step in keep_at}
    kept = [*earlier[-KEEP:], *(path for path in earlier if path.name in pinned)]
    for old in _checkpoints(root):
        if old not in kept:
            shutil.rmtree(old)


def kept_weights(root: Path, step: int) -> Weights | None:
    """Return the weights of a step whose checkpoint was kept, or their moving average where there
    is one; None where it is damaged."""
    directory = root / _name(step)
    if not _is_whole(directory):
        return None
    average = directory / AVERAGE
    return dict(load_file(average if average.exists() else directory / WEIGHTS))


def load_latest(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, log: Callable[[str], None]
) -> Progress | None:
    """Restore the newest checkpoint that is whole; None where there is none.

    A damaged one is named through ``log`` and passed over.
    """
    for directory in reversed(_checkpoints(root)):
        if _is_whole(directory):
            return _restore(directory, model, optimizer)
        log(f"checkpoint {directory.name} is damaged: going back to the one before")
    return None


def _restore(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    set_weights(model, load_file(directory / WEIGHTS))
    tensors = load_file(directory / OPTIMIZER)
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        state = {
            key.removeprefix(prefix): _state_like(tensor, parameter)
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = state
    state = json.loads((directory / STATE).read_text())
    _set_random_state(state["random"])
    best, average = directory / BEST, directory / AVERAGE
    return Progress(
        step=state["step"],
        curve=state["curve"],
        best_loss=state["best_loss"],
        best_step=state["best_step"],
        best_weights=_parts(load_file(best), model) if best.exists() else None,
        average=_on_device(_parts(load_file(average), model), model) if average.exists() else None,
        seconds=state["seconds"],
        tokens=state.get("tokens", 0),
        unreported=state.get("unreported", []),  # an older one is of a reported step
    )


def _parts(weights: Weights, model: nn.Module) -> Weights:
    """Return this process's part of each, where the model is in parts."""
    like = weights_of(model)
    return {name: part_like(tensor, like[name]) for name, tensor in weights.items()}


def _on_device(weights: Weights, model: nn.Module) -> Weights:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _state_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a state tensor as it belongs to a parameter, of which it may be in parts as well."""
    if tensor.shape == parameter.shape:
        tensor = part_like(tensor, parameter)
    return tensor.to(parameter.device)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Weights:
    """Every state tensor of every trained parameter as ``parameter/state``."""
    return {
        f"{name}/{key}": tensor
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def _random_state() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": _as_hex(torch.get_rng_state()),
        "cuda": [_as_hex(state) for state in torch.cuda.get_rng_state_all()],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(_from_hex(state["torch"]))
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_hex(cuda) for cuda in state["cuda"]])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _as_hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())


def _save_tensors(tensors: Weights, path: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # it hides the number of the system's error in its text
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def _is_whole(directory: Path) -> bool:
    try:
        digests = json.loads((directory / DIGESTS).read_text())
        return all(_sha256(directory / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
