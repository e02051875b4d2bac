"""Imports libraries without the networks' libraries that they load where they find them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_networks() -> Iterator[None]:
    """Import as if torch and transformers were not installed, where they are not loaded already.

    presidio and spaCy load both for language models that are not used here: four fifths of the
    time their import takes, and of its memory. To both they are optional.
    """
    hidden = [name for name in ("torch", "transformers") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
