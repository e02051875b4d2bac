"""The folder in which a job of shards keeps what is done."""

from __future__ import annotations

import shutil
from pathlib import Path


def prepared(directory: Path) -> Path:
    """Return a folder for what is done, without what an attempt before left half done."""
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            shutil.rmtree(entry)
    return directory
