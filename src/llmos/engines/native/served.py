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
from llmos.engines.native import quantize
from llmos.engines.native.drafts import load_draft_model
from llmos.engines.native.extension import extension
from llmos.engines.native.fused import fused_runner
from llmos.engines.native.grammar import Grammars
from llmos.engines.native.predictor import FREE, StepCost, prior_cost
from llmos.engines.native.probe import make_runner
from llmos.engines.native.runner import Runner
from llmos.engines.native.speculation import Drafter
from llmos.errors import OutOfMemoryError
from llmos.library.files import QUANTIZED_FILE

MAX_STEP_TOKENS = 2048
"""Computed in one step at most, unless an engine is told another number."""


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
        if (path / QUANTIZED_FILE).exists():
            return _load_quantized(path, manifest, device, threads, block_size)
        model = load_pretrained(
            AutoModelForCausalLM, path, manifest, device, attn_implementation="eager"
        )
        return _load(model, path, manifest, device, block_size)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error


def _load_quantized(
    path: Path, manifest: Mapping[str, Any], device: str, threads: int, block_size: int
) -> ServedModel:
    """Serve mapped weights by the extension; without it, or elsewhere, as float32 by torch."""
    quantized = quantize.open_quantized(path)
    library = extension() if device == "cpu" else None
    runner = fused_runner(library, quantized, path, threads) if library else None
    if runner is None:
        model = quantize.restore(quantized, path).to(device)
        return _load(model, path, manifest, device, block_size)
    found = quantized.structure
    numbers = sum(matrix.packed.rows * matrix.packed.columns for matrix in quantized.matrices())
    taken_bytes = quantized.num_bytes + runner.workspace_bytes(MAX_STEP_TOKENS)
    limits = Limits(found.vocab, base.context_tokens(manifest), numbers, taken_bytes)
    return _serve(runner, limits, path, manifest, device, block_size)


def _load(
    model: Model, path: Path, manifest: Mapping[str, Any], device: str, block_size: int
) -> ServedModel:
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or sys.maxsize
    limits = Limits(
        vocab_size=model.get_input_embeddings().weight.shape[0],
        max_positions=min(base.context_tokens(manifest), positions),
        num_parameters=model.num_parameters(),
        weights_bytes=resident_bytes(model),
    )
    return _serve(make_runner(model), limits, path, manifest, device, block_size)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of a network."""

    vocab_size: int
    max_positions: int
    num_parameters: int
    weights_bytes: int


def _serve(
    runner: Runner,
    limits: Limits,
    path: Path,
    manifest: Mapping[str, Any],
    device: str,
    block_size: int,
) -> ServedModel:
    """Give a runner its cache, and what goes with it."""
    per_token = runner.kv_bytes_per_token
    if not per_token:
        per_token = base.estimate({**manifest, "engine": "native"}, device).kv_bytes_per_token
    num_blocks = max(1, base.kv_cache_tokens(manifest, per_token) // block_size)
    runner.allocate(num_blocks, block_size)
    draft_model, draft_bytes = load_draft_model(manifest, device, limits.vocab_size, block_size)
    capacity = num_blocks * block_size
    return ServedModel(
        runner=runner,
        num_blocks=num_blocks,
        vocab_size=limits.vocab_size,
        max_tokens=min(limits.max_positions, capacity),
        num_bytes=limits.weights_bytes + capacity * per_token + draft_bytes,
        digest=str(manifest.get("digest") or ""),
        prior=prior_cost(limits.num_parameters, per_token // 4, device),
        drafter=draft_model,
        grammars=Grammars(path / "tokenizer.json", limits.vocab_size),
    )
