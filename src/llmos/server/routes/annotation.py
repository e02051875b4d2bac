"""Labelling tasks: made, worked on by their annotators, reviewed, and made datasets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from llmos.apps import annotation_reading as reading
from llmos.apps.annotation_jobs import EXPORT, FILL, SUGGEST
from llmos.apps.annotation_rows import Item, NewTask, Said, Task
from llmos.data.annotation.scheme import order_of, scheme_of
from llmos.data.pipeline.record import ID, META
from llmos.errors import InvalidRequestError, PermissionDeniedError
from llmos.kernel.job_rows import MAX_ID
from llmos.sdk.annotation_wire import (
    AnnotationBody,
    AnnotationChangeBody,
    ConsentBody,
    ExportBody,
    FinalBody,
    ItemsBody,
    LabelBody,
    SuggestBody,
    SuggestionsBody,
)
from llmos.sdk.wire import JobBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.routes.jobs import job_json

if TYPE_CHECKING:
    from llmos.system import System

TASKS = "/annotation/tasks"
MAX_LIMIT = 1000
Number = Annotated[int, Path(ge=1, le=MAX_ID)]
After = Annotated[int, Query(ge=-1, le=MAX_ID)]
Limit = Annotated[int, Query(ge=1, le=reading.PAGE_ITEMS)]
Reader = Annotated[Actor, allow("annotation.read")]
Writer = Annotated[Actor, allow("annotation.write")]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["annotation"], route_class=BodyRoute)
    for part in (_tasks, _annotators, _reviewers, _jobs):
        part(routes, system)
    return routes


def _tasks(routes: APIRouter, system: System) -> None:
    """Add what makes, tells of, changes and removes tasks."""
    store = system.annotation

    async def told(task: Task, actor: Actor) -> dict[str, Any]:
        if not task.is_run_by(actor):
            return task_json(task, actor) | {"own": await store.own(actor, task.id)}
        own = {"own": await store.own(actor, task.id)} if task.is_labelled_by(actor) else {}
        progress = await store.ask(actor, task.id, reading.progress)
        return task_json(task, actor) | {"progress": progress} | own

    @routes.post(TASKS, status_code=201)
    async def create_task(body: AnnotationBody, actor: Writer) -> JSONResponse:
        """Have rows of a dataset labelled; a job reads them, and then items are given out."""
        version = await asyncio.to_thread(system.library.resolve, body.dataset, "dataset")
        policy.check(actor, "datasets.read", version.ref, owner=version.owner)
        scheme = scheme_of(body.scheme())
        fields = [name for name in version.manifest["schema"] if name not in (ID, META)]
        if missing := [name for name in scheme.shown if name not in fields]:
            raise InvalidRequestError(
                f"{version.ref} has no field {missing[0]!r}, only {', '.join(fields)}",
                param="fields",
            )
        new = NewTask(
            body.name,
            version.ref,
            scheme,
            body.instructions,
            body.consent,
            body.overlap,
            tuple(dict.fromkeys(body.annotators)),
            body.order,
            body.lease_s,
        )
        task = await store.create(actor, new)
        params = {"annotation": task.id, "dataset": version.ref}
        params |= {"rows": body.rows, "seed": body.seed}
        try:
            job = await system.submitter.submit(
                actor,
                JobBody(kind=FILL, name=body.name, params=params),
                also=store.filled_by(task),
            )
        except BaseException:  # without its job it would wait for ever
            await store.remove(actor, task.id)
            raise
        values = task_json(await store.get(actor, task.id), actor)
        return JSONResponse(values | {"job": job_json(job)}, status_code=201)

    @routes.get(TASKS)
    async def list_tasks(actor: Reader) -> JSONResponse:
        """The tasks that one runs or annotates, the newest first."""
        found = await store.visible(actor)
        return JSONResponse({"data": [task_json(task, actor) for task in found]})

    @routes.get(f"{TASKS}/{{number}}")
    async def read_task(number: Number, actor: Reader) -> JSONResponse:
        """One task, with how far it is: to who runs it all of it, to an annotator its own part."""
        return JSONResponse(await told(await store.get(actor, number), actor))

    @routes.patch(f"{TASKS}/{{number}}")
    async def change_task(
        number: Number, body: AnnotationChangeBody, actor: Writer
    ) -> JSONResponse:
        """Change who annotates it, what they are told, or whether items are given out."""
        task = await store.change(actor, number, **body.model_dump())
        return JSONResponse(task_json(task, actor))

    @routes.delete(f"{TASKS}/{{number}}")
    async def remove_task(number: Number, actor: Writer) -> JSONResponse:
        """Remove a task with all its labels; datasets made of them stay."""
        return JSONResponse(task_json(await store.remove(actor, number), actor))


def _annotators(routes: APIRouter, system: System) -> None:
    """Add what annotators do."""
    store = system.annotation

    @routes.post(f"{TASKS}/{{number}}/consent")
    async def consent(number: Number, body: ConsentBody, actor: Writer) -> JSONResponse:
        """Agree to what the task asks annotators to; or agree no more: then one's labels there
        count no more, and one's items are others' again."""
        await store.consent(actor, number, body.agree)
        return JSONResponse(await store.own(actor, number))

    @routes.post(f"{TASKS}/{{number}}/next")
    async def next_item(number: Number, actor: Writer) -> JSONResponse:
        """An item to label, one's own for a while; the one that was given before, if it was not
        answered. Null: there is none for oneself now."""
        turn = await store.next(actor, number)
        if turn is None:
            return JSONResponse({"item": None})
        task = await store.get(actor, number)
        item = {**item_json(task, turn.item), "leased_until": turn.leased_until}
        return JSONResponse({"item": item})

    @routes.post(f"{TASKS}/{{number}}/labels")
    async def label_item(number: Number, body: LabelBody, actor: Writer) -> JSONResponse:
        """Label an item that one was given, or skip it; once more to change that."""
        said = Said(body.value, body.skip, body.flag)
        return JSONResponse(label_json(await store.label(actor, number, body.place, said)))

    @routes.get(f"{TASKS}/{{number}}/labels")
    async def list_labels(
        number: Number,
        actor: Reader,
        before: Annotated[int, Query(ge=1, le=MAX_ID)] = MAX_ID,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    ) -> JSONResponse:
        """Labels, all there ever were, the newest first: one's own, or all of a task one runs."""
        found = await store.history(actor, number, before, limit)
        return JSONResponse({"data": found})


def _reviewers(routes: APIRouter, system: System) -> None:
    """Add what those do who run a task."""
    store = system.annotation

    @routes.get(f"{TASKS}/{{number}}/items")
    async def list_items(
        number: Number, actor: Reader, after: After = -1, limit: Limit = reading.PAGE_ITEMS
    ) -> JSONResponse:
        """The items in the order of the dataset, from behind a place."""
        found = await store.ask(
            actor, number, lambda conn, task: reading.items_from(conn, task, after, limit)
        )
        return JSONResponse({"data": found})

    @routes.get(f"{TASKS}/{{number}}/labelled")
    async def list_labelled(
        number: Number,
        actor: Reader,
        after: After = -1,
        limit: Limit = reading.PAGE_ITEMS,
        upto: Annotated[int, Query(ge=0, le=MAX_ID)] = MAX_ID,
    ) -> JSONResponse:
        """Items that have labels, with everyone's newest and the reviewer's, from behind a place;
        ``upto``: labels with higher numbers are not looked at."""
        found = await store.ask(
            actor, number, lambda conn, task: reading.labelled(conn, task, after, limit, upto)
        )
        return JSONResponse({"data": found})

    @routes.get(f"{TASKS}/{{number}}/review")
    async def list_reviews(
        number: Number,
        actor: Reader,
        after: After = -1,
        limit: Limit = 20,
        undecided: bool = False,
    ) -> JSONResponse:
        """Items that want a reviewer: flagged, or with all their labels and these differ;
        ``undecided``: without those that most agree on. ``next`` is the place to go on behind."""
        found, place = await store.ask(
            actor,
            number,
            lambda conn, task: reading.review(conn, task, after, limit, undecided),
        )
        return JSONResponse({"data": found, "next": place})

    @routes.post(f"{TASKS}/{{number}}/final")
    async def decide_item(number: Number, body: FinalBody, actor: Writer) -> JSONResponse:
        """Decide an item as its reviewer, whatever annotators said."""
        label = await store.decide(actor, number, body.place, body.value)
        return JSONResponse(label_json(label))

    @routes.get(f"{TASKS}/{{number}}/agreement")
    async def read_agreement(number: Number, actor: Reader) -> JSONResponse:
        """How far annotators agree: Cohen's and Fleiss' kappa, Krippendorff's alpha; of spans
        F1."""
        return JSONResponse(await store.agreement(actor, number))


def _jobs(routes: APIRouter, system: System) -> None:
    """Add what starts jobs, and what these send."""
    store = system.annotation

    async def submitted(actor: Actor, kind: str, name: str, params: dict[str, Any]) -> JSONResponse:
        body = JobBody(kind=kind, name=name, params=params)
        return JSONResponse(job_json(await system.submitter.submit(actor, body)), status_code=202)

    @routes.post(f"{TASKS}/{{number}}/suggest", status_code=202)
    async def suggest_labels(number: Number, body: SuggestBody, actor: Writer) -> JSONResponse:
        """Start having a model label the items first; annotators see that as a suggestion."""
        task = await store.run_by(actor, number)
        params = {"annotation": number, "model": body.model}
        return await submitted(actor, SUGGEST, task.name, params)

    @routes.post(f"{TASKS}/{{number}}/export", status_code=202)
    async def export_labels(number: Number, body: ExportBody, actor: Writer) -> JSONResponse:
        """Start making a dataset of what was decided up to now; all labels come with it as a
        table."""
        task = await store.run_by(actor, number)
        upto = await store.ask(actor, number, reading.newest_label)
        params = {"annotation": number, "dataset": task.dataset, "upto": upto}
        return await submitted(actor, EXPORT, body.name, params | body.model_dump())

    @routes.post(f"{TASKS}/{{number}}/items")
    async def add_items(
        number: Number, body: ItemsBody, request: Request, actor: Writer
    ) -> JSONResponse:
        """Items that the task's own job has read; nobody else can add any."""
        _check_own(request)
        rows = [(Item(one.place, one.row, dict(one.shown)), one.rank) for one in body.items]
        if rows:
            await store.add_items(actor, number, rows)
        if body.done:
            left_out = {why: int(str(count)) for why, count in body.left_out.items()}
            await store.open(actor, number, left_out)
        return JSONResponse({"items": len(rows)})

    @routes.post(f"{TASKS}/{{number}}/suggestions")
    async def add_suggestions(
        number: Number, body: SuggestionsBody, request: Request, actor: Writer
    ) -> JSONResponse:
        """What a model said that the task's own job has asked; nobody else can add any."""
        _check_own(request)
        suggestions = [one.model_dump() for one in body.suggestions]
        await store.suggest(actor, number, body.model, suggestions)
        return JSONResponse({"suggestions": len(suggestions)})


def task_json(task: Task, actor: Actor) -> dict[str, Any]:
    """Return a task as clients see it; annotators do not see who else there is, nor what the rows
    are of."""
    values = {
        "id": task.id,
        "name": task.name,
        "scheme": task.scheme.to_dict(),
        "instructions": task.instructions,
        "consent": task.consent,
        "state": task.state,
        "owner": task.owner,
        "created_at": task.created_at,
    }
    if not task.is_run_by(actor):
        return values
    names = ("dataset", "overlap", "order", "lease_s", "left_out", "job_id")
    told = {name: getattr(task, name) for name in names}
    return {**values, **told, "annotators": list(task.annotators)}


def item_json(task: Task, item: Item) -> dict[str, Any]:
    """Return an item as annotators see it, what is shown in the order in which it is to be."""
    scheme = task.scheme
    order = order_of(scheme.kind, scheme.fields, task.id, item.place)
    asked = [name for name in scheme.shown if name not in order]
    shown = {name: item.shown[name] for name in (*asked, *order)}
    told = {"place": item.place, "shown": shown, "order": order}
    if item.suggested_by is None:
        return {**told, "suggestion": None}
    suggestion = {"value": item.suggestion, "model": item.suggested_by}
    return {**told, "suggestion": {**suggestion, "confidence": item.confidence}}


def label_json(label: dict[str, Any]) -> dict[str, Any]:
    """Return a label as clients see it."""
    hidden = ("owner", "size_bytes", "task_id")
    return {name: value for name, value in label.items() if name not in hidden}


def _check_own(request: Request) -> None:
    if not getattr(request.state, "is_own", False):
        raise PermissionDeniedError("only a job of the task's own adds to it")
