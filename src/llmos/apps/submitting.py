"""The one way in for jobs: what a kind needs to know is looked up, who asks is checked, then the
job is queued.

HTTP, pipelines and schedules all submit here, so that a job is checked alike whoever made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from llmos.apps import annotation_jobs
from llmos.apps.batch_jobs import BATCH
from llmos.apps.data_inputs import models_for
from llmos.apps.dataset_inputs import DatasetInputs
from llmos.apps.inputs import datasets_for, readable
from llmos.apps.search_jobs import SEARCH
from llmos.apps.training_inputs import TrainingInputs
from llmos.compression.jobs import QUANTIZE
from llmos.compression.jobs import base_params as quantize_base
from llmos.data.datasets.jobs import KINDS as DATA_KINDS
from llmos.data.datasets.jobs import MAKES_A_DATASET, RUN, wanted_datasets
from llmos.errors import ConflictError, InvalidRequestError, LlmosError, NotFoundError
from llmos.evaluation.jobs import EVALUATE, asked_of
from llmos.kernel.idempotency import Idempotency
from llmos.kernel.jobs import check_sendable
from llmos.library import deploying
from llmos.library.bases import base_params, find_base
from llmos.library.deploying import DEPLOY
from llmos.library.files import ADAPTER_FILE
from llmos.library.jobs import check_import
from llmos.library.quantized import DTYPES
from llmos.library.variants import variant_name
from llmos.security import policy
from llmos.storage.blobs import is_digest
from llmos.training.jobs import ROLES, TRAIN, makes_adapter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from llmos.kernel.jobs import Job
    from llmos.kernel.queue import JobQueue
    from llmos.library.artifacts import Library
    from llmos.library.deployments import Deployments
    from llmos.library.feedback import FeedbackStore
    from llmos.sdk.wire import JobBody
    from llmos.security.actors import Actor
    from llmos.storage.blobs import BlobStore

MAY_MAKE_ADAPTERS = frozenset({"import", "pull"})
MAKES_DATASETS = MAKES_A_DATASET | {annotation_jobs.EXPORT}
MAKES_A_VERSION = frozenset({TRAIN, SEARCH, QUANTIZE, *MAY_MAKE_ADAPTERS, *MAKES_DATASETS})
"""Kinds of job whose checked ``name`` is that of the model, or dataset, they add to."""
NAMES_FILES = ("files", "data")
"""Params in which a client names files that it uploaded: ``{name: digest}``."""
FILLED_IN = frozenset({*ROLES, "task", "datasets", "models", "stream"})
"""Params whose value comes from here, so that a schema cannot judge what the client wrote."""
ACTS_LATER = frozenset({EVALUATE, DEPLOY, SEARCH, RUN, *annotation_jobs.KINDS})
"""Kinds of job that do something on the terms of whoever submitted them, once they run."""

Promised = Callable[[str], bool]
"""Whether a metric will have been measured by the time a job runs."""

RUN_KEY = "run:"
"""How the idempotency keys of the jobs that are steps of runs begin."""


def named_param(error: LlmosError) -> str:
    """Return which of a job's params an error is about; empty where it names none."""
    return (error.param or "").removeprefix("params.").partition(".")[0]


def _check_key(key: str, run_id: int | None) -> None:
    if run_id is None and key.startswith(RUN_KEY):
        raise InvalidRequestError(
            f"an idempotency key that begins with {RUN_KEY!r} is for the steps of pipelines",
            param="idempotency_key",
        )


class Submitter:
    """Completes and checks jobs for actors, and queues them."""

    def __init__(
        self,
        jobs: JobQueue,
        library: Library,
        blobs: BlobStore,
        deployments: Deployments,
        feedback: FeedbackStore,
    ) -> None:
        self._jobs = jobs
        self._library = library
        self._blobs = blobs
        self._deployments = deployments
        self._inputs = TrainingInputs(library, blobs, feedback)
        self._rows = DatasetInputs(library, blobs, feedback)

    async def submit(
        self,
        actor: Actor,
        body: JobBody,
        *,
        run_id: int | None = None,
        idempotency_key: str | None = None,
        also: Callable[[Connection, Job], object] | None = None,
    ) -> Job:
        """Queue a job for an actor; returns it.

        Args:
            run_id: the pipeline run it is a step of.
            idempotency_key: an owner's second request with the same one gets the job of the first.
                Those that begin with ``run:`` are for the steps of runs.
            also: called in the transaction that makes the job; what it raises, undoes that.

        Raises:
            InvalidRequestError: the key cannot be one.
            PermissionDeniedError: the actor may not submit jobs, or none of this priority, or may
                not read a model that this one is made of, or not change what it would change.
            ConflictError: its name is not the actor's to add to, a job in ``after`` failed, or
                another request came with the same idempotency key.
            NotFoundError: a model, a job or an uploaded file that it names is not there.
            LlmosError: what the kind's schema, or the queue, refuses.
        """
        policy.check(actor, "jobs.write")
        priority = policy.priority_for(actor, body.priority)
        idempotency = None
        if idempotency_key is not None:
            _check_key(idempotency_key, run_id)
            request = body.model_dump(mode="json", exclude={"idempotency_key"})
            idempotency = Idempotency.of(idempotency_key, request)
            if known := await self._jobs.submitted(actor.owner, idempotency):
                return known
        promised = _all if body.after else _none  # a job before this one may measure anything
        params = dict(body.params)
        params = await self._completed(actor, body.kind, params, promised, begins=True, queues=True)
        return await self._jobs.submit(
            body.kind,
            params,
            owner=actor.owner,
            name=body.name,
            priority=priority,
            after=body.after,
            actor=actor.id,
            run_id=run_id,
            idempotency=idempotency,
            asker=actor.to_dict() if body.kind in ACTS_LATER else None,
            also=also,
        )

    async def check(
        self, actor: Actor, body: JobBody, promised: Promised, *, begins: bool = False
    ) -> None:
        """Raise what `submit` would, ``after`` not looked at; nothing is queued.

        Args:
            begins: whether it is to be submitted now; else it may have to wait for new data.
        """
        policy.check(actor, "jobs.write")
        policy.priority_for(actor, body.priority)
        kind = self._jobs.kind(body.kind)
        params = dict(body.params)
        params = await self._completed(actor, body.kind, params, promised, begins=begins)
        params = await asyncio.to_thread(kind.schema, params)
        check_sendable(body.name, params)
        self._jobs.estimate(kind, params)

    async def check_given(
        self, actor: Actor, kind: str, params: dict[str, Any], waiting: Collection[str]
    ) -> None:
        """Raise what is wrong with params of which some, named in ``waiting``, have no value yet.

        Of the schema's complaints only those that name one of the others count, so not every
        mistake is found.

        Raises:
            InvalidRequestError: there is no such kind, or its schema refuses one of the others.
            LlmosError: a model or a file that the others name is not there, or not the actor's to
                use.
        """
        schema = self._jobs.kind(kind).schema
        known = {key: value for key, value in params.items() if key not in waiting}
        fed = await self._inputs.lessons(actor, known) if kind in (TRAIN, SEARCH) else {}
        if kind == EVALUATE and "model" in known:
            fed = await self._evaluated(actor, known)
        try:
            schema(params | fed)
        except InvalidRequestError as error:
            if named_param(error) in known.keys() - FILLED_IN:
                raise
        if kind == TRAIN:
            await self._inputs.models(actor, known)
        elif kind == QUANTIZE and "model" in known:
            await self._quantized_base(actor, known)
        elif kind == DEPLOY and isinstance(model := known.get("model"), str):
            await readable(self._library, actor, model, "model")
        await self._keep_files(actor, known)
        if kind in MAKES_A_VERSION and isinstance(name := known.get("name"), str):
            await self._check_name(actor, name, _kind_made(kind, known))

    async def _completed(
        self,
        actor: Actor,
        kind: str,
        params: dict[str, Any],
        promised: Promised,
        *,
        begins: bool,
        queues: bool = False,
    ) -> dict[str, Any]:
        """Return the params with what the server fills in, once they are known to be the actor's
        to ask for. ``begins``: as `check`; ``queues``: the job is queued now."""
        await self._keep_files(actor, params)
        if kind == TRAIN:
            params |= await self._inputs.models(actor, params)
            params |= await self._inputs.lessons(actor, params, begins, queues)
        elif kind in MAY_MAKE_ADAPTERS:
            params = await self._adapted_base(actor, kind, params)
        elif kind == QUANTIZE:
            params |= await self._quantized_base(actor, params)
        elif kind == EVALUATE:
            params |= await self._evaluated(actor, params)
        elif kind == DEPLOY:
            check = deploying.check_now
            await asyncio.to_thread(check, self._deployments, params, actor, promised)
        elif kind in DATA_KINDS:
            wanted = await asyncio.to_thread(wanted_datasets, kind, params)
            params |= await datasets_for(self._library, actor, params, wanted)
            params |= await self._rows.sizes(kind, params)
            params |= await self._rows.said(actor, params, stores=queues)
            if kind == RUN:
                params |= await models_for(self._library, actor, params)
        elif kind in annotation_jobs.KINDS:
            params |= await annotation_jobs.inputs_of(self._library, actor, kind, params)
        elif kind == SEARCH:
            await self._inputs.models(actor, params)  # each trial has it filled in for itself
            params |= await self._inputs.lessons(actor, params, begins, queues)
        elif kind == BATCH:
            raise InvalidRequestError("POST /v1/batches makes the jobs of batches", param="kind")
        return await self._checked_target(actor, kind, params)

    async def _quantized_base(self, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"base": …}``, the version that a quantize request names.

        Raises:
            InvalidRequestError: there is no name, the request brings a base of its own, or the
                model cannot be quantised.
            ModelNotFoundError, InvalidNameError: there is no such model.
            PermissionDeniedError: the actor may not read it.
        """
        name = params.get("model")
        if not isinstance(name, str) or params.get("base") is not None:
            raise InvalidRequestError(
                "model must be the name of the model to quantise", param="model"
            )
        return {"base": quantize_base(await readable(self._library, actor, name, "model"))}

    async def _evaluated(self, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"model", "task"}`` of the version that an evaluate request names.

        Raises:
            InvalidRequestError: there is no name, or ``task`` is none of the model's.
            ModelNotFoundError, InvalidNameError: there is no such model.
            PermissionDeniedError: the actor may not read it.
        """
        name = params.get("model")
        if not isinstance(name, str):
            raise InvalidRequestError(
                "model must be the name of the model to evaluate", param="model"
            )
        version = await readable(self._library, actor, name, "model")
        return {"model": version.ref, "task": asked_of(version.manifest, params.get("task"))}

    async def _adapted_base(
        self, actor: Actor, kind: str, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the params of an import or pull, ``base`` turned from a name into what the job
        needs. An import of an adapter that names none finds it by the adapter's files.

        Raises:
            InvalidRequestError: ``base`` is not a name, or given with a whole model.
            ModelNotFoundError, InvalidNameError: there is no such model.
            PermissionDeniedError: the actor may not read it.
            LlmosError: what the job's schema raises.
        """
        wanted = params.get("base")
        if wanted is not None and not isinstance(wanted, str):
            raise InvalidRequestError("base must be the name of a model", param="base")
        others = {key: value for key, value in params.items() if key != "base"}
        given = params.get("files")
        is_adapter = isinstance(given, dict) and ADAPTER_FILE in given
        if wanted is None and not is_adapter:
            return others
        if kind == "import" and not is_adapter:
            raise InvalidRequestError("base is for adapters, and this is a model", param="base")
        files = check_import(others)["files"] if is_adapter else {}
        base = await asyncio.to_thread(find_base, self._library, self._blobs, files, wanted)
        policy.check(actor, "models.read", base.ref)
        return {**others, "base": base_params(base)}

    async def _checked_target(
        self, actor: Actor, kind: str, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Refuse, before it runs, a job that would end by adding to another owner's name.

        Returns the params; an import that may also make a quantised version makes none where the
        name of that is another's.

        Raises:
            PermissionDeniedError, ConflictError: the name is not the actor's to add to.
            LlmosError: what the kind's schema raises.
        """
        known = self._jobs.kinds.get(kind)
        if known is None or kind not in MAKES_A_VERSION:
            return params
        checked = await asyncio.to_thread(known.schema, params)
        name, dtype = checked.get("name"), checked.get("dtype", "auto")
        if not isinstance(name, str):
            policy.check(actor, "models.write")
            return params
        for one in checked.get("names", [name]):
            await self._check_name(actor, one, _kind_made(kind, checked))
        check = self._library.check_name
        if kind in MAY_MAKE_ADAPTERS and dtype != "stored":
            names = [variant_name(name, one) for one in DTYPES if dtype in ("auto", one)]
            try:
                for variant in names:
                    await asyncio.to_thread(check, variant, actor.owner, "model")
            except ConflictError:
                if dtype != "auto":
                    raise
                return params | {"dtype": "stored"}
        return params

    async def _check_name(self, actor: Actor, name: str, made: str | None) -> None:
        """Refuse a name that the actor may not add a version to.

        Args:
            made: the kind of what is to be added; None: only the work will tell.

        Raises:
            PermissionDeniedError: its key is for other actions or models.
            ConflictError: the name is another owner's, or of something else.
        """
        policy.check(actor, "datasets.write" if made == "dataset" else "models.write", name)
        await asyncio.to_thread(self._library.check_name, name, actor.owner, made)

    async def _keep_files(self, actor: Actor, params: dict[str, Any]) -> None:
        """Keep the files that a request names from being swept before the job reads them. What is
        no digest is for the kind's schema to refuse.

        Raises:
            NotFoundError: one was never uploaded by the actor, or is swept already.
        """
        for param in NAMES_FILES:
            given = params.get(param)
            files = given if isinstance(given, dict) else {}
            digests = {path: one for path, one in files.items() if is_digest(one)}
            kept = await self._library.blob_owners.keep(actor, digests.values())
            for path, digest in digests.items():
                if digest not in kept:
                    raise NotFoundError(
                        f"{path[:100]!r} was not uploaded by {actor.owner}: it has no blob "
                        f"{digest}.",
                        param=f"params.{param}",
                    )


def _kind_made(kind: str, params: dict[str, Any]) -> str | None:
    """Return the kind of artifact that a job makes; None: only the work will tell."""
    if kind in MAKES_DATASETS:
        return "dataset"
    if kind in (TRAIN, SEARCH) and makes_adapter(params):
        return "adapter"
    return "model" if kind in (TRAIN, SEARCH, QUANTIZE) else None


def _all(metric: str) -> bool:
    return True


def _none(metric: str) -> bool:
    return False
