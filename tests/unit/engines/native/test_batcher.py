"""The plan of a step: who is computed, who is admitted, who gives way."""

from __future__ import annotations

import itertools
import math
from typing import Any

from msgspec.structs import replace

from llmos.engines.native.batcher import (
    ARRIVAL_SHARE,
    FILLING_SHARE,
    MIN_CHUNK_TOKENS,
    STREAMING_SHARE,
    YIELD_STEPS,
    Chunk,
    Row,
    State,
    StepPlan,
    plan,
)
from llmos.engines.native.predictor import StepCost, StepLoad, chunk_keys

INTERACTIVE, STANDARD, BATCH, BACKGROUND = range(4)
BLOCK = 4
COST = StepCost(step_s=0.02, prefill_token_s=0.002, decode_token_s=0.004, key_s=1e-6)
TARGET_S = 0.2

numbers = itertools.count()


def state(running: tuple[Row, ...] = (), waiting: tuple[Row, ...] = (), **fields: Any) -> State:
    fields = {
        "free_blocks": 100,
        "block_size": BLOCK,
        "max_step_tokens": 16,
        "max_rows": 8,
    } | fields
    return State(running, waiting, **fields)


def timed(running: tuple[Row, ...], waiting: tuple[Row, ...] = (), **fields: Any) -> State:
    """A state where time is what is short."""
    fields = {"cost": COST, "itl_target_s": TARGET_S, "max_step_tokens": 2048} | fields
    return state(running, waiting, **{"max_rows": 64, "free_blocks": 10_000} | fields)


def blocks(count: int) -> list[int]:
    """Blocks that nobody else has."""
    return [next(numbers) for _ in range(count)]


def decoding(name: str, num_tokens: int, priority: int = 1, arrival: int = 0, **fields: Any) -> Row:
    held = blocks(-(-(num_tokens - 1) // BLOCK))
    return Row(name, priority, arrival, num_tokens, num_tokens - 1, held, **fields)


def seconds(planned: StepPlan, rows: tuple[Row, ...]) -> float:
    """What the plan should take."""
    by_id = {row.id: row for row in rows}
    total = COST.step_s
    for chunk in planned.chunks:
        row = by_id[chunk.id]
        if row.num_left == 1 and row.blocks:
            total += COST.decode_s(row.num_tokens) * chunk.num_tokens
        else:
            keys = chunk_keys(row.num_cached, chunk.num_tokens)
            total += COST.marginal_s(StepLoad(chunk.num_tokens, 0, keys))
    return total


def ids(planned: StepPlan) -> list[str]:
    return [chunk.id for chunk in planned.chunks]


# -- tokens ----------------------------------------------------------------------------------------


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan(state()) == StepPlan((), ())


def test_decodes_go_first_then_the_prompt_takes_the_rest_of_the_budget() -> None:
    got = plan(state((decoding("a", 6), decoding("b", 5)), (Row("c", 1, 9, 40),)))
    assert got.chunks == (Chunk("a", 1, 0), Chunk("b", 1, 1), Chunk("c", 14, 11))


def test_a_long_prompt_goes_on_where_it_stopped() -> None:
    got = plan(state((Row("c", 1, 0, 40, 14, blocks(11)),)))
    assert got.chunks == (Chunk("c", 16, 0),)


def test_waiting_rows_are_admitted_by_priority_then_arrival() -> None:
    rows = (Row("late", 1, 2, 3), Row("batch", 2, 0, 3), Row("early", 1, 1, 3), Row("now", 0, 3, 3))
    assert ids(plan(state(waiting=rows))) == ["now", "early", "late", "batch"]


def test_in_a_class_the_tenant_that_had_least_goes_first() -> None:
    rows = (
        Row("greedy", 1, 0, 3, virtual_time=9.0),
        Row("modest", 1, 1, 3, virtual_time=2.0),
        Row("urgent", 0, 2, 3, virtual_time=50.0),
    )
    assert ids(plan(state(waiting=rows))) == ["urgent", "modest", "greedy"]


def test_a_prompt_of_a_better_class_takes_the_token_of_a_worse_row() -> None:
    rows = tuple(decoding(str(i), 6, BATCH, i) for i in range(8))
    got = plan(state(rows, (Row("now", 0, 9, 30),), max_rows=9))
    assert got.chunks == (Chunk("now", 16, 8),)
    assert got.preempted == ()


def test_a_token_is_kept_for_each_row_with_a_target_beside_a_long_prompt() -> None:
    rows = tuple(decoding(str(i), 6, STANDARD, i) for i in range(4))
    got = plan(state(rows, (Row("now", 0, 9, 90),), max_step_tokens=30))
    assert got.chunks[:4] == tuple(Chunk(str(i), 1, 0) for i in range(4))
    assert got.chunks[4] == Chunk("now", 26, 23)


def test_rows_that_want_all_logits_get_as_many_tokens_as_memory_allows() -> None:
    rows = (Row("a", 1, 0, 40, wants_all_logits=True), Row("b", 1, 1, 40, wants_all_logits=True))
    got = plan(state(waiting=rows, max_step_logits=20, max_step_tokens=99))
    assert [(chunk.id, chunk.num_tokens) for chunk in got.chunks] == [("a", 20)]


def test_scored_prompts_that_find_no_memory_for_logits_hold_nobody_else_back() -> None:
    rows = (
        Row("a", 1, 0, 800, wants_all_logits=True),
        Row("b", 1, 1, 800, wants_all_logits=True),
        Row("chat", 1, 2, 300),
    )
    limits = {"max_step_logits": 110, "max_step_tokens": 2048, "free_blocks": 999}
    got = plan(state(waiting=rows, **limits))
    assert [(c.id, c.num_tokens) for c in got.chunks] == [("a", 110), ("chat", 300)]


# -- blocks ----------------------------------------------------------------------------------------


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
    assert ids(got) == ["a"]


def test_interactive_work_displaces_batch_rows_but_not_its_own_class() -> None:
    rows = tuple(decoding(name, 6, 2, i) for i, name in enumerate("abc"))
    now = Row("now", 0, 9, 6)
    got = plan(state(rows, (now,), free_blocks=0, max_rows=3))
    assert got.preempted == ("c",)
    assert sorted(ids(got)) == ["a", "b", "now"]
    same_class = tuple(replace(row, priority=0) for row in rows)
    assert plan(state(same_class, (now,), free_blocks=0)).preempted == ()


def test_nobody_is_displaced_for_a_row_that_would_not_fit_even_so() -> None:
    got = plan(state((decoding("a", 6, 2),), (Row("now", 0, 9, 50),), free_blocks=3))
    assert got == StepPlan((Chunk("a", 1, 0),), ())


def test_a_row_is_displaced_though_blocks_are_free_where_rows_are_short() -> None:
    rows = tuple(decoding(name, 6, 3, i) for i, name in enumerate("ab"))
    assert plan(state(rows, (Row("now", 1, 9, 6),), max_rows=2)).preempted == ("b",)


# -- the prefix cache ------------------------------------------------------------------------------


def test_a_row_with_a_cached_prefix_computes_only_the_rest() -> None:
    row = Row("a", 1, 0, 30, num_cached=24, blocks=blocks(6))
    got = plan(state(waiting=(row,), free_blocks=8))
    assert got.chunks == (Chunk("a", 6, 2),)


def test_cached_blocks_that_nobody_holds_count_as_taken_once_admitted() -> None:
    row = Row("a", 1, 0, 30, num_cached=24, blocks=blocks(6))
    assert plan(state(waiting=(row,), free_blocks=7)) == StepPlan((), ())


def test_cached_blocks_that_a_row_holds_cost_nothing() -> None:
    first = decoding("a", 26, 1, 0)
    second = Row("b", 1, 1, 30, num_cached=24, blocks=first.blocks[:6])
    got = plan(state((first,), (second,), free_blocks=2))
    assert got.chunks == (Chunk("a", 1, 0), Chunk("b", 6, 2))


def test_preempting_a_row_frees_only_the_blocks_that_nobody_else_holds() -> None:
    shared = blocks(2)
    keeps = Row("keeps", 0, 0, 9, 8, shared)  # needs a third block
    other = Row("other", 2, 1, 10, 9, [*shared, *blocks(1)])
    last = Row("last", 2, 2, 9, 8, shared)
    got = plan(state((keeps, other, last), free_blocks=0))
    assert got.preempted == ("last", "other")
    assert got.chunks == (Chunk("keeps", 1, 1),)


def test_a_displaced_row_may_leave_its_blocks_to_the_one_that_displaces_it() -> None:
    old = Row("old", 2, 0, 10, 9, blocks(3))
    new = Row("new", 0, 1, 10, num_cached=8, blocks=old.blocks[:2])
    got = plan(state((old,), (new,), free_blocks=0, max_rows=1))
    assert got == StepPlan((Chunk("new", 2, 1),), ("old",))


# -- time ------------------------------------------------------------------------------------------


def test_no_chunk_pushes_a_streaming_row_past_its_target() -> None:
    for priority in (INTERACTIVE, STANDARD):
        rows = tuple(decoding(str(i), 100, priority, i) for i in range(4))
        prompt = Row("long", INTERACTIVE, 9, 4000)
        got = plan(timed(rows, (prompt,)))
        assert len(got.chunks) == 5
        share = seconds(got, (*rows, prompt)) / TARGET_S
        assert STREAMING_SHARE - 0.02 < share <= STREAMING_SHARE


def test_without_streaming_rows_a_chunk_is_as_long_as_a_newcomer_may_wait() -> None:
    rows = tuple(decoding(str(i), 100, BATCH, i) for i in range(4))
    prompt = Row("long", BATCH, 9, 4000)
    got = plan(timed(rows, (prompt,)))
    share = seconds(got, (*rows, prompt)) / TARGET_S
    assert ARRIVAL_SHARE - 0.02 < share <= ARRIVAL_SHARE


def test_other_models_may_ask_for_shorter_steps() -> None:
    prompt = Row("long", BATCH, 9, 4000)
    got = plan(timed((), (prompt,), step_limit_s=0.09))
    assert 0.085 < seconds(got, (prompt,)) <= 0.09
    rows = tuple(decoding(str(i), 100, STANDARD, i) for i in range(4))
    got = plan(timed(rows, (prompt,), step_limit_s=0.06))
    assert seconds(got, (*rows, prompt)) <= 0.06


def test_time_that_was_spent_before_the_step_is_not_there_for_a_chunk() -> None:
    rows = (decoding("a", 100, INTERACTIVE),)
    full, short = (
        plan(timed(rows, (Row("long", 1, 9, 4000),), spent_s=spent)).chunks[1].num_tokens
        for spent in (0.0, 0.05)
    )
    assert 20 <= full - short <= 30


def test_an_interactive_prompt_takes_the_time_of_batch_rows_beside_a_streaming_row() -> None:
    batch = tuple(decoding(f"b{i}", 100, BATCH, i) for i in range(16))
    stream, prompt = decoding("stream", 100, INTERACTIVE, 20), Row("new", INTERACTIVE, 21, 400)
    rows = (*batch, stream, prompt)
    got = plan(timed((*batch, stream), (prompt,)))
    assert ids(got) == ["stream", "new"]
    assert got.preempted == ()
    assert got.chunks[1].num_tokens > 50
    assert seconds(got, rows) <= TARGET_S


def test_batch_rows_fill_the_time_that_streaming_rows_leave() -> None:
    batch = tuple(decoding(f"b{i}", 100, BATCH, i) for i in range(40))
    stream = decoding("stream", 100, INTERACTIVE, 50)
    got = plan(timed((*batch, stream)))
    assert ids(got)[0] == "stream"
    assert ids(got)[1:] == [row.id for row in batch[: len(got.chunks) - 1]]
    share = seconds(got, (*batch, stream)) / TARGET_S
    assert FILLING_SHARE - 0.03 < share <= FILLING_SHARE


def test_streaming_rows_all_get_their_token_though_time_is_short() -> None:
    rows = tuple(decoding(str(i), 100, STANDARD, i) for i in range(60))
    got = plan(timed(rows, (Row("new", STANDARD, 99, 400),)))
    assert ids(got) == [row.id for row in rows]


def test_a_prompt_of_the_upper_classes_gets_a_little_ahead_in_a_full_batch() -> None:
    rows = tuple(decoding(str(i), 100, STANDARD, i) for i in range(32))
    got = plan(timed(rows, (Row("new", INTERACTIVE, 99, 400), Row("next", STANDARD, 100, 400))))
    assert got.chunks[-1] == Chunk("new", MIN_CHUNK_TOKENS, 101)
    assert ids(got)[:-1] == [row.id for row in rows]
    got = plan(timed(rows, (Row("new", BATCH, 99, 400),)))
    assert "new" not in ids(got)


def test_short_prompts_do_not_overtake_a_long_one_that_has_no_room() -> None:
    rows = tuple(decoding(str(i), 100, BATCH, i) for i in range(57))
    got = plan(timed(rows, (Row("long", BATCH, 60, 400), Row("short", BATCH, 61, 2))))
    assert not {"long", "short"} & set(ids(got))


def test_where_one_token_alone_takes_longer_than_the_target_prompts_still_go_on() -> None:
    slow = StepCost(step_s=0.4, prefill_token_s=0.02, decode_token_s=0.03)
    rows = (decoding("a", 100, INTERACTIVE),)
    got = plan(timed(rows, (Row("b", INTERACTIVE, 1, 400),), cost=slow))
    assert ids(got) == ["a", "b"]


def test_the_first_row_is_computed_whatever_it_takes() -> None:
    slow = StepCost(step_s=9.0, prefill_token_s=1.0, decode_token_s=9.0)
    assert ids(plan(timed((decoding("a", 100, BATCH),), cost=slow))) == ["a"]
    assert ids(plan(timed((), (Row("a", BATCH, 0, 50),), cost=slow))) == ["a"]


# -- ageing ----------------------------------------------------------------------------------------


def test_a_class_that_is_held_back_too_long_has_its_best_row_promoted() -> None:
    rows = tuple(decoding(str(i), 6, INTERACTIVE, i) for i in range(2))
    waiting = (Row("new", BATCH, 9, 5), Row("old", BATCH, 8, 5))
    patient = state(rows, waiting, max_rows=2, ageing_tokens=100)
    assert plan(replace(patient, held_back_tokens=(0, 0, 99, 0))).promoted == ()
    got = plan(replace(patient, held_back_tokens=(0, 0, 100, 0)))
    assert got.promoted == ("old",)
    # It waits for a place among the interactive rows, and is the next to get one.
    assert got.preempted == ()
    promoted = tuple(replace(row, is_promoted=row.id == "old") for row in waiting)
    got = plan(replace(patient, running=rows[:1], waiting=(*promoted, Row("now", 0, 3, 5))))
    assert sorted(ids(got)) == ["0", "old"]


def test_one_promoted_row_of_a_class_is_enough() -> None:
    rows = (decoding("a", 6, BATCH, 0, is_promoted=True), decoding("b", 6, BATCH, 1))
    fields = {"held_back_tokens": (0, 0, 999, 0), "ageing_tokens": 100}
    assert plan(state(rows, **fields)).promoted == ()


def test_a_promoted_row_displaces_worse_rows_and_is_displaced_by_none() -> None:
    rows = tuple(decoding(str(i), 6, STANDARD, i) for i in range(2))
    old = Row("old", BACKGROUND, 9, 5)
    aged = {"held_back_tokens": (0, 0, 0, 100), "ageing_tokens": 100, "max_rows": 2}
    got = plan(state(rows, (old,), **aged))
    assert got.promoted == ("old",)
    assert got.preempted == ("1",)
    running = (rows[0], decoding("old", 6, BACKGROUND, 9, is_promoted=True))
    got = plan(state(running, (Row("now", INTERACTIVE, 3, 5),), max_rows=2))
    assert got.preempted == ("0",)


# -- tenants ---------------------------------------------------------------------------------------


def rivals(lead: float, priority: int = STANDARD, **fields: Any) -> State:
    """Three rows of one tenant have all there is; one of another waits, ``lead`` behind them."""
    rows = tuple(decoding(name, 6, priority, i, virtual_time=lead) for i, name in enumerate("abc"))
    fields = {"max_rows": 3, "free_blocks": 0, "tenant_lead": 10.0} | fields
    return state(rows, (Row("other", priority, 9, 6),), **fields)


def test_a_row_gives_way_to_a_tenant_of_its_class_that_had_far_less() -> None:
    got = plan(rivals(lead=10.5))
    assert (got.preempted, got.has_yielded) == (("c",), True)
    assert sorted(ids(got)) == ["a", "b", "other"]
    assert plan(rivals(lead=9.5)) == plan(replace(rivals(lead=9.5), waiting=()))


def test_rows_give_way_to_tenants_of_their_class_one_at_a_time_and_seldom() -> None:
    asked = rivals(lead=99.0)
    asked = replace(asked, waiting=(*asked.waiting, Row("another", STANDARD, 10, 6)))
    assert plan(asked).preempted == ("c",)
    assert plan(replace(asked, steps_since_yield=YIELD_STEPS - 1)).preempted == ()
    # To a better class they give way at once, all that are needed.
    better = tuple(replace(row, priority=INTERACTIVE) for row in asked.waiting)
    got = plan(replace(asked, waiting=better, steps_since_yield=0))
    assert (got.preempted, got.has_yielded) == (("c", "b"), False)


def test_a_promoted_row_does_not_give_way_to_a_tenant() -> None:
    asked = rivals(lead=99.0)
    promoted = tuple(replace(row, is_promoted=True) for row in asked.running)
    assert plan(replace(asked, running=promoted)).preempted == ()


def test_a_prompt_whose_tenant_had_far_less_gets_time_before_rows_of_the_lower_classes() -> None:
    rows = tuple(decoding(str(i), 100, BATCH, i, virtual_time=50.0) for i in range(60))
    prompt = Row("other", BATCH, 99, 400)
    assert "other" not in ids(plan(timed(rows, (prompt,))))
    assert "other" in ids(plan(timed(rows, (prompt,), tenant_lead=10.0)))


# -- drafts ----------------------------------------------------------------------------------------


def test_drafts_use_what_is_left_of_the_tokens() -> None:
    rows = (decoding("a", 6, 1, 0, num_drafts=5), decoding("b", 6, 1, 1, num_drafts=5))
    got = plan(state(rows, max_step_tokens=9))
    assert [(c.id, c.num_tokens) for c in got.chunks] == [("a", 6), ("b", 3)]
    got = plan(state(rows, (Row("c", 1, 2, 40),), max_step_tokens=9))
    assert [(c.id, c.num_tokens) for c in got.chunks] == [("a", 1), ("b", 1), ("c", 7)]


def test_drafts_take_free_blocks_but_preempt_nobody() -> None:
    rows = (decoding("a", 8, 0, 0, num_drafts=9), decoding("b", 6, 3, 1))
    got = plan(state(rows, free_blocks=1))
    assert got == StepPlan((Chunk("b", 1, 0), Chunk("a", 5, 1)), ())


def test_drafts_use_what_is_left_of_the_time() -> None:
    rows = tuple(decoding(str(i), 100, INTERACTIVE, i, num_drafts=8) for i in range(10))
    got = plan(timed(rows))
    assert sum(chunk.num_tokens for chunk in got.chunks) > 20
    assert seconds(got, rows) <= STREAMING_SHARE * TARGET_S


def test_without_a_cost_or_target_time_is_no_limit() -> None:
    got = plan(state((), (Row("a", 1, 0, 1000),), max_step_tokens=5000, free_blocks=300))
    assert got.chunks[0].num_tokens == 1000
    got = plan(timed((), (Row("a", 1, 0, 1000),), itl_target_s=math.inf))
    assert got.chunks[0].num_tokens == 1000
