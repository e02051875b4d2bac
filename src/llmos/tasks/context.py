"""What every task needs of the system below: models by name, their tokenizers, a lease to run them.

`TaskContext.serve` turns a reference into a `Served` model. Doing something with it is the tasks'.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import secrets
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from llmos.engines.base import (
    DEFAULT_KV_CACHE_BYTES,
    context_tokens,
    cpu_dtype,
    estimate,
    is_cpu,
    spare_bytes,
)
from llmos.errors import CorruptBlobError, NotFoundError, UnsupportedTaskError
from llmos.kernel.adapters import AdapterSpec
from llmos.kernel.models import ModelSpec
from llmos.library.adapters import parse_adapter
from llmos.library.bases import Finder, resolve_pair
from llmos.library.drafts import find_draft
from llmos.library.manifest import Manifest, parse_manifest
from llmos.library.variants import is_quantized, runs_as
from llmos.tasks.anonymise import Anonymiser
from llmos.tasks.grammar import Grammars
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizer, Tokenizers
from llmos.types import GenerateWork, PipelineOut, PipelineWork, Priority, TokensOut

if TYPE_CHECKING:
    from pathlib import Path

    from llmos.library.answers import Answers
    from llmos.library.versions import Version
    from llmos.settings import Settings

MODELS_IN_MEMORY = 8
"""The cache of one model takes this part of the memory at most, where that is more than 1 GiB."""
MAX_REMEMBERED = 1024
"""References whose meaning is remembered."""


class Models(Finder, Protocol):
    """Finds the versions of models and adapters; the library."""

    def directory(self, version: Version) -> Path: ...

    def made_from(self, source: str) -> Iterable[Version]: ...


class Lease(Protocol):
    """A resident model, kept resident while the lease lives."""

    def generate(self, work: GenerateWork) -> AsyncGenerator[TokensOut, None]: ...

    async def run(self, work: PipelineWork) -> PipelineOut: ...


class Residency(Protocol):
    """Gives out leases; the kernel."""

    def lease(
        self,
        spec: ModelSpec,
        priority: Priority,
        deadline_s: float | None = None,
        *,
        tenant: str = "",
        num_works: int = 1,
        ends_early: bool = False,
    ) -> AbstractAsyncContextManager[Lease]: ...

    def status(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model version ready to be asked; its weights are loaded at the first lease."""

    version: Version
    manifest: Manifest
    tokenizer: Tokenizer
    spec: ModelSpec
    adapter: Version | None = None
    """Runs over it; the manifest is then that of both together."""
    asked: str = ""
    """The name that was asked for."""

    @property
    def ref(self) -> str:
        """What always means this: ``name:number``, or two of them with a ``+`` between."""
        if self.adapter is None:
            return self.version.ref
        is_own_base = self.adapter.manifest["base"] == self.version.ref
        return self.adapter.ref if is_own_base else f"{self.version.ref}+{self.adapter.ref}"

    @property
    def names(self) -> list[str]:
        """The names whose use this is, without versions."""
        return [ref.rpartition(":")[0] for ref in self.ref.split("+")]

    @property
    def digest(self) -> str:
        """What changes when the answers may."""
        return self.spec.key if self.adapter is None else self.adapter.digest

    @property
    def context_tokens(self) -> int:
        """The longest sequence, prompt and output together."""
        return context_tokens(self.version.manifest)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reference means: the version, the adapter over it, and what runs for the two."""

    version: Version
    adapter: Version | None
    running: Version
    manifest: Manifest
    draft: Version | None
    """Guesses for it."""
    spec: ModelSpec
    """Of what runs; paths and the adapter are still to be found."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The parts of the system that tasks use."""

    library: Models
    residency: Residency
    tokenizers: Tokenizers
    templates: Templates
    settings: Settings
    grammars: Grammars = field(default_factory=Grammars)
    anonymiser: Anonymiser = field(default_factory=Anonymiser)
    capacity_bytes: int = sys.maxsize
    """Memory that may be reserved."""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Known to this server alone. What it keeps apart, cached prefixes, lives no longer than it."""
    changes: Callable[[], int | None] = lambda: None
    """A number that rises with whatever changes what references mean; None: nothing tells."""
    answers: Answers | None = None
    """Keeps the answers of owners who want that; None: nobody's."""
    drafts: Mapping[str, str] = field(default_factory=dict)
    """Which model guesses for which, see `library.drafts`."""
    _remembered: dict[str, tuple[int, _Found]] = field(default_factory=dict, init=False, repr=False)
    _finding: dict[tuple[str, int], asyncio.Task[_Found]] = field(
        default_factory=dict, init=False, repr=False
    )
    _layouts: dict[str, asyncio.Task[str]] = field(default_factory=dict, init=False, repr=False)

    async def serve(self, ref: str, tasks: Collection[str]) -> Served:
        """Return the model that ``ref`` names, if it is made for one of ``tasks``.

        ``base+adapter``, or an adapter's own name, gives the adapter over its base. What is loaded
        for it is the version that `running` says.

        Raises:
            ModelNotFoundError: there is no such model.
            UnsupportedTaskError: it is made for another task.
            InvalidModelError, CorruptBlobError: its stored files are not usable.
        """
        found = await self._find(ref)
        version, adapter = found.version, found.adapter
        if (manifest := found.manifest.made_for(tasks)) is None:
            raise _wrong_task(version.ref, found.manifest, tasks)
        try:
            tokenizer = await self.tokenizers.get(version.files)
            spec = dataclasses.replace(
                found.spec,
                path=await self._path(found.running),
                manifest=await self._with_draft(found),
                adapter=None if adapter is None else await self._adapter_spec(adapter),
            )
        except NotFoundError as error:  # set aside as damaged, most likely
            raise CorruptBlobError(
                f"A stored file of {ref} is gone: import or pull the model again."
            ) from error
        return Served(version, manifest, tokenizer, spec, adapter, ref)

    async def _find(self, ref: str) -> _Found:
        """Return what a reference means, from memory where nothing has changed since."""
        changes = self.changes()  # before it is read: what changes meanwhile is read again
        kept = self._remembered.get(ref)
        if kept is not None and kept[0] == changes:
            return kept[1]
        if changes is None:
            return await asyncio.to_thread(self._resolve, ref)
        key = (ref, changes)
        if (finding := self._finding.get(key)) is None:  # many ask at once, and one looks it up
            finding = asyncio.create_task(asyncio.to_thread(self._resolve, ref))
            finding.add_done_callback(lambda _: self._finding.pop(key))
            self._finding[key] = finding
        found = await asyncio.shield(finding)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[ref] = (changes, found)
        return found

    def running(self, version: Version, adapter: Version | None = None) -> Version:
        """Return what runs when ``version`` is asked for: on a CPU its quantised version, if it has
        one and the setting ``dtype`` lets it. Blocks on the database."""
        is_native = version.manifest.get("engine") == "native"
        if self.settings.dtype != "auto" or not is_native or is_quantized(version.manifest):
            return version
        if not is_cpu(self.settings.device):
            return version
        return runs_as(version, self.library.made_from(version.digest), adapter)

    def _fitted(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return a manifest that says how much the cache may take, and what a CPU is to compute in,
        where that is open."""
        if manifest.get("engine") != "native":
            return manifest
        if not is_cpu(self.settings.device):  # whose memory is not the one that is counted here
            return manifest
        cache_bytes = max(DEFAULT_KV_CACHE_BYTES, self.capacity_bytes // MODELS_IN_MEMORY)
        manifest = {"kv_cache_bytes": cache_bytes, **manifest}
        if is_quantized(manifest):
            return manifest
        dtype = cpu_dtype(manifest, self.settings.dtype, self.capacity_bytes)
        return manifest if dtype == "float32" else {**manifest, "compute_dtype": dtype}

    def planned(self, version: Version, adapter: Version | None = None) -> ModelSpec:
        """Return what would be loaded for a version, its files not looked for. Blocks on the
        database.

        Raises:
            InvalidModelError, UnsupportedTaskError: there is nothing that could be.
        """
        return self._found(version, adapter).spec

    def _resolve(self, ref: str) -> _Found:
        return self._found(*resolve_pair(self.library, ref))

    def _found(self, version: Version, adapter: Version | None) -> _Found:
        running = self.running(version, adapter)
        manifest = parse_manifest(version.manifest)
        if adapter is not None:
            manifest = _adapted(manifest, version, adapter)
        loaded, draft = self._fitted(running.manifest), None
        if manifest.engine == "native" and (
            draft := find_draft(self.library, self.drafts, version)
        ):
            draft = self.running(draft)
            loaded = {**loaded, "draft": self._fitted(draft.manifest)}
        device = "cpu" if is_cpu(self.settings.device) else "cuda"
        spec = ModelSpec(
            key=running.digest,
            engine=manifest.engine,
            path="",
            manifest=loaded,
            estimate_bytes=estimate(loaded, device).total_bytes,
            spare_bytes=spare_bytes(loaded, device),
            name=running.ref,
        )
        return _Found(version, adapter, running, manifest, draft, spec)

    async def _with_draft(self, found: _Found) -> dict[str, Any]:
        """Return the manifest of what runs, its draft's files found."""
        manifest = found.spec.manifest
        if found.draft is None:
            return manifest
        path = await self._path(found.draft, user=found.running)
        return {**manifest, "draft": {**manifest["draft"], "path": path}}

    async def _adapter_spec(self, adapter: Version) -> AdapterSpec:
        num_bytes = estimate(adapter.manifest).weights_bytes
        return AdapterSpec(adapter.digest, await self._path(adapter), num_bytes, adapter.ref)

    def cache_salt(self, owner: str) -> bytes:
        """Return what keeps an owner's cached prefixes from all others."""
        return hmac.digest(self.secret, owner.encode(), "sha256")

    async def close(self) -> None:
        """End the helper processes of this context."""
        await self.templates.close()
        await self.grammars.close()
        await self.anonymiser.close()

    async def _path(self, version: Version, user: Version | None = None) -> str:
        """Return where the model's files lie; they are verified unless the model is in memory.

        Args:
            user: what it is in memory with; None: it is there by itself.
        """
        layout = self._layouts.get(version.digest)
        statuses = self.residency.status()
        held = [*statuses, *(one for status in statuses for one in status.get("adapters", ()))]
        is_resident = any(one["key"] == (user or version).digest for one in held)
        if layout is None or (layout.done() and (layout.exception() or not is_resident)):
            layout = asyncio.create_task(asyncio.to_thread(self._lay_out, version))
            self._layouts[version.digest] = layout
        return await asyncio.shield(layout)

    def _lay_out(self, version: Version) -> str:
        return str(self.library.directory(version))


def _adapted(manifest: Manifest, version: Version, adapter: Version) -> Manifest:
    """Return the manifest of an adapter over a model: its task and chat template are its own."""
    own = parse_adapter(adapter.manifest)
    if manifest.engine != "native":
        raise UnsupportedTaskError(
            f"{version.ref} is no base for the adapter {adapter.ref}: only models that generate "
            "text take one.",
            param="model",
        )
    return msgspec.structs.replace(manifest, task=own.task, chat_template=own.chat_template)


def _wrong_task(ref: str, manifest: Manifest, wanted: Collection[str]) -> UnsupportedTaskError:
    does = manifest.heads or [manifest.task]
    advice = "`llmos list` shows each model's task"
    if "embed" in wanted and manifest.task in {"chat", "generate"}:
        advice = (
            "import or pull it once more, under another name, with `--task embed` (its files are "
            "stored once)"
        )
    return UnsupportedTaskError(
        f"{ref} is a model for {', '.join(map(repr, does))}, "
        f"not for {' or '.join(map(repr, sorted(wanted)))}: "
        f"{advice}.",
        param="model",
    )
