"""The bodies of native API requests, shared by the server and whoever writes a client.

Unknown fields are refused. A field left out means the model's own generation default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from llmos.errors import InvalidRequestError

MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_JSON_DEPTH = 32
MAX_INT32 = 2**31 - 1
INT64 = range(-(2**63), 2**63)
"""Integers that the database and the engines' messages can hold."""
MAX_FIELD_CHARS = 100

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_INT32)]
JobNumber = Annotated[int, Field(ge=1, lt=2**63)]
PriorityName = Literal["interactive", "standard", "batch", "background"]


class Body(BaseModel):
    """A JSON body of known fields, none of which holds what cannot be stored or sent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, values: Any) -> Any:
        _check_storable(values, "", depth=0)
        return values


class MessageBody(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class SamplingBody(Body):
    """How tokens are picked: what every request to generate may say, by SamplingParams' names."""

    max_tokens: TokenCount | None = None
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_INT32)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=INT64.start, lt=INT64.stop)
    ignore_eos: bool = False

    def sampling(self) -> dict[str, Any]:
        """Return these fields alone, as SamplingParams names them."""
        return self.model_dump(include=set(SamplingBody.model_fields))


class GenerateBody(SamplingBody):
    """Continue ``prompt`` (text or token ids), or answer ``messages``: one of the two."""

    model: str
    prompt: str | list[TokenId] | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)] | None = None
    stream: bool = False
    stop: Stops | None = None
    n: int = Field(1, ge=1, le=128)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    priority: PriorityName | None = None

    @model_validator(mode="after")
    def _one_input(self) -> GenerateBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def sampling(self) -> dict[str, Any]:
        return {**super().sampling(), "logprobs": self.logprobs}


class TranslateBody(Body):
    """Translate ``text`` from one language to another, as codes such as "en" and "zh"."""

    text: str
    source_lang: str = Field(min_length=1, max_length=32)
    target_lang: str = Field(min_length=1, max_length=32)
    model: str = "machine_translation"
    num_beams: int | None = Field(None, ge=1, le=16)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=32)
    length_penalty: float | None = Field(None, ge=-10, le=10)
    max_tokens: TokenCount | None = None
    priority: PriorityName | None = None


class ClassifyBody(Body):
    """Label ``text``."""

    text: str
    model: str = "sentiment"
    priority: PriorityName | None = None


class EntitiesBody(Body):
    """Find the names in ``text``."""

    text: str
    model: str = "entities"
    priority: PriorityName | None = None


class ImportBody(Body):
    """Make a model of uploaded files: ``files`` maps file names to blob digests."""

    name: str
    files: dict[str, str]


class ImportPlanBody(Body):
    """Ask which files of a directory a model would be made of, before sending any."""

    name: str
    filenames: list[str]


class PullBody(Body):
    """Pull ``ORG/NAME`` from the hub."""

    repo: str
    name: str | None = None
    revision: str | None = None


class AliasBody(Body):
    """Point this alias at the version."""

    alias: str


class TaskDefaultBody(Body):
    """Let a task name, such as "sentiment", answer with this model."""

    task: str
    model: str


class JobBody(Body):
    """Queue a job; it starts once every job in ``after`` has succeeded."""

    kind: str
    name: str
    params: dict[str, JsonValue] = {}
    priority: PriorityName | None = None
    after: list[JobNumber] = Field([], max_length=1000)


class KeyBody(Body):
    """Make an API key. ``actions`` and ``models`` left out mean all that the role allows."""

    name: str = Field(min_length=1, max_length=128)
    role: Literal["admin", "user"] = "user"
    actions: list[str] | None = None
    models: list[str] | None = None
    best_priority: PriorityName = "standard"
    expires_in_s: float | None = Field(None, gt=0)


class GcBody(Body):
    """Sweep blobs that nothing refers to and that are older than ``grace_s`` seconds."""

    grace_s: float | None = Field(None, ge=0)


def _check_storable(value: Any, field: str, depth: int) -> None:
    """Refuse what cannot be stored or sent: NaN, half characters, huge integers, endless nesting.

    Raises:
        InvalidRequestError: naming ``field``, the place of the value in the body.
    """
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _not_storable(field, "text that is not Unicode") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise _not_storable(field, "a number that is not finite")
    elif isinstance(value, int) and value not in INT64:
        raise _not_storable(field, "an integer beyond 64 bits")
    elif isinstance(value, dict | list):
        if depth >= MAX_JSON_DEPTH:
            raise _not_storable(field, f"values nested more than {MAX_JSON_DEPTH} deep")
        if isinstance(value, dict):
            for key in value:
                _check_storable(key, field, depth + 1)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(item, int) or item not in INT64:  # a prompt is a million good ones
                _check_storable(item, f"{field}.{key}" if field else str(key), depth + 1)


def _not_storable(field: str, what: str) -> InvalidRequestError:
    if not field:
        return InvalidRequestError(f"The body has {what}.")
    shown = field[:MAX_FIELD_CHARS]
    return InvalidRequestError(f"The field {shown!r} has {what}.", param=shown)
