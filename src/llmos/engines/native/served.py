"""From a model's files to what the engine runs: runner, KV cache, drafter, limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llmos.engines import base
from llmos.engines.loading import Model, load_pretrained, resident_bytes, set_threads
from llmos.engines.native import quantize, rows
from llmos.engines.native.drafts import DraftModel
from llmos.engines.native.extension import extension
from llmos.engines.native.fused import fused_runner
from llmos.engines.native.grammar import Grammars
from llmos.engines.native.predictor import FREE, StepCost, prior_cost
from llmos.engines.native.probe import make_runner
from llmos.engines.native.restore import restore
from llmos.engines.native.runner import Runner
from llmos.engines.native.speculation import Drafter
from llmos.engines.onednn import compute_by_onednn
from llmos.errors import InvalidModelError, OutOfMemoryError
from llmos.library.files import QUANTIZED_FILE
from llmos.library.quantized import read_quantized


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model. The runner has its cache of ``num_blocks``."""

    runner: Runner
    num_blocks: int
    vocab_size: int
    max_tokens: int
    """Of a sequence, prompt and output."""
    num_bytes: int = 0
    """On the device, the cache included."""
    digest: str = ""
    prior: StepCost = FREE
    drafter: Drafter | None = None
    grammars: Grammars | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """Loaded weights, without a cache."""

    runner: Runner
    vocab_size: int
    max_positions: int
    num_parameters: int
    num_bytes: int
    """Of the weights, and what a step takes beside them."""


def load_model(
    path: Path, manifest: Mapping[str, Any], device: str, threads: int, block_size: int
) -> ServedModel:
    """Load weights, check the runner against the model, make the KV cache.

    Raises:
        InvalidModelError: the files are not a model that this engine can run.
        OutOfMemoryError: the device has no room for it.
    """
    set_threads(threads)
    try:
        network = _open(path, manifest, device, threads)
        return _serve(network, path, manifest, device, threads, block_size)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error


def _open(path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> Network:
    if (path / QUANTIZED_FILE).exists():
        return _open_quantized(path, manifest, device, threads)
    model = load_pretrained(
        AutoModelForCausalLM, path, manifest, device, attn_implementation="eager"
    )
    return _by_torch(model, manifest)


def _open_quantized(path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> Network:
    """Open mapped weights for the extension; what it does not run, as int8 for torch."""
    if read_quantized(path).structure is None:
        return _by_torch(rows.load(path).to(device), manifest)
    quantized = quantize.open_quantized(path)
    library = extension() if device == "cpu" else None
    runner = fused_runner(library, quantized, path, threads) if library else None
    if runner is None:
        return _by_torch(restore(quantized, path).to(device), manifest)
    return Network(
        runner,
        quantized.structure.vocab,
        base.context_tokens(manifest),
        sum(matrix.packed.rows * matrix.packed.columns for matrix in quantized.matrices()),
        quantized.num_bytes + runner.workspace_bytes(base.MAX_STEP_TOKENS),
    )


def _by_torch(model: Model, manifest: Mapping[str, Any]) -> Network:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    max_positions = min(base.context_tokens(manifest), positions or sys.maxsize)
    num_parameters, num_bytes = model.num_parameters(), resident_bytes(model)
    vocab_size = model.get_input_embeddings().weight.shape[0]
    runner = make_runner(model, max_positions, compute_by_onednn)
    return Network(runner, vocab_size, max_positions, num_parameters, num_bytes)


def _serve(
    network: Network,
    path: Path,
    manifest: Mapping[str, Any],
    device: str,
    threads: int,
    block_size: int,
) -> ServedModel:
    """Give a network its cache, and what goes with it."""
    runner = network.runner
    per_token = runner.kv_bytes_per_token
    if not per_token:
        per_token = base.estimate({**manifest, "engine": "native"}, device).kv_bytes_per_token
    num_blocks = max(1, base.kv_cache_tokens(manifest, per_token) // block_size)
    runner.allocate(num_blocks, block_size)
    drafter, draft_bytes = None, 0
    if (draft := manifest.get("draft")) is not None and manifest.get("speculates", True):
        guessing = _open(Path(draft["path"]), draft, device, threads)
        drafter, draft_bytes = _draft_model(guessing, network.vocab_size, manifest, block_size)
    capacity = num_blocks * block_size
    return ServedModel(
        runner=runner,
        num_blocks=num_blocks,
        vocab_size=network.vocab_size,
        max_tokens=min(network.max_positions, capacity),
        num_bytes=network.num_bytes + capacity * per_token + draft_bytes,
        digest=str(manifest.get("digest") or ""),
        prior=prior_cost(network.num_parameters, per_token // 4, device),
        drafter=drafter,
        grammars=Grammars(path / "tokenizer.json", network.vocab_size),
    )


def _draft_model(
    network: Network, vocab_size: int, manifest: Mapping[str, Any], block_size: int
) -> tuple[DraftModel, int]:
    """Return what guesses by a small network, and the bytes that it takes.

    Raises:
        InvalidModelError: it cannot guess tokens of a model with ``vocab_size`` words.
    """
    if network.vocab_size != vocab_size:
        raise InvalidModelError(
            "The draft model has another vocabulary than the model it drafts for."
        )
    if not network.runner.is_paged:
        raise InvalidModelError("The draft model cannot take guesses back: it is no draft.")
    per_token = network.runner.kv_bytes_per_token
    num_blocks = max(1, base.kv_cache_tokens(manifest, per_token) // block_size)
    num_bytes = network.num_bytes + num_blocks * block_size * per_token
    drafter = DraftModel(network.runner, num_blocks, block_size, network.max_positions)
    return drafter, num_bytes
