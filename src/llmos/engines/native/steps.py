"""Packs the chunks of a step in one row, in groups that attend together; runs a model on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from llmos.engines.loading import Model
from llmos.engines.native import attention
from llmos.engines.native.attention import PackedStep, RowChunk, RowGroup
from llmos.engines.native.cache import KVCache


def forward(model: Model, step: PackedStep, wanted: Tensor) -> Tensor:
    """Run the packed row; return logits ``[len(wanted), vocab]`` at those indices of it."""
    token = attention.current_step.set(step)
    try:
        output = model(
            input_ids=step.inputs[:1],
            position_ids=step.inputs[1:],
            use_cache=False,
            logits_to_keep=wanted,
        )
    finally:
        attention.current_step.reset(token)
    logits: Tensor = output.logits[0]
    return logits


def grouped(chunks: Sequence[RowChunk]) -> list[int]:
    """Return the order in which chunks that attend together are neighbours."""
    return sorted(range(len(chunks)), key=lambda i: _kind(chunks[i]))


def _kind(chunk: RowChunk) -> tuple[int, int]:
    """What chunks must have in common to be padded to one size: it less than doubles them."""
    num_tokens = len(chunk.token_ids)
    if num_tokens == 1:
        return 1, 0
    return num_tokens.bit_length(), len(chunk.blocks).bit_length() if chunk.start else 0


def pack(
    chunks: Sequence[RowChunk],
    cache: KVCache | None,
    device: torch.device,
    block_size: int,
) -> tuple[PackedStep, Tensor]:
    """Describe a step of ``grouped`` chunks; also say where in it logits are wanted."""
    ends = list(accumulate(len(chunk.token_ids) for chunk in chunks))
    wanted = [
        index
        for chunk, end in zip(chunks, ends, strict=True)
        for index in range(end - chunk.num_logits, end)
    ]
    token_ids = [token for chunk in chunks for token in chunk.token_ids]
    positions = [p for chunk in chunks for p in range(chunk.start, chunk.end)]
    slots = [
        slot(chunk, position, block_size)
        for chunk in chunks
        for position in range(chunk.start, chunk.end)
    ]
    groups: list[RowGroup] = []
    for _, rows in groupby(chunks, key=_kind):
        first = groups[-1].last if groups else 0
        groups.append(_group(list(rows), first, device))
    step = PackedStep(
        cache=cache,
        inputs=torch.tensor([token_ids, positions], device=device),
        slots=torch.tensor(slots, dtype=torch.long, device=device),
        groups=tuple(groups),
    )
    return step, torch.tensor(wanted, dtype=torch.long, device=device)


def _group(chunks: Sequence[RowChunk], first: int, device: torch.device) -> RowGroup:
    """Describe chunks of one kind that lie from ``first`` on in the packed row."""
    counts = [len(chunk.token_ids) for chunk in chunks]
    longest, last = max(counts), first + sum(counts)
    blocks = None
    if longest == 1 or any(chunk.start for chunk in chunks):
        width = max(len(chunk.blocks) for chunk in chunks)
        blocks = torch.tensor([block_row(chunk, width) for chunk in chunks], device=device)
    positions = [[min(c.start + i, c.end - 1) for i in range(longest)] for c in chunks]
    padding = places = None
    if min(counts) < longest:
        begins = [end - count for end, count in zip(accumulate(counts), counts, strict=True)]
        filled = zip(begins, counts, strict=True)
        padding = torch.tensor(
            [begin + min(i, count - 1) for begin, count in filled for i in range(longest)],
            device=device,
        )
        places = torch.tensor(
            [row * longest + i for row, count in enumerate(counts) for i in range(count)],
            device=device,
        )
    return RowGroup(
        first=first,
        last=last,
        positions=torch.tensor(positions, device=device),
        blocks=blocks,
        padding=padding,
        places=places,
    )


def block_row(chunk: RowChunk, width: int) -> list[int]:
    """Return the chunk's blocks, padded: with its own, since NaN in them is its own."""
    return [*chunk.blocks, *[chunk.blocks[0]] * (width - len(chunk.blocks))]


def slot(chunk: RowChunk, position: int, block_size: int) -> int:
    """Return where in the cache the keys and values of a position go."""
    return chunk.blocks[position // block_size] * block_size + position % block_size
