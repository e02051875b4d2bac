"""The mix of old and new in each batch, and how long a micro-update takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.training.tiny import make_recipe

from llmos.data.encoding import Columns, Ragged
from llmos.training.masking import MaskedTexts
from llmos.training.objectives import Conversations, TextStream
from llmos.training.recipe import Recipe, parse
from llmos.training.replay import mixed, old_recipe, shortened
from llmos.training.sampling import Draws, EpochSampler


def recipe(**changes: object) -> Recipe:
    given = {
        "model": {"base": "tiny"},
        "tokenizer": {"kind": "base"},
        "data": {"path": "feedback:tiny"},
        "replay": {"path": "starter:chat", "rows": 20, "share": 0.25},
        "online": {"epochs": 3},
        "steps": 50,
    }
    return parse(make_recipe("chat", **given | changes))


def columns(count: int, first: int = 0) -> Columns:
    rows = [[first + n] * (n % 5 + 1) for n in range(count)]
    return {"input_ids": Ragged.of(rows), "learned": Ragged.of(rows)}


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_an_epoch_takes_each_example_once_and_a_step_follows_from_its_number(
    count: int, batch_size: int, seed: int, step: int
) -> None:
    sampler = EpochSampler(count, batch_size, seed)
    taken = np.concatenate([sampler.rows(number) for number in range(count)])
    assert np.bincount(taken).tolist() == [batch_size] * count
    assert sampler.rows(step).tolist() == EpochSampler(count, batch_size, seed).rows(step).tolist()


def test_each_batch_has_its_share_of_old_rows_and_reads_them_whole() -> None:
    new, old = columns(6), columns(30, first=100)
    both, sampler = mixed(recipe(), Conversations(), new, old)
    assert sampler is not None
    seen: set[int] = set()
    for step in range(30):
        ids = [both["input_ids"].row(int(row)).tolist() for row in sampler.rows(step)]
        assert all(len(set(row)) == 1 for row in ids)
        assert all(len(row) == (row[0] % 100) % 5 + 1 for row in ids), "as long as it was"
        firsts = [row[0] for row in ids]
        assert len([one for one in firsts if one >= 100]) == 1
        seen |= set(firsts)
    assert seen == {*range(6), *range(100, 130)}, "every old row has come by"


def test_which_old_rows_come_follows_from_where_the_update_begins() -> None:
    new, old = columns(6), columns(30, first=100)
    draws = {}
    for begin in (0, 0, 7):
        _, sampler = mixed(recipe(), Conversations(), new, old, begin)
        assert sampler is not None
        draws.setdefault(begin, []).append([sampler.rows(step).tolist() for step in range(5)])
    assert draws[0][0] == draws[0][1] != draws[7][0]


def test_a_running_text_is_mixed_by_blocks_of_either() -> None:
    its = recipe(online=None)
    its = its.model_copy(update={"task": "generate", "block_size": 4})
    new = {"tokens": Ragged.of([np.arange(40)])}
    old = {"tokens": Ragged.of([np.arange(100, 180)])}
    both, sampler = mixed(its, TextStream(4), new, old)
    assert sampler is not None and len(both["tokens"]) == 1
    for step in range(20):
        starts = sampler.rows(step)
        blocks = [both["tokens"].flat[start : start + 5] for start in starts]
        assert [int(block[0] >= 100) for block in blocks] == [0, 0, 0, 1]
        assert all(np.ptp(block) == 4 for block in blocks), "no block reaches from one to the other"


def test_without_a_share_only_the_new_is_learned() -> None:
    new, old = columns(6), columns(30, first=100)
    its = recipe(replay={"path": "starter:chat", "rows": 20, "share": 0})
    both, sampler = mixed(its, Conversations(), new, old)
    assert both is new and sampler is not None
    assert max(int(sampler.rows(step).max()) for step in range(20)) == 5
    assert mixed(its.model_copy(update={"replay": None}), Conversations(), new, None) == (new, None)


def test_what_is_drawn_anew_at_each_step_is_drawn_anew_beside_the_old() -> None:
    new, old = columns(6), columns(30, first=100)
    masked = MaskedTexts(mask_id=1, pad_id=0, num_tokens=200, seed=3)
    for share in (0.0, 0.25):
        replay = {"path": "starter:chat", "rows": 20, "share": share}
        _, sampler = mixed(recipe(replay=replay), masked, new, old)
        assert isinstance(sampler, Draws)
        assert sampler.num_rows == (36 if share else 6)


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (6, 6), (7, 7), (1000, 50)])
def test_a_micro_update_takes_as_many_steps_as_it_needs_and_no_more(count: int, steps: int) -> None:
    assert shortened(recipe(), columns(count)).steps == steps
    assert shortened(recipe(online=None), columns(count)).steps == 50


def test_the_old_is_read_by_a_recipe_of_its_own() -> None:
    old = old_recipe(recipe())
    assert (old.data.path, old.replay, old.online) == ("starter:chat", None, None)
    assert old.data.rows == 20
