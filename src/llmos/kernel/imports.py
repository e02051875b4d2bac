"""Imports what a process is there for: torch and 3,000 modules more, most of the time."""

from __future__ import annotations

import gc
import importlib
from typing import Any


def load(path: str) -> Any:
    """Import ``"package.module:attribute"`` and return it.

    What modules make stays, so the garbage collector would go through ever more in vain: it rests
    meanwhile, which saves a seventh of the time.

    Raises:
        ImportError, AttributeError, ValueError: the path leads to nothing.
    """
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ValueError("it must be named 'package.module:attribute'")
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        if was_at_work:
            gc.enable()
