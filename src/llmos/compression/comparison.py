"""How far a quantised model's logits are from the original's, on a few texts and random tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llmos.engines.base import context_tokens
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.served import load_model

ROW_TOKENS = 32
MAX_TEXT_ROWS = 4
_BLOCK_SIZE = 16
_TEXTS = (
    "The ship left the harbour at dawn. By noon the wind had turned, and the captain, who had "
    "sailed these waters for thirty years, ordered the sails down before the storm reached them.",
    "人们常说，读万卷书不如行万里路。春天来了，城里的树开始发芽，孩子们在公园里放风筝。",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Question: What is the capital of France?\nAnswer: The capital of France is Paris.\n",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Between the logits of two models at the same tokens.

    ``relative_error`` is |ours - theirs| / |theirs|, where each position's mean is taken off first
    since it changes no probability; ``top1_agreement`` is how often both find the same token
    likeliest.
    """

    relative_error: float
    top1_agreement: float
    tokens: int


def compare(
    original: Path, quantized: Path, manifest: Mapping[str, Any], threads: int
) -> Difference:
    """Run both models, the original by transformers and the other as the engine runs it.

    Args:
        manifest: of the quantised model.

    Raises:
        InvalidModelError: one of them cannot be run.
    """
    length = min(ROW_TOKENS, context_tokens(manifest))
    short = {**manifest, "context_tokens": length}  # and so a small cache
    served = load_model(quantized, short, "cpu", threads, _BLOCK_SIZE)
    rows = _rows(original, served.vocab_size, length)
    model = open_mapped(original)
    blocks_per_row = -(-length // _BLOCK_SIZE)
    theirs, ours = [], []
    with torch.inference_mode():
        for row in rows:
            theirs.append(model(torch.tensor([row]), use_cache=False).logits[0].float())
            chunk = RowChunk("compare", row, 0, range(blocks_per_row), len(row))
            ours.append(served.runner.run([chunk]).float())
            served.runner.forget("compare", chunk.blocks, clear=False)
    return difference(torch.cat(ours), torch.cat(theirs))


def difference(ours: Tensor, theirs: Tensor) -> Difference:
    """Compare logits ``[tokens, vocab]``."""
    a, b = (logits - logits.mean(dim=-1, keepdim=True) for logits in (ours, theirs))
    error = float((a - b).norm() / b.norm().clamp_min(1e-12))
    agreement = float((a.argmax(dim=-1) == b.argmax(dim=-1)).float().mean())
    return Difference(error, agreement, len(a))


def _rows(directory: Path, vocab_size: int, length: int) -> list[list[int]]:
    """Return rows of ``length`` token ids: of the texts in the model's tokenizer, one at random."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = [
        token
        for text in _TEXTS
        for token in tokenizer.encode(text, add_special_tokens=False).ids[:length]
    ]
    count = min(MAX_TEXT_ROWS, len(ids) // length)
    rows = [ids[length * i : length * (i + 1)] for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    return [*rows, torch.randint(vocab_size, (length,), generator=generator).tolist()]
