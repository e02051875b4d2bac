"""Keeping answers as they are given, and asking the same again of the same version."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from llmos import __version__
from llmos.errors import ConflictError
from llmos.library.answers import Answers, KeptAnswer, key_of
from llmos.types import Chunk, GenerateRequest, Message, Priority

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.tasks.context import Served, TaskContext

Outputs = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of asking again. ``first_difference`` is the first choice that differs and the
    token at which it does; None: there is none."""

    outputs: Outputs
    first_difference: tuple[int, int] | None

    @property
    def is_same(self) -> bool:
        return self.first_difference is None


async def keeping(
    context: TaskContext,
    kept: Answers,
    served: Served,
    request: GenerateRequest,
    chunks: AsyncGenerator[Chunk, None],
) -> AsyncGenerator[Chunk, None]:
    """Pass an answer through, and keep it before its last piece goes out."""
    outputs: Outputs = [
        {"token_ids": [], "finish_reason": None, "text": ""} for _ in range(request.n)
    ]
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            _add(outputs, chunk)
            outputs[chunk.index]["text"] += chunk.text
            if chunk.usage is not None:
                await kept.put(_answer(context, served, request, outputs, kept.now()))
            yield chunk


async def replay(served: Served, answer: KeptAnswer, chunks: AsyncGenerator[Chunk, None]) -> Replay:
    """Read what a version answers to the same question, and compare.

    Args:
        chunks: of `again`, asked of ``served`` and not kept.

    Raises:
        ConflictError: what runs for that version now computes otherwise.
    """
    if (served.digest, served.spec.name) != (answer.digest, answer.runs_as):
        await chunks.aclose()
        raise ConflictError(
            f"{answer.model} was answered by {answer.runs_as} and is run as {served.spec.name} "
            "now: it cannot be replayed bit for bit."
        )
    outputs: Outputs = [{"token_ids": [], "finish_reason": None} for _ in answer.outputs]
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            _add(outputs, chunk)
    return Replay(outputs, _difference(answer.outputs, outputs))


def again(answer: KeptAnswer, actor: Actor) -> GenerateRequest:
    """Return the same request, as one of its own, without a deadline and on the terms of the actor
    who asks again.

    Raises:
        ConflictError: personal data was hidden in the answer, of which no tokens were kept.
    """
    given = answer.request
    if (given.get("anonymise") or {}).get("answers"):
        raise ConflictError(
            "Personal data was hidden in this answer, so that its tokens were not kept: it cannot "
            "be replayed."
        )
    values = {
        field.name: msgspec.convert(given[field.name], field.type)
        for field in msgspec.structs.fields(GenerateRequest)
        if field.name in given and field.name != "prompt"
    }
    values |= {
        "id": f"{given['id'].partition('-')[0]}-{uuid.uuid4().hex}",
        "prompt": _prompt(given["prompt"]),
        "owner": actor.owner,
        "priority": Priority(max(values["priority"], actor.best_priority)),
        "deadline_ms": None,
    }
    return GenerateRequest(**values)


def _prompt(given: Any) -> tuple[Message, ...] | str | tuple[int, ...]:
    """Return a prompt that was written as JSON: a text, turns or token ids."""
    if isinstance(given, str):
        return given
    if given and isinstance(given[0], dict):
        return msgspec.convert(given, tuple[Message, ...])
    return tuple(given)


def _add(outputs: Outputs, chunk: Chunk) -> None:
    output = outputs[chunk.index]
    output["token_ids"] += chunk.token_ids
    output["finish_reason"] = chunk.finish_reason or output["finish_reason"]


def _answer(
    context: TaskContext, served: Served, request: GenerateRequest, outputs: Outputs, at: float
) -> KeptAnswer:
    if request.echo and isinstance(request.prompt, str):
        for output in outputs:
            output["text"] = output["text"].removeprefix(request.prompt)
    settings = context.settings
    return KeptAnswer(
        id=key_of(request.id),
        owner=request.owner,
        asked=served.asked,
        model=served.ref,
        digest=served.digest,
        runs_as=served.spec.name,
        request=msgspec.to_builtins(request),
        outputs=outputs,
        settings={"device": settings.device, "dtype": settings.dtype, "llmos": __version__},
        at=at,
    )


def _difference(before: Outputs, now: Outputs) -> tuple[int, int] | None:
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        old_ids, new_ids = list(old["token_ids"]), list(new["token_ids"])
        if old_ids != new_ids or old["finish_reason"] != new["finish_reason"]:
            pairs = zip(old_ids, new_ids, strict=False)
            same = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
            return index, min(len(old_ids), len(new_ids)) if same is None else same
    return None
