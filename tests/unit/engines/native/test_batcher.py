"""The plan of a step: who is computed, who is admitted, who gives way."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.engines.native.batcher import Chunk, Row, State, StepPlan, plan


def state(
    running: tuple[Row, ...] = (),
    waiting: tuple[Row, ...] = (),
    *,
    free_blocks: int = 100,
    block_size: int = 4,
    max_step_tokens: int = 16,
    max_rows: int = 8,
) -> State:
    return State(running, waiting, free_blocks, block_size, max_step_tokens, max_rows)


def decoding(row_id: str, num_tokens: int, priority: int = 1, arrival: int = 0) -> Row:
    return Row(row_id, priority, arrival, num_tokens, num_tokens - 1, -(-(num_tokens - 1) // 4))


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan(state()) == StepPlan((), ())


def test_decodes_go_first_then_the_prompt_takes_the_rest_of_the_budget() -> None:
    got = plan(state((decoding("a", 6), decoding("b", 5)), (Row("c", 1, 9, 40),)))
    assert got.chunks == (Chunk("a", 1, 0), Chunk("b", 1, 1), Chunk("c", 14, 11))


def test_a_long_prompt_goes_on_where_it_stopped() -> None:
    got = plan(state((Row("c", 1, 0, 40, 14, 10),)))
    assert got.chunks == (Chunk("c", 16, 0),)


def test_waiting_rows_are_admitted_by_priority_then_arrival() -> None:
    rows = (Row("late", 1, 2, 3), Row("batch", 2, 0, 3), Row("early", 1, 1, 3), Row("now", 0, 3, 3))
    assert [c.id for c in plan(state(waiting=rows)).chunks] == ["now", "early", "late", "batch"]


def test_a_row_that_does_not_fit_holds_back_those_behind_it() -> None:
    got = plan(state(waiting=(Row("big", 1, 0, 30), Row("small", 1, 1, 2)), free_blocks=3))
    assert got == StepPlan((), ())


def test_the_latest_row_of_the_worst_class_gives_its_blocks_to_a_decode() -> None:
    rows = (decoding("a", 5, 1, 0), decoding("b", 9, 2, 1), decoding("c", 8, 2, 2))
    got = plan(state(rows, free_blocks=0))
    assert got.preempted == ("c",)
    assert got.chunks == (Chunk("a", 1, 1), Chunk("b", 1, 1))


def test_a_row_with_nobody_behind_it_gives_way_itself() -> None:
    rows = (decoding("a", 6, 1, 0), decoding("b", 5, 1, 1))
    got = plan(state(rows, free_blocks=0))
    assert got == StepPlan((Chunk("a", 1, 0),), ("b",))


def test_nobody_is_admitted_in_a_step_that_preempts_for_a_decode() -> None:
    rows = (decoding("a", 5, 1, 0), decoding("b", 9, 1, 1))
    got = plan(state(rows, (Row("c", 1, 2, 2),), free_blocks=0))
    assert [chunk.id for chunk in got.chunks] == ["a"]


def test_interactive_work_displaces_batch_rows_but_not_its_own_class() -> None:
    rows = tuple(decoding(name, 6, 2, i) for i, name in enumerate("abc"))
    now = Row("now", 0, 9, 6)
    got = plan(state(rows, (now,), free_blocks=0, max_rows=3))
    assert got.preempted == ("c",)
    assert [chunk.id for chunk in got.chunks] == ["a", "b", "now"]
    same_class = tuple(replace(row, priority=0) for row in rows)
    assert plan(state(same_class, (now,), free_blocks=0)).preempted == ()


def test_nobody_is_displaced_for_a_row_that_would_not_fit_even_so() -> None:
    got = plan(state((decoding("a", 6, 2),), (Row("now", 0, 9, 50),), free_blocks=3))
    assert got == StepPlan((Chunk("a", 1, 0),), ())


arrivals = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 12), st.integers(0, 20)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(
    arrivals=arrivals,
    block_size=st.sampled_from([1, 3, 4, 16]),
    extra_blocks=st.integers(0, 6),
    max_rows=st.integers(1, 6),
    more_tokens=st.integers(0, 20),
)
def test_every_row_finishes_and_blocks_are_never_over_committed(
    arrivals: list[tuple[int, int, int, int]],
    block_size: int,
    extra_blocks: int,
    max_rows: int,
    more_tokens: int,
) -> None:
    """Runs the plan against a model of the engine that only counts."""
    longest = max(prompt + output for _, prompt, output, _ in arrivals)
    num_blocks = -(-longest // block_size) + extra_blocks
    coming = [
        (at, Row(str(i), priority, i, prompt), prompt + output)
        for i, (priority, prompt, output, at) in enumerate(arrivals)
    ]
    rows: dict[str, Row] = {}
    lengths = {row.id: length for _, row, length in coming}
    for step in range(3000):
        rows |= {row.id: row for at, row, _ in coming if at == step}
        if step > 20 and not rows:
            return
        held = sum(row.num_blocks for row in rows.values())
        given_state = State(
            tuple(row for row in rows.values() if row.num_blocks),
            tuple(row for row in rows.values() if not row.num_blocks),
            num_blocks - held,
            block_size,
            max_rows + more_tokens,
            max_rows,
        )
        got = plan(given_state)
        assert bool(got.chunks) == bool(rows)
        for row_id in got.preempted:
            rows[row_id] = replace(rows[row_id], num_cached=0, num_blocks=0)
        assert not set(got.preempted) & {chunk.id for chunk in got.chunks}
        assert sum(chunk.num_tokens for chunk in got.chunks) <= given_state.max_step_tokens
        single = [chunk.num_tokens == 1 for chunk in got.chunks]
        assert len(single) <= max_rows
        for chunk in got.chunks:
            row = rows[chunk.id]
            row = replace(
                row,
                num_cached=row.num_cached + chunk.num_tokens,
                num_blocks=row.num_blocks + chunk.num_new_blocks,
            )
            assert chunk.num_tokens >= 1
            assert row.num_cached <= row.num_tokens
            assert row.num_blocks * block_size >= row.num_cached
            if row.num_cached == row.num_tokens:
                row = replace(row, num_tokens=row.num_tokens + 1)
            rows[chunk.id] = row
            if row.num_tokens == lengths[row.id]:
                del rows[row.id]
        assert sum(row.num_blocks for row in rows.values()) <= num_blocks
    raise AssertionError("a row starves")
