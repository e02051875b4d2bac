"""The counter-based stream against its authors' known answers."""

from __future__ import annotations

import pytest

from llmos.engines.native.philox import philox4x32, uniform

ONES = 0xFFFFFFFF

KNOWN = [  # Random123's kat_vectors, philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_words_are_those_of_the_reference(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == words


def test_numbers_are_a_pure_function_of_seed_choice_and_position() -> None:
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    keys = [
        (seed, choice, position)
        for seed in range(9)
        for choice in range(9)
        for position in range(9)
    ]
    assert len({uniform(*key) for key in keys}) == len(keys)


def test_numbers_are_evenly_spread_in_the_unit_interval() -> None:
    numbers = sorted(uniform(-5, 0, position) for position in range(4000))
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    furthest = max(abs(number - i / 4000) for i, number in enumerate(numbers))
    assert furthest < 1.95 / 4000**0.5  # Kolmogorov-Smirnov, p = 0.001
