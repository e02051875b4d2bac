"""One response as it is made: `Chunk`s in, the Responses API's typed events and final object out.

Pure, but for the ids it draws. At any time one output item is open: thoughts, a message or a call.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from llmos.errors import InvalidRequestError, LlmosError, OverloadedError
from llmos.types import Chunk, TokenLogprob, ToolCallDelta, Usage

Event = dict[str, Any]


class ResponseEvents:
    """Writes ``response``, whose head is given, and says what is added to it.

    Args:
        response: an object without output, status in_progress.
        with_logprobs: whether the text's log-probabilities are part of it.
    """

    def __init__(self, response: Event, *, with_logprobs: bool = False) -> None:
        self.response = response
        self._with_logprobs = with_logprobs
        self._num_events = 0
        self._item: Event = {}
        """The open item; empty while there is none."""
        self._words: list[str] = []
        self._logprobs: list[Event] = []
        self._call_index = -1

    @property
    def output(self) -> list[Event]:
        items: list[Event] = self.response["output"]
        return items

    def begin(self) -> Iterator[Event]:
        """Yield what comes before any output."""
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def push(self, chunk: Chunk) -> Iterator[Event]:
        """Yield what a chunk adds; the last one ends the items, `end` ends the response."""
        if chunk.reasoning:
            yield from self._open("reasoning")
            yield self._delta("response.reasoning_text.delta", chunk.reasoning)
        if chunk.text:
            yield from self._open("message")
        if self._item.get("type") == "message" and (chunk.text or chunk.logprobs):
            yield self._text_delta(chunk)
        for delta in chunk.tool_calls:
            yield from self._push_call(delta)
        if chunk.finish_reason is not None:
            if not self.output:
                yield from self._open("message")
            status = "incomplete" if chunk.finish_reason == "length" else "completed"
            yield from self._close(status)
            self._finish(chunk)

    def end(self) -> Event:
        """Return the event that carries the whole response."""
        return self._event(f"response.{self.response['status']}", response=self.response)

    def fail(self, error: LlmosError) -> Iterator[Event]:
        """Yield the end of a response that cannot be completed."""
        yield from self._close("incomplete")
        self.response["status"] = "failed"
        self.response["error"] = {"code": _error_code(error), "message": error.message}
        yield self.end()

    # -- items -----------------------------------------------------------------------------------

    def _open(self, kind: str, **fields: Any) -> Iterator[Event]:
        """Begin an item of this kind, unless one is open."""
        if self._item.get("type") == kind and kind != "function_call":
            return
        yield from self._close("completed")
        self._item = {"id": _new_id(kind), "type": kind, "status": "in_progress", **fields}
        self._words, self._logprobs = [], []
        if kind == "message":
            self._item |= {"role": "assistant", "content": []}
        elif kind == "reasoning":
            self._item |= {"summary": [], "content": []}
        self.output.append(self._item)
        yield self._item_event("response.output_item.added", item=dict(self._item))
        if kind != "function_call":
            yield self._part_event("response.content_part.added", part=self._part())

    def _close(self, status: str) -> Iterator[Event]:
        """End the open item, if there is one."""
        if not self._item:
            return
        kind, text = self._item["type"], "".join(self._words)
        if kind == "function_call":
            self._item["arguments"] = text
            name = self._item["name"]
            yield self._item_event(
                "response.function_call_arguments.done",
                item_id=self._item["id"],
                name=name,
                arguments=text,
            )
        else:
            part = self._part()
            self._item["content"] = [part]
            if kind == "message":
                logprobs = {"logprobs": self._logprobs}
                yield self._part_event("response.output_text.done", text=text, **logprobs)
            else:
                yield self._part_event("response.reasoning_text.done", text=text)
            yield self._part_event("response.content_part.done", part=part)
        self._item["status"] = status
        yield self._item_event("response.output_item.done", item=self._item)
        self._item = {}

    def _part(self) -> Event:
        """Return the open item's content as far as it goes."""
        text = "".join(self._words)
        if self._item["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        part: Event = {"type": "output_text", "text": text, "annotations": []}
        if self._with_logprobs:
            part["logprobs"] = self._logprobs
        return part

    # -- pieces ----------------------------------------------------------------------------------

    def _text_delta(self, chunk: Chunk) -> Event:
        self._words.append(chunk.text)
        logprobs = [_logprob(token) for token in chunk.logprobs] if self._with_logprobs else []
        self._logprobs += logprobs
        name = "response.output_text.delta"
        return self._part_event(name, delta=chunk.text, logprobs=logprobs)

    def _delta(self, name: str, text: str) -> Event:
        self._words.append(text)
        return self._part_event(name, delta=text)

    def _push_call(self, delta: ToolCallDelta) -> Iterator[Event]:
        if self._item.get("type") != "function_call" or delta.index != self._call_index:
            self._call_index = delta.index
            call_id = delta.id or _new_id("call")
            fields = {"call_id": call_id, "name": delta.name or "", "arguments": ""}
            yield from self._open("function_call", **fields)
        if delta.arguments:
            self._words.append(delta.arguments)
            yield self._item_event(
                "response.function_call_arguments.delta",
                item_id=self._item["id"],
                delta=delta.arguments,
            )

    def _finish(self, chunk: Chunk) -> None:
        self.response["usage"] = usage_json(chunk.usage or Usage(0, 0))
        match chunk.finish_reason:
            case "length":
                self.response["status"] = "incomplete"
                self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            case "stop" | "tool_calls":
                self.response["status"] = "completed"
                self.response["completed_at"] = int(time.time())
            case _:
                self.response["status"] = "failed"
                message = "The engine ended the answer before it was complete: try again."
                self.response["error"] = {"code": "server_error", "message": message}

    # -- events ----------------------------------------------------------------------------------

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._num_events = self._num_events, self._num_events + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, output_index=len(self.output) - 1, **fields)

    def _part_event(self, kind: str, **fields: Any) -> Event:
        return self._item_event(kind, item_id=self._item["id"], content_index=0, **fields)


def usage_json(usage: Usage) -> Event:
    """Return the tokens read and written, as the Responses API names them."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "call": "call"}


def _new_id(kind: str) -> str:
    return f"{_PREFIXES[kind]}_{uuid.uuid4().hex}"


def _error_code(error: LlmosError) -> str:
    """Return which of the API's own codes, of which there are few, comes closest."""
    if isinstance(error, OverloadedError):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"


def _logprob(token: TokenLogprob) -> Event:
    top = [_token(other) for other in token.top]
    return {**_token(token), "top_logprobs": top}


def _token(token: TokenLogprob) -> Event:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
