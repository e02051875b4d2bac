"""A plugin as third parties write them: a kind of job, free of torch, that ends as it is told to.

Params: ``number`` of the job, ``steps`` of ``step_s`` seconds each, and how it ``ends``: well, by a
mistake of the user's, after one failure that may pass (flaky), or by dying at every attempt (dead).
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from llmos.errors import DataError, EngineError
from llmos.kernel.context import JobContext
from llmos.kernel.jobs import JobKind
from llmos.plugins.hookspecs import hookimpl
from llmos.types import JobResult, NewVersion

MAX_ATTEMPTS = {"well": 1000, "flaky": 1000, "mistake": 1000, "dead": 3}


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """One kind per ending, as a killed worker counts as a failure: only the dead may die of it."""
    return [
        JobKind(f"fault-{ends}", f"{__name__}:run", _checked, _no_memory, max_attempts=attempts)
        for ends, attempts in MAX_ATTEMPTS.items()
    ]


def run(context: JobContext) -> JobResult:
    """Work for a while, going on where the last attempt was, then end."""
    params = context.params
    done = context.checkpoint_dir / "done"
    step = int(done.read_text()) if done.exists() else 0
    while step < params["steps"]:
        context.wait_while_paused()
        context.raise_if_cancelled()
        threading.Event().wait(params["step_s"])
        step += 1
        partial = done.with_suffix(".part")
        partial.write_text(str(step))
        partial.replace(done)
        context.progress(step, params["steps"])
    match params["ends"]:
        case "mistake":
            raise DataError("It was meant to fail.")
        case "dead":
            os._exit(9)
        case "flaky" if context.attempt == 1:
            raise EngineError("It passes at the second attempt.")
    value = context.blobs.put_bytes(json.dumps({"number": params["number"]}).encode())
    made = NewVersion("dataset", f"fault-{params['number']}", {"value.json": value}, {})
    return JobResult({"number": params["number"]}, (made,))


def _checked(params: dict[str, Any]) -> dict[str, Any]:
    return params


def _no_memory(params: dict[str, Any]) -> int:
    return 0
