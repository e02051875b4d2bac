"""From a request's fields to the tasks: who may use which model, and answers as plain values.

Both doors (OpenAI's and the native one) end here.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmos.security import policy
from llmos.server.access import priority_for
from llmos.tasks.generate import sampling_for
from llmos.types import Chunk, FinishReason, GenerateRequest, Message, TokenLogprob, Usage

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.tasks.context import Served, TaskContext

Prompt = tuple[Message, ...] | str | tuple[int, ...]


@dataclass(slots=True)
class Answer:
    """One choice, complete."""

    index: int
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


async def served_for(tasks: TaskContext, actor: Actor, ref: str, kinds: Collection[str]) -> Served:
    """Return the model, if this actor may use it. Raises as ``TaskContext.serve`` does."""
    served = await tasks.serve(ref, kinds)
    policy.check(actor, "generate", served.version.full_name)
    return served


def generate_request(
    served: Served,
    actor: Actor,
    prompt: Prompt,
    sampling: Mapping[str, Any],
    *,
    id_prefix: str = "gen",
    stop: str | Sequence[str] | None = None,
    n: int = 1,
    echo: bool = False,
    priority: str | None = None,
) -> GenerateRequest:
    """Return the one request type; unset sampling fields become the model's defaults."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    is_chat = bool(prompt) and isinstance(prompt[0], Message)
    return GenerateRequest(
        id=f"{id_prefix}-{uuid.uuid4().hex}",
        model=served.ref,
        prompt=prompt,
        sampling=sampling_for(served.manifest, sampling, is_chat=is_chat),
        stop=stops,
        n=n,
        echo=echo,
        priority=priority_for(actor, priority),
        owner=actor.owner,
    )


async def collect(
    chunks: AsyncGenerator[Chunk, None], num_choices: int
) -> tuple[list[Answer], Usage]:
    """Read a whole stream; returns its choices by index, and the usage."""
    answers = [Answer(index) for index in range(num_choices)]
    usage = Usage(0, 0)
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            answer = answers[chunk.index]
            answer.text += chunk.text
            answer.logprobs += chunk.logprobs
            answer.finish_reason = chunk.finish_reason or answer.finish_reason
            usage = chunk.usage or usage
    return answers, usage
