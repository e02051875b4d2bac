"""What processes are there for is imported by its path, the garbage collector at rest meanwhile."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from llmos.kernel.imports import load


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_collector_rests_while_modules_are_imported(sources: Path) -> None:
    (sources / "module_that_looks.py").write_text("import gc\nat_work = gc.isenabled()\n")
    assert load("module_that_looks:at_work") is False
    assert gc.isenabled()


def test_it_is_at_work_again_after_a_module_that_breaks(sources: Path) -> None:
    (sources / "module_that_breaks.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load("module_that_breaks:it")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        load("math:pi")
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("path", "error"),
    [("math", ValueError), ("math:nothing", AttributeError), ("no_such_module:x", ImportError)],
)
def test_a_path_to_nothing_is_refused(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load(path)
