"""What every test gets: an environment free of this machine's llmos and hub settings; and a
garbage collector that passes over what was there before it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests with the garbage collector at rest: what they import stays, and going through
    it again and again takes a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own llmos home, server, keys or hub account."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("LLMOS_", "HF_")):
                patch.delenv(name)
        patch.setenv("LLMOS_HOME", str(tmp_path_factory.mktemp("no-home") / "home"))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield
