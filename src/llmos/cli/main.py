"""The `llmos` command line: its commands, and how any error becomes one line and an exit code.

Heavy imports (rich, httpx, yaml) live inside the functions that need them: `llmos --help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

from llmos.cli import (
    batches,
    coding,
    compare,
    curve,
    data,
    defaults,
    deployments,
    doctor,
    evaluate,
    feedback,
    jobs,
    keys,
    lineage,
    models,
    pipelines,
    quantize,
    reading,
    route,
    run,
    schedules,
    search,
    server,
    simulate,
    tasks,
    train,
    usage,
    vectors,
    webhooks,
)
from llmos.errors import LlmosError

app = typer.Typer(
    name="llmos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def llmos() -> None:
    """llmos runs language models on your own machine: train them, use them, serve them.

    Examples:
      llmos up
      llmos list
      llmos run starter-chat "Hello, who are you?"
      llmos translate "Hello, world!" --to zh
      llmos train recipes/char-gpt.yaml --set data.path=FILE.txt --name my-model

    Environment:
      LLMOS_HOME                     where everything is kept (~/.llmos)
      LLMOS_URL, LLMOS_API_KEY       another server, and a key to it
    """


for module in (
    run,
    tasks,
    coding,
    reading,
    vectors,
    batches,
    models,
    quantize,
    defaults,
    route,
    feedback,
    deployments,
    lineage,
    evaluate,
    data,
    train,
    compare,
    curve,
    pipelines,
    schedules,
    search,
    jobs,
    server,
    simulate,
    doctor,
    keys,
    usage,
    webhooks,
):
    module.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process with its exit code; never shows a traceback."""
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


@cache
def command() -> Any:
    """All commands as Click's; making them takes a tenth of a second, so it is done once."""
    return typer.main.get_command(app)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0, the error's own, 2 for usage, 130 for Ctrl-C."""
    try:
        code = command().main(list(arguments), prog_name="llmos", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except LlmosError as error:
        return _fail(error.message, error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        return _fail(error.format_message().rstrip(".") + hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(_describe(error), 1)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _fail(message: str, code: int) -> int:
    """Print the one line of an error on stderr; return ``code``."""
    line = " ".join(message.split())
    typer.secho("error: ", nl=False, err=True, fg="red", bold=True)
    typer.echo(line, err=True)
    return code


if __name__ == "__main__":
    main()
