"""Which data and files a recipe names, before anybody has checked it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmos.types import VECTOR_FILES

DATA_KEYS = ("path", "validation_path")
"""Of `data`, that name files."""


def data_sections(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the ``data`` of a recipe's task and of those in ``also``, and ``replay``, by place."""
    also = recipe.get("also")
    others = also.items() if isinstance(also, dict) else ()
    parts = {"data": recipe, **{f"also.{task}.data": one for task, one in others}}
    found = {place: one.get("data") for place, one in parts.items() if isinstance(one, dict)}
    found["replay"] = recipe.get("replay")
    return {place: data for place, data in found.items() if isinstance(data, dict)}


def named_files(recipe: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the place and the section of a recipe, and the key there, of all that names files,
    starter text or a dataset."""
    for place, data in data_sections(recipe).items():
        yield from ((place, data, key) for key in DATA_KEYS if isinstance(data.get(key), str))
    model = recipe.get("model")
    vectors = model.get("vectors") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(vectors, str) and vectors.endswith(VECTOR_FILES):
        yield "model", model, "vectors"
