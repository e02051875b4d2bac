"""Messages, tools and output formats as OpenAI spells them; the native API has the same.

What is said here wrongly is refused with the field's name; what it means is `types.Message`,
`types.ToolUse` and `types.Grammar`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llmos.errors import InvalidRequestError
from llmos.sdk.wire import (
    MAX_N,
    MAX_PROMPT_IDS,
    Body,
    Constrained,
    PriorityName,
    SamplingBody,
    Stops,
    TokenId,
)
from llmos.types import Grammar, Message, Tool, ToolCall, ToolUse

MAX_MESSAGES = 10_000
MAX_TOOLS = 128
MAX_CHOICES = 1000
MAX_GRAMMAR_CHARS = 2**20
TEMPLATE_OPTIONS = frozenset(
    {
        "date_string",
        "enable_thinking",
        "reasoning_effort",
        "thinking",
        "thinking_budget",
        "tools_in_user_message",
    }
)
"""Variables of chat templates that a request may set."""
MAX_OPTION_CHARS = 100

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class FunctionCallBody(Body):
    """Which function the assistant called; ``arguments`` is JSON text."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str = ""


class ToolCallBody(Body):
    """One call of an earlier assistant message, as it was answered."""

    id: CallId
    type: Literal["function"] = "function"
    function: FunctionCallBody
    index: StrictInt | None = None


class MessageBody(Body):
    """A turn. What asks for more than text must be null."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: (
        Annotated[list[ToolCallBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None
    ) = None
    tool_call_id: CallId | None = Field(None, validate_default=True)
    refusal: str | None = None
    content: str | None = Field(None, validate_default=True)
    reasoning_content: str | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = Field(None, max_length=0)

    @field_validator("tool_calls")
    @classmethod
    def _are_the_assistants(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("role", "assistant") != "assistant":
            raise ValueError("only an assistant message has tool calls")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _is_a_tools(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is not None) != (info.data.get("role") == "tool"):
            raise ValueError("a tool message, and no other, names the call it answers")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _is_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Join the parts; an assistant that calls tools may say nothing."""
        role, said = info.data.get("role"), info.data
        says_other = role == "assistant" and (said.get("tool_calls") or said.get("refusal"))
        if value is None and not says_other:
            raise ValueError(f"a message of the {role} needs content")
        if value == []:
            raise ValueError("it has no parts: give a text, or at least one part")
        return "".join(map(_part_text, value)) if isinstance(value, list) else value

    def to_message(self) -> Message:
        """Return the turn as the tasks know it: a developer speaks as the system."""
        calls = (
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in self.tool_calls or ()
        )
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=self.content if self.content is not None else self.refusal or "",
            reasoning=self.reasoning_content or "",
            tool_calls=tuple(calls),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise ValueError(
            f"it has a part of type {str(kind)[:40]!r}, but this server's models read text only"
        )
    text = part.get(kind)
    if not isinstance(text, str):
        raise ValueError(f"a part of type {kind!r} needs {kind!r} with a string")
    return text


class FunctionBody(Body):
    """A function: what it is called, what it does, a JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class ToolBody(Body):
    """A tool; only functions are tools here."""

    type: Literal["function"]
    function: FunctionBody


class JsonSchemaBody(Body):
    """A schema that the answer must match."""

    name: Name
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: StrictBool | None = None


class ResponseFormat(Body):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is needed with the type json_schema, and only then")
        return self

    def grammar(self) -> Grammar | None:
        """Return what the output must match; None for any text."""
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            return Grammar("json_object")
        return Grammar("json_schema", json.dumps(self.json_schema.schema_))


class FormatBody(Body):
    """What the output must match: at most one of the four."""

    response_format: ResponseFormat | None = None
    regex: str | None = Field(None, min_length=1, max_length=MAX_GRAMMAR_CHARS)
    choice: (
        Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)] | None
    ) = None
    grammar: str | None = Field(None, min_length=1, max_length=MAX_GRAMMAR_CHARS)
    """In Lark's syntax."""

    @model_validator(mode="after")
    def _one_format(self) -> FormatBody:
        named = {"regex": self.regex, "choice": self.choice, "grammar": self.grammar}
        given = [name for name, value in named.items() if value is not None]
        if self.response_format is not None and self.response_format.type != "text":
            given.insert(0, "response_format")
        if len(given) > 1:
            raise InvalidRequestError(
                f"{' and '.join(given)} exclude each other: give one of them.", param=given[-1]
            )
        return self

    def output_grammar(self) -> Grammar | None:
        """Return what the output must match; None for any text."""
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            return Grammar("choice", json.dumps(self.choice))
        if self.grammar is not None:
            return Grammar("lark", self.grammar)
        return self.response_format.grammar() if self.response_format else None


class ConversationBody(Body):
    """What a request may say about a conversation, besides its messages."""

    max_items = {"chat_template_kwargs": len(TEMPLATE_OPTIONS)}  # noqa: RUF012 - as in Body
    tools: Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: str | None = None
    """none, auto, required, or the name of a function."""
    parallel_tool_calls: StrictBool | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _chosen_name(cls, value: Any) -> Any:
        if value is None or value in ("none", "auto", "required"):
            return value
        function = value.get("function") if isinstance(value, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(value, dict) or value.get("type") != "function" or not name:
            raise ValueError(
                "it is none, auto, required, or a function as in "
                '{"type": "function", "function": {"name": …}}'
            )
        return name

    @field_validator("chat_template_kwargs")
    @classmethod
    def _known_options(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, option in (value or {}).items():
            if name not in TEMPLATE_OPTIONS:
                known = ", ".join(sorted(TEMPLATE_OPTIONS))
                raise ValueError(f"{name[:40]!r} cannot be set: there are {known}")
            if name == "enable_thinking" and not isinstance(option, bool):
                raise ValueError(f"{name} is true or false")
            if isinstance(option, str) and len(option) > MAX_OPTION_CHARS:
                raise ValueError(f"{name} has more than {MAX_OPTION_CHARS} characters")
        return value

    @model_validator(mode="after")
    def _choice_needs_tools(self) -> ConversationBody:
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise InvalidRequestError(
                "tool_choice asks for a tool, but there are no tools: give some.",
                param="tool_choice",
            )
        return self

    def tool_use(self) -> ToolUse:
        """Return which tools there are and which must be used."""
        tools = (
            Tool(one.function.name, one.function.description or "", one.function.parameters or {})
            for one in self.tools or ()
        )
        parallel = self.parallel_tool_calls is not False
        return ToolUse(tuple(tools), self.tool_choice or "auto", parallel)


class GenerateBody(SamplingBody, FormatBody, ConversationBody, Constrained):
    """Continue ``prompt`` (text or token ids), or answer ``messages``: one of the two."""

    max_items = {"messages": MAX_MESSAGES, "prompt": MAX_PROMPT_IDS}  # noqa: RUF012 - as in Body
    model: str
    prompt: (
        str | Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_PROMPT_IDS)] | None
    ) = None
    messages: (
        Annotated[list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
        | None
    ) = None
    stream: StrictBool = False
    stop: Stops | None = None
    n: StrictInt = Field(1, ge=1, le=MAX_N)
    logprobs: StrictInt | None = Field(None, ge=0, le=20)
    echo: StrictBool = False
    priority: PriorityName | None = None

    @model_validator(mode="after")
    def _one_input(self) -> GenerateBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        for name in ConversationBody.model_fields if self.messages is None else ():
            if getattr(self, name) is not None:
                raise InvalidRequestError(f"{name} needs messages, not a prompt.", param=name)
        return self

    def sampling(self) -> dict[str, Any]:
        return {**super().sampling(), "logprobs": self.logprobs}
