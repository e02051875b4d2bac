"""Finds the runner a model needs, by computing a few tokens both ways.

An architecture is never trusted by its name: the logits of a prefill and a decode must be those of
the model's own forward.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmos.engines.loading import Model
from llmos.engines.native import attention
from llmos.engines.native.attention import PackedStep, RowChunk
from llmos.engines.native.int8 import is_int8
from llmos.engines.native.runner import PagedRunner, RowwiseRunner, Runner
from llmos.engines.native.steps import forward, pack
from llmos.errors import InvalidModelError

NUM_TOKENS = 8
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
"""By how much logits may differ, relative to the largest; in other types by more."""
HARMLESS = {"position_ids", "cache_position"}
"""Tensors that an attention function may ignore."""

UNSUITED = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, NotImplementedError)
"""What an architecture raises that is not made for what a runner does with it."""


@torch.inference_mode()
def make_runner(
    model: Model,
    max_tokens: int | None = None,
    prepare: Callable[[Model], None] = lambda model: None,
) -> Runner:
    """Return the paged runner if the model computes the same through it, else the row-wise one.

    Args:
        max_tokens: of the longest sequence it will run; None: what the model can.
        prepare: changes how the model computes, which is checked like the rest.

    Raises:
        InvalidModelError: with neither does it continue a sequence as it should.
        torch.OutOfMemoryError: there is no room to compute a few tokens.
    """
    # With a pad id set, some forwards look for padding in every step; a packed row has none.
    model.config.pad_token_id = None
    attention.register()
    vocab_size = model.config.get_text_config().vocab_size
    token_ids = [i % vocab_size for i in range(1, NUM_TOKENS + 1)]
    ids = torch.tensor([token_ids], device=model.device)
    try:
        expected = model(input_ids=ids, use_cache=False).logits[0, -2:]
    except torch.OutOfMemoryError:
        raise
    except UNSUITED as error:
        raise _refusal(model, str(error)) from error
    prepare(model)
    runner: Runner | None = None
    if not _is_rotated_by_longest(model.config.get_text_config(), max_tokens):
        runner = _tried(_make_paged, model, token_ids, expected)
    runner = runner or _tried(_make_rowwise, model, token_ids, expected)
    if runner is None:
        raise _refusal(model, "it does not continue a sequence from keys and values kept before")
    return runner


def _is_rotated_by_longest(config: Any, max_tokens: int | None) -> bool:
    """Whether rotary embeddings change for all rows of a step as soon as one is longer than the
    model was first trained on. Such rows cannot be packed: none may depend on the others."""
    rope = getattr(config, "rope_parameters", None) or {}
    limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
    longest = limit if max_tokens is None else max_tokens
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # by layer type
    return any(
        kind.get("rope_type") in ("dynamic", "longrope")
        and longest > (kind.get("original_max_position_embeddings") or limit)
        for kind in kinds
    )


def _refusal(model: Model, why: str) -> InvalidModelError:
    return InvalidModelError(f"llmos cannot run {type(model).__name__}: {why}.")


def _tried(
    make: Callable[[Model, Sequence[int]], Runner | None],
    model: Model,
    token_ids: Sequence[int],
    expected: Tensor,
) -> Runner | None:
    """Return the runner if its last two logits are the ``expected`` ones ``[2, vocab]``."""
    try:
        runner = make(model, token_ids)
        if runner is None:
            return None
        runner.allocate(1, NUM_TOKENS)
        prefill = runner.run([RowChunk("probe", token_ids[:-1], 0, [0], 1)])
        decode = runner.run([RowChunk("probe", token_ids[-1:], NUM_TOKENS - 1, [0], 1)])
        runner.forget("probe", [0], clear=False)
    except torch.OutOfMemoryError:
        raise
    except UNSUITED:
        return None
    tolerance = 5e-2 if is_int8(model) else _TOLERANCES.get(expected.dtype, 5e-2)
    return runner if _agrees(torch.cat([prefill, decode]), expected, tolerance) else None


def _make_paged(model: Model, token_ids: Sequence[int]) -> PagedRunner | None:
    """Compute the tokens without a cache, to see which layers come through our attention."""
    takes_indices = "logits_to_keep" in inspect.signature(model.forward).parameters
    if not takes_indices or not model._can_set_attn_implementation():
        return None
    model.set_attn_implementation(attention.NAME)
    chunk = RowChunk("probe", token_ids, 0, [0], 1)
    step, wanted = pack([chunk], None, model.device, NUM_TOKENS)
    forward(model, step, wanted)
    return PagedRunner(model, step.shapes) if _is_covered(model, step) else None


def _make_rowwise(model: Model, token_ids: Sequence[int]) -> RowwiseRunner:
    model.set_attn_implementation("eager")
    return RowwiseRunner(model)


def _is_covered(model: Model, step: PackedStep) -> bool:
    """Whether every layer came through us, with its window if it has one."""
    config = model.config.get_text_config()
    if set(step.shapes) != set(range(config.num_hidden_layers)) or step.ignored - HARMLESS:
        return False
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return all(
        kind == "full_attention" or (kind == "sliding_attention" and step.windows[i] is not None)
        for i, kind in enumerate(kinds)
    )


def _agrees(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Within what the order of summation explains at this precision."""
    largest = expected.abs().max().clamp(min=1e-6)
    return bool((got - expected).abs().max() <= tolerance * largest)
