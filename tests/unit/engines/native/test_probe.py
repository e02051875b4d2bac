"""Which runner a model gets, where its layers alone do not tell."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.unit.engines.families import (
    CONTEXT,
    MANIFEST,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)

from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.runner import PagedRunner, RowwiseRunner

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "factor": 2.0,
    "original_max_position_embeddings": CONTEXT // 2,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def load(directory: Path, context: int) -> NativeEngine:
    engine = NativeEngine(itl_target_s=math.inf)
    engine.load(directory, MANIFEST | {"context_tokens": context}, "cpu", 1)
    return engine


def test_rotary_embeddings_that_change_with_the_longest_row_leave_the_other_rows_alone(
    tmp_path: Path,
) -> None:
    directory = make_model(
        tmp_path,
        "phi3",
        rope_parameters=LONG,
        original_max_position_embeddings=CONTEXT // 2,
        sliding_window=None,
    )
    engine = load(directory, CONTEXT)
    assert isinstance(engine._runner, RowwiseRunner)
    model = load_oracle(directory)
    works = {str(i): greedy(prompt, 12) for i, prompt in enumerate(prompts(9))}
    assert max(len(work.prompt_ids) for work in works.values()) + 12 > CONTEXT // 2
    # Where a row itself crosses over, transformers' generate computes its past anew.
    short = {i: w for i, w in works.items() if len(w.prompt_ids) + 12 <= CONTEXT // 2}
    tokens = run_works(engine, works)
    assert len(short) > 3
    for i, work in short.items():
        assert tokens[i] == generate(model, work.prompt_ids, 12)
    # Served no further than the point where they change, they do not.
    assert isinstance(load(directory, CONTEXT // 2)._runner, PagedRunner)
