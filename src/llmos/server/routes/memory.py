"""Memory: what was expected of jobs and models, what is reserved, what they take; and how good the
expectations were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmos.kernel.estimates import MODEL, qualities, relative_error
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.kernel.kernel import Kernel
    from llmos.system import System

_OF_A_JOB = (
    *("id", "kind", "name", "predicted_bytes", "reserved_bytes"),
    *("measured_bytes", "peak_bytes", "file_bytes", "held", "error"),
)


def router(system: System) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["system"], route_class=BodyRoute)
    kernel = system.kernel

    @routes.get("/api/v1/memory")
    async def memory(actor: Annotated[Actor, allow("system.read")]) -> JSONResponse:
        """What is reserved and taken, of one's own jobs and the key's models; how far off the
        predictions of the newest measurements were, by kind."""
        everything = actor.role == "admin"
        jobs = [
            {name: job[name] for name in _OF_A_JOB}
            for job in kernel.memory.status()
            if everything or job["owner"] == actor.owner
        ]
        models = [
            _model_json(model)
            for model in kernel.fleet.status()
            if model["state"] != "absent" and policy.has_model(actor, model["name"])
        ]
        told = (
            one
            for one in kernel.memory.measurements
            if everything or one.kind == MODEL or one.owner == actor.owner
        )
        history = [dataclasses.asdict(quality) for quality in qualities(told)]
        return JSONResponse(_totals(kernel) | {"jobs": jobs, "models": models, "history": history})

    return routes


def _totals(kernel: Kernel) -> dict[str, Any]:
    """Return the sums: of the ledgers, the engine processes and the machine."""
    of_jobs = sum(job["reserved_bytes"] for job in kernel.memory.status())
    watch = kernel.memory
    reserved_bytes = sum(device.ledger.reserved_bytes for device in kernel.fleet.devices)
    return {
        "capacity_bytes": sum(device.ledger.capacity_bytes for device in kernel.fleet.devices),
        "reserved_bytes": reserved_bytes,
        "available_bytes": watch.available(),
        "floor_bytes": watch.floor_bytes,
        "engine": {
            "reserved_bytes": reserved_bytes - of_jobs,
            "measured_bytes": watch.engines.total_bytes,
        },
    }


def _model_json(status: dict[str, Any]) -> dict[str, Any]:
    """Return a model in memory; it is measured once it was loaded."""
    predicted_bytes, reserved_bytes = status["predicted_bytes"], status["bytes"]
    is_measured = status["state"] in ("ready", "unloading")
    return {
        "name": status["name"],
        "state": status["state"],
        "predicted_bytes": predicted_bytes if is_measured else reserved_bytes,
        "reserved_bytes": reserved_bytes,
        "measured_bytes": reserved_bytes if is_measured else None,
        "error": relative_error(predicted_bytes, reserved_bytes) if is_measured else None,
    }


class MemoryCollector(Collector):
    """The memory of one system, for Prometheus."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        totals = _totals(self._kernel)
        for name, num_bytes, help_text in (
            ("memory_capacity", totals["capacity_bytes"], "Memory that may be reserved."),
            ("memory_reserved", totals["reserved_bytes"], "Memory that is reserved."),
            ("memory_available", totals["available_bytes"], "Memory the machine has left."),
            ("engine_memory", totals["engine"]["measured_bytes"], "What engine processes take."),
        ):
            yield GaugeMetricFamily(f"llmos_{name}_bytes", help_text, value=num_bytes)
        errors = GaugeMetricFamily(
            "llmos_memory_prediction_error_ratio",
            "Median error of the memory predicted for the newest jobs and models, as a share.",
            labels=("kind",),
        )
        for quality in qualities(self._kernel.memory.measurements):
            if quality.median_error is not None:
                errors.add_metric((quality.kind,), quality.median_error)
        yield errors
