"""A version's card: everything a person wants to know before using a model, as Markdown."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from llmos.library.manifest import Manifest, parse_manifest
from llmos.library.versions import Version

_UNITS = ("kB", "MB", "GB", "TB")
_USES = {
    "chat": 'llmos run {ref} "Hello"',
    "generate": 'llmos run {ref} "Once upon a time"',
    "translate": 'llmos translate "Hello" --model {ref}',
    "classify": 'llmos.load_model("{ref}").classify("…")',
    "entities": 'llmos.load_model("{ref}").entities("…")',
}


def render(version: Version) -> str:
    """Return the card of a model version."""
    manifest = parse_manifest(version.manifest)
    sections = [f"# {version.ref}\n"]
    if manifest.description:
        sections.append(_plain(manifest.description) + "\n")
    sections.append(_table(_facts(version, manifest)))
    if manifest.task in _USES:
        sections.append(
            f"## Use\n\n```\n{_USES[manifest.task].format(ref=version.full_name)}\n```\n"
        )
    if manifest.metrics:
        rows = [(name, _number(value)) for name, value in sorted(_flat(manifest.metrics))]
        sections.append("## Metrics\n\n" + _table(rows, ("metric", "value")))
    sections.append("## Lineage\n\n" + _table(_lineage(version, manifest)))
    if manifest.limits:
        sections.append(f"## What it cannot do\n\n{_plain(manifest.limits)}\n")
    if manifest.recommended:
        names = "\n".join(f"- `llmos pull {_plain(name)}`" for name in manifest.recommended)
        sections.append(f"## For real work\n\n{names}\n")
    files = [(name, format_bytes(file.size)) for name, file in version.files.items()]
    sections.append("## Files\n\n" + _table(files, ("file", "size")))
    return "\n".join(sections)


def format_bytes(count: int) -> str:
    """Return a size for people: ``25 MB`` (decimal units)."""
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log10(count)) // 3, len(_UNITS))
    size = count / 1000**power
    return f"{size:.{0 if size >= 10 else 1}f} {_UNITS[power - 1]}"


def format_count(count: int) -> str:
    """Return a count for people: ``4.5M``, ``1.2B``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{suffix}"
    return str(count)


def _facts(version: Version, manifest: Manifest) -> list[tuple[str, str]]:
    facts = [
        ("task", manifest.task),
        ("architecture", f"{manifest.architecture} ({manifest.model_type})"),
        ("parameters", format_count(manifest.parameters)),
        ("size", format_bytes(version.size_bytes)),
        ("dtype", manifest.dtype),
        ("context", f"{manifest.context_tokens} tokens"),
        ("vocabulary", str(manifest.vocab_size)),
        ("languages", ", ".join(manifest.languages)),
        ("labels", ", ".join(manifest.labels or [])),
        ("licence", manifest.license),
        ("aliases", ", ".join(f"@{alias}" for alias in version.aliases)),
    ]
    return [(name, value) for name, value in facts if value]


def _lineage(version: Version, manifest: Manifest) -> list[tuple[str, str]]:
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(version.created_at))
    rows = [("made", made), ("owner", version.owner), ("digest", version.digest)]
    if version.job_id is not None:
        rows.append(("job", str(version.job_id)))
    rows += [(f"source {key}", str(value)) for key, value in sorted(_flat(manifest.source))]
    rows += [("from", source) for source in version.inputs]
    rows += [(f"recipe {key}", str(value)) for key, value in sorted(_flat(manifest.recipe or {}))]
    return rows


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("a.b", value)`` for every leaf of nested objects."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: list[tuple[str, str]], head: tuple[str, str] = ("", "")) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Escape what Markdown would take for HTML: cards hold strangers' words."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
