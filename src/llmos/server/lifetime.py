"""When the server is asked to end: one event that whoever would wait for ever listens to."""

from __future__ import annotations

import asyncio


class Lifetime:
    """``ending`` is set once the server was asked to stop; requests under way are finished."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()

    def end(self) -> None:
        """Ask the server to stop."""
        self.ending.set()
