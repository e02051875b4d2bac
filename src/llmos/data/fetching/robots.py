"""What a site's robots.txt lets a crawler read, by RFC 9309: the longest rule that fits counts, and
paths may have "*" and "$". urllib.robotparser knows neither. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

AGENT = "llmos"
MAX_BYTES = 500 * 2**10
"""Of a robots.txt that are read."""
_TOKEN = re.compile(r"[a-z_-]+")


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules for one crawler: each a path and whether it allows; ``delay_s`` between pages."""

    rules: tuple[tuple[str, bool], ...] = ()
    delay_s: float = 0.0

    def allows(self, url: str) -> bool:
        """Whether a URL may be read: without a rule that fits, and where two of the same length
        do, it may."""
        parts = urlsplit(url)
        path = unquote(parts.path or "/") + (f"?{unquote(parts.query)}" if parts.query else "")
        fitting = [(len(rule), allows) for rule, allows in self.rules if fits(rule, path)]
        return max(fitting, default=(0, True))[1]


EVERYTHING = Robots()
NOTHING = Robots((("/", False),))


def fits(rule: str, path: str) -> bool:
    """Whether a rule is about a path: its beginning, with "*" for anything and "$" for the end. In
    time that grows with their lengths alone, whatever the rule."""
    is_whole = rule.endswith("$")
    first, *others = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    place = len(first)
    last = others.pop() if is_whole and others else None
    for piece in others:
        place = path.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    if last is not None:
        return path.endswith(last) and len(path) - len(last) >= place
    return not is_whole or place == len(path)


def parse(text: str, agent: str = AGENT) -> Robots:
    """Return the rules for a crawler: of the groups that name it, else of those for all."""
    groups: dict[str, list[tuple[str, str]]] = {}
    named: list[str] = []
    begun = False
    for line in text.removeprefix("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            named = [*([] if begun else named), _token(value)]
            begun = False
            groups.setdefault(named[-1], [])
        elif key in ("allow", "disallow", "crawl-delay"):
            begun = True
            for one in named:
                groups[one].append((key, value))
    lines = groups.get(agent, groups.get("*", []))
    rules = tuple(
        (unquote(path), key == "allow") for key, path in lines if key != "crawl-delay" and path
    )
    return Robots(
        rules, max((_seconds(value) for key, value in lines if key == "crawl-delay"), default=0.0)
    )


def _token(value: str) -> str:
    if value.startswith("*"):
        return "*"
    found = _TOKEN.match(value.lower())
    return found[0] if found else ""


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
