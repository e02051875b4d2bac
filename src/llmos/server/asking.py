"""From a request's fields to the tasks: who may use which model, and answers as plain values.

All doors (OpenAI's, Ollama's and the native one) end here.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.errors import InvalidRequestError, ModelNotFoundError
from llmos.security import policy
from llmos.tasks.generate import sampling_for
from llmos.types import (
    Chunk,
    FinishReason,
    GenerateRequest,
    Grammar,
    Message,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolUse,
    Usage,
)

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.tasks.context import Served, TaskContext

Prompt = tuple[Message, ...] | str | tuple[int, ...]


@dataclass(slots=True)
class Answer:
    """One choice, complete."""

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, chunk: Chunk) -> None:
        """Take one piece of this choice."""
        self.text += chunk.text
        self.reasoning += chunk.reasoning
        self.logprobs += chunk.logprobs
        self.finish_reason = chunk.finish_reason or self.finish_reason
        for delta in chunk.tool_calls:
            self._add_call(delta)

    def _add_call(self, delta: ToolCallDelta) -> None:
        if delta.index == len(self.tool_calls):
            self.tool_calls.append(ToolCall(delta.id or "", delta.name or "", ""))
        call = self.tool_calls[delta.index]
        arguments = call.arguments + delta.arguments
        self.tool_calls[delta.index] = msgspec.structs.replace(call, arguments=arguments)


async def served_for(tasks: TaskContext, actor: Actor, ref: str, kinds: Collection[str]) -> Served:
    """Return the model, if this actor may use it. Raises as ``TaskContext.serve`` does."""
    try:
        served = await tasks.serve(ref, kinds)
    except ModelNotFoundError as error:
        error.param = "model"
        raise
    for name in served.names:
        policy.check(actor, "generate", name)
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
    deadline_ms: int | None = None,
    grammar: Grammar | None = None,
    tool_use: ToolUse = ToolUse(),
    template_options: Mapping[str, Any] | None = None,
    stream: bool = False,
    is_whole: bool = False,
) -> GenerateRequest:
    """Return the one request type; unset sampling fields become the model's defaults.

    Args:
        template_options: more variables of the chat template, such as ``enable_thinking``.
        stream: whether the client sees pieces as they come.
        is_whole: whether it sees nothing before all of the answer, which costs the server less.

    Raises:
        PermissionDeniedError: the actor may not ask for this class.
        InvalidRequestError: log-probabilities are asked for where answers are anonymised.
    """
    hides_answers = actor.anonymise is not None and actor.anonymise.answers
    if hides_answers and sampling.get("logprobs") is not None:
        raise InvalidRequestError(
            "Log-probabilities tell the tokens of an answer in which personal data is hidden: "
            "leave them out.",
            param="logprobs",
        )
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
        priority=policy.priority_for(actor, priority),
        owner=actor.owner,
        grammar=grammar,
        tool_use=tool_use,
        deadline_ms=deadline_ms,
        template_options=dict(template_options or {}),
        stream=stream,
        is_whole=is_whole,
        anonymise=actor.anonymise,
    )


async def collect(
    chunks: AsyncGenerator[Chunk, None], num_choices: int
) -> tuple[list[Answer], Usage]:
    """Read a whole stream; returns its choices by index, and the usage."""
    answers = [Answer(index) for index in range(num_choices)]
    usage = Usage(0, 0)
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            answers[chunk.index].add(chunk)
            usage = chunk.usage or usage
    return answers, usage
