"""The extension is built once, reused, and where it cannot be had everything still works."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.engines.decoders import make_quantized, needed_extension, random_ids
from tests.unit.engines.families import generate, greedy, run_works

from llmos.engines.native import extension as module
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.extension import NEEDED_CPU_FLAGS, cpu_flags, extension, is_likely
from llmos.engines.native.restore import restore


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No extension is remembered before or after; returns an empty home."""
    monkeypatch.setenv("LLMOS_HOME", str(tmp_path / "home"))
    extension.cache_clear()
    is_likely.cache_clear()
    yield tmp_path / "home"
    extension.cache_clear()
    is_likely.cache_clear()


def compiler(folder: Path, script: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_it_is_not_used_where_the_environment_says_so(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_EXTENSION", "0")
    assert extension() is None and not is_likely()
    assert not forgetful.exists()


def test_looking_for_it_builds_nothing(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capable(monkeypatch)
    found = module.status()
    assert found.state == "unbuilt" or found.obstacle == "compiler"
    assert not forgetful.exists()
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert module.status().obstacle == "compiler"


def test_a_cpu_without_the_instructions_is_told_in_the_log(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "cpu_flags", lambda: NEEDED_CPU_FLAGS - {"avx512_vnni"})
    assert extension() is None and not is_likely()
    assert "the CPU lacks avx512_vnni" in caplog.text


def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_flags", lambda: NEEDED_CPU_FLAGS)


def test_a_missing_compiler_is_told_in_the_log(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capable(monkeypatch)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert extension() is None and not is_likely()
    assert "install g++" in caplog.text


def test_a_compiler_that_fails_is_logged_and_not_fatal(
    forgetful: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    capable(monkeypatch)
    failing = '[ "$1" = --version ] && exit 0; echo "no space left for this" >&2; exit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, failing))
    assert extension() is None
    assert "no space left for this" in caplog.text
    assert list((forgetful / "cache").iterdir()) == []


def test_a_library_that_does_not_load_is_logged_and_not_fatal(
    forgetful: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    capable(monkeypatch)
    junk = 'for last; do :; done; [ "$1" = --version ] || echo junk > "$last"'
    monkeypatch.setenv("CXX", compiler(tmp_path, junk))
    assert extension() is None
    assert "cannot be built or loaded" in caplog.text


def test_a_library_that_was_built_is_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    built = Path(needed_extension()._name)
    request.getfixturevalue("forgetful")
    (tmp_path / "home" / "cache").mkdir(parents=True)
    (tmp_path / "home" / "cache" / built.name).write_bytes(built.read_bytes())
    calls: list[list[str]] = []
    run = module.subprocess.run

    def recorded(command: list[str], **options: object) -> object:
        calls.append(command)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(module.subprocess, "run", recorded)
    library = extension()
    assert library is not None and Path(library._name).parent == tmp_path / "home" / "cache"
    assert [command[1:] for command in calls] == [["--version"]]


def test_the_cpu_names_its_instructions() -> None:
    assert {"sse2"} <= cpu_flags() or not cpu_flags()  # elsewhere than on x86 Linux it says nothing


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_without_it_torch_gives_the_greedy_tokens_of_the_restored_model(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setenv("LLMOS_EXTENSION", "0")
    path, quantized = make_quantized(tmp_path, kind)
    prompts = {str(i): random_ids(4 + i, seed=i) for i in range(3)}
    engine = NativeEngine()
    engine.load(path, {"engine": "native", "context_tokens": 64, "dtype": "int8"}, "cpu", 1)
    got = run_works(engine, {name: greedy(ids, 8) for name, ids in prompts.items()})
    model = restore(quantized, path)
    assert got == {name: generate(model, ids, 8) for name, ids in prompts.items()}


def test_with_and_without_it_the_greedy_tokens_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    needed_extension()
    path, _ = make_quantized(tmp_path)
    works = {str(i): greedy(random_ids(4 + i, seed=i), 6) for i in range(3)}
    manifest = {"engine": "native", "context_tokens": 64, "dtype": "int8"}
    manifest |= {"kv_bytes_per_token": 2 * 2 * 3 * 2 * 32}
    engine = NativeEngine()
    engine.load(path, manifest, "cpu", 1)
    fast = run_works(engine, works)
    request.getfixturevalue("forgetful")
    monkeypatch.setenv("LLMOS_EXTENSION", "0")
    engine = NativeEngine()
    engine.load(path, manifest, "cpu", 1)
    assert run_works(engine, works) == fast
