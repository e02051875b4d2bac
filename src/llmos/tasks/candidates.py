"""The models that a choice is among, as far as the library knows them, read when it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmos.engines.base import context_tokens
from llmos.errors import LlmosError, ModelNotFoundError
from llmos.kernel.models import ModelSpec
from llmos.library.bases import resolve_pair
from llmos.library.deployed import (
    Revision,
    TaskDefault,
    deployed,
    read_defaults,
    read_names,
    revision,
)
from llmos.library.evaluations import counted, data_of
from llmos.library.manifest import of_task
from llmos.library.versions import Version
from llmos.storage.database import Database
from llmos.tasks.context import Models

log = logging.getLogger(__name__)


class Planner(Protocol):
    """What a candidate is planned with; the task context."""

    @property
    def library(self) -> Models: ...

    @property
    def changes(self) -> Callable[[], int | None]: ...

    def planned(self, version: Version, adapter: Version | None = None) -> ModelSpec: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that a request may be given to; sizes in bytes or tokens, 0: unknown."""

    ref: str
    """Always means it: ``name:number``, or two of them with a ``+`` between."""
    names: tuple[str, ...]
    """Whose use it is, without versions."""
    owner: str
    id: int
    """The larger, the younger."""
    task: str
    spec: ModelSpec
    digest: str
    base_digest: str | None
    """Of a quantised version: what it was made of."""
    parameters: int
    weights_bytes: int
    context_tokens: int
    labels: frozenset[str]
    languages: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    """That it translates; empty: it does not say."""
    chat_template: str
    metrics: Mapping[str, Any]
    """Of its training and of evaluations since, these without their losses."""
    data: tuple[str, ...]
    """What it was trained and tested on."""
    losses: Mapping[tuple[str, ...], float]
    """Of evaluations, by their data and the tokenizer, as they are per token."""
    heads: Mapping[str, tuple[frozenset[str], Mapping[str, Any]]] = field(default_factory=dict)
    """Of a model for several tasks: the labels and the metrics of each."""

    def made_for(self, tasks: Collection[str]) -> Candidate | None:
        """Return it as a model for one of ``tasks``; None: it does none of them."""
        if self.task in tasks:
            return self
        task = next((task for task in self.heads if task in tasks), None)
        if task is None:
            return None
        labels, metrics = self.heads[task]
        return replace(self, task=task, labels=labels, metrics=metrics, losses={})

    @property
    def least_bytes(self) -> int:
        """The memory that it cannot do without."""
        return self.spec.estimate_bytes - self.spec.spare_bytes

    def knows(self, pair: tuple[str, str]) -> bool:
        """Whether it says itself that it translates this pair."""
        return pair in self.pairs or set(pair) <= self.languages

    def translates(self, source_lang: str, target_lang: str) -> bool:
        """Whether it may be asked for this pair, as far as it says."""
        if self.pairs:
            return (source_lang, target_lang) in self.pairs
        return not self.languages or {source_lang, target_lang} <= self.languages


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the library had at one revision."""

    revision: Revision
    candidates: tuple[Candidate, ...]
    """One version of every model that can be planned."""
    names: frozenset[str]
    """Of models and adapters, without namespaces."""
    defaults: Mapping[str, TaskDefault]
    targets: dict[str, Candidate] = field(default_factory=dict)
    """Other references that were looked up."""


class Candidates:
    """Reads the library's models, and remembers them until something has changed."""

    def __init__(self, db: Database, planner: Planner) -> None:
        self._db = db
        self._planner = planner
        self._kept: Catalog | None = None
        self._changes: int | None = None

    async def catalog(self) -> Catalog:
        """Return what the library has now."""
        changes = self._planner.changes()  # before it is read: what changes meanwhile is read again
        kept = self._kept
        if kept is None or changes is None or changes != self._changes:
            kept = self._kept = await asyncio.to_thread(self._read, kept)
            self._changes = changes
        return kept

    async def target(self, ref: str) -> Candidate:
        """Return what a reference means. Raises what looking it up and planning it raise."""
        catalog = await self.catalog()
        if (found := catalog.targets.get(ref)) is None:
            found = catalog.targets[ref] = await asyncio.to_thread(self._find, ref)
        return found

    def _find(self, ref: str) -> Candidate:
        try:
            return self._candidate(*resolve_pair(self._planner.library, ref))
        except ModelNotFoundError as error:
            error.param = "model"
            raise

    def _read(self, kept: Catalog | None) -> Catalog:
        if kept is not None and self._db.read_sync(revision) == kept.revision:
            return kept
        at, versions, names, defaults = self._db.read_sync(
            lambda conn: (revision(conn), deployed(conn), read_names(conn), read_defaults(conn))
        )
        return Catalog(at, tuple(self._planned(versions)), names, defaults)

    def _planned(self, versions: Iterable[Version]) -> Iterable[Candidate]:
        for version in versions:
            try:
                yield self._candidate(version, None)
            except LlmosError as error:  # by its name it can still be asked for, and says so
                log.warning("%s is not chosen: %s", version.ref, error)

    def _candidate(self, version: Version, adapter: Version | None) -> Candidate:
        asked = adapter or version
        manifest, base = asked.manifest, version.manifest
        translation = base.get("translation") or {}
        refs = [version.ref, asked.ref] if adapter is not None else [version.ref]
        if adapter is not None and adapter.manifest.get("base") == version.ref:
            refs = [adapter.ref]
        source = manifest.get("source") or {}
        digests = [one for one in asked.inputs if one.startswith("sha256:")]
        metrics, heads = manifest.get("metrics") or {}, base.get("heads") or {}
        own = of_task(metrics, str(manifest["task"])) if heads else metrics
        measured = [] if adapter else self._db.read_sync(lambda conn: counted(conn, version))
        return Candidate(
            ref="+".join(refs),
            names=tuple(ref.rpartition(":")[0] for ref in refs),
            owner=asked.owner,
            id=asked.id,
            task=str(manifest["task"]),
            spec=self._planner.planned(version, adapter),
            digest=asked.digest,
            base_digest=(base.get("quantization") or {}).get("base_digest"),
            parameters=int(base.get("parameters") or 0),
            weights_bytes=int(base.get("weights_bytes") or 0),
            context_tokens=context_tokens(base),
            labels=frozenset(base.get("labels") or ()),
            languages=frozenset(manifest.get("languages") or ()),
            pairs=frozenset((str(a), str(b)) for a, b in translation.get("pairs") or ()),
            chat_template=str(manifest.get("chat_template") or ""),
            metrics=_with_evaluations(own, [row for row in measured if "/" not in row["dataset"]]),
            data=(str(source["data"]), *digests) if source.get("data") else (),
            losses=_losses(version, measured),
            heads={
                task: (
                    frozenset(labels),
                    _with_evaluations(of_task(metrics, task), _of_task(measured, task)),
                )
                for task, labels in heads.items()
            },
        )


def _of_task(measured: Iterable[Mapping[str, Any]], task: str) -> list[dict[str, Any]]:
    """Return the evaluations of one of a model's further tasks."""
    prefix = f"{task}/"
    return [
        {**row, "dataset": row["dataset"].removeprefix(prefix)}
        for row in measured
        if row["dataset"].startswith(prefix)
    ]


def _with_evaluations(
    metrics: Mapping[str, Any], measured: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the metrics of a manifest with those of evaluations, each dataset another split."""
    found = dict(metrics)
    for row in measured:
        before = found.get(row["dataset"])
        given = {name: value for name, value in row["metrics"].items() if name != "loss"}
        found[row["dataset"]] = {**(before if isinstance(before, dict) else {}), **given}
    return found


def _losses(
    version: Version, measured: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, ...], float]:
    tokenizer = version.files.get("tokenizer.json")
    tokens = version.digest if tokenizer is None else tokenizer.digest
    return {
        (data_of(row), tokens): float(row["metrics"]["loss"])
        for row in measured
        if "loss" in row["metrics"]
    }
