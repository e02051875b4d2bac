"""Every request to a model passes here: one that names it goes straight through, of another the
model is chosen, and the next in line asked where one fails before anything was sent.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from llmos.errors import DeadlineExceededError, InvalidRequestError, LlmosError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.asking import served_for
from llmos.server.sse import EventStream
from llmos.tasks.plan import Plan, goes_on
from llmos.tasks.suitability import Need, expected_tokens, tokens_of
from llmos.types import Message, ToolUse

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

Explained = dict[str, Any] | None
"""Why this model answers; None where the request named it."""
Answering = Callable[["Served", Explained], Awaitable[Response]]
"""Answers with a model. May be called again with another, while nothing was sent."""

HEADER = "x-llmos-route"
MAX_SHOWN = 5
"""Candidates in the header; the native API's answers have all of them."""


class Routable(Protocol):
    """A request's body, as far as which model answers it goes."""

    model: str
    deadline_ms: int | None

    def constraints(self) -> dict[str, float | None]: ...


@dataclass(slots=True)
class Named:
    """The name alone, of a request that has no constraints."""

    model: str
    deadline_ms: int | None = None

    def constraints(self) -> dict[str, float | None]:
        """Return none."""
        return {}


def need_of(
    actor: Actor,
    constraints: Mapping[str, float | None],
    priority: str | None,
    prompt: Iterable[str | int | None],
    output_tokens: int = 0,
    **more: Any,
) -> Need:
    """Return what a request asks of whatever serves it.

    Args:
        constraints: its own, by name.
        priority: its class, as it says.
        prompt: its texts, or the ids of its tokens.
        more: other fields of `Need`.

    Raises:
        PermissionDeniedError: the actor may not ask for this class.
    """
    prompt_tokens = sum(
        1 if isinstance(part, int) else tokens_of(part) for part in prompt if part is not None
    )
    at = policy.priority_for(actor, priority)
    values: dict[str, Any] = {**constraints, **more}
    return Need(prompt_tokens, output_tokens, at, **values)


def chat_need(
    actor: Actor,
    constraints: Mapping[str, float | None],
    priority: str | None,
    messages: Iterable[Message],
    max_tokens: int | None,
    tool_use: ToolUse,
) -> Need:
    """Return what a conversation asks of whatever answers it. Raises as `need_of`."""
    return need_of(
        actor,
        constraints,
        priority,
        (turn.content for turn in messages),
        expected_tokens(max_tokens),
        is_chat=True,
        has_tools=bool(tool_use.tools) and tool_use.choice == "auto",
    )


async def answered(
    system: System,
    request: Request,
    actor: Actor,
    body: Routable,
    kinds: Collection[str],
    need: Callable[[], Need],
    answering: Answering,
) -> Response:
    """Answer a request with the model that it names, or with the best one for what it asks.

    Args:
        kinds: tasks whose models can serve it.
        need: tells what it asks for, where a model is to be chosen.

    Raises:
        LlmosError: as `served_for`, `Choosing.choose` and ``answering``.
    """
    name = body.model
    if system.choosing.may_choose(name):
        wanted = need()
        plan = await system.choosing.choose(actor, name, kinds, wanted)
        if plan is not None:
            attempts = _Attempts(system, request, actor, body, kinds)
            return await attempts.answer(plan, wanted, answering)
    for field, value in body.constraints().items():
        if value is not None:
            raise InvalidRequestError(
                f"{field} is for a choice between models, but {name[:100]!r} names one: ask for "
                "'auto', a task or a route, or leave it out.",
                param=field,
            )
    return await answering(await served_for(system.tasks, actor, name, kinds), None)


def head(served: Served, explained: Explained) -> dict[str, Any]:
    """Return which model answers, and why where it was chosen."""
    said = {"model": served.ref}
    return said if explained is None else {**said, "route": explained}


class _Attempts:
    """Asks the models of a plan, one after the other, until one answers."""

    def __init__(
        self,
        system: System,
        request: Request,
        actor: Actor,
        body: Routable,
        kinds: Collection[str],
    ) -> None:
        self._system = system
        self._request = request
        self._actor = actor
        self._body = body
        self._kinds = kinds
        self._deadline_ms = body.deadline_ms
        self._begun_at = time.monotonic()

    async def answer(self, plan: Plan, need: Need, answering: Answering) -> Response:
        """Return the first answer, or raise what the last model failed with."""
        failed: list[tuple[str, str]] = []
        for attempt, candidate in enumerate(plan.order):
            explained = plan.explained(attempt, failed)
            ended = functools.partial(self._system.choosing.ended, plan, attempt, need)
            try:
                response = await self._one(candidate.ref, explained, answering, ended)
            except LlmosError as error:
                is_last = attempt == len(plan.order) - 1
                if is_last or not goes_on(error):
                    raise
                failed.append((candidate.ref, error.code))
                self._shorten_deadline()
                continue
            response.headers[HEADER] = header(explained)
            return response
        raise AssertionError("a plan has at least one model")

    async def _one(
        self, ref: str, explained: Explained, answering: Answering, ended: Callable[..., None]
    ) -> Response:
        """Return one model's answer, a stream's once its first event is there."""
        begun_at = time.monotonic()
        try:
            served = await served_for(self._system.tasks, self._actor, ref, self._kinds)
            served = replace(served, asked=self._body.model)
            response = await answering(served, explained)
            if isinstance(response, EventStream):
                await response.begin(self._request.receive)
        except LlmosError as error:
            ended(error, time.monotonic() - begun_at)
            raise
        if isinstance(response, EventStream):
            response.on_end(lambda error: ended(error, time.monotonic() - begun_at))
        else:
            ended(None, time.monotonic() - begun_at)
        return response

    def _shorten_deadline(self) -> None:
        """Leave the next model what is left of the time. Raises DeadlineExceededError: nothing."""
        if self._deadline_ms is None:
            return
        left_ms = self._deadline_ms - math.ceil((time.monotonic() - self._begun_at) * 1000)
        if left_ms <= 0:
            raise DeadlineExceededError
        self._body.deadline_ms = left_ms


def header(explained: Mapping[str, Any]) -> str:
    """Return the short form of an explanation, in ASCII: per model its score, or what excluded
    it."""
    shown = sorted(explained["candidates"], key=lambda one: -one["score"])
    scores = {one["model"]: one["excluded"] or one["score"] for one in shown[:MAX_SHOWN]}
    short = {key: explained[key] for key in ("name", "rule", "model")} | {"candidates": scores}
    if explained["failed"]:
        short["failed"] = {one["model"]: one["code"] for one in explained["failed"][:MAX_SHOWN]}
    if len(shown) > MAX_SHOWN:
        short["more"] = len(shown) - MAX_SHOWN
    return json.dumps(short, separators=(",", ":"))
