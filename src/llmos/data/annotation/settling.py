"""What annotators' labels come to: the majority's where no reviewer has said; rows to train on.

Of classes, pairs and texts: what more said than anything else. Of several labels, and of spans:
each that more than half gave; two spans that more than half gave cannot overlap, as someone gave
both. Of ratings: the mean. What is not decided is left to a reviewer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmos.data.annotation.scheme import FIRST, TIE, Scheme
from llmos.data.pipeline.record import ID, META, Row


def settled(scheme: Scheme, values: Sequence[Any]) -> Any:
    """Return what labels come to; None: nothing is decided, or there is none."""
    if not values:
        return None
    if scheme.several:
        counts = Counter(label for value in values for label in value)
        return [label for label in scheme.labels if 2 * counts[label] > len(values)]
    if scheme.kind == "spans":
        spans = Counter((s["start"], s["end"], s["label"]) for value in values for s in value)
        most = sorted(span for span, count in spans.items() if 2 * count > len(values))
        return [{"start": start, "end": end, "label": label} for start, end, label in most]
    if scheme.kind == "rating":
        return sum(values) / len(values)
    (best, count), *others = Counter(values).most_common(2)
    return None if others and others[0][1] == count else best


def differ(values: Sequence[Any]) -> bool:
    """Whether some labels of an item are not the same."""
    return len({json.dumps(value, sort_keys=True) for value in values}) > 1


def labelled_row(scheme: Scheme, row: Row, value: Any, note: Row) -> Row | None:
    """Return a row with what it was labelled, in the form in which recipes read it.

    A class as ``label`` (or ``labels``), spans as ``entities``, a rating as a number, ``score``; of
    a pair ``messages``, ``chosen`` and ``rejected``, as for DPO; a text that answers the field
    `prompt` as the last of ``messages``, as for SFT, any other as ``target``.

    Args:
        note: what is added to the row's ``meta``.

    Returns:
        None for a tie, which prefers nothing.
    """
    meta = row[META] if isinstance(row.get(META), dict) else {}
    noted = {META: {**meta, "annotation": note}}
    if scheme.kind == "pairs":
        if value == TIE:
            return None
        first, second = (row[name] for name in scheme.fields)
        chosen, rejected = (first, second) if value == FIRST else (second, first)
        asked = {ID: row[ID], "messages": _asked(row[scheme.prompt])}
        return {**asked, "chosen": chosen, "rejected": rejected, **noted}
    if scheme.kind == "text" and scheme.prompt and not scheme.into:
        read = [
            one | {"weight": 0} if one["role"] == "assistant" else one
            for one in _asked(row[scheme.prompt])
        ]
        learned = {"role": "assistant", "content": value}
        return {ID: row[ID], "messages": [*read, learned], **noted}
    made = float(value) if scheme.kind == "rating" else value
    return {**row, scheme.column: made, **noted}


def _asked(prompt: Any) -> list[dict[str, Any]]:
    """Return what was asked, as messages."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": one["role"], "content": one["content"]} for one in prompt]
