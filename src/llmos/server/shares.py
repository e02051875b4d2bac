"""Shares of what the server can have under way at once, so that no owner takes all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from llmos.errors import OverloadedError


class Shares:
    """Counts what each owner has under way. Belongs to one event loop.

    Args:
        most: that one owner may have.
        of: what it is, in the plural, for messages.
    """

    def __init__(self, most: int, of: str) -> None:
        self._most = most
        self._of = of
        self._num_live: Counter[str] = Counter()

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """Count one more of an owner's until this is left. Raises OverloadedError: it has all."""
        if self._num_live[owner] >= self._most:
            raise OverloadedError(
                f"{owner} has {self._most} {self._of} under way already, which is all that one "
                "owner may have: end some, or try again shortly."
            )
        self._num_live[owner] += 1
        try:
            yield
        finally:
            self._num_live[owner] -= 1
            if not self._num_live[owner]:
                del self._num_live[owner]
