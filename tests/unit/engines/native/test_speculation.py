"""Speculation: what is guessed, when it pays, and that it changes no token."""

from __future__ import annotations

import pytest
from tests.unit.engines.simulated import (
    COST,
    SimulatedRunner,
    drain,
    expected_tokens,
    make_engine,
)

from llmos.engines.native.blocks import root_key
from llmos.engines.native.drafts import DraftModel
from llmos.engines.native.predictor import FREE, StepCost
from llmos.engines.native.sequences import Sequence
from llmos.engines.native.speculation import (
    INDEXED_TOKENS,
    MAX_DRAFTS,
    PromptLookup,
    Speculator,
)
from llmos.types import GenerateWork, SamplingParams


def sequence(token_ids: list[int], name: str = "a") -> Sequence:
    work = GenerateWork(tuple(token_ids), SamplingParams(max_tokens=100))
    return Sequence(name, work, 0, 0.0, root_key("", "", b""))


def lookup(token_ids: list[int], count: int = 4) -> list[int] | None:
    """What prompt lookup guesses."""
    drafter, row = PromptLookup(), sequence(token_ids)
    if drafter.kind(row) is None:
        return None
    return drafter.draft([row], [count])[0]


def test_what_followed_the_same_end_before_is_guessed() -> None:
    assert lookup([1, 2, 3, 4, 5, 6, 9, 2, 3]) == [4, 5, 6, 9]
    assert lookup([1, 2, 3, 4, 5]) is None
    assert lookup([7, 7]) is None


def test_the_longest_repeated_end_decides_then_the_latest() -> None:
    assert lookup([1, 2, 3, 4, 9, 2, 3, 7, 1, 2, 3], 1) == [4]
    assert lookup([2, 3, 4, 9, 2, 3, 7, 2, 3], 1) == [7]


def test_guesses_run_on_into_themselves() -> None:
    assert lookup([5, 6, 5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]


def test_long_prompts_are_read_over_several_steps_all_rows_together() -> None:
    drafter = PromptLookup()
    rows = [sequence([1, 2, 3, 4] * (INDEXED_TOKENS // 4), name) for name in "abc"]
    for num_read in range(1, 4):
        drafter.begin()
        kinds = [drafter.kind(row) for row in rows]
        assert [kind is not None for kind in kinds] == [i < num_read for i in range(3)]
        assert sum(index._num_indexed for index in drafter._indices.values()) == (
            num_read * INDEXED_TOKENS
        )
    assert drafter.draft(rows, [4, 4, 4]) == [[1, 2, 3, 4]] * 3


def test_a_growing_row_is_looked_up_as_one_that_came_whole() -> None:
    drafter, row = PromptLookup(), sequence([1, 2, 3])
    for token in [1, 2, 3, 3, 2, 1, 2, 3, 1, 2]:
        row.token_ids.append(token)
        kind = drafter.kind(row)
        whole = lookup(row.token_ids)
        assert (kind is None) == (whole is None)
        if whole is not None:
            assert drafter.draft([row], [4]) == [whole]


def propose(speculator: Speculator, rows: list[Sequence], cost: StepCost = COST) -> int:
    return speculator.propose(rows, [MAX_DRAFTS] * len(rows), cost)


def repeating(count: int) -> list[Sequence]:
    return [sequence([1, 2, 3, 4] * 4, str(i)) for i in range(count)]


def test_a_single_row_is_drafted_for_and_a_large_batch_is_not() -> None:
    assert propose(Speculator(PromptLookup()), repeating(1)) >= 2
    assert propose(Speculator(PromptLookup()), repeating(64)) == 0
    assert propose(Speculator(PromptLookup()), repeating(1), FREE) == 0


def test_drafting_grows_with_success_stops_with_failure_and_is_tried_again() -> None:
    speculator, rows = Speculator(PromptLookup()), repeating(1)
    first = propose(speculator, rows)
    for _ in range(20):
        speculator.observe(rows[0], len(rows[0].drafts), len(rows[0].drafts))
        grown = propose(speculator, rows)
    assert grown == MAX_DRAFTS > first
    while propose(speculator, rows):
        speculator.observe(rows[0], len(rows[0].drafts), 0)
    assert any(propose(speculator, rows) for _ in range(1000))


def test_no_more_is_drafted_than_there_is_room_for() -> None:
    rows = repeating(2)
    Speculator(PromptLookup()).propose(rows, [0, 1], COST)
    assert [len(row.drafts) for row in rows] == [0, 1]


def works(temperature: float) -> dict[str, GenerateWork]:
    return {
        str(i): GenerateWork(
            tuple([i % 11, 3, 4, i % 7] * 3),
            SamplingParams(
                max_tokens=25,
                temperature=temperature,
                seed=i,
                repetition_penalty=1.0 + 0.2 * (i % 2),
            ),
        )
        for i in range(5)
    }


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("with_model", [False, True])
def test_guesses_change_no_token_and_save_steps(temperature: float, with_model: bool) -> None:
    given = works(temperature)
    plain, plain_runner = make_engine(speculates=False)
    engine, runner = make_engine(prior=COST)
    if with_model:

        def truth(row_id: str) -> list[int]:
            return model._held[row_id].token_ids

        model = DraftModel(SimulatedRunner(truth), 64, 4, 10**6)
        engine._speculator = Speculator(model)
    for i, work in given.items():
        plain.submit(i, work)
        engine.submit(i, work)
    expected = {i: expected_tokens(work) for i, work in given.items()}
    assert drain(plain) == drain(engine) == expected
    stats = engine.stats()
    assert stats.accepted_tokens > 0
    if temperature == 0 or with_model:
        assert len(runner.steps) < len(plain_runner.steps)
    if with_model:
        assert stats.accepted_tokens == stats.draft_tokens  # it is the same model
        assert not model._held
        assert model._pool.num_free == 64
