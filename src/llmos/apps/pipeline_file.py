"""A pipeline file: YAML read into plain values, with the line of every key, and the recipes that it
names put in their places. What it means, `pipelines.parse` says.

A step's ``recipe`` is a file, relative to the pipeline's own or one that ships with llmos, or the
recipe itself; ``set`` beside it changes keys of it, as ``llmos train --set`` does. A step without
one may name a file as its ``data``. Files that changes from outside name are as seen from here.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from llmos.apps.pipelines import MAX_VALUES, Lines
from llmos.errors import PipelineError, RecipeError
from llmos.sdk.datasets import is_elsewhere
from llmos.sdk.recipe_data import named_files
from llmos.training import recipe as recipes
from llmos.training.recipe import YamlLoader
from llmos.training.recipe_sections import PROVIDED

MAX_BYTES = 2**20
MAX_DEPTH = 32
RECIPE, CHANGES, DATA, LINES = "recipe", "set", "data", "lines"
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def load(path: Path, changes: list[str] | None = None) -> dict[str, Any]:
    """Return a pipeline file as the server takes it: plain values, and ``lines``, the line of each.

    Args:
        changes: ``key=value``, each the dotted place of a key to put another value at.

    Raises:
        PipelineError: there is no such file, it is not YAML, a key is there twice, a value is none
            that JSON has, a recipe cannot be read, or its data file is not there. The message
            begins with the line.
        RecipeError: a change is not ``key=value``, or goes through a value.
    """
    written, lines = read(_text(path), str(path))
    pipeline = recipes.override(written, changes or [])
    if LINES in pipeline:
        raise Lines(lines).error(LINES, f"a pipeline has no key {LINES!r}")
    for path_of_change in [key for key in lines if f".params.{CHANGES}." in key]:
        into = path_of_change.replace(f".params.{CHANGES}.", f".params.{RECIPE}.", 1)
        lines[into] = lines[path_of_change]
    where = Lines(lines)
    before = _params(written)
    for name, params in _params(pipeline).items():
        own = _Own(path, before.get(name, {}))
        pipeline["steps"][name]["params"] = _with_files(params, own, f"steps.{name}.params", where)
    return {**pipeline, LINES: lines}


def read(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the plain values of YAML text, and the line, from 1, of each key by its dotted path.

    Args:
        name: of the file, for messages.

    Raises:
        PipelineError: it is not YAML, not a mapping, or holds what JSON does not; a key is there
            twice.
    """
    try:
        loader = YamlLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise PipelineError(f"{name} must be a YAML mapping with the keys name and steps")
        reader = _Reader(loader)
        values: dict[str, Any] = reader.value(node, "", 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise PipelineError(f"{line}{name} is not valid YAML: {problem}") from None
    return values, reader.lines


class _Reader:
    """Turns YAML nodes into plain values and notes their lines."""

    def __init__(self, loader: YamlLoader) -> None:
        self._loader = loader
        self._num_values = 0
        self.lines: dict[str, int] = {}

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        """Return the value of a node that stands at ``path``. Raises PipelineError."""
        self._num_values += 1  # those that anchors repeat each time
        if depth > MAX_DEPTH:
            raise _at(node, f"values are nested more than {MAX_DEPTH} deep")
        if self._num_values > MAX_VALUES:
            raise _at(node, f"there are more than {MAX_VALUES} values")
        if path:
            self.lines.setdefault(path, node.start_mark.line + 1)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            raise _at(node, f"the tag {node.tag[:80]!r} means nothing here: leave it out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.value(item, f"{path}.{index}", depth + 1) for index, item in items]
        value = self._loader.construct_object(node)
        is_finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and not (isinstance(value, str | int | float) and is_finite):
            raise _at(node, f"{node.value[:80]!r} is neither text nor a number: put it in quotes")
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag not in (_TEXT, _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "of several values"
                raise _at(key, f"the key {shown[:80]!r} is not text: put it in quotes")
            if key.value in seen:
                raise _at(key, f"the key {key.value[:80]!r} is there twice")
            seen.add(key.value)
        self._loader.flatten_mapping(node)  # what `<<` merges comes before the mapping's own keys
        node.value = list({key.value: (key, item) for key, item in node.value}.values())
        values: dict[str, Any] = {}
        for key, item in node.value:
            below = f"{path}.{key.value}" if path else key.value
            self.lines[below] = key.start_mark.line + 1
            values[key.value] = self.value(item, below, depth + 1)
        return values


def _at(node: yaml.Node, message: str) -> PipelineError:
    return PipelineError(f"line {node.start_mark.line + 1}: {message}")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PipelineError(f"{path} is larger than a pipeline may be: {MAX_BYTES:,} bytes")
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise PipelineError(f"there is no pipeline {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} cannot be read as a pipeline: {error}") from None


def _params(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the params of each step that has some, by its name."""
    steps = pipeline.get("steps")
    every = steps.items() if isinstance(steps, dict) else ()
    found = {name: step.get("params") for name, step in every if isinstance(step, dict)}
    return {name: params for name, params in found.items() if isinstance(params, dict)}


class _Own(NamedTuple):
    """A step's params as the pipeline's file has them."""

    path: Path
    params: dict[str, Any]

    def file_of(self, is_own: bool) -> Path:
        """Return the file in whose folder a path begins: this one, or none for one from outside."""
        return self.path if is_own else Path()


def _with_files(params: dict[str, Any], own: _Own, place: str, lines: Lines) -> dict[str, Any]:
    """Return a step's params with its files as seen from here, its recipe read."""
    data = params.get(DATA)
    if RECIPE in params:
        return _with_recipe(params, own, place, lines)
    if isinstance(data, str):
        file = own.file_of(data == own.params.get(DATA))
        return params | {DATA: _data_file(file, data, f"{place}.{DATA}", lines)}
    return params


def _with_recipe(params: dict[str, Any], own: _Own, place: str, lines: Lines) -> dict[str, Any]:
    """Return a step's params with the recipe itself in place of its file, ``set`` put into it."""
    at = f"{place}.{RECIPE}"
    others = {key: value for key, value in params.items() if key != CHANGES}
    named, changes = params[RECIPE], params.get(CHANGES, {})
    if not isinstance(named, str | dict):
        raise lines.error(at, "recipe must be a recipe's file, or a recipe")
    if not isinstance(changes, dict):
        raise lines.error(f"{place}.{CHANGES}", "set must be a mapping of keys to values")
    written, own_changes = own.params.get(RECIPE), own.params.get(CHANGES)
    try:
        if isinstance(named, str):
            recipe = recipes.load(_recipe_path(own.file_of(named == written), named))
        else:
            recipe = named
        changed = _changed(recipe, changes)
        inline = written if isinstance(named, dict) and isinstance(written, dict) else recipe
        in_file = _files_of(_changed(inline, own_changes if isinstance(own_changes, dict) else {}))
    except RecipeError as error:
        raise lines.located(at, error) from None
    before = {} if isinstance(named, dict) else _files_of(recipe)
    for section, table, key in named_files(changed):
        where = f"{section}.{key}"
        is_own = before.get(where) != table[key] == in_file.get(where)
        table[key] = _data_file(own.file_of(is_own), table[key], f"{at}.{where}", lines)
    return others | {RECIPE: changed}


def _changed(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with dotted keys, and keys within mappings, set to other values.

    Raises:
        RecipeError: a dotted key goes through a value.
    """
    changed = copy.deepcopy(recipe)
    for key, value in changes.items():
        *sections, last = key.split(".")
        table = changed
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise RecipeError(f"set {key}: {section} is a value, not a section")
        within = table.get(last)
        if isinstance(value, dict) and isinstance(within, dict):
            table[last] = _changed(within, value)
        else:
            table[last] = copy.deepcopy(value)
    return changed


def _recipe_path(pipeline: Path, name: str) -> Path:
    """Return the file beside the pipeline, else the recipe of that name that ships with llmos."""
    own = pipeline.parent / name
    found = own if own.exists() else recipes.find(Path(name))
    return found if found.exists() else own


def _files_of(recipe: dict[str, Any]) -> dict[str, str]:
    """Return what a recipe names as files, by place and key."""
    return {f"{place}.{key}": section[key] for place, section, key in named_files(recipe)}


def _data_file(file: Path, data_path: str, place: str, lines: Lines) -> str:
    """Return a data path that stands in a file, as seen from here.

    Raises:
        PipelineError: there is no such file; what a reference stands for is not known yet.
    """
    if "${" in data_path or is_elsewhere(data_path):
        return data_path
    found = recipes.beside(file, data_path)
    if found.startswith(PROVIDED) or Path(found).exists():
        return found
    raise lines.error(place, f"there is no data file {found}")
