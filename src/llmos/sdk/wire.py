"""The bodies of native API requests, shared by the server and whoever writes a client.

Unknown fields are refused. A field left out means the model's own generation default.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from llmos.errors import InvalidRequestError

MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_JSON_DEPTH = 32
MAX_INT32 = 2**31 - 1
INT64 = range(-(2**63), 2**63)
"""Integers that the database and the engines' messages can hold."""
MAX_FIELD_CHARS = 100
MAX_N = 128
MAX_PROMPT_IDS = 2**20
MAX_BIASES = 1024
MAX_BIAS = 100
MAX_DEADLINE_MS = 24 * 3600 * 1000

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_INT32)]
JobNumber = Annotated[int, Field(ge=1, lt=2**63)]
PriorityName = Literal["interactive", "standard", "batch", "background"]
_TOKEN_ID = re.compile(r"[0-9]{1,10}")


class Body(BaseModel):
    """A JSON body of known fields, none of which holds what cannot be stored or sent."""

    model_config = ConfigDict(extra="forbid")
    max_items: ClassVar[dict[str, int]] = {}
    """Longest lists, by field: what is far too long is refused before it is looked into."""

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, values: Any) -> Any:
        for field, limit in cls.max_items.items() if isinstance(values, dict) else ():
            given = values.get(field)
            if isinstance(given, list) and len(given) > limit:
                raise InvalidRequestError(
                    f"{field} has {len(given)} entries, over the limit of {limit}.", param=field
                )
        _check_storable(values, "", depth=0)
        return values


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
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=1024)
    logit_bias: dict[str, float] | None = None
    """What to add to the logits of tokens, by their ids."""
    ignore_eos: bool = False
    deadline_ms: int | None = Field(None, ge=1, le=MAX_DEADLINE_MS)

    @field_validator("logit_bias")
    @classmethod
    def _are_biases(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and len(value) > MAX_BIASES:
            raise ValueError(f"it has {len(value)} tokens, but at most {MAX_BIASES} are taken")
        for token_id, bias in (value or {}).items():
            if not _TOKEN_ID.fullmatch(token_id):
                raise ValueError(f"{token_id[:40]!r} is not a token id")
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                raise ValueError(f"{bias:g} is not between {-MAX_BIAS} and {MAX_BIAS}")
        return value

    def sampling(self) -> dict[str, Any]:
        """Return these fields alone, as SamplingParams names them."""
        values = self.model_dump(include=set(SamplingBody.model_fields) - {"deadline_ms"})
        bias = (self.logit_bias or {}).items()
        return values | {"logit_bias": tuple((int(i), value) for i, value in bias) or None}


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
    base: str | None = None
    """For an adapter: the model it runs over; unset, its files say."""
    task: str | None = None
    """What to use the model for (embed, rerank, classify), where its files do not say so."""
    dtype: str | None = None
    """Which weights to make: auto (the default), stored, int8, int4."""


class ImportPlanBody(Body):
    """Ask which files of a directory a model would be made of, before sending any."""

    name: str
    filenames: list[str]


class PullBody(Body):
    """Pull ``ORG/NAME`` from the hub."""

    repo: str
    name: str | None = None
    revision: str | None = None
    base: str | None = None
    task: str | None = None
    dtype: str | None = None


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
        elif set(map(type, value)) == {int} and min(value) in INT64 and max(value) in INT64:
            return  # a prompt is a million good ones
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_storable(item, f"{field}.{key}" if field else str(key), depth + 1)


def _not_storable(field: str, what: str) -> InvalidRequestError:
    if not field:
        return InvalidRequestError(f"The body has {what}.")
    shown = field[:MAX_FIELD_CHARS]
    return InvalidRequestError(f"The field {shown!r} has {what}.", param=shown)
