"""What commands print: JSON, tables that survive a pipe, sizes and ages a person reads.

Results go to stdout; notes about what is going on go to stderr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

PIPE_WIDTH = 10_000
"""Columns a table may take where stdout is no terminal: nothing is cut."""
_SHOWN = frozenset("\n\t\u3000\u00a0\u200c\u200d")
"""Of what is no printable character to Python."""


def print_json(value: Any) -> None:
    """Print a value as indented JSON, non-ASCII text as it is."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def note(text: str) -> None:
    """Say on stderr what is being done; stdout stays clean for results."""
    typer.secho(text, err=True, dim=True)


def visible(text: str) -> str:
    r"""Return a text whose characters a terminal shows and does not obey: of ESC the four ``\x1b``.

    Line breaks and tabs stay, and what joins letters or emoji.
    """
    return "".join(
        char if char.isprintable() or char in _SHOWN else char.encode("unicode_escape").decode()
        for char in text
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under column headings, or the note ``empty`` where there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    filled = [[_cell(value) for value in row] for row in rows]
    if not filled:
        note(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_last = column == columns[-1]
        table.add_column(column.upper(), no_wrap=not (is_last and sys.stdout.isatty()))
    for row in filled:
        table.add_row(*(Text(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print what an evaluation measured, a metric a line."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            shown = ", ".join(f"{key} {number:.4g}" for key, number in value.items())
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        typer.echo(f"  {name:<20} {shown}")


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else visible(str(value))


def size(num_bytes: int | None) -> str:
    """Return a number of bytes as text: ``size(2_500_000) == "2.5 MB"``."""
    from llmos.kernel.ledger import format_bytes

    return "-" if num_bytes is None else format_bytes(num_bytes)


def count(number: float | None) -> str:
    """Return a large number as text: ``count(4_500_000) == "4.5M"``."""
    if number is None:
        return "-"
    for unit in ("", "K", "M", "B"):
        if abs(number) < 1000:
            return f"{number:.{0 if not unit or number >= 100 else 1}f}{unit}"
        number /= 1000
    return f"{number:.1f}T"


def percent(share: float | None) -> str:
    """Return a share as text: ``percent(0.125) == "12%"``."""
    return "-" if share is None else f"{share:.0%}"


def signed_percent(share: float | None) -> str:
    """Return by how much something is too large or small: ``signed_percent(-0.125) == "-12%"``."""
    if share is None:
        return "-"
    return f"{share:+.0%}" if abs(share) >= 0.005 else "0%"


def age(at: float | None, now: float | None = None) -> str:
    """Return how long ago a Unix time was: ``3 minutes ago``."""
    if at is None:
        return "-"
    seconds = max(0.0, (time.time() if now is None else now) - at)
    return f"{duration(seconds)} ago"


def job_state(job: Mapping[str, Any]) -> str:
    """Return a job's state, and why it stands still where nobody paused it: ``running (held:
    interactive)``."""
    reasons = [reason for reason in job.get("held") or () if reason != "user"]
    return f"{job['state']} (held: {', '.join(reasons)})" if reasons else str(job["state"])


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit: ``duration(150) == "2 minutes"``."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")


def counted(number: int, noun: str) -> str:
    """Return so many of something: ``counted(1, "row") == "1 row"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
