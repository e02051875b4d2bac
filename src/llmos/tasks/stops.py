"""Stop strings over a stream of text: nothing after one, nor any part of one, is ever let out."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, holding back what may be the beginning of a stop string.

    Args:
        stops: the strings; the one that is complete first wins, however the text is cut up.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    @property
    def held_chars(self) -> int:
        """How much text is held back, the stop string that was seen included."""
        return len(self._held)

    def push(self, text: str) -> str:
        """Return what may go out now; after a stop string was seen ``stopped`` is true."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found)[1])
        partial = max(partial_chars(self._held, stop) for stop in self._stops)
        return self._release(len(self._held) - partial)

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, chars: int) -> str:
        out, self._held = self._held[:chars], self._held[chars:]
        return out


def partial_chars(text: str, marker: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``marker`` without being it."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
