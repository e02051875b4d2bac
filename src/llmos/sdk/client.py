"""One synchronous HTTP client of the llmos server: plain dicts back, typed llmos errors raised.

Every method is one route of the native API. Nothing here knows whether the server is another
machine, a process behind a Unix socket, or a thread of this program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from llmos.errors import CancelledError, JobFailedError
from llmos.sdk import transfer
from llmos.sdk.accounting import Accounting
from llmos.sdk.annotation import Annotating
from llmos.sdk.asking import Asking, given
from llmos.sdk.batches import Batching
from llmos.sdk.coding import Coding
from llmos.sdk.connect import Endpoint
from llmos.sdk.datasets import Collecting
from llmos.sdk.deployments import Deploying
from llmos.sdk.following import followed
from llmos.sdk.lineage import Tracing
from llmos.sdk.pipelines import Pipelining
from llmos.sdk.routing import Routing
from llmos.sdk.scheduling import Scheduling
from llmos.sdk.transfer import OnProgress
from llmos.sdk.transport import Json, Transport


class Client(
    Asking,
    Coding,
    Batching,
    Collecting,
    Annotating,
    Deploying,
    Accounting,
    Tracing,
    Routing,
    Pipelining,
    Scheduling,
):
    """Speaks to one server. Use as a context manager, or call ``close``.

    Args:
        endpoint: where the server is.
        api_key: sent as ``Authorization: Bearer``; None sends none.
        timeout_s: longest silence of the server before UnreachableError. Loading a big model and
            answering may take long, so the default is generous.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self.transport = Transport(self.endpoint, api_key, timeout_s)
        self._clock = clock
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.endpoint.socket or self.endpoint.url!r})"

    def close(self) -> None:
        """Close the connections; the client may still be used and then opens new ones."""
        self.transport.close()

    # -- models ------------------------------------------------------------------------------------

    def models(self, kind: str = "model") -> list[Json]:
        """Every version of every artifact of this kind, the newest of a name first."""
        return self.transport.list("GET", "/api/v1/models", params={"kind": kind})

    def model(self, ref: str) -> Json:
        """One version, by reference or by task name. Raises ModelNotFoundError."""
        return self.transport.json("GET", _model_path(ref))

    def card(self, ref: str) -> str:
        """The model card as Markdown."""
        return self.transport.response("GET", f"{_model_path(ref)}/card").text

    def remove_model(self, ref: str) -> Json:
        """Remove a version (a tombstone stays; `gc` frees the space)."""
        return self.transport.json("DELETE", _model_path(ref))

    def alias(self, ref: str, alias: str) -> Json:
        """Point ``alias`` of the model's name at this version."""
        return self.transport.json("POST", f"{_model_path(ref)}/aliases", json={"alias": alias})

    def task_defaults(self) -> dict[str, str]:
        """The model that each task name answers with."""
        rows = self.transport.list("GET", "/api/v1/tasks")
        return {row["task"]: row["model"] for row in rows}

    def set_task_default(self, task: str, model: str) -> Json:
        """Let a task name answer with ``model``; returns ``{"task", "model"}``. For admins."""
        body = {"task": task, "model": model}
        return self.transport.json("PUT", "/api/v1/tasks", json=body)

    def import_model(
        self,
        directory: Path | str,
        name: str,
        on_progress: OnProgress | None = None,
        *,
        task: str | None = None,
        base: str | None = None,
        dtype: str | None = None,
    ) -> Json:
        """Upload a Hugging Face-format directory and start its import; returns the job.

        ``task`` (embed, rerank, classify, rate, fill_mask) where its files say another, or none;
        ``base``: the model that an adapter runs over, where its files do not name it. ``dtype``:
        stored, to keep the weights as they are; int8 or int4, to make a quantised version as well;
        auto, the default, decides by the machine and the model.
        """
        files = transfer.upload_directory(self.transport, Path(directory), name, on_progress)
        body = {"name": name, "files": files, "task": task, "base": base, "dtype": dtype}
        return self.transport.json("POST", "/api/v1/models/import", json=given(body))

    def pull(
        self,
        repo: str,
        name: str | None = None,
        revision: str | None = None,
        *,
        task: str | None = None,
        base: str | None = None,
        dtype: str | None = None,
    ) -> Json:
        """Start pulling ``ORG/NAME`` from the hub; returns the job. ``task``, ``base`` and
        ``dtype`` as for an import."""
        body = {"repo": repo, "name": name, "revision": revision, "task": task, "base": base}
        body |= {"dtype": dtype}
        return self.transport.json("POST", "/api/v1/models/pull", json=given(body))

    def quantize(self, model: str, to: str = "int8", name: str | None = None) -> Json:
        """Start making an int8 or int4 version of a model, ``MODEL-int8`` unless named; returns
        the job."""
        params = given({"model": model, "dtype": to, "name": name})
        return self.submit_job("quantize", params, name or model)

    def model_json(self, ref: str, filename: str) -> Json:
        """Return the content of a JSON file of a model, such as ``loss.json``."""
        return self.transport.json("GET", f"{_model_path(ref)}/files/{quote(filename, safe='')}")

    def export_model(
        self, ref: str, directory: Path | str, on_progress: OnProgress | None = None
    ) -> Path:
        """Write the version's files, each checked against its digest, into a new directory."""
        return transfer.download_model(
            self.transport, self.model(ref), Path(directory), on_progress
        )

    def upload(self, path: Path | str, on_progress: OnProgress | None = None) -> Json:
        """Store a local file on the server unless it has it; returns ``{"digest", "size"}``."""
        return transfer.upload_file(self.transport, Path(path), on_progress)

    def catalog(self) -> list[Json]:
        """Well-known hub models per task, each with whether it fits this server."""
        return self.transport.list("GET", "/api/v1/catalog")

    # -- jobs --------------------------------------------------------------------------------------

    def submit_job(
        self,
        kind: str,
        params: Json,
        name: str,
        priority: str = "standard",
        after: Sequence[int] = (),
        idempotency_key: str | None = None,
    ) -> Json:
        """Queue a job; returns it, or the one that the same request made with the same key."""
        body = {
            "kind": kind,
            "params": params,
            "name": name,
            "priority": priority,
            "after": list(after),
            "idempotency_key": idempotency_key,
        }
        return self.transport.json("POST", "/api/v1/jobs", json=given(body))

    def train(
        self,
        recipe: Json,
        name: str,
        on_progress: OnProgress | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Json:
        """Upload the recipe's data where it is local files, queue the training; returns the job.

        Raises:
            InvalidRequestError: the recipe holds what JSON cannot; nothing is uploaded then.
            DataError: there is no such data file.
        """
        transfer.check_json(recipe, "recipe")
        paths = transfer.local_data_paths(recipe)
        data = {path: self.upload(path, on_progress)["digest"] for path in paths}
        params = {"recipe": recipe, "name": name, "data": data}
        return self.submit_job(
            "train", params, name, priority="background", idempotency_key=idempotency_key
        )

    def search(
        self,
        recipe: Json,
        section: Json,
        name: str,
        alias: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Json:
        """Upload the recipe's data, queue a search of hyper-parameters (docs/search.md); returns
        its job, whose result tells of every trial.

        Raises:
            InvalidRequestError: something holds what JSON cannot; nothing is uploaded then.
            DataError: there is no such data file.
        """
        transfer.check_json(recipe, "recipe")
        transfer.check_json(section, "search")
        paths = transfer.local_data_paths(recipe)
        data = {path: self.upload(path, on_progress)["digest"] for path in paths}
        params = {"recipe": recipe, "name": name, "data": data, "search": section, "alias": alias}
        return self.submit_job("search", params, name, priority="background")

    def jobs(
        self, limit: int = 100, before: int | None = None, states: Sequence[str] = ()
    ) -> list[Json]:
        """The newest jobs, the newest first: at most ``limit`` (1 to 1000) below id ``before``,
        those in one of ``states`` or all."""
        params = {"limit": limit, "before": before, "state": list(states) or None}
        return self.transport.list("GET", "/api/v1/jobs", params=given(params))

    def job(self, job_id: int) -> Json:
        """One job. Raises JobNotFoundError."""
        return self.transport.json("GET", f"/api/v1/jobs/{job_id}")

    def cancel_job(self, job_id: int) -> Json:
        """Ask a job to end; returns it."""
        return self.transport.json("POST", f"/api/v1/jobs/{job_id}/cancel")

    def retry_job(self, job_id: int) -> Json:
        """Queue a job that failed or was cancelled again, and those that failed only because it
        did; returns it."""
        return self.transport.json("POST", f"/api/v1/jobs/{job_id}/retry")

    def job_events(self, job_id: int, after: int = 0, follow: bool = True) -> Iterator[Json]:
        """Yield ``{"id", "type", "data", "at"}`` of a job, oldest first, from after an event id.

        With ``follow`` it goes on until the job has ended, and takes up again where it was when
        the server goes away for at most half a minute.
        """
        path = f"/api/v1/jobs/{job_id}/events"
        return followed(self.transport, path, after, follow, self._clock, self._sleep)

    def events(self, after: int | None = None, follow: bool = True) -> Iterator[Json]:
        """Yield ``{"job_id", "id", "type", "data", "at"}`` of all your jobs (with an admin's key:
        everyone's), from after an event id, or from now on; with ``follow`` without end."""
        return followed(self.transport, "/api/v1/events", after, follow, self._clock, self._sleep)

    def wait(self, job_id: int) -> Json:
        """Return the job once it has succeeded.

        Raises:
            JobFailedError: it failed; the message holds its last error.
            CancelledError: it was cancelled.
        """
        for _ in self.job_events(job_id):
            pass
        job = self.job(job_id)
        if job["state"] == "failed":
            reason = (job.get("error") or {}).get("message", "no reason was kept")
            raise JobFailedError(f"Job {job_id} ({job['name']}) failed: {reason}")
        if job["state"] == "cancelled":
            raise CancelledError(f"Job {job_id} ({job['name']}) was cancelled.")
        return job

    # -- the system --------------------------------------------------------------------------------

    def ps(self) -> Json:
        """Resident models, live work and the memory ledger."""
        return self.transport.json("GET", "/api/v1/ps")

    def memory(self) -> Json:
        """What was predicted, reserved and measured of jobs and models, and how far off it was."""
        return self.transport.json("GET", "/api/v1/memory")

    def gc(self, grace_s: float | None = None) -> Json:
        """Sweep unreferenced blobs older than the grace period; returns what was freed."""
        return self.transport.json("POST", "/api/v1/gc", json=given({"grace_s": grace_s}))

    def logs(self, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """Yield the last lines of the server's log, and with ``follow`` those to come."""
        params = {"lines": str(lines), "follow": str(follow).lower()}
        return (
            event["line"] for event in self.transport.events("GET", "/api/v1/logs", params=params)
        )

    def keys(self) -> list[Json]:
        """Every API key, without its secret."""
        return self.transport.list("GET", "/api/v1/keys")

    def create_key(
        self,
        name: str,
        role: str = "user",
        *,
        actions: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        best_priority: str | None = None,
        anonymise: Json | None = None,
        expires_in_s: float | None = None,
    ) -> Json:
        """Make a key; the answer's ``key`` is shown this once."""
        body: Json = {"name": name, "role": role, "best_priority": best_priority}
        body |= {"expires_in_s": expires_in_s, "anonymise": anonymise}
        body |= {"actions": actions and list(actions), "models": models and list(models)}
        return self.transport.json("POST", "/api/v1/keys", json=given(body))

    def revoke_key(self, key_id: str) -> Json:
        """Make a key invalid at once."""
        return self.transport.json("DELETE", f"/api/v1/keys/{quote(key_id, safe='')}")

    def audit(self, limit: int = 100) -> list[Json]:
        """The newest audit events, newest first."""
        return self.transport.list("GET", "/api/v1/audit", params={"limit": str(limit)})

    def health(self) -> Json:
        """``{"status": "ok", "version"}`` from a running server; needs no key."""
        return self.transport.json("GET", "/health")

    def ready(self) -> Json:
        """As ``health`` once the server takes requests; raises UnreachableError before."""
        return self.transport.json("GET", "/ready")

    def version(self) -> Json:
        """Versions of llmos, Python and the platform the server runs on."""
        return self.transport.json("GET", "/api/v1/version")

    def shutdown(self) -> Json:
        """Ask the server to stop; live requests are finished first."""
        return self.transport.json("POST", "/api/v1/shutdown")


def _model_path(ref: str) -> str:
    return f"/api/v1/models/{quote(ref, safe='/:@')}"
