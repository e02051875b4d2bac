"""What OpenAI's API answers, as JSON objects: choices and chunks of chats and completions."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from llmos.server.asking import Answer
from llmos.server.sse import Event
from llmos.types import Chunk, TokenLogprob, ToolCallDelta, Usage


def usage_json(usage: Usage) -> Event:
    """Return the tokens read and written."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


# -- chat ------------------------------------------------------------------------------------------


def chat_choice(one: Answer, *, with_logprobs: bool, must_call: bool = False) -> Event:
    """Return one choice of a chat.completion.

    Args:
        must_call: it could be nothing but tool calls, even where none was finished.
    """
    message: Event = {"role": "assistant", "content": one.text, "refusal": None}
    if one.reasoning:
        message["reasoning_content"] = one.reasoning
    if one.tool_calls or must_call:
        message["content"] = one.text or None
    if one.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in one.tool_calls
        ]
    return {
        "index": one.index,
        "message": message,
        "finish_reason": one.finish_reason,
        "logprobs": _chat_logprobs(one.logprobs) if with_logprobs else None,
    }


async def chat_events(
    chunks: AsyncGenerator[Chunk, None], head: Event, *, with_usage: bool
) -> AsyncGenerator[Event, None]:
    """Yield chat.completion.chunk objects: the role, then the message, then why it ended."""
    extra = {"usage": None} if with_usage else {}
    begun: set[int] = set()

    def event(chunk: Chunk, delta: Event, finish_reason: str | None = None) -> Event:
        choice: Event = {"index": chunk.index, "delta": delta, "finish_reason": finish_reason}
        choice["logprobs"] = None
        return {**head, "choices": [choice], **extra}

    async with aclosing(chunks) as stream:
        async for chunk in stream:
            if chunk.index not in begun:
                begun.add(chunk.index)
                yield event(chunk, {"role": "assistant", "content": ""})
            deltas = _chat_deltas(chunk)
            for at, delta in enumerate(deltas):
                made = event(chunk, delta)
                if at == len(deltas) - 1 and chunk.logprobs:
                    made["choices"][0]["logprobs"] = _chat_logprobs(chunk.logprobs)
                yield made
            if chunk.finish_reason is not None:
                yield event(chunk, {}, chunk.finish_reason)
            if chunk.usage is not None and with_usage:
                yield {**head, "choices": [], "usage": usage_json(chunk.usage)}


def _chat_deltas(chunk: Chunk) -> list[Event]:
    deltas: list[Event] = []
    if chunk.reasoning:
        deltas.append({"reasoning_content": chunk.reasoning})
    if chunk.text or (chunk.logprobs and not chunk.reasoning and not chunk.tool_calls):
        deltas.append({"content": chunk.text})
    return deltas + [{"tool_calls": [_call_delta(delta)]} for delta in chunk.tool_calls]


def _call_delta(delta: ToolCallDelta) -> Event:
    function: Event = {"arguments": delta.arguments}
    if delta.id is None:
        return {"index": delta.index, "function": function}
    function = {"name": delta.name, **function}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> Event:
    content = [
        {**_token(token), "top_logprobs": [_token(other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> Event:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


# -- completions -----------------------------------------------------------------------------------


def completion_choice(one: Answer, *, with_logprobs: bool) -> Event:
    """Return one choice of a text_completion."""
    return {
        "index": one.index,
        "text": one.text,
        "finish_reason": one.finish_reason,
        "logprobs": _Offsets().logprobs(one.logprobs) if with_logprobs else None,
    }


async def completion_events(
    chunks: AsyncGenerator[Chunk, None], head: Event, *, with_usage: bool, with_logprobs: bool
) -> AsyncGenerator[Event, None]:
    """Yield text_completion objects, each a piece of a choice."""
    extra = {"usage": None} if with_usage else {}
    offsets: dict[int, _Offsets] = {}
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            choice: dict[str, Any] = {"index": chunk.index, "text": chunk.text}
            choice |= {"finish_reason": chunk.finish_reason, "logprobs": None}
            if with_logprobs:
                counted = offsets.setdefault(chunk.index, _Offsets())
                choice["logprobs"] = counted.logprobs(chunk.logprobs)
            yield {**head, "choices": [choice], **extra}
            if chunk.usage is not None and with_usage:
                yield {**head, "choices": [], "usage": usage_json(chunk.usage)}


class _Offsets:
    """Where the tokens of one choice begin in its text, in characters."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_chars = 0

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> Event:
        """Return the log-probabilities of the next tokens; nothing predicts a prompt's first."""
        offsets = []
        for token in tokens:
            offsets.append(self._num_chars)
            self._num_chars += len(self._utf8.decode(token.bytes))
        return {
            "tokens": [_text(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }


def _top(token: TokenLogprob) -> Event | None:
    """Return the likeliest tokens, and the chosen one, which may be another."""
    if token.logprob is None:
        return None
    top: Event = {}
    for other in (*token.top, token):
        top.setdefault(_text(other), other.logprob)
    return top


def _text(token: TokenLogprob) -> str:
    """Return a token's text; part of a character as OpenAI writes it, so that no two are alike."""
    if "\ufffd" not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
