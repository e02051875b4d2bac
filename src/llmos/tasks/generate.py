"""A GenerateRequest to a stream of Chunks: prompt ids, a lease, n works, their text, one stream.

Closing the stream cancels the work in the engine.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from llmos.errors import EngineError, GrammarError, InvalidRequestError
from llmos.library.manifest import Manifest
from llmos.tasks.chat import check_tools, tool_format_of
from llmos.tasks.choices import Choice
from llmos.tasks.context import Lease, Served, TaskContext
from llmos.tasks.deadline import Deadline
from llmos.tasks.hidden_answers import hidden
from llmos.tasks.prompts import Prompt, check_queue, is_chat, prompt_of, shows_prompt_alone
from llmos.tasks.reasoning import ReasoningSplitter
from llmos.tasks.replay import keeping
from llmos.tasks.tool_grammar import tools_grammar
from llmos.tasks.tools import ToolParser
from llmos.types import (
    Chunk,
    GenerateRequest,
    GenerateWork,
    Grammar,
    SamplingParams,
    TokensOut,
    Usage,
)

GENERATE_TASKS = frozenset({"generate", "chat"})
_DEFAULTS = frozenset(SamplingParams.__struct_fields__)
_UNLIMITED_TOKENS = 2**31 - 1
_GRAMMAR_FIELDS = {
    "json_object": "response_format",
    "json_schema": "response_format",
    "regex": "regex",
    "choice": "choice",
    "lark": "grammar",
}
"""Kinds of grammar, and the fields of requests that they come from."""


def sampling_for(manifest: Manifest, given: Mapping[str, Any], *, is_chat: bool) -> SamplingParams:
    """Return what was given, completed by the model's generation defaults.

    Unset, ``max_tokens`` is the rest of the context for a chat and 256 for a completion; an unset
    seed is a fresh one.
    """
    values = {name: value for name, value in manifest.generation.items() if name in _DEFAULTS}
    values |= {name: value for name, value in given.items() if value is not None}
    if is_chat:
        values.setdefault("max_tokens", _UNLIMITED_TOKENS)
    seed = values.get("seed")
    values["seed"] = secrets.randbits(63) if seed is None else int(seed) % 2**63
    return msgspec.convert(values, SamplingParams)


def generate(
    context: TaskContext, served: Served, request: GenerateRequest, *, keep: bool = True
) -> AsyncGenerator[Chunk, None]:
    """Yield the pieces of every choice as they come; the last one carries the Usage.

    Nothing is yielded before everything about the request was checked.

    Args:
        keep: the answer is kept if its owner has that switched on.

    Raises:
        ContextLengthError: the prompt leaves no room in the model's context.
        InvalidRequestError: the prompt is empty or has ids outside the vocabulary, its turns do not
            follow from each other, or the grammar cannot be compiled.
        DeadlineExceededError: the request's deadline passed.
        OverloadedError, OutOfMemoryError, EngineError: the model cannot be run now.
        AnonymiseError: personal data in the answer cannot be looked for.
    """
    chunks = _generate(context, served, request)
    if request.anonymise is not None and request.anonymise.answers:
        chunks = hidden(context.anonymiser, request, chunks)
    if not keep or context.answers is None or not context.answers.keeps(request.owner):
        return chunks
    return keeping(context, context.answers, served, request, chunks)


async def _generate(
    context: TaskContext, served: Served, request: GenerateRequest
) -> AsyncGenerator[Chunk, None]:
    deadline = Deadline(request.deadline_ms)
    check_queue(context, [request])
    _check_bias(served, request)
    grammar, grammar_field = await _grammar(context, served, request)
    prompt = await prompt_of(context, served, request, is_constrained=grammar is not None)
    choices = [_choice(served, request, prompt, index) for index in range(request.n)]
    if shows_prompt_alone(request) and request.sampling.logprobs is None:
        for chunk in _echoed(served, prompt, choices):  # nothing is left for an engine to do
            yield chunk
        return
    work = _work(context, served, request, prompt, grammar)
    slides = _slides(served, request, grammar)
    async with context.residency.lease(
        served.spec,
        request.priority,
        deadline.left_s(),
        tenant=request.owner,
        num_works=request.n,
        ends_early=not slides,  # one that slides has more works than choices
    ) as lease:
        if request.echo and work.prompt_logprobs is None:
            text = served.tokenizer.decode(prompt.ids)
            for choice in choices:
                yield Chunk(index=choice.index, text=text)
        window_tokens = served.context_tokens if slides else None
        streams = [
            _chunks(
                _outs(
                    lease,
                    msgspec.structs.replace(work, choice=choice.index),
                    deadline,
                    window_tokens,
                ),
                choice,
                grammar_field,
            )
            for choice in choices
        ]
        num_unfinished = request.n
        async with aclosing(_merged(streams)) as chunks:
            async for chunk in chunks:
                num_unfinished -= chunk.finish_reason is not None
                yield chunk if num_unfinished else _with_usage(chunk, prompt, choices)


async def _grammar(
    context: TaskContext, served: Served, request: GenerateRequest
) -> tuple[Grammar | None, str]:
    """Return what the output must match, checked, and the field it comes from; a call that was
    asked for is a grammar too, and one that may come in place of an answer with a format is part of
    it."""
    grammar, tool_use = request.grammar, request.tool_use
    field = "tools" if grammar is None else _GRAMMAR_FIELDS[grammar.kind]
    if grammar is not None:
        await context.grammars.check(grammar, field, request.owner)
    if tool_use.choice == "none" or not tool_use.tools:
        return grammar, field
    check_tools(served, tool_use)
    if tool_use.choice == "auto" and grammar is None:
        return None, field
    form = tool_format_of(served)
    ids = {marker: served.tokenizer.token_id(marker) for marker in form.markers}
    known = {marker: i for marker, i in ids.items() if i is not None}
    calls = tools_grammar(tool_use, form.name, known, grammar)
    await context.grammars.check(calls, "tools", request.owner)
    return calls, "tools"


def _check_bias(served: Served, request: GenerateRequest) -> None:
    size = served.manifest.vocab_size or served.tokenizer.vocab_size
    wrong = next((i for i, _ in request.sampling.logit_bias if not 0 <= i < size), None)
    if wrong is not None:
        raise InvalidRequestError(
            f"logit_bias has the token id {wrong}, but {served.ref} has ids from 0 to {size - 1}.",
            param="logit_bias",
        )


def _work(
    context: TaskContext,
    served: Served,
    request: GenerateRequest,
    prompt: Prompt,
    grammar: Grammar | None,
) -> GenerateWork:
    """Return the work of the first choice; the others differ in their number alone."""
    sampling, room_tokens = request.sampling, served.context_tokens - len(prompt.ids)
    if _slides(served, request, grammar):
        room_tokens = sampling.max_tokens
    shows_prompt = request.echo and sampling.logprobs is not None
    return GenerateWork(
        prompt_ids=prompt.ids,
        sampling=msgspec.structs.replace(
            sampling,
            max_tokens=max(1, min(sampling.max_tokens, room_tokens)),
            # the end token's log-probability is shown as well: `Choice` ends at it itself
            ignore_eos=sampling.ignore_eos or (shows_prompt and grammar is None),
        ),
        eos_ids=tuple(served.manifest.eos_ids),
        priority=request.priority,
        tenant=request.owner,
        cache_salt=context.cache_salt(request.owner),
        grammar=grammar,
        prompt_logprobs=sampling.logprobs if shows_prompt else None,
        # where `Choice` may end it before the engine does, it has to see the tokens as they come
        is_whole=request.is_whole and not (request.stop or request.tool_use.tools or request.echo),
    )


def _slides(served: Served, request: GenerateRequest, grammar: Grammar | None) -> bool:
    """Whether the answer may go on beyond the context; within a grammar it cannot."""
    is_limited = request.sampling.max_tokens < _UNLIMITED_TOKENS
    return bool(served.manifest.generation.get("slide")) and is_limited and grammar is None


def _choice(served: Served, request: GenerateRequest, prompt: Prompt, index: int) -> Choice:
    sampling, tokenizer = request.sampling, served.tokenizer
    shows_prompt = request.echo and sampling.logprobs is not None
    reasoning = prompt.reasoning
    tools = _tool_parser(served, request)
    markers = {reasoning.opens, reasoning.closes} if reasoning else set()
    if tools is not None:
        markers |= tool_format_of(served).markers
    ids = (tokenizer.token_id(marker) for marker in markers)
    return Choice(
        index,
        tokenizer,
        stops=request.stop,
        eos_ids=() if sampling.ignore_eos else served.manifest.eos_ids,
        context_ids=() if is_chat(request) else prompt.ids,
        with_logprobs=sampling.logprobs is not None,
        echo_ids=prompt.ids if shows_prompt else (),
        shows_output=sampling.max_tokens > 0,
        reasoning=None
        if reasoning is None
        else ReasoningSplitter(reasoning, is_open=prompt.is_reasoning_open),
        tools=tools,
        visible_ids=frozenset(i for i in ids if i is not None and tokenizer.is_special(i)),
    )


def _tool_parser(served: Served, request: GenerateRequest) -> ToolParser | None:
    tool_use = request.tool_use
    if not is_chat(request) or not tool_use.tools or tool_use.choice == "none":
        return None
    return ToolParser(
        tool_format_of(served),
        [tool.name for tool in tool_use.tools],
        eager=request.stream,
        is_parallel=tool_use.parallel and tool_use.choice in ("auto", "required"),
        is_constrained=tool_use.choice != "auto",
        has_format=request.grammar is not None,
    )


def _echoed(served: Served, prompt: Prompt, choices: Sequence[Choice]) -> list[Chunk]:
    """Return the prompt alone, once for every choice."""
    text = served.tokenizer.decode(prompt.ids)
    chunks = [Chunk(choice.index, text, finish_reason="length") for choice in choices]
    return [*chunks[:-1], _with_usage(chunks[-1], prompt, choices)]


def _with_usage(chunk: Chunk, prompt: Prompt, choices: Sequence[Choice]) -> Chunk:
    usage = Usage(
        len(prompt.ids),
        sum(choice.num_tokens for choice in choices),
        choices[0].num_cached,
        sum(choice.num_reasoning for choice in choices),
    )
    return msgspec.structs.replace(chunk, usage=usage)


async def _outs(
    lease: Lease, work: GenerateWork, deadline: Deadline, window_tokens: int | None
) -> AsyncGenerator[TokensOut, None]:
    """Yield what the engine makes of one work.

    Args:
        window_tokens: the context, for a model whose defaults say ``slide``: where more tokens are
            wanted than it has room for, the engine goes on from the last half of each full one.
    """
    wanted_tokens = work.sampling.max_tokens
    while True:
        room_tokens = wanted_tokens
        if window_tokens is not None:
            room_tokens = min(wanted_tokens, window_tokens - len(work.prompt_ids))
        sampling = msgspec.structs.replace(work.sampling, max_tokens=room_tokens)
        ids = list(work.prompt_ids)
        window = msgspec.structs.replace(work, sampling=sampling, deadline_s=deadline.left_s())
        is_full = False
        async with aclosing(lease.generate(window)) as outs:
            async for out in outs:
                ids += (piece.token_id for piece in out.pieces)
                wanted_tokens -= len(out.pieces)
                is_full = out.finish_reason == "length" and wanted_tokens > 0
                is_full = is_full and window_tokens is not None
                yield msgspec.structs.replace(out, finish_reason=None) if is_full else out
        if not is_full or window_tokens is None:
            return
        seed = (work.sampling.seed + 1) % 2**63  # else each context would draw the same numbers
        work = msgspec.structs.replace(
            work,
            prompt_ids=tuple(ids[-(window_tokens // 2) :]),
            prompt_logprobs=None,
            sampling=msgspec.structs.replace(work.sampling, seed=seed),
        )


async def _chunks(
    outs: AsyncGenerator[TokensOut, None], choice: Choice, grammar_field: str
) -> AsyncGenerator[Chunk, None]:
    """Yield one choice's chunks; ends with the one that has a finish_reason."""
    try:
        async with aclosing(outs):
            async for out in outs:
                chunk = choice.push(out)
                if chunk is not None:
                    yield chunk
                if choice.finish_reason is not None:
                    return
    except GrammarError as error:  # it passed the check, and met a limit as it was followed
        raise GrammarError(error.message, param=grammar_field) from error
    raise EngineError("The engine ended an answer without saying why: try again.")


def _merged(streams: Sequence[AsyncGenerator[Chunk, None]]) -> AsyncGenerator[Chunk, None]:
    """Return the chunks of all streams as they come; the first error ends them all."""
    return streams[0] if len(streams) == 1 else _side_by_side(streams)


async def _side_by_side(
    streams: Sequence[AsyncGenerator[Chunk, None]],
) -> AsyncGenerator[Chunk, None]:
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while waiting:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for done in [task for task in waiting if task.done()]:
                stream = waiting.pop(done)
                try:
                    chunk = done.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(stream))] = stream
                yield chunk
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def generate_all(
    context: TaskContext, served: Served, requests: Sequence[GenerateRequest]
) -> AsyncGenerator[Chunk, None]:
    """Return the chunks of several prompts as one: choices go on counting, usage is summed."""
    if len(requests) == 1:
        return generate(context, served, requests[0])
    return _generate_several(context, served, requests)


async def _generate_several(
    context: TaskContext, served: Served, requests: Sequence[GenerateRequest]
) -> AsyncGenerator[Chunk, None]:
    check_queue(context, requests)
    first_index = 0
    streams = []
    for request in requests:
        streams.append(_renumbered(generate(context, served, request), first_index))
        first_index += request.n
    total, num_unfinished = Usage(0, 0), len(requests)
    async with aclosing(_merged(streams)) as chunks:
        async for chunk in chunks:
            if chunk.usage is None:
                yield chunk
                continue
            num_unfinished -= 1
            total = _sum(total, chunk.usage)
            usage = None if num_unfinished else total
            yield msgspec.structs.replace(chunk, usage=usage)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
    )


async def _renumbered(
    chunks: AsyncGenerator[Chunk, None], first_index: int
) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            yield msgspec.structs.replace(chunk, index=first_index + chunk.index)
