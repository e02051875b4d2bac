"""What jobs of data share: the folder in which they keep what is done, and how they give way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llmos.errors import CancelledError

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def prepared(directory: Path) -> Path:
    """Return a folder for what is done, without what an attempt before left half done."""
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            shutil.rmtree(entry)
    return directory


def give_way(context: JobContext) -> None:
    """Wait while the job is paused; call it as often as you can.

    Raises:
        CancelledError: the job is to end, or to leave its worker: what is done stays done.
    """
    context.wait_while_paused()
    context.raise_if_cancelled()
    if context.is_leaving:
        raise CancelledError
