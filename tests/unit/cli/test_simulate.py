"""`llmos simulate`: a table, JSON, a picture, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos.cli.main import invoke

SMALL = ("simulate", "--nodes", "4", "--requests", "4e1", "--models", "2")


def test_a_table_has_a_line_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(SMALL) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("POLICY")
    assert [line.split()[0] for line in lines[1:]] == ["llmos", "fifo", "static", "least-loaded"]
    assert "40 requests of synthetic" in printed.err


def test_json_is_the_same_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for _ in range(2):
        assert invoke([*SMALL, "--policy", "llmos", "--seed", "7", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)[0])
    assert found[0]["digest"] == found[1]["digest"]
    assert found[0]["requests"] == 40
    assert found[0]["work"]["plans"] > 0


def test_a_trace_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, plot = tmp_path / "mine.csv", tmp_path / "plot.png"
    rows = "".join(f"2023-11-16 18:17:0{n}.5,{100 + n},{5 + n}\n" for n in range(9))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    options = ("--trace", str(trace), "--policy", "static", "--rate", "2", "--plot", str(plot))
    assert invoke([*SMALL, *options]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "of mine at 2.0/s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "magic"), "there are llmos,fifo,static,least-loaded"),
        (("--policy", ","), "name a policy"),
        (("--requests", "1.5"), "whole number"),
        (("--requests", "1e400"), "whole number"),
        (("--nodes", "-3"), "whole number"),
        (("--load", "0"), "load must be above 0"),
        (("--rate", "nan"), "rate must be above 0"),
        (("--models", "9"), "models must be from 1 to 4"),
        (("--plot", "plot.doc"), "a plot is .png, .svg, .pdf"),
        (("--trace", "/nowhere.csv"), "No such file"),
        (("--trace", "/"), "Is a directory"),
    ],
)
def test_what_cannot_be_simulated_is_one_line(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([*SMALL, *options]) != 0
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
