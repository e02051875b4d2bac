"""What was written for each sentinel is found, whatever a network wrote."""

from __future__ import annotations

import pytest

from llmos.models.sentinels import sentinel, sentinel_ids, spans_in

NAMES = (90, 91, 92, 93)


def test_the_sentinels_of_a_vocabulary_are_those_numbered_without_a_gap() -> None:
    vocabulary = {"<extra_id_0>": 32, "<extra_id_1>": 31, "<extra_id_3>": 30}
    assert sentinel_ids(vocabulary.get) == (32, 31)
    assert sentinel_ids({}.get) == ()
    assert sentinel(1) == "<extra_id_1>"


@pytest.mark.parametrize(
    ("written", "spans"),
    [
        ([90, 1, 2, 91, 3, 92], [[1, 2], [3]]),
        ([90, 1, 2, 91, 3], [[1, 2], [3]]),
        ([90, 91, 3, 4, 92, 5], [[], [3, 4]]),
        ([91, 3, 90, 1], [[1], [3]]),
        ([90, 1, 92, 2], [[1], None]),
        ([7, 8, 91], [None, []]),
        ([90, 1, 90, 2, 91, 3], [[1], [3]]),
        ([], [None, None]),
    ],
)
def test_a_span_goes_from_behind_its_sentinel_to_the_next(
    written: list[int], spans: list[list[int] | None]
) -> None:
    found = spans_in(written, NAMES, 2)
    assert [None if one is None else written[one] for one in found] == spans
