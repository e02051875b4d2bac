"""One running llmos with a small trained model, shared by every acceptance test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, SMALL, Llmos, running

STARTER_MODELS = ("starter-chat", "starter-translate", "starter-sentiment", "starter-entities")
PLAY = (
    "ROMEO:\nBut soft, what light through yonder window breaks?\n"
    "It is the east, and Juliet is the sun.\n\n"
    "JULIET:\nO Romeo, Romeo, wherefore art thou Romeo?\n\n"
)


@pytest.fixture(scope="session")
def starter_models() -> tuple[str, ...]:
    """Names of the starter models, which must have been packaged."""
    packaged = ROOT / "src" / "llmos" / "starter" / "models"
    missing = [name for name in STARTER_MODELS if not (packaged / name / "manifest.json").exists()]
    assert not missing, f"not packaged in {packaged}: {', '.join(missing)}"
    return STARTER_MODELS


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text to train on."""
    path = tmp_path_factory.mktemp("data") / "play.txt"
    path.write_text(PLAY * 60, "utf-8")
    return path


@pytest.fixture(scope="session")
def recipe() -> Path:
    return ROOT / "recipes" / "char-gpt.yaml"


@pytest.fixture(scope="session")
def llmos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmos]:
    """A running llmos of its own home."""
    with running(tmp_path_factory.mktemp("llmos")) as started:
        yield started


@pytest.fixture(scope="session")
def my_model(llmos: Llmos, play: Path, recipe: Path) -> str:
    """The name of a model trained from the play through the command line."""
    sets = [part for change in (*SMALL, f"data.path={play}") for part in ("--set", change)]
    done = llmos.run("train", recipe, *sets, "--name", "my-model")
    assert done.returncode == 0, done.stderr
    assert "my-model:1 is ready" in done.stdout
    assert "loss" in done.stderr
    return "my-model"
