"""Which operators there are, llmos' own and those of plugins, and what each says of itself."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from typing import Any, get_args

from pydantic import ValidationError

from llmos.data.operators import builtin
from llmos.data.pipeline.operator import Collective, Group, Operator
from llmos.errors import PipelineError
from llmos.plugins.manager import load_plugins
from llmos.storage.parquet import check_packages


@functools.cache
def operator_paths() -> dict[str, str]:
    """Return the dotted path of every operator by name."""
    return load_plugins([builtin]).operators()


@functools.cache
def find_operator(name: str) -> type[Operator[Any]]:
    """Return the class of an operator.

    Raises:
        PipelineError: there is none of this name; the nearest is told.
    """
    path = operator_paths().get(name)
    if path is None:
        near = difflib.get_close_matches(name, operator_paths(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PipelineError(
            f"there is no operator {name[:80]!r}: {hint}`llmos data operators` lists them"
        )
    module, _, attribute = path.partition(":")
    found: type[Operator[Any]] = getattr(importlib.import_module(module), attribute)
    return found


def make_operator(name: str, options: dict[str, Any], seed: int) -> Operator[Any]:
    """Return an operator, ready to be used.

    Raises:
        PipelineError: there is none of this name, or it cannot have these options.
        DataError: it needs a package that is not installed.
    """
    kind = find_operator(name)
    check_packages(kind.needs)
    try:
        return kind(seed, **options)
    except (ValidationError, TypeError) as error:
        raise PipelineError(f"{name}: {_complaint(kind, error)}") from None


def describe(name: str) -> dict[str, Any]:
    """Return what an operator says of itself: ``{"name", "group", "summary", "doc", "example",
    "options": [{"name", "type", "required", "default", "meaning"}], "compares"}``.

    Raises:
        PipelineError: there is none of this name.
    """
    kind = find_operator(name)
    text = inspect.getdoc(kind) or ""
    doc, _, example = text.partition("\n>>> ")
    return {
        "name": name,
        "group": kind.group,
        "summary": " ".join(doc.split("\n\n")[0].split()),
        "doc": doc.strip(),
        "example": f">>> {example}".strip() if example else "",
        "options": _options(kind),
        "compares": issubclass(kind, Collective),
    }


def described() -> list[dict[str, Any]]:
    """Return what every operator says of itself, by group and name."""
    order = get_args(Group)
    found = [describe(name) for name in operator_paths()]
    return sorted(found, key=lambda one: (order.index(one["group"]), one["name"]))


def _options(kind: type[Operator[Any]]) -> list[dict[str, Any]]:
    schema = kind.options_type.model_json_schema()
    return [
        {
            "name": name,
            "type": _type_name(told),
            "required": name in schema.get("required", ()),
            "default": told.get("default"),
            "meaning": told.get("description", ""),
        }
        for name, told in schema.get("properties", {}).items()
    ]


def _type_name(told: dict[str, Any]) -> str:
    if "enum" in told:
        return " or ".join(map(str, told["enum"]))
    if "const" in told:
        return str(told["const"])
    if "anyOf" in told:
        return " or ".join(_type_name(one) for one in told["anyOf"])
    return str(told.get("type", ""))


def _complaint(kind: type[Operator[Any]], error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.options_type.model_fields) or "none"
        return f"there is no option {name[:80]!r}: its options are {known}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
