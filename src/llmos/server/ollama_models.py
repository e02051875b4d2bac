"""Ollama's API about models: /api/tags, /api/ps, /api/show, /api/pull and /api/version."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llmos import __version__
from llmos.errors import JobFailedError, LlmosError, told_error
from llmos.kernel.jobs import JobState
from llmos.library.manifest import Manifest, parse_manifest
from llmos.library.refs import ModelRef
from llmos.sdk.wire import JobBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.lifetime import Lifetime
from llmos.server.ollama import NDJSON, AnyTypeRoute, timestamp
from llmos.server.ollama_wire import PullBody, ShowBody, hub_name
from llmos.server.sse import Event, EventStream, answer
from llmos.tasks.embed import EMBED_TASKS
from llmos.tasks.generate import GENERATE_TASKS
from llmos.tasks.reasoning import reasoning_format
from llmos.tasks.tools import takes_tools

if TYPE_CHECKING:
    from llmos.kernel.jobs import Job
    from llmos.library.versions import Version
    from llmos.system import System

OLLAMA_VERSION = "0.12.6"
"""The Ollama whose API this is: clients refuse to speak to versions that lack what they need."""
TASKS = GENERATE_TASKS | EMBED_TASKS
"""What Ollama's clients can ask of a model; others are not shown to them."""
_QUANTIZATION = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_PARAMETERS = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}
"""Generation defaults that Ollama calls otherwise."""


def router(system: System, lifetime: Lifetime) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api", tags=["Ollama"], route_class=AnyTypeRoute)
    library, kernel = system.library, system.kernel

    @routes.get("/version")
    async def version(actor: Annotated[Actor, allow("system.read")]) -> JSONResponse:
        """The version of Ollama whose API this is, and that of llmos."""
        return JSONResponse({"version": OLLAMA_VERSION, "llmos": __version__})

    @routes.get("/tags")
    async def list_models(actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """Every model to generate or embed with; its older versions by their numbers."""
        versions = await asyncio.to_thread(library.list, "model")
        shown = [one for one in versions if policy.has_model(actor, one.full_name)]
        return JSONResponse({"models": list(_tags(shown))})

    @routes.get("/ps")
    async def running_models(actor: Annotated[Actor, allow("system.read")]) -> JSONResponse:
        """The models in memory."""
        statuses = [one for one in kernel.fleet.status() if one["state"] == "ready"]
        models = await asyncio.to_thread(_running, system, actor, statuses)
        return JSONResponse({"models": models})

    @routes.post("/show")
    async def show_model(
        body: ShowBody, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """What is known of a model. Its template is Jinja, not Go's."""
        found = await asyncio.to_thread(library.resolve, body.ref, "model")
        policy.check(actor, "models.read", found.ref)
        return JSONResponse(_shown(found))

    @routes.post("/pull")
    async def pull_model(
        body: PullBody, request: Request, actor: Annotated[Actor, allow("models.write")]
    ) -> Response:
        """Pull a model from the hub; one that is here already is done at once. It goes on when
        the client leaves."""
        policy.check(actor, "jobs.write")
        if await asyncio.to_thread(_is_here, system, actor, body.ref):
            progress = _said({"status": "success"})
            return await _pulled(body, request, progress, lifetime)
        repo = hub_name(body.model)
        pull = JobBody(kind="pull", name=repo, params={"repo": repo})
        job = await system.submitter.submit(actor, pull)
        return await _pulled(body, request, _progress(system, job), lifetime)

    return routes


async def _pulled(
    body: PullBody, request: Request, progress: AsyncGenerator[Event, None], lifetime: Lifetime
) -> Response:
    if body.streams:
        return EventStream(progress, until=lifetime.ending, framing=NDJSON)
    return JSONResponse(await answer(request, _last(progress)))


async def _said(event: Event) -> AsyncGenerator[Event, None]:
    yield event


def _is_here(system: System, actor: Actor, ref: str) -> bool:
    """Whether the library has a model of this very name that the actor may see."""
    try:
        wanted = ModelRef.parse(ref)
        found = system.library.resolve(wanted, "model")
    except LlmosError:
        return False
    is_named_so = found.full_name == wanted.full_name  # and not a task's default
    return is_named_so and policy.has_model(actor, found.full_name)


def _tags(versions: Iterable[Version]) -> Iterator[Event]:
    """Yield the newest version of each name as ``name:latest``, before it the older ones."""
    fitting = [one for one in versions if one.manifest.get("task") in TASKS]
    names = _names(fitting)
    for one in sorted(fitting, key=lambda one: -one.created_at):
        yield _tag(one, names[one.id])


def _names(versions: Sequence[Version]) -> dict[int, str]:
    """Return what Ollama's clients call each version, by its id."""
    newest = {one.full_name: one.id for one in sorted(versions, key=lambda one: one.number)}
    return {
        one.id: f"{one.full_name}:latest" if newest[one.full_name] == one.id else one.ref
        for one in versions
    }


def _tag(version: Version, name: str) -> Event:
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(version.created_at),
        "size": version.size_bytes,
        "digest": version.digest.removeprefix("sha256:"),
        "details": _details(parse_manifest(version.manifest)),
    }


def _details(manifest: Manifest) -> Event:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": manifest.model_type,
        "families": [manifest.model_type],
        "parameter_size": _count(manifest.parameters),
        "quantization_level": _QUANTIZATION.get(manifest.dtype, manifest.dtype.upper()),
    }


def _count(parameters: int) -> str:
    """Return a number of parameters as Ollama writes it."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.4g}{unit}"
    return str(parameters)


def _running(system: System, actor: Actor, statuses: Sequence[Event]) -> list[Event]:
    """Return the resident models that the actor may see, by the names that /api/tags has."""
    versions = system.library.list("model")
    by_ref, names = {one.ref: one for one in versions}, _names(versions)
    shown = []
    for status in statuses:
        if (running := by_ref.get(status["name"])) is None:  # removed since
            continue
        version = _asked_for(system, running, versions)
        if policy.has_model(actor, version.full_name):
            shown.append(_resident(system, version, names[version.id], status))
    return shown


def _asked_for(system: System, running: Version, versions: Iterable[Version]) -> Version:
    """Return the version that ``running`` is the quantised one of and stands for, else itself."""
    digest = (running.manifest.get("quantization") or {}).get("base_digest")
    sources = [one for one in versions if digest is not None and one.digest == digest]
    return next((one for one in sources if system.tasks.running(one).id == running.id), running)


def _resident(system: System, version: Version, name: str, status: Event) -> Event:
    since = system.keys.clock() if status["requests"] else status["last_used_at"]
    on_gpu = system.settings.device.startswith("cuda")
    return {
        **_tag(version, name),
        "size": status["bytes"],
        "size_vram": status["bytes"] if on_gpu else 0,
        "expires_at": timestamp(since + system.settings.idle_s),
        "context_length": parse_manifest(version.manifest).context_tokens,
    }


def _shown(version: Version) -> Event:
    manifest = parse_manifest(version.manifest)
    return {
        "modelfile": f"# {version.digest}\nFROM {version.ref}\n",
        "license": manifest.license,
        "parameters": _parameters(manifest),
        "template": manifest.chat_template or "",
        "details": _details(manifest),
        "model_info": _model_info(manifest),
        "capabilities": _capabilities(manifest),
        "modified_at": timestamp(version.created_at),
    }


def _parameters(manifest: Manifest) -> str:
    """Return the generation defaults, one a line, by Ollama's names."""
    named = {_PARAMETERS.get(name, name): value for name, value in manifest.generation.items()}
    return "\n".join(f"{name:<30} {value}" for name, value in sorted(named.items()))


def _model_info(manifest: Manifest) -> Event:
    kind = manifest.model_type
    info: Event = {
        "general.architecture": kind,
        "general.parameter_count": manifest.parameters,
        f"{kind}.context_length": manifest.context_tokens,
        f"{kind}.vocab_size": manifest.vocab_size,
    }
    if manifest.embedding:
        info[f"{kind}.embedding_length"] = manifest.embedding.get("dimensions")
    return info


def _capabilities(manifest: Manifest) -> list[str]:
    if manifest.task in EMBED_TASKS:
        return ["embedding"]
    template = manifest.chat_template or ""
    able = {"completion": True, "tools": takes_tools(template)}
    able["thinking"] = reasoning_format(template) is not None
    return [name for name, is_able in able.items() if is_able]


async def _progress(system: System, job: Job) -> AsyncGenerator[Event, None]:
    """Yield what a pull does, until it is done.

    Raises:
        LlmosError: the pull failed.
    """
    yield {"status": "pulling manifest"}
    # One digest, and so one progress bar, stands for the whole download.
    digest = "sha256:" + hashlib.sha256(str(job.params["repo"]).encode()).hexdigest()
    async with aclosing(system.kernel.follow(job.id)) as events:
        async for event in events:
            total = event.data.get("total")
            if event.type == "progress" and total:
                status = f"pulling {event.data.get('message') or job.name}"
                done = {"total": total, "completed": event.data.get("step") or 0}
                yield {"status": status, "digest": digest, **done}
    ended = await system.kernel.jobs.get(job.id)
    if ended.state is not JobState.SUCCEEDED:
        error = ended.error or {"code": JobFailedError.code, "message": "the pull was cancelled"}
        raise told_error(error["code"], error["message"])
    yield {"status": "success"}


async def _last(events: AsyncGenerator[Event, None]) -> Event:
    last: Event = {}
    async with aclosing(events) as stream:
        async for event in stream:
            last = event
    return last
