"""The part of the client that runs pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmos.errors import UnreachableError
from llmos.sdk import transfer
from llmos.sdk.asking import given
from llmos.sdk.datasets import uploaded
from llmos.sdk.transfer import OnProgress
from llmos.sdk.transport import Json, Transport

LOOK_EVERY_S = 1.0
"""How often ``follow_pipeline`` looks."""
RECONNECT_S = 30.0
"""How long it waits for a server that went away."""
ADD = "data_add"
"""The kind of step whose ``data`` is a file or folder, or lies elsewhere, and becomes a dataset."""
OVER = frozenset({"succeeded", "failed", "cancelled"})


class Pipelining:
    """Runs pipelines on the server behind ``transport``.

    A pipeline is ``{"name", "steps": {name: {"kind", "params", "after", "each"}}}``, as its YAML
    file has it; ``llmos.apps.pipeline_file.load`` reads one, with the recipes that it names.
    """

    transport: Transport
    _clock: Callable[[], float]
    _sleep: Callable[[float], None]

    def check_pipeline(self, pipeline: Json, on_progress: OnProgress | None = None) -> Json:
        """Return ``{"name", "steps"}`` of a pipeline that could run; its data is uploaded.

        Raises:
            PipelineError: it is not well made; the message begins with the line.
            LlmosError: a model is not there, a name is another owner's, and the like.
        """
        body = {"pipeline": with_data(self.transport, pipeline, on_progress)}
        return self.transport.json("POST", "/api/v1/pipelines/check", json=body)

    def run_pipeline(self, pipeline: Json, on_progress: OnProgress | None = None) -> Json:
        """Upload the data that a pipeline's recipes name, start it; returns the run.

        Raises:
            PipelineError, LlmosError: as `check_pipeline`; nothing was queued.
        """
        body = {"pipeline": with_data(self.transport, pipeline, on_progress)}
        return self.transport.json("POST", "/api/v1/pipelines", json=body)

    def pipelines(self, limit: int = 100, before: int | None = None) -> list[Json]:
        """The newest runs, the newest first: at most ``limit`` (1 to 1000) below id ``before``."""
        params = {"limit": limit, "before": before}
        return self.transport.list("GET", "/api/v1/pipelines", params=given(params))

    def pipeline(self, run_id: int) -> Json:
        """One run with its steps and their jobs. Raises RunNotFoundError."""
        return self.transport.json("GET", f"/api/v1/pipelines/{run_id}")

    def cancel_pipeline(self, run_id: int) -> Json:
        """End a run and all its jobs; returns it."""
        return self.transport.json("POST", f"/api/v1/pipelines/{run_id}/cancel")

    def retry_pipeline(self, run_id: int) -> Json:
        """Go on with a run that failed or was cancelled, from the steps that failed; returns it."""
        return self.transport.json("POST", f"/api/v1/pipelines/{run_id}/retry")

    def follow_pipeline(self, run_id: int) -> Iterator[Json]:
        """Yield a run as it is, and again whenever something of it changed, until it has ended.

        It takes up again where it was when the server goes away for at most half a minute.
        """
        last: Json | None = None
        lost_at: float | None = None
        while True:
            try:
                run, lost_at = self.pipeline(run_id), None
            except UnreachableError:
                lost_at = self._clock() if lost_at is None else lost_at
                if last is None or self._clock() - lost_at > RECONNECT_S:
                    raise
                run = last
            if run != last:
                yield run
            if run["state"] in OVER:
                return
            last = run
            self._sleep(LOOK_EVERY_S)


def with_data(transport: Transport, pipeline: Json, on_progress: OnProgress | None = None) -> Json:
    """Return a pipeline with the digests of its data files, which are uploaded: those of recipes,
    and those that a step names as its ``data``.

    Raises:
        InvalidRequestError: it holds what JSON cannot; nothing is uploaded then.
        DataError: there is no such data file.
    """
    transfer.check_json(pipeline, "pipeline")
    steps = pipeline.get("steps")
    if not isinstance(steps, dict):
        return pipeline
    done = {name: _step_with_data(transport, step, on_progress) for name, step in steps.items()}
    return pipeline | {"steps": done}


def _with_source(transport: Transport, params: Json, on_progress: OnProgress | None) -> Json:
    """Return the params of a step that adds a dataset, its file or folder uploaded."""
    data = params.get("data")
    if not isinstance(data, str) or "${" in data:
        return params
    others = {key: value for key, value in params.items() if key != "data"}
    return others | uploaded(transport, data, params.get("format"), on_progress)


def _step_with_data(transport: Transport, step: Any, on_progress: OnProgress | None) -> Any:
    params = step.get("params") if isinstance(step, dict) else None
    if not isinstance(params, dict):
        return step
    if step.get("kind") == ADD:
        return step | {"params": _with_source(transport, params, on_progress)}
    recipe = params.get("recipe", {"data": {"path": params.get("data")}})
    paths = transfer.local_data_paths(recipe) if isinstance(recipe, dict) else []
    known = [path for path in paths if "${" not in path]
    if not known:
        return step
    stored = {
        path: transfer.upload_file(transport, Path(path), on_progress)["digest"] for path in known
    }
    return step | {"params": params | {"data": stored}}
