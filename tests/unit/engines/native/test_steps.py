"""Chunks of unlike rows, computed together, give each what it gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.unit.engines.families import FAMILIES, MANIFEST, VOCAB, make_model

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.runner import PagedRunner
from llmos.engines.native.steps import grouped, pack

BLOCK_SIZE = 4


def make_runner(directory: Path) -> PagedRunner:
    torch.set_num_threads(1)
    engine = NativeEngine(block_size=BLOCK_SIZE)
    engine.load(directory, MANIFEST, "cpu", 1)
    runner = engine._runner
    assert isinstance(runner, PagedRunner)
    return runner


def chunks() -> Iterator[RowChunk]:
    """Prompts, parts of prompts, verified drafts and decodes: (past, new tokens, logits)."""
    shapes = [(0, 9, 1), (5, 1, 1), (0, 12, 2), (17, 4, 4), (9, 6, 0), (0, 1, 1), (18, 5, 5),
              (0, 15, 15), (3, 1, 1), (8, 14, 1)]  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    begin = 0
    for number, (past, new, num_logits) in enumerate(shapes):
        token_ids = torch.randint(0, VOCAB, (past + new,), generator=generator).tolist()
        num_blocks = -(-(past + new) // BLOCK_SIZE)
        blocks = list(range(begin, begin + num_blocks))[::-1]
        begin += num_blocks
        if past:
            yield RowChunk(str(number), token_ids[:past], 0, blocks, 0)
        yield RowChunk(str(number), token_ids[past:], past, blocks, num_logits)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
def test_a_mixed_step_gives_the_logits_of_each_chunk_alone_in_order(
    tmp_path: Path, name: str
) -> None:
    assert name in FAMILIES
    runner = make_runner(make_model(tmp_path, name))
    pasts = [chunk for chunk in chunks() if not chunk.num_logits and not chunk.start]
    lasts = [chunk for chunk in chunks() if chunk.num_logits or chunk.start]
    runner.run(pasts)
    alone = [runner.run([chunk]) for chunk in lasts]
    for order in (lasts, lasts[::-1]):
        expected = torch.cat(alone if order is lasts else alone[::-1])
        assert torch.allclose(runner.run(order), expected, atol=1e-4, rtol=1e-4)


def test_a_row_whose_numbers_are_not_finite_harms_no_row_beside_it(tmp_path: Path) -> None:
    runner = make_runner(make_model(tmp_path, "llama"))
    rows = [RowChunk(str(i), tuple(range(1, 6 + i)), 0, [2 * i, 2 * i + 1], 1) for i in range(3)]
    good = runner.run(rows[:2])
    embedding = runner._model.get_input_embeddings().weight
    embedding[7] = torch.nan  # in the longest row alone
    logits = runner.run(rows)
    assert logits[2].isnan().all()
    assert torch.allclose(logits[:2], good, atol=1e-5)


def test_rows_attend_together_when_padding_less_than_doubles_them() -> None:
    rows = list(chunks())
    ordered = [rows[i] for i in grouped(rows)]
    step, wanted = pack(ordered, None, torch.device("cpu"), BLOCK_SIZE)
    assert len(wanted) == sum(chunk.num_logits for chunk in rows)
    assert [group.first for group in step.groups[1:]] == [g.last for g in step.groups[:-1]]
    assert step.groups[-1].last == step.inputs.shape[1] == len(step.slots)
    for group in step.groups:
        assert group.positions.numel() < 2 * (group.last - group.first)
    packed = torch.randn(2, step.inputs.shape[1], 3)
    for group in step.groups:
        back = group.unpadded(group.padded(packed))
        assert torch.equal(back, packed[:, group.first : group.last].transpose(0, 1))
