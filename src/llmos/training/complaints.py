"""Turns pydantic's findings about a recipe into one sentence a person can act on."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a section (a mapping of keys to values)",
    "model_attributes_type": "a section (a mapping of keys to values)",
}


def sentence(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first finding, unknown keys before all else since they often cause the others."""
    found = sorted(error.errors(), key=lambda finding: finding["type"] != "extra_forbidden")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _describe(found[0], schema) + more


def _describe(finding: ErrorDetails, schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in finding["loc"])
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown recipe key {path}" + _nearest(finding["loc"], schema)
    if kind == "missing":
        return f"the recipe needs {path}"
    if kind == "value_error":
        return f"the recipe is not consistent: {context['error']}"
    if kind == "literal_error":
        return f"{path} must be {context['expected']}, not {finding['input']!r}"
    wanted = WANTED.get(kind)
    if wanted is None:
        return f"{path} is {finding['input']!r}: {finding['msg'][:1].lower()}{finding['msg'][1:]}"
    return f"{path} must be {wanted}, not {finding['input']!r}"


def _nearest(location: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    names = _names_at(location[:-1], schema)
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    if close:
        return f": did you mean {close[0]}?"
    elsewhere = [place for place in _all_paths(schema) if place.split(".")[-1] == location[-1]]
    if elsewhere:
        return f": it belongs at {elsewhere[0]}"
    return f": there are {', '.join(names)}"


def _names_at(sections: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    for section in sections:
        inner = _section(schema.model_fields[str(section)].annotation)
        assert inner is not None
        schema = inner
    return list(schema.model_fields)


def _all_paths(schema: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in schema.model_fields.items():
        paths.append(prefix + name)
        inner = _section(field.annotation)
        if inner is not None:
            paths += _all_paths(inner, f"{prefix}{name}.")
    return paths


def _section(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
