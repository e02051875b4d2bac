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

    def push(self, text: str) -> str:
        """Return what may go out now; after a stop string was seen ``stopped`` is true."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - self._partial_chars())

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, chars: int) -> str:
        out, self._held = self._held[:chars], self._held[chars:]
        return out

    def _partial_chars(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
