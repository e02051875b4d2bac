"""Whether a pipeline could run: asks, for each job it would make, who knows the job kinds, the
models and the uploaded files. Nothing is queued.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from llmos.apps.expected import check_gates, expected, will_be_measured
from llmos.apps.pipelines import Pipeline, Step, run_budget, unresolved
from llmos.apps.submitting import named_param
from llmos.errors import LlmosError, RecipeError
from llmos.library.deploying import DEPLOY
from llmos.sdk.wire import JobBody

if TYPE_CHECKING:
    from llmos.apps.submitting import Submitter
    from llmos.security.actors import Actor


async def check(
    pipeline: Pipeline, actor: Actor, submitter: Submitter, *, begins: bool = False
) -> None:
    """Refuse a pipeline of which some job would be refused, as far as that can be known now.

    A job whose params wait for what another step makes is checked as far as they do not.

    Args:
        begins: whether it is to be started now; else steps may have to wait for new data.

    Raises:
        LlmosError: what the job would be refused with; the message begins with the line, and
            ``param`` is the key in the pipeline.
    """
    budget = run_budget()
    for step in pipeline.steps:
        waiting = unresolved(step)
        promised = functools.partial(will_be_measured, pipeline, step)
        try:
            jobs = await asyncio.to_thread(expected, step, budget)
            for number, params in enumerate(jobs):
                await asyncio.sleep(0)  # there may be hundreds: others come in between
                if not waiting:
                    body = body_of(pipeline, step, number, params)
                    is_first = begins and not step.after
                    await submitter.check(actor, body, promised, begins=is_first)
                    continue
                await submitter.check_given(actor, step.kind, params, waiting)
                if step.kind == DEPLOY and "gates" not in waiting:
                    check_gates(pipeline, step, params)
        except LlmosError as error:
            raise pipeline.lines.located(_place(step, error), error) from None


def body_of(pipeline: Pipeline, step: Step, number: int, params: dict[str, Any]) -> JobBody:
    """Return the request for job ``number`` of a step."""
    name = f"{pipeline.name}/{step.label(number)}"
    return JobBody(kind=step.kind, name=name, params=params, priority=pipeline.priority)


def _place(step: Step, error: LlmosError) -> str:
    """Return the key that an error is about, as nearly as it says."""
    named = named_param(error)
    if named == "kind":
        return f"{step.place}.kind"
    if isinstance(error, RecipeError):
        named = "recipe"
    return f"{step.place}.params.{named}" if named in step.params else f"{step.place}.params"
