"""Which rows share a step, without torch: limits, likeness, classes, tenants, pace."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.engines.microbatches import PADDING_SHARE, PADDING_TOKENS, Pace, Queued, take_batch
from llmos.types import PipelineWork, Priority


def queued(*lengths: int, **fields: Any) -> list[Queued]:
    return [
        Queued(str(i), PipelineWork("seq2seq", (1,) * length, **fields), i)
        for i, length in enumerate(lengths)
    ]


def ids(batch: list[Queued]) -> list[str]:
    return [entry.id for entry in batch]


def test_a_batch_is_limited_in_rows_and_in_padded_tokens() -> None:
    assert ids(take_batch(queued(1, 1, 1, 1), 3, 100)) == ["0", "1", "2"]
    assert ids(take_batch(queued(4, 5, 5), 9, 14)) == ["0", "1"]
    assert ids(take_batch(queued(50, 1), 9, 14)) == ["0"]
    assert take_batch([], 9, 14) == []


def test_rows_of_like_length_go_together() -> None:
    assert ids(take_batch(queued(4, 9, 4, 3), 3, 100)) == ["0", "2", "3"]
    assert ids(take_batch(queued(500, 10, 480), 9, 10_000)) == ["0", "2"]
    assert ids(take_batch(queued(10, 500), 9, 10_000)) == ["0"]


def test_a_beam_counts_as_a_row() -> None:
    assert ids(take_batch(queued(1, 1, 1, options={"num_beams": 4}), 8, 100)) == ["0", "1"]
    assert ids(take_batch(queued(1, 1, options={"num_beams": 9}), 8, 100)) == ["0"]


def test_only_works_with_equal_options_share_a_batch() -> None:
    mixed = [*queued(2, 2, options={"num_beams": 2, "max_tokens": 3}), *queued(2)]
    other = Queued("9", PipelineWork("seq2seq", (1,), {"max_tokens": 3, "num_beams": 2}), 9)
    assert ids(take_batch([*mixed, other], 9, 100)) == ["0", "1", "9"]


def test_works_of_other_kinds_do_not_share_a_batch() -> None:
    mixed = [*queued(2, 2), Queued("9", PipelineWork("classify", (1, 1)), 9)]
    assert ids(take_batch(mixed, 9, 100)) == ["0", "1"]


def test_the_best_priority_goes_first_alone_then_the_earliest() -> None:
    late = Queued("now", PipelineWork("seq2seq", (1, 1), {}, Priority.INTERACTIVE), 9)
    waiting = [*queued(2, 2), late]
    assert ids(take_batch(waiting, 9, 100)) == ["now"]
    assert ids(take_batch(waiting[:2], 1, 100)) == ["0"]


def test_within_a_class_the_tenant_that_had_the_least_goes_first() -> None:
    greedy, modest = queued(2, 2, tenant="greedy"), queued(2, tenant="modest")
    waiting = [*greedy, Queued("m", modest[0].work, 7)]
    assert ids(take_batch(waiting, 1, 100, {"greedy": 900.0, "modest": 10.0})) == ["m"]
    assert ids(take_batch(waiting, 1, 100)) == ["0"]


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=30),
    max_rows=st.integers(1, 8),
    max_tokens=st.integers(1, 1000),
)
def test_every_row_gets_its_turn_and_no_batch_is_over_a_limit(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    waiting = {entry.id: entry for entry in queued(*lengths)}
    steps = 0
    while waiting:
        batch = take_batch(waiting.values(), max_rows, max_tokens)
        sizes = [entry.num_tokens for entry in batch]
        assert 1 <= len(batch) <= max_rows
        padded = len(batch) * max(sizes)
        assert len(batch) == 1 or padded <= max_tokens
        assert padded - sum(sizes) <= PADDING_TOKENS + PADDING_SHARE * sum(sizes)
        for entry in batch:
            del waiting[entry.id]
        steps += 1
    assert steps <= len(lengths)


def test_pace_finds_the_tokens_that_take_the_time_a_step_may() -> None:
    for tokens_per_s in (50.0, 1000.0, 20_000.0):
        pace = Pace(most_tokens=10_000, target_s=0.2)
        for _ in range(40):
            pace.note(pace.max_tokens(), pace.max_tokens() / tokens_per_s)
        wanted = max(Pace.FEWEST_TOKENS, tokens_per_s * 0.2)
        assert pace.max_tokens() == pytest.approx(wanted, rel=0.05)


def test_pace_never_goes_over_its_limit() -> None:
    pace = Pace(most_tokens=500)
    for _ in range(40):
        pace.note(pace.max_tokens(), 0.0)
    assert pace.max_tokens() == 500


def test_pace_keeps_to_a_limit_below_its_own_target() -> None:
    pace = Pace(most_tokens=10_000, target_s=0.2)
    for _ in range(40):
        pace.note(1000, 0.1)
    assert pace.max_tokens(0.05) == pytest.approx(500, rel=0.05)
    assert pace.max_tokens(1.0) == pace.max_tokens()
    assert pace.max_tokens(1e-9) == Pace.FEWEST_TOKENS
    assert pace.seconds(500) == pytest.approx(0.05, rel=0.05)
