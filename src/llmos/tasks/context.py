"""What every task needs of the system below: models by name, their tokenizers, a lease to run them.

`TaskContext.serve` turns a reference into a `Served` model. Doing something with it is the tasks'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from llmos.engines.base import context_tokens, estimate
from llmos.errors import UnsupportedTaskError
from llmos.kernel.models import ModelSpec
from llmos.library.manifest import Manifest, parse_manifest
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizer, Tokenizers
from llmos.types import GenerateWork, PipelineOut, PipelineWork, Priority, TokensOut

if TYPE_CHECKING:
    from pathlib import Path

    from llmos.library.versions import Version
    from llmos.settings import Settings


class Models(Protocol):
    """Finds model versions; the library."""

    def resolve(self, ref: str) -> Version: ...

    def directory(self, version: Version) -> Path: ...


class Lease(Protocol):
    """A resident model, kept resident while the lease lives."""

    def generate(self, work: GenerateWork) -> AsyncGenerator[TokensOut, None]: ...

    async def run(self, work: PipelineWork) -> PipelineOut: ...


class Residency(Protocol):
    """Gives out leases; the kernel."""

    def lease(self, spec: ModelSpec, priority: Priority) -> AbstractAsyncContextManager[Lease]: ...

    def status(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model version ready to be asked; its weights are loaded at the first lease."""

    version: Version
    manifest: Manifest
    tokenizer: Tokenizer
    spec: ModelSpec

    @property
    def ref(self) -> str:
        return self.version.ref

    @property
    def context_tokens(self) -> int:
        """The longest sequence, prompt and output together."""
        return context_tokens(self.version.manifest)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The parts of the system that tasks use."""

    library: Models
    residency: Residency
    tokenizers: Tokenizers
    templates: Templates
    settings: Settings
    _layouts: dict[str, asyncio.Task[str]] = field(default_factory=dict, init=False, repr=False)

    async def serve(self, ref: str, tasks: Collection[str]) -> Served:
        """Return the model that ``ref`` names, if it is made for one of ``tasks``.

        Raises:
            ModelNotFoundError: there is no such model.
            UnsupportedTaskError: it is made for another task.
            InvalidModelError, CorruptBlobError: its stored files are not usable.
        """
        version = await asyncio.to_thread(self.library.resolve, ref)
        manifest = parse_manifest(version.manifest)
        if manifest.task not in tasks:
            raise UnsupportedTaskError(
                f"{version.ref} is a model for {manifest.task!r}, not for "
                f"{' or '.join(map(repr, sorted(tasks)))}: `llmos list` shows each model's task.",
                param="model",
            )
        tokenizer = await self.tokenizers.get(version.files)
        spec = ModelSpec(
            key=version.digest,
            engine=manifest.engine,
            path=await self._path(version),
            manifest=version.manifest,
            estimate_bytes=estimate(version.manifest).total_bytes,
            name=version.ref,
        )
        return Served(version, manifest, tokenizer, spec)

    async def close(self) -> None:
        """End the helper processes of this context."""
        await self.templates.close()

    async def _path(self, version: Version) -> str:
        """Return where the model's files lie; they are verified unless the model is in memory."""
        layout = self._layouts.get(version.digest)
        is_resident = any(one["key"] == version.digest for one in self.residency.status())
        if layout is None or (layout.done() and not is_resident):
            layout = asyncio.create_task(asyncio.to_thread(self._lay_out, version))
            self._layouts[version.digest] = layout
        return await asyncio.shield(layout)

    def _lay_out(self, version: Version) -> str:
        return str(self.library.directory(version))
