"""Items that come and go are in order at any time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.engines.ordered import Ordered


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_items_are_in_the_order_of_their_keys_whatever_came_and_went(
    changes: list[tuple[bool, int]],
) -> None:
    ordered: Ordered[int] = Ordered(lambda item: -item)
    expected: set[int] = set()
    for is_added, item in changes:
        if is_added and item not in expected:
            ordered.add(item)
            expected.add(item)
        elif not is_added and item in expected:
            ordered.remove(item)
            expected.remove(item)
        assert list(ordered) == sorted(expected, reverse=True)
        assert len(ordered) == len(expected)
        assert ordered.first == max(expected, default=None)


def test_an_item_whose_key_changed_is_not_taken_for_another() -> None:
    first, second = [1], [2]
    ordered: Ordered[list[int]] = Ordered(lambda item: item[0])
    ordered.add(first)
    ordered.add(second)
    first[0] = 2
    with pytest.raises(AssertionError, match="its key has changed"):
        ordered.remove([1])
