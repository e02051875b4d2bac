"""Which files of a Hugging Face dataset hold the rows of a configuration and a split. Pure.

What its README.md declares is followed (https://huggingface.co/docs/hub/datasets-data-files-
configuration); without that, folders are configurations, and splits are told by words in paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from llmos.errors import DataError

README = "README.md"
KINDS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
"""Of files of rows, the best first: of the same rows in two kinds, one is read."""
SPLITS = (
    frozenset({"train", "training"}),
    frozenset({"validation", "valid", "val", "dev"}),
    frozenset({"test", "testing", "eval", "evaluation"}),
)
"""What each split is called in paths."""
DEFAULT = "default"
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_WORDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Files, in order, and what they are of; empty: all there is."""

    paths: tuple[str, ...]
    configuration: str = ""
    split: str = ""


def choose(
    paths: Iterable[str],
    readme: str,
    parts: Sequence[str],
    is_readable: Callable[[str], bool],
) -> Chosen:
    """Return the files that hold the wanted rows.

    Args:
        readme: the text of the dataset's README.md, or empty.
        parts: a configuration, a split, or both in this order; empty: every split of the default
            configuration.
        is_readable: whether a file, by its name, can be read as rows.

    Raises:
        DataError: there are none, there is no such part, or a configuration must be chosen.
    """
    data = files_of_rows(paths, is_readable)
    if not data:
        raise DataError(
            "the dataset has no Parquet, JSONL or CSV files: llmos runs no scripts of datasets. "
            "Where the hub has converted it, @refs/convert/parquet behind its name has them"
        )
    declared = _declared(data, readme)
    if declared:
        return _chosen(declared, list(parts), by_name=True)
    folders = {part for path in data for part in PurePosixPath(path).parts[:-1]}
    configurations: dict[str, dict[str, list[str]]] = {DEFAULT: {"": data}}
    for folder in sorted(folders - {DEFAULT}):
        inside = [path for path in data if folder in PurePosixPath(path).parts[:-1]]
        configurations[folder] = {"": inside}
    return _chosen(configurations, list(parts), by_name=False)


def files_of_rows(paths: Iterable[str], is_readable: Callable[[str], bool]) -> list[str]:
    """Return the files of a dataset that may hold rows, in order; hidden ones do not."""
    return sorted(
        path
        for path in paths
        if not is_hidden(path) and _kind(path) is not None and is_readable(path)
    )


def is_hidden(path: str) -> bool:
    """Whether a file, or a folder that it is in, is not for readers: ".git", "_SUCCESS"."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _kind(path: str) -> int | None:
    """Return the place of a file's kind in KINDS, by the first of its suffixes that is one."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    return next((KINDS.index(suffix) for suffix in suffixes if suffix in KINDS), None)


def _chosen(
    configurations: Mapping[str, Mapping[str, list[str]]], parts: list[str], *, by_name: bool
) -> Chosen:
    """Return the files of what was named.

    Args:
        configurations: the files of every split of each; "" for all of them together.
        by_name: whether splits have names, and are not told by words in the paths.
    """
    name = parts.pop(0) if parts and parts[0] in configurations else ""
    if not name:
        name = DEFAULT if DEFAULT in configurations else ""
    if not name and len(configurations) == 1:
        (name,) = configurations
    if not name or len(parts) > 1:
        known = ", ".join(list(configurations)[:30])
        asked = f"has no configuration {parts[0][:80]!r}" if parts else "has several configurations"
        raise DataError(f"the dataset {asked}: name one of {known}", param="url")
    splits = configurations[name]
    shown = "" if name == DEFAULT and not by_name else name
    if not parts:
        return Chosen(_of_one_kind(path for paths in splits.values() for path in paths), shown)
    split = parts[0]
    found = splits.get(split, []) if by_name else _in_split(splits[""], split)
    if not found:
        known = f": it has {', '.join(splits)}" if by_name else ""
        raise DataError(
            f"the dataset has no split {split[:80]!r}{f' of {shown}' if shown else ''}{known}",
            param="url",
        )
    return Chosen(_of_one_kind(found), shown, split)


def _of_one_kind(paths: Iterable[str]) -> tuple[str, ...]:
    found = sorted(set(paths))
    best = min(_kind(path) or 0 for path in found)
    return tuple(path for path in found if _kind(path) == best)


def _in_split(paths: Iterable[str], split: str) -> list[str]:
    names = next((names for names in SPLITS if split.lower() in names), {split.lower()})
    return [path for path in paths if names & set(_WORDS.split(path.lower()))]


def _declared(data: Sequence[str], readme: str) -> dict[str, dict[str, list[str]]]:
    """Return the files of each split of each configuration that a README.md declares."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in _listed(_front_matter(readme).get("configs")):
        name = one.get("config_name", DEFAULT)
        splits = _splits(data, one)
        if isinstance(name, str) and splits:
            found[DEFAULT if one.get("default") is True and DEFAULT not in found else name] = splits
    return found


def _splits(data: Sequence[str], declared: Mapping[str, Any]) -> dict[str, list[str]]:
    folder, given = declared.get("data_dir"), declared.get("data_files")
    inside = f"{folder.strip('/')}/" if isinstance(folder, str) and folder.strip("./") else ""
    if given is None:
        every = [path for path in data if path.startswith(inside)]
        named = {name: _in_split(every, name) for name in ("train", "validation", "test")}
        return {name: paths for name, paths in named.items() if paths} or (
            {"train": every} if every else {}
        )
    if isinstance(given, dict):
        given = [{"split": name, "path": path} for name, path in given.items()]
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        given = [{"split": "train", "path": given}]
    splits: dict[str, list[str]] = {}
    for one in given:
        patterns = one.get("path")
        patterns = patterns if isinstance(patterns, list) else [patterns]
        wanted = [_pattern(inside + text) for text in patterns if isinstance(text, str)]
        paths = [path for path in data if any(pattern.fullmatch(path) for pattern in wanted)]
        if paths:
            splits.setdefault(str(one.get("split", "train")), []).extend(paths)
    return splits


def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern of paths, in which "**" is any folders and "*" anything within one."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", text.removeprefix("./"))
    return re.compile("".join(signs.get(piece) or re.escape(piece) for piece in pieces))


def _front_matter(readme: str) -> dict[str, Any]:
    import yaml

    found = _FRONT.match(readme)
    if found is None:
        return {}
    try:
        told = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _listed(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
