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

from llmos.errors import ContextLengthError, EngineError, InvalidRequestError
from llmos.library.manifest import Manifest
from llmos.tasks.chat import chat_ids
from llmos.tasks.choices import Choice
from llmos.tasks.context import Lease, Served, TaskContext
from llmos.types import (
    Chunk,
    GenerateRequest,
    GenerateWork,
    Message,
    SamplingParams,
    TokensOut,
    Usage,
)

GENERATE_TASKS = frozenset({"generate", "chat"})
_DEFAULTS = frozenset(SamplingParams.__struct_fields__)
_UNLIMITED_TOKENS = 2**31 - 1


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


async def generate(
    context: TaskContext, served: Served, request: GenerateRequest
) -> AsyncGenerator[Chunk, None]:
    """Yield the pieces of every choice as they come; the last one carries the Usage.

    Raises:
        ContextLengthError: the prompt leaves no room in the model's context.
        InvalidRequestError: the prompt is empty or has ids outside the vocabulary.
        OverloadedError, OutOfMemoryError, EngineError: the model cannot be run now.
    """
    prompt_ids = await _prompt_ids(context, served, request)
    room_tokens = served.context_tokens - len(prompt_ids)
    if room_tokens < 1:
        raise ContextLengthError(
            f"The prompt has {len(prompt_ids)} tokens, but the context of {served.ref} holds "
            f"{served.context_tokens}, the answer included: shorten the prompt.",
            param="prompt" if isinstance(request.prompt, str) else "messages",
        )
    sampling = request.sampling
    slides = served.manifest.generation.get("slide") and sampling.max_tokens < _UNLIMITED_TOKENS
    if not slides:
        max_tokens = min(sampling.max_tokens, room_tokens)
        sampling = msgspec.structs.replace(sampling, max_tokens=max_tokens)
    works = [
        GenerateWork(
            prompt_ids=prompt_ids,
            sampling=sampling,
            choice=index,
            eos_ids=tuple(served.manifest.eos_ids),
            priority=request.priority,
        )
        for index in range(request.n)
    ]
    choices = [_choice(served, request, prompt_ids, index) for index in range(request.n)]
    async with context.residency.lease(served.spec, request.priority) as lease:
        if request.echo:
            text = served.tokenizer.decode(prompt_ids)
            for index in range(request.n):
                yield Chunk(index=index, text=text)
        streams = [
            _chunks(_outs(lease, work, served.context_tokens), choice)
            for work, choice in zip(works, choices, strict=True)
        ]
        num_unfinished = request.n
        async with aclosing(_merged(streams)) as chunks:
            async for chunk in chunks:
                num_unfinished -= chunk.finish_reason is not None
                yield chunk if num_unfinished else _with_usage(chunk, len(prompt_ids), choices)


async def _prompt_ids(
    context: TaskContext, served: Served, request: GenerateRequest
) -> tuple[int, ...]:
    prompt = request.prompt
    if isinstance(prompt, str):
        ids = (await served.tokenizer.encode(prompt)).ids
        bos = served.tokenizer.token_id(served.manifest.special_tokens.get("bos", ""))
        ids = ids or ((bos,) if bos is not None else ())
    elif prompt and isinstance(prompt[0], Message):
        ids = await chat_ids(context, served, [m for m in prompt if isinstance(m, Message)])
    else:
        ids = tuple(i for i in prompt if isinstance(i, int))
        _check_ids(ids, served)
    if not ids:
        raise InvalidRequestError(
            "The prompt is empty, and this model has no token to begin a text with: give it some.",
            param="prompt",
        )
    return ids


def _check_ids(ids: Sequence[int], served: Served) -> None:
    size = served.manifest.vocab_size or served.tokenizer.vocab_size
    if wrong := next((i for i in ids if not 0 <= i < size), None):
        raise InvalidRequestError(
            f"The prompt has the token id {wrong}, but {served.ref} has ids from 0 to {size - 1}.",
            param="prompt",
        )


def _choice(
    served: Served, request: GenerateRequest, prompt_ids: tuple[int, ...], index: int
) -> Choice:
    continues_text = not (request.prompt and isinstance(request.prompt[0], Message))
    return Choice(
        index,
        served.tokenizer,
        stops=request.stop,
        eos_ids=() if request.sampling.ignore_eos else served.manifest.eos_ids,
        context_ids=prompt_ids if continues_text else (),
        with_logprobs=request.sampling.logprobs is not None,
    )


def _with_usage(chunk: Chunk, prompt_tokens: int, choices: Sequence[Choice]) -> Chunk:
    usage = Usage(prompt_tokens, sum(choice.num_tokens for choice in choices))
    return msgspec.structs.replace(chunk, usage=usage)


async def _outs(
    lease: Lease, work: GenerateWork, context_tokens: int
) -> AsyncGenerator[TokensOut, None]:
    """Yield what the engine makes of one work.

    Where more tokens are wanted than the context has room for (a model whose defaults say
    ``slide``), the engine goes on from the last half of each full context.
    """
    wanted_tokens = work.sampling.max_tokens
    while True:
        room_tokens = min(wanted_tokens, context_tokens - len(work.prompt_ids))
        sampling = msgspec.structs.replace(work.sampling, max_tokens=room_tokens)
        ids = list(work.prompt_ids)
        is_full = False
        window = msgspec.structs.replace(work, sampling=sampling)
        async with aclosing(lease.generate(window)) as outs:
            async for out in outs:
                ids += (piece.token_id for piece in out.pieces)
                wanted_tokens -= len(out.pieces)
                is_full = out.finish_reason == "length" and wanted_tokens > 0
                yield msgspec.structs.replace(out, finish_reason=None) if is_full else out
        if not is_full:
            return
        seed = (work.sampling.seed + 1) % 2**63  # else each context would draw the same numbers
        work = msgspec.structs.replace(
            work,
            prompt_ids=tuple(ids[-(context_tokens // 2) :]),
            sampling=msgspec.structs.replace(work.sampling, seed=seed),
        )


async def _chunks(
    outs: AsyncGenerator[TokensOut, None], choice: Choice
) -> AsyncGenerator[Chunk, None]:
    """Yield one choice's chunks; ends with the one that has a finish_reason."""
    async with aclosing(outs):
        async for out in outs:
            chunk = choice.push(out)
            if chunk is not None:
                yield chunk
            if choice.finish_reason is not None:
                return
    raise EngineError("The engine ended an answer without saying why: try again.")


async def _merged(streams: Sequence[AsyncGenerator[Chunk, None]]) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of all streams as they come; the first error ends them all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as chunks:
            async for chunk in chunks:
                yield chunk
        return
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


async def generate_all(
    context: TaskContext, served: Served, requests: Sequence[GenerateRequest]
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of several requests as one: choices are numbered on, usage is summed."""
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
            total = Usage(
                total.prompt_tokens + chunk.usage.prompt_tokens,
                total.completion_tokens + chunk.usage.completion_tokens,
            )
            usage = None if num_unfinished else total
            yield msgspec.structs.replace(chunk, usage=usage)


async def _renumbered(
    chunks: AsyncGenerator[Chunk, None], first_index: int
) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            yield msgspec.structs.replace(chunk, index=first_index + chunk.index)
