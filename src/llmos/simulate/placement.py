"""Which models the devices of a cluster begin with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from llmos.simulate.device import Device


def apportion(shares: Mapping[str, float], num_seats: int) -> dict[str, int]:
    """Return how many of ``num_seats`` each has: one at least, the others by largest remainder."""
    left = num_seats - len(shares)
    assert left >= 0, "the scenario has room for every model"
    exact = {key: share * left for key, share in shares.items()}
    seats = {key: 1 + int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (int(exact[key]) - exact[key], key))
    for key in by_remainder[: num_seats - sum(seats.values())]:
        seats[key] += 1
    return seats


def fill(shares: Mapping[str, float], devices: Iterable[Device]) -> list[list[str]]:
    """Return which models each device begins with: different ones, by their shares of the whole."""
    found = list(devices)
    num_places = found[0].hardware.num_places
    seats = apportion(shares, len(found) * num_places)
    models = itertools.chain.from_iterable([key] * count for key, count in seats.items())
    placed: list[list[str]] = [[] for _ in found]
    for at, model in enumerate(models):
        one = placed[at % len(found)]
        if model not in one:  # who has it on all devices can have no more
            one.append(model)
    return placed
