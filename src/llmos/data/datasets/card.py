"""A dataset's card: what it holds, what it is like, and how it was made, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmos.data.datasets.publishing import PLOTS
from llmos.data.pipeline.changes import found_together
from llmos.kernel.ledger import format_bytes
from llmos.library.versions import Version

MAX_VALUES = 10
"""Of a field that are shown, the commonest first."""
MAX_FILES = 20


def render(version: Version) -> str:
    """Return the card of a dataset: the same text for the same version."""
    manifest = version.manifest
    fields = manifest.get("stats", {}).get("fields", {})
    sections = [
        ("", _plain(manifest.get("description", ""))),
        ("", _table(("", ""), _facts(version))),
        ("", f"![plots]({PLOTS})" if PLOTS in version.files else ""),
        ("Fields", _table(("field", "type", "rows", "texts", "values"), _fields(manifest))),
        ("Lengths", _table(("characters of", *_LENGTHS), _lengths(fields))),
        ("A sample", _sample(manifest.get("stats", {}).get("sample"))),
        ("Made by", _table(_STEP_COLUMNS, _steps(manifest.get("operators", ())))),
        ("Changes", _changes(manifest.get("operators", ()))),
        ("Read from", _table(("file", "format", "encoding", "rows", "bad"), _files(manifest))),
        ("Lineage", "\n".join(f"- `{one}`" for one in version.inputs[:MAX_FILES])),
    ]
    written = [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return "\n\n".join([f"# {version.ref}", *written]) + "\n"


_LENGTHS = ("least", "p5", "p25", "p50", "p75", "p95", "most")
_STEP_COLUMNS = ("step", "operator", "read", "changed", "kept", "dropped", "rejected")


def _facts(version: Version) -> Iterator[tuple[str, str]]:
    manifest = version.manifest
    stats = manifest.get("stats", {})
    facts: list[tuple[str, Any]] = [
        ("rows", _count(manifest.get("rows"))),
        ("duplicates among them", _count(stats.get("duplicates"))),
        ("size", format_bytes(version.size_bytes)),
        ("shards", _count(len(manifest.get("shards", ())))),
        ("licence", manifest.get("license")),
        ("source", _source(manifest)),
        ("dropped on the way", _count(manifest.get("dropped"))),
        ("rejected on the way", _count(manifest.get("rejected"))),
        ("digest", f"`{version.digest}`"),
    ]
    return ((name, str(value)) for name, value in facts if value not in (None, "", "0"))


def _source(manifest: Mapping[str, Any]) -> str:
    source = manifest.get("source", {})
    return str(source.get("input") or source.get("from") or "")


def _fields(manifest: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    fields = manifest.get("stats", {}).get("fields", {})
    for name, kind in manifest.get("schema", {}).items():
        told = fields.get(name, {})
        yield name, kind, _count(told.get("present")), _texts(told), _values(told)


def _texts(told: Mapping[str, Any]) -> str:
    if "items" in told:
        return f"{told['items']:,} items"
    if "characters" not in told:
        return ""
    shown = f"{told['characters']:,} characters, {told['words']:,} words"
    letters = told["han"] + told["latin"]
    if told["han"] and letters:
        shown += f", {told['han'] / letters:.0%} of letters Chinese"
    return shown


def _values(told: Mapping[str, Any]) -> str:
    if "least" in told:
        return f"{told['least']:g} to {told['most']:g}"
    values = told.get("values") or {}
    # A field in which nearly every row has a value of its own is no label.
    if not values or len(values) > told["present"] / 2:
        return ""
    shown = [f"{value} ({count:,})" for value, count in list(values.items())[:MAX_VALUES]]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more > 0 else "")


def _lengths(fields: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, told in fields.items():
        if "length" in told:
            yield (name, *(_count(told["length"][key]) for key in _LENGTHS))


def _steps(operators: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for one in operators:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in one["dropped"].items())
        if one.get("clusters"):
            drops += f" (clusters: {one['clusters']:,}, the largest of {one['largest']:,})"
        elif one.get("groups"):
            drops = "; ".join(filter(None, (drops, found_together(one))))
        numbers = (one["read"], one["changed"], one["kept"])
        yield (
            str(one["step"]),
            one["operator"],
            *map(_count, numbers),
            drops,
            _count(one["rejected"]),
        )


def _sample(told: Mapping[str, Any] | None) -> str:
    """Return what some rows tell; words are numbered, as where the plot cannot write them."""
    if not told or not told["rows"]:
        return ""
    found = list(told["languages"].items())
    languages = ", ".join(f"{code} ({count:,})" for code, count in found[:MAX_VALUES])
    languages += f", {len(found) - MAX_VALUES} more" if len(found) > MAX_VALUES else ""
    words = ", ".join(
        f"{number}. {_cell(word)} ({count:,})"
        for number, (word, count) in enumerate(told["words"], 1)
    )
    total, different = told["growth"][-1]
    examples = "\n".join(json.dumps(one, ensure_ascii=False) for one in told["examples"])
    return (
        f"{told['rows']:,} rows of `{told['field']}`: {total:,} words, {different:,} different.\n\n"
        f"- languages: {languages}\n- commonest words: {words}"
        f"\n\n```json\n{examples}\n```"
    )


def _changes(operators: Iterable[Mapping[str, Any]]) -> str:
    """Return some texts before and after each step that changed any, as JSON has them."""
    lines = []
    for one in operators:
        for sample in one.get("samples", ()):
            shown = {name: json.dumps(text, ensure_ascii=False) for name, text in sample.items()}
            lines.append(f"# {one['step']}. {one['operator']}: {shown['id']}")
            lines += [f"- {shown['before']}", f"+ {shown['after']}"]
    return "\n".join(("```diff", *lines, "```")) if lines else ""


def _files(manifest: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    source = manifest.get("source", {})
    files = source.get("files", [])
    for one in files[:MAX_FILES]:
        yield (
            one["name"],
            one["format"],
            one.get("encoding", ""),
            _count(one["rows"]),
            _count(one["bad"]),
        )
    more = source.get("num_files", 0) - len(files[:MAX_FILES])
    if more > 0:
        yield f"{more:,} more", "", "", "", ""


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not lines:
        return ""
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    return "\n".join([head, *lines])


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").strip()
