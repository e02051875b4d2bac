"""The wheel holds everything: built, installed by itself, it translates."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from harness import ROOT, Llmos


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, from a copy of the source so that nothing is left in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("llmos-*.whl"))


def test_the_wheel_holds_models_text_recipes_migrations_and_pages(
    wheel: Path, starter_models: tuple[str, ...]
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for model in starter_models:
        assert f"llmos/starter/models/{model}/model.safetensors" in names
        assert f"llmos/starter/models/{model}/manifest.json" in names
    parts = ("starter/text/", "starter/recipes/", "storage/migrations/versions/", "server/static/")
    for part in parts:
        assert any(name.startswith(f"llmos/{part}") for name in names), part
    assert "llmos/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("tests/" in name or name.endswith(".pyc") for name in names)


def test_the_wheel_weighs_little(wheel: Path, starter_models: tuple[str, ...]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        weights = [i.file_size for i in archive.infolist() if i.filename.endswith(".safetensors")]
    assert 0 < sum(weights) <= 25 * 10**6


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; its dependencies are this environment's."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", wheel],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def test_the_installed_wheel_translates(
    installed: Path, tmp_path: Path, starter_models: tuple[str, ...]
) -> None:
    alone = Llmos(tmp_path)

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [installed / "bin" / program, *arguments],
            env=alone.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = Path(run("python", "-c", "import llmos; print(llmos.__file__)").strip())
    assert where.is_relative_to(installed)
    try:
        assert run("llmos", "translate", "Hello, world!", "--to", "zh") == "你好，世界！\n"
    finally:
        run("llmos", "down")
