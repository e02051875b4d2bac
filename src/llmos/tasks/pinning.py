"""Models that are always in memory: those that the setting ``pinned`` names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from llmos.errors import LlmosError
from llmos.kernel.models import ModelSpec
from llmos.library.manifest import Task

if TYPE_CHECKING:
    from llmos.tasks.context import TaskContext

LOOK_AGAIN_S = 30.0
"""After so long, what names mean by now is pinned; and what could not be loaded is tried again."""
TASKS: frozenset[str] = frozenset(get_args(Task))

log = logging.getLogger(__name__)


class Pins:
    """Keeps the named models in memory. Belongs to the event loop.

    Args:
        pin: keeps models, by key, and only those, in memory.
    """

    def __init__(
        self,
        context: TaskContext,
        names: Sequence[str],
        pin: Callable[[Mapping[str, ModelSpec]], None],
    ) -> None:
        self._context = context
        self._names = names
        self._pin = pin
        self._complaints: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to keep them, if there are any."""
        if self._names:
            self._task = asyncio.create_task(self._keep(), name="pins")

    async def stop(self) -> None:
        """Look after them no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def look(self) -> None:
        """Pin what the names mean now; one that means nothing is complained about once."""
        specs: dict[str, ModelSpec] = {}
        for name in self._names:
            try:
                spec = (await self._context.serve(name, TASKS)).spec
            except LlmosError as error:
                if self._complaints.get(name) != error.message:
                    log.warning("%s cannot be pinned: %s", name, error)
                self._complaints[name] = error.message
            else:
                specs[spec.key] = spec
                self._complaints.pop(name, None)
        self._pin(specs)

    async def _keep(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # the top loop of pinning: what failed now is tried again
                log.exception("the pinned models could not be looked after")
            await asyncio.sleep(LOOK_AGAIN_S)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in the setting, each once."""
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
