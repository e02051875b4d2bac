"""docs/data.md has the operators in their own words: `python` this file writes its table anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

from llmos.data.pipeline.registry import described

PAGE = Path(__file__).parents[4] / "docs" / "data.md"
TABLE = re.compile(r"(?<=<!-- operators -->\n).*?(?=<!-- end -->)", re.DOTALL)


def table() -> str:
    """Return a row per operator: its name, what it does, its options and their defaults."""
    lines = ["| operator | group | what it does | options |", "|---|---|---|---|"]
    for one in described():
        options = [f"`{option['name']}`" + _default(option["default"]) for option in one["options"]]
        cells = (f"`{one['name']}`", one["group"], one["summary"], ", ".join(options))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    return "" if value is None else f" ({json.dumps(value)})"


def test_the_page_has_every_operator_in_its_own_words() -> None:
    found = TABLE.search(PAGE.read_text("utf-8"))
    assert found is not None, "docs/data.md has no table of operators"
    assert found[0] == table(), f"run python {Path(__file__).name}"


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(), text), "utf-8")
