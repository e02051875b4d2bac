"""The deploy job, a pipeline's last step: what it does, it does in the transaction that ends it.

So either the alias has moved and the job has succeeded, or neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from llmos.errors import InvalidRequestError, LlmosError, PermissionDeniedError
from llmos.kernel.jobs import Job, JobKind
from llmos.library.canary import Rules
from llmos.library.deployments import Deployments, check_name
from llmos.library.gates import parse_gates
from llmos.library.refs import ModelRef
from llmos.plugins.hookspecs import hookimpl
from llmos.security.actors import Actor
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

DEPLOY = "deploy"
_KEYS = {"model", "alias", "gates", "rules", "weight"}


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the kind."""
    handler = f"{__name__}:run"
    return [JobKind(DEPLOY, handler, check_deploy, lambda _: 0, max_attempts=1, light=True)]


def check_deploy(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"model", "alias", "gates", "rules", "weight"}``, checked as far as words go.

    Raises:
        InvalidRequestError, InvalidNameError: a field is missing, unknown or not what it must be.
    """
    if unknown := sorted(set(params) - _KEYS):
        raise InvalidRequestError(f"{unknown[0]!r} is no field of a deploy job", param=unknown[0])
    model, alias = params.get("model"), params.get("alias", "production")
    if not isinstance(model, str):
        raise InvalidRequestError("model must be the name of a model", param="model")
    if not isinstance(alias, str):
        raise InvalidRequestError("alias must be a name", param="alias")
    ModelRef.parse(model)
    check_name(alias)
    gates, weight = params.get("gates"), params.get("weight", 1.0)
    if gates is not None:
        if not isinstance(gates, list) or not all(isinstance(gate, str) for gate in gates):
            raise InvalidRequestError("gates must be a list of lines", param="gates")
        parse_gates(gates)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
        raise InvalidRequestError("weight must be above 0 and at most 1", param="weight")
    rules = params.get("rules")
    if rules is not None:
        _rules(rules)
    return {"model": model, "alias": alias, "gates": gates, "rules": rules, "weight": weight}


def check_now(
    deployments: Deployments,
    params: dict[str, Any],
    actor: Actor,
    promised: Callable[[str], bool],
) -> None:
    """Refuse a request that could not do what it asks for, as far as that is known before it runs.

    Args:
        promised: whether a metric that a version does not have will have been measured by then.

    Raises:
        LlmosError: as `check_deploy` and `Deployments.check`.
    """
    wanted = check_deploy(params)
    rules = None if wanted["rules"] is None else _rules(wanted["rules"])
    try:
        deployments.check(
            wanted["model"],
            wanted["alias"],
            actor,
            gates=wanted["gates"],
            rules=rules,
            weight=wanted["weight"],
            promised=promised,
        )
    except LlmosError as error:
        error.param = error.param or "model"
        raise


def run(context: JobContext) -> JobResult:
    """Leave everything to `commit`."""
    return JobResult({"model": context.params["model"], "alias": context.params["alias"]})


def commit(conn: sa.Connection, deployments: Deployments, job: Job) -> None:
    """Move the alias inside the transaction that ends the job.

    Raises:
        PermissionDeniedError: nobody's terms were kept with the job.
        GateFailedError: a gate does not hold; and what else `Deployments.deploy` raises.
    """
    if job.asker is None:
        raise PermissionDeniedError(f"Job {job.id} may not deploy anything: submit it again.")
    params = job.params
    rules = params["rules"]
    deployments.deploy_in(
        conn,
        params["model"],
        params["alias"],
        Actor.from_dict(job.asker),
        params["gates"],
        None if rules is None else _rules(rules),
        params["weight"],
    )


def listener(deployments: Deployments) -> Callable[[Job], Awaitable[None]]:
    """Return what is to be told of ended jobs, so that a candidate which one brought is known."""

    async def ended(job: Job) -> None:
        if job.kind == DEPLOY:
            await asyncio.to_thread(deployments.load)

    return ended


def _rules(given: Any) -> Rules:
    if not isinstance(given, Mapping) or set(given) - set(Rules.__slots__):
        raise InvalidRequestError(
            f"rules must map some of {', '.join(Rules.__slots__)} to numbers", param="rules"
        )
    if not all(type(value) in (int, float) for value in given.values()):
        raise InvalidRequestError("rules must be numbers", param="rules")
    try:
        return Rules(**given)
    except InvalidRequestError as error:
        error.param = f"rules.{error.param}"
        raise
