"""What a training takes, told beside its losses: MFU, memory, power, time left.

Nothing is guessed: what this machine or model does not tell is left out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from llmos.kernel import energy
from llmos.training.objectives import Batch
from llmos.training.parsing import is_parser
from llmos.training.peaks import Precision, peak_flops
from llmos.training.tagging import is_tagger

FORWARD_BACKWARD, FROZEN = 6, 4
"""Operations of a weight for each token: 2 forward, 2 for what comes in, and 2 for its own gradient
unless it stays as it is."""
Computed = Literal["float32", "bfloat16"]
TABLES = (nn.Embedding, nn.EmbeddingBag)
PEAK_SIZE, PEAK_TRIES = 1024, 5
PEAK_FILE = "peak.json"


class Log(Protocol):
    """Takes a line for the job's log."""

    def __call__(self, line: str) -> None: ...


class Flops:
    """Floating-point operations that a model needs to learn from a token.

    ``6 N + 12 L H Q T`` for N weights, L layers of H heads of Q numbers, and T tokens in a row
    (Chowdhery et al., arXiv:2204.02311, appendix B; Kaplan et al., arXiv:2001.08361, section 2.1).
    Embeddings that are only looked up are no weights here; one that stays as it is takes 4, not 6.
    What is computed anew (checkpointing) or twice (R-Drop) does not count.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        head = model.get_output_embeddings()
        in_head = {id(p) for p in head.parameters()} if head is not None else set()
        looked_up = _looked_up(model)
        weights = [p for p in model.parameters() if id(p) not in looked_up]
        self.is_known = not (config.is_encoder_decoder or is_tagger(model) or is_parser(model))
        self._head = float(sum(_operations(p) for p in weights if id(p) in in_head))
        self._body = float(sum(_operations(p) for p in weights if id(p) not in in_head))
        layers, heads = _size(config, "num_hidden_layers"), _size(config, "num_attention_heads")
        width = _size(config, "head_dim") or _size(config, "hidden_size") // max(1, heads)
        self._attention = 12.0 * layers * heads * width

    def of(self, batch: Batch) -> float:
        """Return the operations that a batch takes, padding included."""
        rows = [v for k, v in batch.inputs.items() if k.endswith("input_ids") and v.dim() == 2]
        length = max((ids.shape[1] for ids in rows), default=0)
        in_head = batch.num_labels if batch.sparse else batch.num_tokens
        return batch.num_tokens * (self._body + self._attention * length) + in_head * self._head


class Watch:
    """Counts what batches take, and tells what was taken between two reports.

    Args:
        peak: FLOP/s of the device; None: its MFU is not told.
        read_joules: what the machine took since the last call; None: it does not tell.
    """

    def __init__(
        self,
        flops: Flops,
        device: torch.device,
        peak: float | None,
        read_joules: Callable[[], float | None] | None,
    ) -> None:
        self._flops = flops
        self._device = device
        self._peak = peak if flops.is_known else None
        self._read_joules = read_joules
        self._counted = 0.0

    def count(self, batch: Batch) -> None:
        """Take a batch into account."""
        if self._peak is not None:
            self._counted += self._flops.of(batch)

    def told(self, seconds: float) -> dict[str, float]:
        """Return `mfu` (a share), `memory_bytes` (the peak so far) and `watts` (of the machine), as
        far as they are known, of the ``seconds`` since the last call."""
        told = {"memory_bytes": float(_peak_bytes(self._device))}
        if self._peak is not None:
            told["mfu"] = self._counted / seconds / self._peak
            self._counted = 0.0
        joules = self._read_joules() if self._read_joules is not None else None
        if joules is not None:
            told["watts"] = joules / seconds
        return told


def watch(model: PreTrainedModel, directory: Path, log: Log, precision: Computed) -> Watch:
    """Return what watches the training of a model.

    Args:
        directory: where the peak of this machine is kept between attempts, if it was measured.
        precision: what matrices are multiplied in.
    """
    flops, device = Flops(model), model.device
    peak = None
    if flops.is_known and device.type == "cuda":
        peak = peak_flops(torch.cuda.get_device_name(device), _units(precision))
    elif flops.is_known and device.type == "cpu":
        peak = _measured_peak(directory / PEAK_FILE, log, getattr(torch, precision))
    return Watch(flops, device, peak, energy.reader())


def _looked_up(model: nn.Module) -> set[int]:
    """Return the tables of which rows are taken, and that nothing is multiplied with."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, TABLES)}
    others = {
        id(parameter)
        for module in model.modules()
        if not isinstance(module, TABLES)
        for parameter in module.parameters(recurse=False)
    }
    return tables - others


def _operations(parameter: nn.Parameter) -> int:
    return parameter.numel() * (FORWARD_BACKWARD if parameter.requires_grad else FROZEN)


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, 0)
    return value if type(value) is int else 0


def _units(precision: Computed) -> Precision:
    """In what a device multiplies such matrices."""
    if precision == "bfloat16":
        return "bfloat16"
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _measured_peak(path: Path, log: Log, dtype: torch.dtype) -> float:
    """Return FLOP/s of this processor, with as many threads as training has: no table has it, so it
    is measured once, as the best of a few products: by the time that threads computed,
    as others may keep the processor from them just then."""
    if path.exists():
        kept: float = json.loads(path.read_text())["flops"]
        return kept
    matrix = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=dtype)
    threads = torch.get_num_threads()
    best_s = float("inf")
    for _ in range(PEAK_TRIES):
        begun = time.process_time()
        torch.mm(matrix, matrix)
        best_s = min(best_s, (time.process_time() - begun) / threads)
    flops = 2.0 * PEAK_SIZE**3 / best_s
    log(f"mfu is of {flops / 1e9:.0f} GFLOP/s: a product of matrices, with threads: {threads}")
    path.write_text(json.dumps({"flops": flops}))
    return flops


def _peak_bytes(device: torch.device) -> int:
    """Return the most that was taken: of the device's memory, on a processor by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
