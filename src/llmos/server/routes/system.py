"""The system itself: health, what is resident, garbage, the log, the end."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from llmos import __version__
from llmos.apps.batch_files import Files
from llmos.errors import NotFoundError
from llmos.kernel.jobs import ACTIVE_STATES
from llmos.sdk.wire import GcBody
from llmos.security import audit, policy
from llmos.security.actors import Actor
from llmos.server.access import allow, while_valid
from llmos.server.bodies import BodyRoute
from llmos.server.lifetime import Lifetime
from llmos.server.response_store import ResponseStore
from llmos.server.routes.jobs import job_json
from llmos.server.shares import Shares
from llmos.server.sse import Event, EventStream
from llmos.types import Priority

if TYPE_CHECKING:
    from llmos.system import System

LOG_FILE = "server.log"
_SHOWN = (
    *("name", "key", "engine", "state", "bytes", "load_s"),
    *("running", "waiting", "kv_use", "prefix_hit_rate", "adapters"),
)
LOG_TAIL_BYTES = 4 * 2**20
LOG_POLL_S = 0.25


def router(system: System, lifetime: Lifetime, watchers: Shares) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["system"], route_class=BodyRoute)

    @routes.get("/health")
    async def health() -> JSONResponse:
        """The server runs."""
        return JSONResponse({"status": "ok", "version": __version__})

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """The server takes requests: its database answers."""
        await system.database.read(lambda conn: conn.execute(sa.text("SELECT 1")).scalar())
        return JSONResponse({"status": "ready", "version": __version__})

    @routes.get("/api/v1/version")
    async def version(actor: Annotated[Actor, allow("system.read")]) -> JSONResponse:
        """Versions of llmos, Python and the platform."""
        facts = {"version": __version__, "python": platform.python_version()}
        return JSONResponse({**facts, "platform": platform.platform()})

    @routes.get("/api/v1/ps")
    async def ps(actor: Annotated[Actor, allow("system.read")]) -> JSONResponse:
        """Models in memory, of the key's alone; one's own jobs that run, an admin's everybody's;
        and the memory given out."""
        owner = None if actor.role == "admin" else actor.owner
        running = await system.kernel.jobs.list(owner=owner, states=ACTIVE_STATES)
        now = system.keys.clock()
        resident = [
            _model_json(model, now)
            for model in system.kernel.fleet.status()
            if policy.has_model(actor, model["name"])
        ]
        ledger = system.kernel.ledger
        memory = {"capacity_bytes": ledger.capacity_bytes, "reserved_bytes": ledger.reserved_bytes}
        jobs = [job_json(job, system.kernel.workers.held(job.id)) for job in running]
        return JSONResponse({"models": resident, "jobs": jobs, "memory": memory})

    @routes.post("/api/v1/gc")
    async def gc(body: GcBody, actor: Annotated[Actor, allow("system.manage")]) -> JSONResponse:
        """Sweep files nothing refers to; the grace period is the server's unless given."""
        grace_s = system.settings.gc_grace_s if body.grace_s is None else body.grace_s
        await _record(system, actor, "system.gc", {"grace_s": grace_s})
        await Files(system.database, system.keys.clock).sweep(actor)
        report = await asyncio.to_thread(system.library.gc, grace_s)
        await ResponseStore(system.database, system.keys.clock).sweep(actor)
        await system.answers.sweep(actor)
        removed = {"freed_bytes": report.bytes, "removed": report.blobs}
        await _record(system, actor, "system.gc_done", removed)
        return JSONResponse({**removed, "directories": report.directories})

    @routes.get("/api/v1/logs")
    async def logs(
        actor: Annotated[Actor, allow("logs.read")],
        lines: Annotated[int, Query(ge=1, le=100_000)] = 100,
        follow: bool = False,
    ) -> EventStream:
        """The last lines of the server's log, and with ``follow`` those to come."""
        path = system.settings.logs_path / LOG_FILE
        if not path.exists():
            raise NotFoundError(
                "This server keeps no log file: it runs in the foreground of a terminal."
            )
        found = while_valid(_log_lines(path, lines, follow), system.keys, actor)
        share = watchers.taken(actor.owner) if follow else None
        return EventStream(found, until=lifetime.ending, share=share)

    @routes.post("/api/v1/shutdown", status_code=202)
    async def shutdown(actor: Annotated[Actor, allow("system.manage")]) -> JSONResponse:
        """Stop the server; live requests are finished, running jobs go on at the next start."""
        await _record(system, actor, "system.shutdown", {})
        lifetime.end()
        return JSONResponse({"status": "stopping"}, status_code=202)

    return routes


def _model_json(status: dict[str, Any], now: float) -> dict[str, Any]:
    """Return one resident model: with the leases on it and the seconds since its last use."""
    idle_s = 0.0 if status["requests"] else max(now - status["last_used_at"], 0.0)
    kept = {name: status[name] for name in _SHOWN}
    for counted in ("running", "waiting"):
        kept[counted] = {
            one.name.lower(): n for one, n in zip(Priority, kept[counted], strict=True)
        }
    return {**kept, "leases": status["requests"], "idle_s": idle_s}


async def _record(system: System, actor: Actor, action: str, detail: dict[str, Any]) -> None:
    at = system.keys.clock()
    await system.database.write(
        lambda conn: audit.record(conn, actor.id, action, "server", detail, at)
    )


async def _log_lines(path: Path, lines: int, follow: bool) -> AsyncGenerator[Event, None]:
    """Yield the last lines, then whatever is appended; a file that was begun anew is read anew."""
    text, position = await asyncio.to_thread(_read_from, path, -LOG_TAIL_BYTES)
    *whole, rest = text.split("\n")
    for line in whole[-lines:]:
        yield {"line": line}
    while follow:
        await asyncio.sleep(LOG_POLL_S)
        text, position = await asyncio.to_thread(_read_from, path, position)
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield {"line": line}


def _read_from(path: Path, position: int) -> tuple[str, int]:
    """Return the text from ``position`` (negative: from the end) and the position after it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size + position) if position < 0 else position
        file.seek(start if start <= size else 0)
        data = file.read(LOG_TAIL_BYTES)
        return data.decode("utf-8", "replace"), file.tell()
