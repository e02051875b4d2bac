"""The bodies of OpenAI's requests as far as llmos serves them; the rest is refused by name.

Also takes the sampling fields that other open servers add: top_k, min_p, repetition_penalty.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmos.sdk.wire import Body, PriorityName, SamplingBody, Stops, TokenCount, TokenId
from llmos.types import Message

MAX_PROMPTS = 64
TokenIds = Annotated[list[TokenId], Field(min_length=1)]

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields llmos does not serve, with the values (besides null) that ask for nothing."""


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """A turn. Fields that ask for more than text must be null."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: list[Any] | None = Field(None, max_length=0)

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message needs content")
        return self

    def to_message(self) -> Message:
        """Return the turn as the tasks know it: a developer speaks as the system."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Asking(SamplingBody):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    stop: Stops | None = None
    n: int | None = Field(None, ge=1, le=128)
    priority: PriorityName | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in sorted(values.keys() & UNSUPPORTED.keys()):
            if values[name] is not None and values[name] not in UNSUPPORTED[name]:
                raise ValueError(f"{name} is not supported by llmos: leave it out")
        return {name: value for name, value in values.items() if name not in UNSUPPORTED}

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> _Asking:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(_Asking):
    """``POST /v1/chat/completions``"""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        values["logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        values["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return values


class CompletionBody(_Asking):
    """``POST /v1/completions``"""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @model_validator(mode="after")
    def _no_prompt_logprobs(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported by llmos: leave one out")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Every prompt: texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [tuple(i for i in self.prompt if isinstance(i, int))]
        return [
            p if isinstance(p, str) else tuple(p) for p in self.prompt if not isinstance(p, int)
        ]

    def sampling(self) -> dict[str, Any]:
        return {**super().sampling(), "logprobs": self.logprobs}
