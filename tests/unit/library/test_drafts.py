from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmos.errors import (
    InvalidModelError,
    InvalidNameError,
    InvalidRequestError,
    ModelNotFoundError,
)
from llmos.library.drafts import find_draft, parse_drafts


def model(name: str, engine: str = "native") -> Any:
    return SimpleNamespace(
        full_name=name, ref=f"{name}:1", digest=f"sha256:{name}", manifest={"engine": engine}
    )


class Shelf:
    """A library of the named models."""

    def __init__(self, *models: Any) -> None:
        self._models = {one.full_name: one for one in models}

    def resolve(self, ref: Any, kind: str | None = None) -> Any:
        if ref not in self._models:
            raise ModelNotFoundError(f"there is no model {ref}")
        return self._models[ref]


def test_pairs_are_read_by_name() -> None:
    assert parse_drafts(" big=small, team/other = tiny:2 ,") == {
        "big": "small",
        "team/other": "tiny:2",
    }
    assert parse_drafts("") == {}


@pytest.mark.parametrize("text", ["big", "big=", "=small", "big=small=x", "big=a b"])
def test_what_is_no_list_of_pairs_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_drafts(text)


def test_a_draft_is_found_for_the_model_it_is_paired_with() -> None:
    big, small = model("big"), model("small")
    drafts = parse_drafts("big=small")
    assert find_draft(Shelf(big, small), drafts, big) is small
    assert find_draft(Shelf(big, small), drafts, small) is None


@pytest.mark.parametrize("small", [None, model("small", "pipelines"), model("big")])
def test_a_draft_that_is_none_is_an_error_not_a_slower_model(small: Any) -> None:
    big = model("big")
    shelf = Shelf(*filter(None, [big, small]))
    pair = {"big": "big" if small and small.full_name == "big" else "small"}
    with pytest.raises(InvalidModelError, match="setting drafts"):
        find_draft(shelf, pair, big)


@pytest.mark.parametrize("text", ["big=a,big=b", "big:2=small", "big@production=small", "big=big"])
def test_a_model_is_paired_once_and_whatever_its_version(text: str) -> None:
    with pytest.raises((InvalidRequestError, InvalidNameError)):
        parse_drafts(text)
