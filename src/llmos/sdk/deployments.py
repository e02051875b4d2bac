"""The client's part that measures versions, deploys them under an alias, and takes them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from llmos.sdk import transfer
from llmos.sdk.asking import given
from llmos.sdk.transfer import OnProgress
from llmos.sdk.transport import Json, Transport

PATH = "/api/v1/deployments"


class Deploying:
    """What can be done with deployments; mixed into the client."""

    transport: Transport

    def evaluate(
        self,
        model: str,
        path: Path | str,
        *,
        task: str | None = None,
        dataset: str | None = None,
        rows: int | None = None,
        fields: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Json:
        """Upload a file of rows and start measuring a model on it; returns the job.

        Args:
            task: one of a model's several; the first unless given.
            dataset: the name that gates know it by; the file's, without its suffix, unless given.
            rows: how many of the first to use; all unless given.
            fields: our field names (text, label, source, …) -> the file's.
        """
        file = transfer.upload_file(self.transport, Path(path), on_progress)
        params: Json = {"model": model, "task": task, "dataset": dataset, "rows": rows}
        params["data"] = {Path(path).name: file["digest"]}
        params["fields"] = dict(fields) if fields else None
        body = {"kind": "evaluate", "name": model, "params": given(params)}
        return self.transport.json("POST", "/api/v1/jobs", json=body)

    def deploy(
        self,
        model: str,
        alias: str,
        *,
        gates: Sequence[str] | None = None,
        weight: float | None = None,
        **rules: float,
    ) -> Json:
        """Let ``name@alias`` mean a version that passes the gates; returns the deployment, with
        the ``checks`` made.

        Args:
            gates: lines such as ``test/accuracy >= current - 0.01``; None: those it has.
            weight: below 1, the version gets so much of the requests first, as a candidate.
            rules: ``min_requests``, ``max_error_rate``, ``max_latency_ratio``: when it is taken
                back by itself.
        """
        body: Json = {"model": model, "alias": alias, "weight": weight, "rules": rules or None}
        body["gates"] = None if gates is None else list(gates)
        return self.transport.json("POST", PATH, json=given(body))

    def promote(self, deployment: str) -> Json:
        """Let ``name@alias`` mean its candidate, which must pass the gates."""
        return self.transport.json("POST", f"{_path(deployment)}/promote")

    def rollback(self, deployment: str, reason: str = "") -> Json:
        """Take the candidate of ``name@alias`` back, or go back to the version before."""
        return self.transport.json("POST", f"{_path(deployment)}/rollback", json={"reason": reason})

    def deployments(self) -> list[Json]:
        """Every deployment, by name."""
        return self.transport.list("GET", PATH)

    def deployment(self, deployment: str) -> Json:
        """One deployment, with its ``history``, the newest first; while a candidate is tried, with
        the ``requests``, ``failures`` and ``latency_p95_s`` ``seen`` of each version."""
        return self.transport.json("GET", _path(deployment))

    def remove_deployment(self, deployment: str) -> Json:
        """Let ``name@alias`` be an alias like any other; it goes on meaning what it means."""
        return self.transport.json("DELETE", _path(deployment))


def _path(deployment: str) -> str:
    return f"{PATH}/{quote(deployment, safe='/@')}"
