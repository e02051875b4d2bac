"""The sentences that rules were written by: most of what is marked is found, and little else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.data.pii.finder import Names, find
from llmos.types import PersonalType

SET = Path(__file__).parents[3] / "data" / "anonymise_development"
BESIDE: list[PersonalType] = ["PHONE", "EMAIL", "URL", "US_SSN", "BANK_CARD", "IBAN"]
"""What is looked for with the type of a file, as it may overlap it."""
LEAST: dict[str, tuple[PersonalType, Names, float, float]] = {
    "en-address": ("ADDRESS", "cautious", 0.95, 0.97),
    "zh-address": ("ADDRESS", "cautious", 0.95, 0.97),
    "en-secret": ("SECRET", "cautious", 0.95, 0.97),
    "zh-secret": ("SECRET", "cautious", 0.95, 0.97),
    "en-name": ("NAME", "eager", 0.95, 0.93),
    "zh-name": ("NAME", "eager", 0.92, 0.93),
}
"""File -> type, how names are looked for, and the least recall and precision."""


def sentences(name: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for line in (SET / f"{name}.txt").read_text("utf-8").splitlines():
        text, places = "", []
        for number, part in enumerate(re.split("[⟦⟧]", line)):
            shown = part.replace("\\n", "\n").replace("\\t", "\t")
            if number % 2:
                places.append((len(text), len(text) + len(shown)))
            text += shown
        yield text, places


@pytest.mark.parametrize("name", LEAST)
def test_most_is_found_and_little_else(name: str) -> None:
    kind, names, least_recall, least_precision = LEAST[name]
    labelled = found = finds = right = 0
    for text, places in sentences(name):
        spans = [one for one in find(text, types=[kind, *BESIDE], names=names) if one.type == kind]
        hidden = {place for one in spans for place in range(one.start, one.end)}
        for start, end in places:
            seen = {place for place in range(start, end) if text[place].isalnum()}
            labelled, found = labelled + 1, found + (seen <= hidden)
        finds += len(spans)
        right += sum(
            any(it.start < end and start < it.end for start, end in places) for it in spans
        )
    assert labelled >= 70
    assert found / labelled >= least_recall, (found, labelled)
    assert right / finds >= least_precision, (right, finds)


def test_every_file_is_measured() -> None:
    assert {path.stem for path in SET.glob("*.txt")} == LEAST.keys()
