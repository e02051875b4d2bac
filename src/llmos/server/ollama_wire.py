"""The bodies of Ollama's requests as far as llmos serves them; the rest is refused by name.

Names are Ollama's: ``starter-chat:latest`` is our ``starter-chat``, ``starter-chat:2`` a version.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator

from llmos.errors import InvalidRequestError
from llmos.sdk.conversation import MAX_MESSAGES, MAX_TOOLS, CallId
from llmos.sdk.wire import MAX_INT32, Body, SamplingBody, Stops
from llmos.types import Grammar, Message, Tool, ToolCall, ToolUse

MAX_INPUTS = 2048
UNLIMITED_TOKENS = MAX_INT32
"""As many as the context has room for: Ollama's num_predict of 0, -1 and -2."""

_DURATION = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+|-?[0-9]+(?:\.[0-9]+)?")
_MACHINE_OPTIONS = frozenset(
    {
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "repeat_last_n",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Options about the machine or Ollama's own runner: taken and of no effect. llmos gives a request
all of the model's context as it needs it."""
_NEUTRAL_OPTIONS: dict[str, tuple[float, ...]] = {
    "mirostat": (0,),
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5.0,),
    "tfs_z": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
}
"""Options llmos does not have, with the values that ask for nothing."""


def model_ref(name: str) -> str:
    """Return the reference that one of Ollama's names means: ``:latest`` is how it says none."""
    return name.removesuffix(":latest")


def hub_name(name: str) -> str:
    """Return what to pull: a repository of the hub, or a name of the catalog."""
    for prefix in ("hf.co/", "huggingface.co/"):
        name = name.removeprefix(prefix)
    return model_ref(name)


def _empty(because: str) -> BeforeValidator:
    """Refuse whatever a field holds, bar what asks for nothing."""

    def check(value: Any) -> None:
        if value:
            raise ValueError(f"{because}: leave it out")

    return BeforeValidator(check)


NoImages = Annotated[None, _empty("this server reads text only")]


class Options(SamplingBody):
    """Ollama's options; those left out are the model's own defaults."""

    max_tokens: None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    num_predict: int | None = Field(None, ge=-2, le=MAX_INT32)
    repeat_penalty: float | None = Field(None, ge=0.01, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Stops | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_without_effect(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, neutral in _NEUTRAL_OPTIONS.items():
            if values.get(name) is not None and values[name] not in neutral:
                raise InvalidRequestError(
                    f"The option {name} is not supported by llmos: leave it out.",
                    param=f"options.{name}",
                )
        dropped = _MACHINE_OPTIONS | _NEUTRAL_OPTIONS.keys()
        return {name: value for name, value in values.items() if name not in dropped}

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        wanted = self.num_predict
        values["max_tokens"] = wanted if wanted is None or wanted > 0 else UNLIMITED_TOKENS
        values["repetition_penalty"] = self.repeat_penalty or self.repetition_penalty
        values["top_p"] = self.top_p or None  # Ollama: 0 is off
        return values


class _Named(Body):
    """Whatever is about one model; older clients say ``name``."""

    model: str = Field(min_length=1, max_length=300)

    @model_validator(mode="before")
    @classmethod
    def _by_either_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "name" not in values:
            return values
        name = {"model": values["name"]} if values.get("model") is None else {}
        return {key: value for key, value in values.items() if key != "name"} | name

    @property
    def ref(self) -> str:
        return model_ref(self.model)


class _Asking(_Named):
    stream: bool | None = None
    options: Options | None = None
    keep_alive: float | str | None = None

    @field_validator("keep_alive")
    @classmethod
    def _is_duration(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str) and value and not _DURATION.fullmatch(value):
            raise ValueError('a number of seconds, or a duration such as "5m"')
        return value

    @property
    def unloads(self) -> bool:
        """Whether the model is to leave the memory now: kept alive for zero seconds."""
        value = self.keep_alive
        if isinstance(value, str):
            return bool(value) and not any(digit in value for digit in "123456789")
        return value == 0


class _Generating(_Asking):
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def sampling(self) -> dict[str, Any]:
        """Return the options as SamplingParams names them."""
        values = (self.options or Options()).sampling()
        return {**values, "logprobs": (self.top_logprobs or 0) if self.logprobs else None}

    def grammar(self) -> Grammar | None:
        """Return what the output must match, None for any text."""
        if isinstance(self.format, dict):
            return Grammar("json_schema", json.dumps(self.format))
        return Grammar("json_object") if self.format == "json" else None

    def terms(self) -> dict[str, Any]:
        """Return what else `asking.generate_request` takes, of what both bodies have."""
        options = self.options or Options()
        return {
            "stop": options.stop,
            "deadline_ms": options.deadline_ms,
            "grammar": self.grammar(),
        }


class CalledFunction(Body):
    name: str = Field(min_length=1, max_length=64)
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None
    description: str | None = None


class CalledTool(Body):
    id: CallId | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class ChatMessage(Body):
    """A turn. One that calls tools gives their arguments as objects, not as JSON text."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: NoImages = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = (
        None
    )
    tool_name: str | None = Field(None, validation_alias=AliasChoices("tool_name", "name"))
    tool_call_id: CallId | None = None


class ToolFunction(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    type: Literal["function"] | None = "function"
    function: ToolFunction


class ChatBody(_Generating):
    """``POST /api/chat``; without messages it loads the model."""

    messages: list[ChatMessage] = Field([], fail_fast=True, max_length=MAX_MESSAGES)
    tools: Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _maybe_none(cls, value: Any) -> Any:
        return [] if value is None else value

    def tool_use(self) -> ToolUse:
        """Return the tools that the model may use."""
        tools = [tool.function for tool in self.tools or ()]
        return ToolUse(
            tuple(Tool(one.name, one.description or "", _schema(one.parameters)) for one in tools)
        )

    def terms(self) -> dict[str, Any]:
        return {**super().terms(), "tool_use": self.tool_use()}

    def to_messages(self) -> tuple[Message, ...]:
        """Return the conversation; what Ollama leaves out, which answer is to which call, is
        told by the tool's name and else by their order."""
        open_calls: deque[ToolCall] = deque()
        return tuple(_turn(number, turn, open_calls) for number, turn in enumerate(self.messages))


class GenerateBody(_Generating):
    """``POST /api/generate``; without a prompt it loads the model."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: NoImages = None
    suffix: Annotated[None, _empty("text is added at the end of a prompt only")] = None
    template: Annotated[None, _empty("the model's own template counts, or none with raw")] = None
    context: Annotated[None, _empty("earlier turns are for /api/chat")] = None


class EmbedBody(_Asking):
    """``POST /api/embed``"""

    input: str | Annotated[list[str], Field(fail_fast=True, max_length=MAX_INPUTS)]
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1, le=MAX_INT32)

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingsBody(_Asking):
    """``POST /api/embeddings``, as it was before /api/embed."""

    prompt: str


class ShowBody(_Named):
    """``POST /api/show``"""

    verbose: bool | None = None


class PullBody(_Named):
    """``POST /api/pull``; ``insecure`` is of no effect, as the hub is reached over TLS."""

    stream: bool | None = None
    insecure: bool | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False


def _schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a tool's parameters without the nulls that Ollama's client fills in."""
    return {name: value for name, value in (parameters or {}).items() if value is not None}


def _turn(number: int, turn: ChatMessage, open_calls: deque[ToolCall]) -> Message:
    calls = tuple(
        ToolCall(call.id or f"call_{number}_{index}", call.function.name, _arguments(call))
        for index, call in enumerate(turn.tool_calls or ())
    )
    open_calls.extend(calls)
    return Message(
        turn.role,
        turn.content or "",
        reasoning=turn.thinking or "",
        tool_calls=calls,
        tool_call_id=_answered(turn, open_calls) if turn.role == "tool" else None,
        name=turn.tool_name,
    )


def _arguments(call: CalledTool) -> str:
    return json.dumps(call.function.arguments, ensure_ascii=False)


def _answered(turn: ChatMessage, open_calls: deque[ToolCall]) -> str:
    """Return the id of the call that a tool's turn answers, which is open no more.

    Raises:
        InvalidRequestError: no call waits for an answer.
    """

    def first(of: Iterable[ToolCall]) -> ToolCall | None:
        return next(iter(of), None)

    found = first(call for call in open_calls if call.id == turn.tool_call_id)
    found = found or first(call for call in open_calls if call.name == turn.tool_name)
    found = found or first(open_calls)
    if found is None:
        raise InvalidRequestError(
            "A tool message must come after the assistant's message that calls the tool.",
            param="messages",
        )
    open_calls.remove(found)
    return found.id
