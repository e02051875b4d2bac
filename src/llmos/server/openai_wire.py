"""The bodies of OpenAI's requests as far as llmos serves them; the rest is refused by name.

Also takes the fields that other open servers add: top_k, min_p, repetition_penalty, regex, choice,
grammar, chat_template_kwargs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from llmos.errors import InvalidRequestError
from llmos.sdk.conversation import MAX_MESSAGES, ConversationBody, FormatBody, MessageBody
from llmos.sdk.wire import (
    MAX_INT32,
    MAX_N,
    MAX_PROMPT_IDS,
    Body,
    Constrained,
    PriorityName,
    SamplingBody,
    Stops,
    TokenCount,
)

MAX_PROMPTS = 128
MAX_ANSWERS = 256
"""Of one request: its prompts, ``n`` times each."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields llmos does not serve, with the values (besides null) that ask for nothing."""


def _checked_prompt(value: Any, _: ValidatorFunctionWrapHandler) -> Any:
    """Return a text, token ids, or several of either; a long list is looked at once."""
    kinds = set(map(type, value)) if isinstance(value, list) else set()
    if isinstance(value, str) or (kinds == {int} and _are_ids(value)):
        return value
    if kinds == {str} or (kinds == {list} and all(map(_are_ids, value))):
        if len(value) > MAX_PROMPTS:
            raise ValueError(f"it has {len(value)} prompts, but at most {MAX_PROMPTS} are taken")
        return value
    raise ValueError(
        "it is a text, a list of token ids (not negative), or a list of either, and not empty"
    )


def _are_ids(value: list[Any]) -> bool:
    return set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= MAX_INT32


class StreamOptions(Body):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class _Asking(SamplingBody, FormatBody, Constrained):
    model: str
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: StrictFloat | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    stop: Stops | None = None
    n: StrictInt | None = Field(None, ge=1, le=MAX_N)
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
                raise InvalidRequestError(
                    f"{name} is not supported by llmos: leave it out.", param=name
                )
        return {name: value for name, value in values.items() if name not in UNSUPPORTED}

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> _Asking:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "stream_options needs stream to be true.", param="stream_options"
            )
        return self

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def terms(self) -> dict[str, Any]:
        """Return what else `asking.generate_request` takes, of what both bodies have."""
        return {
            "stop": self.stop,
            "n": self.n or 1,
            "priority": self.priority,
            "deadline_ms": self.deadline_ms,
            "grammar": self.output_grammar(),
            "stream": bool(self.stream),
            "is_whole": not self.stream,
        }


class ChatBody(_Asking, ConversationBody):
    """``POST /v1/chat/completions``"""

    max_items = {"messages": MAX_MESSAGES}  # noqa: RUF012 - as in Body
    messages: Annotated[
        list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ]
    max_completion_tokens: TokenCount | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError(
                "top_logprobs needs logprobs to be true.", param="top_logprobs"
            )
        return self

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        values["logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        values["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return values

    def terms(self) -> dict[str, Any]:
        options = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort == "none":
            options.setdefault("enable_thinking", False)
        elif self.reasoning_effort is not None:
            options.setdefault("reasoning_effort", self.reasoning_effort)
        return {**super().terms(), "tool_use": self.tool_use(), "template_options": options}


class CompletionBody(_Asking):
    """``POST /v1/completions``"""

    max_items = {"prompt": MAX_PROMPT_IDS}  # noqa: RUF012 - as in Body
    prompt: Annotated[str | list[int] | list[str] | list[list[int]], WrapValidator(_checked_prompt)]
    max_tokens: StrictInt | None = Field(None, ge=0, le=MAX_INT32)
    logprobs: StrictInt | None = Field(None, ge=0, le=20)
    echo: StrictBool | None = None

    @model_validator(mode="after")
    def _nothing_needs_echo(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError(
                "max_tokens is 0, which asks for nothing unless echo is true.", param="max_tokens"
            )
        return self

    @model_validator(mode="after")
    def _few_answers(self) -> CompletionBody:
        num_prompts, n = len(self.prompts), self.n or 1
        if num_prompts * n > MAX_ANSWERS:
            raise InvalidRequestError(
                f"{num_prompts} prompts with n = {n} ask for {num_prompts * n} answers, but one "
                f"request may ask for {MAX_ANSWERS}: send several.",
                param="n",
            )
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Every prompt: texts or token ids."""
        prompt: Any = self.prompt
        several = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        return [one if isinstance(one, str) else tuple(one) for one in several]

    def sampling(self) -> dict[str, Any]:
        return {**super().sampling(), "logprobs": self.logprobs}

    def terms(self) -> dict[str, Any]:
        return {**super().terms(), "echo": bool(self.echo)}
