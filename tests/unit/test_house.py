"""The house rules that a machine can check: who imports whom, what stays light, what is pinned."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "llmos"
MODULES = sorted(SOURCE.rglob("*.py"))
WRITTEN = [path for path in MODULES if "migrations" not in path.parts]
TORCH_FREE = (
    "apps",
    "cli",
    "kernel",
    "library",
    "plugins",
    "sdk",
    "security",
    "server",
    "simulate",
    "storage",
    "tasks",
)
HEAVY = {"alembic", "fastapi", "httpx", "numpy", "pydantic", "rich", "sqlalchemy", "yaml"}
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


def imported_by(statements: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has after running ``statements``."""
    script = f"import json, sys\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_point_down_the_house() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_side_loads_neither_torch_nor_transformers() -> None:
    names = [
        module_name(path)
        for path in MODULES
        if path.relative_to(SOURCE).parts[0] in TORCH_FREE
        and not {"__main__.py", "env.py"} & {path.name}
        and "versions" not in path.parts
    ]
    loaded = imported_by("\n".join(f"import {name}" for name in [*names, "llmos.system"]))
    assert not loaded & {"torch", "transformers"}


def test_importing_llmos_loads_nothing_heavy() -> None:
    assert not imported_by("import llmos") & (HEAVY | {"torch", "transformers", "typer"})


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    assert not imported_by("import llmos.cli.main") & (HEAVY | {"torch", "transformers"})


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    assert path.stem not in BANNED_NAMES
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with what it is for"
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            inner = [lines_of(child) for child in node.body if isinstance(child, FUNCTIONS)]
            length = lines_of(node) - sum(inner)
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_dependency_is_pinned_exactly_and_from_an_index() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+]+", pin) for pin in pins)
    pinned = {normalized(pin.partition("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normalized(re.match(r"[A-Za-z0-9._-]+", line).group()) for line in wanted}  # type: ignore[union-attr]
    assert names <= pinned


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nothing_executes_a_shell_or_unpickles() -> None:
    banned = re.compile(
        r"shell=True|trust_remote_code=True|\bimport pickle\b|torch\.load\(|\bos\.system\("
    )
    guilty = [path for path in MODULES if banned.search(path.read_text("utf-8"))]
    assert guilty == []
