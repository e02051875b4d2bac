"""Pinned models are those that the names mean now; what means nothing is said once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from llmos.errors import ModelNotFoundError
from llmos.kernel.models import ModelSpec
from llmos.tasks.pinning import Pins, parse_names


class Context:
    """Knows models by name."""

    def __init__(self, **keys: str) -> None:
        self.keys = keys

    async def serve(self, name: str, tasks: Any) -> Any:
        if name not in self.keys:
            raise ModelNotFoundError(f"there is no {name}")
        return SimpleNamespace(spec=ModelSpec(self.keys[name], "echo", "/", {}, 1, name))


@pytest.mark.parametrize(
    ("text", "names"), [("", ()), ("a", ("a",)), (" a , b:2,, a", ("a", "b:2"))]
)
def test_names_are_read_as_they_are_written(text: str, names: tuple[str, ...]) -> None:
    assert parse_names(text) == names


async def test_what_names_mean_by_now_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    pinned: list[Mapping[str, ModelSpec]] = []
    context = Context(a="first", b="other")
    pins = Pins(context, ("a", "b", "c"), pinned.append)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        await pins.look()
        context.keys["a"] = "second"
        await pins.look()
    assert [sorted(specs) for specs in pinned] == [["first", "other"], ["other", "second"]]
    assert [record.getMessage() for record in caplog.records] == [
        "c cannot be pinned: there is no c"
    ]


async def test_without_names_nothing_is_looked_after() -> None:
    pins = Pins(Context(), (), lambda specs: None)  # type: ignore[arg-type]
    await pins.start()
    await pins.stop()
