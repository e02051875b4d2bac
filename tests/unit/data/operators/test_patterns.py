"""Patterns of users take little memory, whatever they are."""

from __future__ import annotations

import pytest
import regex

from llmos.data.operators import patterns
from llmos.data.operators.patterns import compiled
from llmos.data.pipeline.registry import make_operator
from llmos.errors import PipelineError

NESTED = "(?:" * 40 + "a" + ")+" * 40


@pytest.mark.parametrize("pattern", ["((((a{999}){999}){999}){999})", "a{900000000}", NESTED])
def test_a_pattern_that_would_fill_the_memory_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeats too much"):
        compiled(pattern)
    with pytest.raises(PipelineError, match="repeats too much"):
        make_operator("regex_filter", {"pattern": pattern}, 0)


def test_a_pattern_with_many_repeats_that_take_little_is_compiled() -> None:
    uuid = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    date = r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}"
    pattern = f"{uuid}|{date}|\\d+\\s+\\w+ 第\\d+章"
    assert compiled(pattern).fullmatch("2024-01-02 03:04:05")
    assert compiled(pattern, regex.IGNORECASE).search("see 第12章") is None
    assert compiled(pattern).search("1 a 第12章")


def test_what_cannot_be_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_TRY", "raise SystemExit(1)")
    with pytest.raises(ValueError, match="repeats too much"):
        compiled(r"(?:x\d{400}){400}")


def test_what_is_no_pattern_is_told() -> None:
    for pattern in ("(", "(" + "a{99}" * 9):
        with pytest.raises(ValueError, match="is no regular expression"):
            compiled(pattern)
