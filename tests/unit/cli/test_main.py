"""The command line itself: help, usage errors, Ctrl-C and closed pipes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llmos.cli import main
from llmos.errors import UnreachableError


def all_commands() -> list[list[str]]:
    """Return the path of every command there is, subcommands too."""

    def walk(command: Any, path: list[str]) -> list[list[str]]:
        found = [path] if path else []
        for name, inner in getattr(command, "commands", {}).items():
            found += walk(inner, [*path, name])
        return found

    return walk(main.command(), [])


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_command_explains_itself_with_examples(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke([*path, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Examples:" in printed
    assert f"llmos {path[0]}" in printed


def test_the_issue_s_commands_are_there() -> None:
    names = {path[0] for path in all_commands()}
    promised = "up down list show run translate classify entities train jobs import pull export rm"
    assert names >= {*promised.split(), "gc", "ps", "doctor", "logs", "version", "keys"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["run"], "Missing argument 'MODEL'"),
        (["list", "--nope"], "No such option: --nope"),
        (["jobs", "show", "seven"], "Invalid value for 'N'"),
        (["up", "--port", "99999"], "Invalid value for"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_ctrl_c_is_silent_and_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmos.cli.models.open_client", interrupted)
    assert main.invoke(["list"]) == 130
    assert capsys.readouterr().err == ""


def test_commands_that_only_look_start_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["ps"]) == UnreachableError.exit_code
    assert capsys.readouterr().err == "error: llmos is not running: `llmos up` starts it\n"
    assert main.invoke(["down"]) == 0


def test_a_closed_pipe_is_silent() -> None:
    script = f"{sys.executable} -m llmos.cli.main --help | head -c 1"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""


def test_completion_is_offered_to_the_shell() -> None:
    environment = {"_LLMOS_COMPLETE": "complete_bash", "COMP_WORDS": "llmos tr", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "llmos.cli.main"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["translate", "train"]
