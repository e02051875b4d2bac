"""What a step did, as it is shown: a record before it and after it, where the two part; and what it
found in all records.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from llmos.data.pipeline.record import Row

BEFORE_CHARS = 40
"""That are shown before the first difference."""
SHOWN_CHARS = 160


def changed_sample(identifier: str, before: Row, after: Row) -> dict[str, str]:
    """Return ``{"id", "before", "after"}``: of the fields of a record that differ, about
    SHOWN_CHARS of both from shortly before where they part; what is left out is "…".

    One text is as it is; several fields, or what is no text, are JSON.
    """
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    texts = [_text(fields, names) for fields in (before, after)]
    pairs = enumerate(zip(*texts, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(map(len, texts)))
    begin = max(0, same - BEFORE_CHARS)
    was, now = (_cut(text, begin) for text in texts)
    return {"id": identifier, "before": was, "after": now}


def found_together(counts: Mapping[str, int]) -> str:
    """Return in words what a step found that goes by all records, nothing of others."""
    if counts.get("clusters"):
        return f"{counts['clusters']:,} clusters, of {counts['largest']:,} at most"
    if counts.get("repeated"):
        return f"{counts['repeated']:,} of {counts['pieces']:,} pieces taken out"
    if counts.get("groups"):
        small = f"{counts['small_rows']:,} records in {counts['small_groups']:,} too small ones"
        return f"{counts['groups']:,} groups, the smallest of {counts['smallest']:,}; {small}"
    return ""


def _text(fields: Row, names: list[str]) -> str:
    some = {name: fields[name] for name in names if name in fields}
    only = next(iter(some.values()), "") if len(names) == 1 else some
    return only if isinstance(only, str) else msgspec.json.encode(only).decode()


def _cut(text: str, begin: int) -> str:
    shown = text[begin : begin + SHOWN_CHARS]
    return ("…" if begin else "") + shown + ("…" if begin + len(shown) < len(text) else "")
