"""Cards: everything a person asks first, and nothing a stranger's words can inject."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmos.library.artifacts import Library
from llmos.library.cards import format_bytes, format_count, render
from llmos.types import NewVersion


def test_a_card_shows_what_is_known(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    new = new_version(
        "starter-chat",
        description="A tiny model.",
        limits="It knows little.",
        parameters=4_500_000,
        context_tokens=256,
        license="apache-2.0",
        languages=["en", "zh"],
        metrics={"validation": {"loss": 1.23456}},
        recipe={"seed": 7},
        source={"kind": "starter"},
        recommended=["qwen2.5-0.5b"],
    )
    card = render(library.add(new, "llmos"))
    for text in (
        "# starter-chat:1",
        "A tiny model.",
        "4.5M",
        "256 tokens",
        "apache-2.0",
        "en, zh",
        "@latest",
    ):
        assert text in card
    for text in (
        "| validation.loss | 1.235 |",
        "| recipe seed | 7 |",
        "## What it cannot do",
        "config.json",
    ):
        assert text in card
    assert "llmos pull qwen2.5-0.5b" in card
    assert 'llmos run starter-chat "Hello"' in card


def test_a_card_has_no_html_of_strangers(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    evil = "<script>alert(1)</script> | x\n# y"
    card = render(
        library.add(new_version("a", description=evil, license=evil, source={"x": evil}), "o")
    )
    assert "<script>" not in card
    assert "| licence | &lt;script&gt;alert(1)&lt;/script&gt; \\| x # y |" in card


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (25_300_000, "25 MB"),
        (1_234_000_000, "1.2 GB"),
    ],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (1_500, "1.5k"), (4_500_000, "4.5M"), (7_616_000_000, "7.62B")]
)
def test_counts_are_for_people(count: int, text: str) -> None:
    assert format_count(count) == text
