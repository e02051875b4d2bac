"""The body of ``POST /v1/responses`` as far as llmos serves it; the rest is refused by name.

Input items become `Message`s here, and so do the items of earlier responses that one goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from llmos.errors import InvalidRequestError
from llmos.sdk.conversation import MAX_MESSAGES, MAX_TOOLS, CallId, Name
from llmos.sdk.wire import (
    MAX_PROMPT_IDS,
    Body,
    Constrained,
    PriorityName,
    SamplingBody,
    TokenCount,
)
from llmos.types import Grammar, Message, Tool, ToolCall, ToolUse

MAX_METADATA = 16
Item = dict[str, Any]

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
"""Fields llmos does not serve, with the values (besides null) that ask for nothing."""
TEXT_PARTS = frozenset({"input_text", "output_text", "refusal", "reasoning_text", "summary_text"})


def _as_parts(content: Any) -> Any:
    """A text alone is a list of one part."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


class Part(Body):
    """A piece of text. What was said about it when it was written is of no use to a model."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = Field(None, max_length=MAX_MESSAGES)
    logprobs: list[Any] | None = Field(None, max_length=MAX_PROMPT_IDS)

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value not in TEXT_PARTS:
            raise ValueError(f"this server reads text only, not {value[:40]!r}")
        return value

    @model_validator(mode="after")
    def _has_words(self) -> Part:
        if (self.refusal if self.type == "refusal" else self.text) is None:
            raise ValueError(f"a part of type {self.type} needs its text")
        return self


Parts = Annotated[
    list[Part], Field(fail_fast=True, max_length=MAX_MESSAGES), BeforeValidator(_as_parts)
]


class _InputItem(Body):
    id: CallId | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_InputItem):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(_InputItem):
    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str


class FunctionOutputItem(_InputItem):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Parts


class ReasoningItem(_InputItem):
    type: Literal["reasoning"]
    summary: list[Part] = Field([], fail_fast=True, max_length=MAX_MESSAGES)
    content: Annotated[list[Part], Field(fail_fast=True, max_length=MAX_MESSAGES)] | None = None
    encrypted_content: None = None


def _kind(item: Any) -> str:
    """Return which kind of item a value is; one that says nothing is a message."""
    if isinstance(item, dict):
        return str(item.get("type") or "message")
    return str(getattr(item, "type", ""))


ITEM_TYPES = frozenset({"message", "function_call", "function_call_output", "reasoning"})
InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="an item is an object whose type is message, function_call, "
        "function_call_output or reasoning",
    ),
]


def _as_items(value: Any) -> Any:
    """A text alone is what the user says."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class FunctionTool(Body):
    """A function the model may ask for; only functions are tools here."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Body):
    type: Literal["function"]
    name: Name


class AllowedTools(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


def _as_choice(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """One complaint about the whole field, not one for each thing it could have been."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            "it is none, auto, required, a function's name as in "
            '{"type": "function", "name": …}, or {"type": "allowed_tools", "mode": …, "tools": …}'
        ) from None


class TextFormat(Body):
    """What the text must be; a schema counts for json_schema alone."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("json_schema needs a schema, and nothing else has one")
        return self

    def grammar(self) -> Grammar | None:
        """Return what the output must match, None for any text."""
        if self.type == "text":
            return None
        return Grammar(self.type, "" if self.schema_ is None else json.dumps(self.schema_))


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(Body):
    """How long to think first, as far as the model's template knows of it. Summaries are taken and
    none is made: thoughts are told in full."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Body):
    include_obfuscation: bool = False


class ResponseBody(SamplingBody, Constrained):
    """``POST /v1/responses``"""

    max_items = {"metadata": MAX_METADATA}  # noqa: RUF012 - as in Body
    model: str
    input: Annotated[
        list[InputItem],
        Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(_as_items),
    ]
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=128)
    max_tokens: None = None
    max_output_tokens: TokenCount | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: Annotated[list[str], Field(fail_fast=True, max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Annotated[
            Literal["none", "auto", "required"] | NamedTool | AllowedTools,
            WrapValidator(_as_choice),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    priority: PriorityName | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("max_tokens") is not None:
            raise InvalidRequestError(
                "There is no field 'max_tokens' here: it is called max_output_tokens.",
                param="max_tokens",
            )
        for name in sorted(values.keys() & UNSUPPORTED.keys()):
            if values[name] is not None and values[name] not in UNSUPPORTED[name]:
                raise InvalidRequestError(
                    f"{name} is not supported by llmos: leave it out.", param=name
                )
        return {name: value for name, value in values.items() if name not in UNSUPPORTED}

    @field_validator("metadata")
    @classmethod
    def _small(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        items = (metadata or {}).items()
        if len(items) > MAX_METADATA or any(len(k) > 64 or len(v) > 512 for k, v in items):
            raise ValueError(
                f"at most {MAX_METADATA} pairs, keys of 64 and values of 512 characters"
            )
        return metadata

    @model_validator(mode="after")
    def _named_tools_exist(self) -> ResponseBody:
        names = {tool.name for tool in self.tools or ()}
        for wanted in self._wanted_tools():
            if wanted not in names:
                raise InvalidRequestError(
                    f"tool_choice names {wanted!r}, which is not among the tools.",
                    param="tool_choice",
                )
        return self

    @property
    def wants_logprobs(self) -> bool:
        asked = "message.output_text.logprobs" in (self.include or ())
        return asked or self.top_logprobs is not None

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        values["max_tokens"] = self.max_output_tokens
        values["logprobs"] = (self.top_logprobs or 0) if self.wants_logprobs else None
        return values

    def terms(self) -> dict[str, Any]:
        """Return what else `asking.generate_request` takes."""
        wanted = self.text.format if self.text else None
        return {
            "priority": self.priority,
            "deadline_ms": self.deadline_ms,
            "grammar": wanted.grammar() if wanted else None,
            "tool_use": self.tool_use(),
            "template_options": self._template_options(),
            "stream": bool(self.stream),
        }

    def _template_options(self) -> dict[str, Any]:
        effort = self.reasoning.effort if self.reasoning else None
        if effort is None:
            return {}
        return {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}

    def tool_use(self) -> ToolUse:
        """Return the tools the model may use and whether it must."""
        tools = self.tools or []
        match self.tool_choice:
            case AllowedTools(mode=choice):
                allowed = set(self._wanted_tools())
                tools = [tool for tool in tools if tool.name in allowed]
            case NamedTool(name=choice):
                pass
            case _:
                choice = self.tool_choice or "auto"
        return ToolUse(
            tuple(Tool(one.name, one.description or "", one.parameters or {}) for one in tools),
            choice,
            self.parallel_tool_calls is not False,
        )

    def items(self) -> list[Item]:
        """Return the input as plain items, each saying its type."""
        return [item.model_dump(exclude_none=True) for item in self.input]

    def _wanted_tools(self) -> list[str]:
        if isinstance(self.tool_choice, NamedTool):
            return [self.tool_choice.name]
        if isinstance(self.tool_choice, AllowedTools):
            return [tool.name for tool in self.tool_choice.tools]
        return []


def to_messages(instructions: str | None, items: Iterable[Item]) -> tuple[Message, ...]:
    """Return a conversation: what one answer has of items (thoughts, text, calls) is one turn.

    Args:
        instructions: said by the system before everything else.
        items: plain items that were checked, input and output ones alike.
    """
    turns: list[Message] = [Message("system", instructions)] if instructions else []
    for item in items:
        turn = _turn(item)
        last = turns[-1] if turns else None
        if last and turn.role == last.role == "assistant" and not (turn.content and last.content):
            turns[-1] = _joined(last, turn)
        else:
            turns.append(turn)
    return tuple(turns)


def _turn(item: Item) -> Message:
    match item["type"]:
        case "function_call":
            call = ToolCall(item["call_id"], item["name"], item["arguments"])
            return Message("assistant", "", tool_calls=(call,))
        case "function_call_output":
            return Message("tool", _words(item["output"]), tool_call_id=item["call_id"])
        case "reasoning":
            thoughts = item.get("content") or item.get("summary") or []
            return Message("assistant", "", reasoning=_words(thoughts))
        case _:
            role: Any = "system" if item["role"] == "developer" else item["role"]
            return Message(role, _words(item["content"]))


def _joined(first: Message, second: Message) -> Message:
    return msgspec.structs.replace(
        first,
        content=first.content + second.content,
        reasoning=first.reasoning + second.reasoning,
        tool_calls=first.tool_calls + second.tool_calls,
    )


def _words(parts: Iterable[Item]) -> str:
    return "".join(part.get("refusal") or part.get("text") or "" for part in parts)
