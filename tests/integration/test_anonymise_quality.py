"""How much personal data is found in the frozen sentences: totals alone, never a sentence.

A labelled piece is found where spans of its type cover all of its characters; a find is right where
it touches a labelled piece of its type. Pieces marked hard are counted apart.
`python -m pytest -s` on this file prints the table that docs/anonymise.md has.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest
from tests.unit.data.test_anonymise_set import LANGUAGES, TYPES, lines

from llmos.data.pii.finder import Names, find

Counts = dict[str, Counter[str]]
STRUCTURED, OF_NAMES = 0.95, 0.85
"""The least recall that is aimed at; of names, eagerly."""
SHORT = {
    ("en", "ADDRESS"): 0.82,
    ("en", "SECRET"): 0.74,
    ("zh", "ADDRESS"): 0.84,
    ("zh", "SECRET"): 0.86,
    ("zh", "NAME"): 0.69,
}
"""Where the aim is missed, what holds all the same: docs/anonymise.md says so."""
CAUTIOUS = {"en": 0.70, "zh": 0.62}
"""What of names is found cautiously."""


def measured(language: Literal["en", "zh"], names: Names = "cautious") -> Counts:
    """Count by type: labelled, found, exactly found, hard, hard found; finds, right finds."""
    counts: Counts = {kind: Counter() for kind in TYPES[language]}
    for line in lines(language):
        text = line["text"]
        spans = [one for one in find(text, names=names) if one.type in counts]
        places = []
        end = 0
        for label in line["spans"]:
            start = text.find(label["text"], end)
            end = start + len(label["text"])
            places.append((start, end, label["type"], "hard" in label))
        for start, end, kind, is_hard in places:
            hidden = {
                place
                for one in spans
                if one.type == kind
                for place in range(max(start, one.start), min(end, one.end))
            }
            seen = {place for place in range(start, end) if text[place].isalnum()}
            prefix = "hard " if is_hard else ""
            counts[kind][f"{prefix}labelled"] += 1
            counts[kind][f"{prefix}found"] += seen <= hidden
            counts[kind]["exact"] += not is_hard and any(
                (one.start, one.end, one.type) == (start, end, kind) for one in spans
            )
        for one in spans:
            counts[one.type]["finds"] += 1
            counts[one.type]["right"] += any(
                kind == one.type and one.start < end and start < one.end
                for start, end, kind, _ in places
            )
    return counts


def share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def shown(counts: Counts) -> str:
    """Return a table."""
    rows = ["| type | labelled | recall | exact | precision | hard | recall of hard |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for kind, one in sorted(counts.items()):
        rows.append(
            f"| `{kind}` | {one['labelled']} | {share(one['found'], one['labelled']):.3f} "
            f"| {share(one['exact'], one['labelled']):.3f} "
            f"| {share(one['right'], one['finds']):.3f} "
            f"| {one['hard labelled']} | {share(one['hard found'], one['hard labelled']):.3f} |"
        )
    return "\n".join(rows)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("names", ["cautious", "eager"])
def test_enough_is_found(language: Literal["en", "zh"], names: Names) -> None:
    counts = measured(language, names)
    print(f"\n{language}, names: {names}\n{shown(counts)}")
    recalls = {kind: share(one["found"], one["labelled"]) for kind, one in counts.items()}
    missed = {
        kind: round(recall, 3)
        for kind, recall in recalls.items()
        if recall < least(language, kind, names)
    }
    assert missed == {}


def least(language: str, kind: str, names: Names) -> float:
    """Return the recall that holds."""
    if kind == "NAME" and names == "cautious":
        return CAUTIOUS[language]
    return SHORT.get((language, kind), OF_NAMES if kind == "NAME" else STRUCTURED)
