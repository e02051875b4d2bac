"""Answers without the personal data in them: held back as far as that takes, piece by piece.

Texts and thoughts go out at the ends of sentences; JSON, and the arguments of a tool's call, when
all of it is there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from llmos.tasks.anonymise import Anonymiser, Counts, Held, told
from llmos.types import Anonymise, Chunk, GenerateRequest, ToolCallDelta

Kind = Literal["reasoning", "text"] | int | None
"""What a choice is at: thoughts, text, the tool call of this number, nothing yet."""
log = logging.getLogger("llmos.server")


async def hidden(
    anonymiser: Anonymiser, request: GenerateRequest, chunks: AsyncGenerator[Chunk, None]
) -> AsyncGenerator[Chunk, None]:
    """Yield an answer without its personal data, and without the ids of its tokens.

    Raises:
        AnonymiseError: it cannot be looked for; what was held back stays so.
        OverloadedError: too much of others waits.
    """
    assert request.anonymise is not None
    counts: Counts = Counter()
    choices = [
        _Choice(index, anonymiser, request, request.anonymise, counts) for index in range(request.n)
    ]
    try:
        async with aclosing(chunks) as stream:
            async for chunk in stream:
                async with aclosing(choices[chunk.index].push(chunk)) as pieces:
                    async for piece in pieces:
                        yield piece
    finally:
        anonymiser.counts.update({("answer", kind): num for kind, num in counts.items()})
        log.info("personal data hidden in the answer %s: %s", request.id, told(counts))


class _Choice:
    """One choice on its way out: stretches of thoughts, text and calls, each seen by itself."""

    def __init__(
        self,
        index: int,
        anonymiser: Anonymiser,
        request: GenerateRequest,
        how: Anonymise,
        counts: Counts,
    ) -> None:
        grammar = request.grammar
        self._index = index
        self._tools = frozenset(tool.name for tool in request.tool_use.tools)
        self._is_json = grammar is not None and grammar.kind in ("json_object", "json_schema")
        self._anonymiser, self._how, self._owner = anonymiser, how, request.owner
        self._counts = counts
        self._kind: Kind = None
        self._held = self._new_held()
        self._json = ""

    async def push(self, chunk: Chunk) -> AsyncGenerator[Chunk, None]:
        """Yield what can go out."""
        parts: list[tuple[Kind, str, ToolCallDelta | None]] = []
        parts += [("reasoning", chunk.reasoning, None)] if chunk.reasoning else []
        parts += [("text", chunk.text, None)] if chunk.text else []
        parts += [(delta.index, delta.arguments, delta) for delta in chunk.tool_calls]
        for kind, text, delta in parts:
            if kind != self._kind:
                if ended := await self._end():
                    yield ended
                self._kind = kind
            if delta is not None and delta.id is not None:
                begun = ToolCallDelta(delta.index, delta.id, await self._name(delta.name or ""))
                yield Chunk(self._index, tool_calls=(begun,))
            if kind == "reasoning" or (kind == "text" and not self._is_json):
                if out := self._piece(await self._held.push(text)):
                    yield out
            else:
                self._json += text
        if chunk.finish_reason is not None or chunk.usage is not None:
            if ended := await self._end():
                yield ended
            yield Chunk(self._index, finish_reason=chunk.finish_reason, usage=chunk.usage)

    async def _name(self, name: str) -> str:
        """Return what a tool is called: one that there is, as its request says; else, as a model
        may have made it up, without personal data."""
        if name in self._tools:
            return name
        return (await self._anonymiser.hide([name], self._how, self._owner, self._counts))[0]

    async def _end(self) -> Chunk | None:
        """Return the rest of the present stretch, which is complete."""
        if self._json:
            text, self._json = self._json, ""
            out = await self._anonymiser.hide_json(text, self._how, self._owner, self._counts)
        else:
            out = await self._held.end()
            self._held = self._new_held()
        return self._piece(out)

    def _piece(self, out: str) -> Chunk | None:
        if not out:
            return None
        if self._kind == "reasoning":
            return Chunk(self._index, reasoning=out)
        if isinstance(self._kind, int):
            return Chunk(self._index, tool_calls=(ToolCallDelta(self._kind, arguments=out),))
        return Chunk(self._index, out)

    def _new_held(self) -> Held:
        return Held(self._anonymiser, self._how, self._owner, self._counts)
