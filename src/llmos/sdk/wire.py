"""The bodies of native API requests, shared by the server and whoever writes a client.

Unknown fields are refused. A field left out means the model's own generation default.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from llmos.errors import InvalidRequestError

MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_JSON_DEPTH = 32
MAX_VALUES = 200_000
"""Of one body, lists of integers counted as one: more are not looked at."""
MAX_FIELDS = 200
"""Of one object with known fields: unknown ones are named, but not by the million."""
MAX_NAMES = 1000
MAX_FILES = 20_000
MAX_INT32 = 2**31 - 1
INT64 = range(-(2**63), 2**63)
"""Integers that the database and the engines' messages can hold."""
MAX_FIELD_CHARS = 100
MAX_N = 128
MAX_LABELS = 256
"""To choose from."""
MAX_PROMPT_IDS = 2**20
MAX_BIASES = 1024
MAX_BIAS = 100
MAX_DEADLINE_MS = 24 * 3600 * 1000

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop],
    Field(fail_fast=True, max_length=MAX_STOPS),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One text or several. Not a union: an error names the place in what was given."""
TokenId = Annotated[StrictInt, Field(ge=0, le=MAX_INT32)]
TokenCount = Annotated[StrictInt, Field(ge=1, le=MAX_INT32)]
JobNumber = Annotated[int, Field(ge=1, lt=2**63)]
PriorityName = Literal["interactive", "standard", "batch", "background"]
_TOKEN_ID = re.compile(r"[0-9]{1,10}")


class Body(BaseModel):
    """A JSON body of known fields. Every list has a bound and ends at its first error, so that a
    bad body costs no more than a good one."""

    model_config = ConfigDict(extra="forbid")
    max_items: ClassVar[dict[str, int]] = {}
    """Longest lists and objects, by field, those of the bases included: what is far too long is
    refused before it is looked into."""

    @model_validator(mode="before")
    @classmethod
    def _not_endless(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if len(values) > MAX_FIELDS:
            raise InvalidRequestError(
                f"There are {len(values)} fields where at most {MAX_FIELDS} can be."
            )
        for field, limit in _limits(cls).items():
            given = values.get(field)
            if isinstance(given, list | dict) and len(given) > limit:
                raise InvalidRequestError(
                    f"{field} has {len(given)} entries, over the limit of {limit}.", param=field
                )
        return values


@functools.cache
def _limits(body: type[Body]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for base in reversed(body.__mro__):
        limits |= vars(base).get("max_items", {})
    return limits


class SamplingBody(Body):
    """How tokens are picked: what every request to generate may say, by SamplingParams' names.

    Numbers must be numbers: neither texts nor truth values are taken for them.
    """

    max_items = {"logit_bias": MAX_BIASES}
    max_tokens: TokenCount | None = None
    temperature: StrictFloat | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: StrictFloat | None = Field(None, ge=0, le=1)
    top_k: StrictInt | None = Field(None, ge=0, le=MAX_INT32)
    min_p: StrictFloat | None = Field(None, ge=0, le=1)
    repetition_penalty: StrictFloat | None = Field(None, ge=0.01, le=100)
    presence_penalty: StrictFloat | None = Field(None, ge=-2, le=2)
    frequency_penalty: StrictFloat | None = Field(None, ge=-2, le=2)
    seed: StrictInt | None = Field(None, ge=INT64.start, lt=INT64.stop)
    no_repeat_ngram_size: StrictInt | None = Field(None, ge=0, le=1024)
    logit_bias: dict[str, StrictFloat] | None = None
    """What to add to the logits of tokens, by their ids."""
    ignore_eos: StrictBool = False
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)

    @field_validator("logit_bias")
    @classmethod
    def _are_biases(cls, value: dict[str, float] | None) -> dict[str, float] | None:
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


class Constrained(Body):
    """What the model that llmos chooses must keep to; only where ``model`` leaves that to it."""

    max_latency_ms: StrictFloat | None = Field(None, gt=0, le=MAX_DEADLINE_MS)
    """Expected until the last token."""
    min_quality: StrictFloat | None = Field(None, ge=0, le=1)
    max_cost: StrictFloat | None = Field(None, gt=0, allow_inf_nan=False)
    """Expected compute-seconds."""

    def constraints(self) -> dict[str, float | None]:
        """Return them by name."""
        return {
            "max_latency_ms": self.max_latency_ms,
            "min_quality": self.min_quality,
            "max_cost": self.max_cost,
        }


class TranslateBody(Constrained):
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
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)


class ImportBody(Body):
    """Make a model of uploaded files: ``files`` maps file names to blob digests."""

    max_items = {"files": MAX_FILES}
    name: str
    files: dict[str, str]
    base: str | None = None
    """For an adapter: the model it runs over; unset, its files say."""
    task: str | None = None
    """What to use the model for, where its files do not say so: embed, rerank, classify, rate or
    fill_mask."""
    dtype: str | None = None
    """Which weights to make: auto (the default), stored, int8, int4."""


class ImportPlanBody(Body):
    """Ask which files of a directory a model would be made of, before sending any."""

    name: str
    filenames: Annotated[list[str], Field(fail_fast=True, max_length=MAX_FILES)]


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


class DeployRules(Body):
    """When a candidate is taken back by itself; what is left out has its default."""

    min_requests: StrictInt | None = Field(None, ge=1, le=MAX_INT32)
    max_error_rate: float | None = Field(None, ge=0, lt=1)
    max_latency_ratio: float | None = Field(None, ge=1, lt=1e6)


class DeployBody(Body):
    """Let ``alias`` of the model's name mean this version. Gates and rules left out stay as they
    are; with a ``weight`` below 1 the version is a candidate that gets so much of the requests."""

    model: str = Field(min_length=1, max_length=1000)
    alias: str
    gates: Annotated[list[str], Field(fail_fast=True, max_length=MAX_NAMES)] | None = None
    weight: float = Field(1.0, gt=0, le=1)
    rules: DeployRules | None = None


class RollbackBody(Body):
    """Take a candidate back, or go back to the version before."""

    reason: str = Field("", max_length=1000)


class KeepAnswersBody(Body):
    """Whether the answers of the key's owner are kept."""

    keeps: StrictBool


class ReplayBody(Body):
    """Ask the same again as the kept answer with this response id."""

    id: str = Field(min_length=1, max_length=128)


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
    after: list[JobNumber] = Field([], fail_fast=True, max_length=1000)
    idempotency_key: str | None = None
    """A second request with the same one gets the job of the first, see docs/jobs.md."""


class PipelineBody(Body):
    """A pipeline as its YAML has it: ``{"name", "steps": {name: {"kind", "params", …}}}``, and
    ``lines``, where known the line of each key by its dotted path."""

    pipeline: dict[str, JsonValue]


class GcBody(Body):
    """Sweep blobs that nothing refers to and that are older than ``grace_s`` seconds."""

    grace_s: float | None = Field(None, ge=0)


def check_storable(body: Any) -> None:
    """Refuse a body, as JSON has it, with what cannot be stored or sent: NaN, half characters, huge
    integers, endless nesting, too many values.

    Raises:
        InvalidRequestError: naming the place of the value in the body.
    """
    _check_storable(body, "", 0, itertools.count(1))


def _check_storable(value: Any, field: str, depth: int, counted: Iterator[int]) -> None:
    if next(counted) > MAX_VALUES:
        raise InvalidRequestError(
            f"The body has more than {MAX_VALUES} values: send less at once.",
            param=field.partition(".")[0] or None,
        )
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
                _check_storable(key, field, depth + 1, counted)
        elif set(map(type, value)) == {int} and min(value) in INT64 and max(value) in INT64:
            return  # a prompt is a million good ones
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_storable(item, f"{field}.{key}" if field else str(key), depth + 1, counted)


def _not_storable(field: str, what: str) -> InvalidRequestError:
    if not field:
        return InvalidRequestError(f"The body has {what}.")
    shown = field[:MAX_FIELD_CHARS]
    return InvalidRequestError(f"The field {shown!r} has {what}.", param=shown)
