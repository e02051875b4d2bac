"""Blocks: handed out once, shared by key, kept until their room is needed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.engines.native.blocks import BlockPool, next_key, root_key

A, B, C = b"a", b"b", b"c"


def test_blocks_are_handed_out_once_until_released() -> None:
    pool = BlockPool(5)
    first, second = pool.allocate(2), pool.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0
    pool.release(first)
    assert sorted(pool.allocate(2)) == sorted(first)


def test_a_published_block_is_found_while_held_and_after() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], A)
    assert pool.find([A, B]) == blocks[:1]
    pool.release(blocks)
    assert pool.num_free == 3
    found = pool.find([A, B])
    pool.hold(found)
    assert (found, pool.num_free) == (blocks[:1], 2)
    assert blocks[0] not in pool.allocate(2)


def test_a_shared_block_is_free_when_its_last_row_leaves() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.publish(block, A)
    pool.hold([block])
    pool.release([block])
    assert pool.num_free == 1
    pool.release([block])
    assert pool.num_free == 2


def test_blocks_without_a_key_go_first_then_those_released_longest_ago() -> None:
    pool = BlockPool(4)
    one, two, three = pool.allocate(3)
    for block, key in ((one, A), (two, B), (three, C)):
        pool.publish(block, key)
    pool.release([two])
    pool.release([one, three])  # of these the later one goes first
    assert pool.allocate(3) == [3, two, three]
    assert pool.find([A]) == [one]
    assert not pool.find([B])
    assert not pool.find([C])


def test_the_first_block_of_a_key_stays_the_one() -> None:
    pool = BlockPool(2)
    one, two = pool.allocate(2)
    pool.publish(one, A)
    pool.publish(two, A)
    pool.release([one, two])
    assert pool.find([A]) == [one]
    assert pool.allocate(1) == [two]


def test_retracted_blocks_are_found_by_nobody() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], A)
    pool.publish(blocks[1], B)
    pool.release(blocks[1:])
    pool.retract(blocks)
    assert pool.find([A]) == pool.find([B]) == []
    pool.release(blocks[:1])
    assert pool.num_free == 2


def test_blocks_that_may_hold_nan_are_told_once_when_given_out_again() -> None:
    pool = BlockPool(2)
    pool.release(pool.allocate(1), is_proven=False)
    blocks = pool.allocate(2)
    assert pool.take_suspects(blocks) == [0]
    assert pool.take_suspects(blocks) == []
    pool.release(blocks, is_proven=False)
    pool.hold(blocks)
    pool.release(blocks)  # a row that read them found them finite
    assert pool.take_suspects(pool.allocate(2)) == []


def test_keys_differ_by_model_adapter_salt_and_every_token_before() -> None:
    roots = {
        root_key(model, adapter, salt)
        for model in ("", "m", "ma")
        for adapter in ("", "a", "aa")
        for salt in (b"", b"a", b"m")
    }
    assert len(roots) == 27
    root = root_key("m", "", b"")
    assert next_key(root, [1, 2]) == next_key(root, [1, 2])
    assert len({next_key(root, ids) for ids in ([1, 2], [2, 1], [1, 258], [1])}) == 4
    assert next_key(next_key(root, [1]), [3]) != next_key(next_key(root, [2]), [3])


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("adph"), st.integers(0, 9)), max_size=60),
    size=st.integers(1, 6),
)
def test_no_block_leaks_or_is_given_out_while_held(steps: list[tuple[str, int]], size: int) -> None:
    pool = BlockPool(size)
    rows: list[list[int]] = []
    for action, number in steps:
        if action == "a" and number <= pool.num_free:
            held = {block for row in rows for block in row}
            fresh = pool.allocate(number)
            assert not held & set(fresh)
            assert len(set(fresh)) == number
            rows.append(fresh)
        elif action == "d" and rows:
            pool.release(rows.pop(number % len(rows)), is_proven=bool(number % 2))
        elif action == "p" and rows and rows[number % len(rows)]:
            pool.publish(rows[number % len(rows)][0], bytes([number]))
        elif action == "h":
            found = pool.find([bytes([number])])
            pool.hold(found)
            rows.append(found)
        held = {block for row in rows for block in row}
        assert pool.num_free == size - len(held)
    for row in rows:
        pool.release(row)
    assert sorted(pool.allocate(size)) == list(range(size))
