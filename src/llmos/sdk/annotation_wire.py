"""The bodies of requests about labelling tasks, shared by the server and who writes a client."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StrictBool, StrictFloat, StrictInt, model_validator

from llmos.errors import InvalidRequestError
from llmos.sdk.wire import MAX_LABELS, Body

MAX_FIELDS_SHOWN = 20
MAX_ANNOTATORS = 100
MAX_OVERLAP = 10
MAX_AT_ONCE = 500
MAX_INSTRUCTIONS_CHARS = 10_000
MAX_FLAG_CHARS = 4000
MAX_PLACE = 2**63 - 1
_SCALE = 10**6

FieldName = Annotated[str, Field(min_length=1, max_length=200)]
LabelText = Annotated[str, Field(min_length=1, max_length=200)]
Owner = Annotated[str, Field(min_length=1, max_length=128)]
Annotators = Annotated[list[Owner], Field(fail_fast=True, max_length=MAX_ANNOTATORS)]
Place = Annotated[StrictInt, Field(ge=0, le=MAX_PLACE)]
Ref = Annotated[str, Field(min_length=1, max_length=1000)]


class AnnotationBody(Body):
    """Have rows of a dataset labelled: which fields annotators see, and what is asked."""

    name: str = Field(min_length=1, max_length=200)
    dataset: Ref
    kind: Literal["classification", "spans", "pairs", "rating", "text"]
    fields: Annotated[
        list[FieldName], Field(fail_fast=True, min_length=1, max_length=MAX_FIELDS_SHOWN)
    ]
    """Spans are marked in the first; of pairs the two answers."""
    labels: Annotated[list[LabelText], Field(fail_fast=True, max_length=MAX_LABELS)] = Field([])
    several: StrictBool = False
    """Any number of the labels may be given."""
    least: StrictInt = Field(1, ge=-_SCALE, le=_SCALE)
    most: StrictInt = Field(5, ge=-_SCALE, le=_SCALE)
    ties: StrictBool = True
    """Two answers may be as good as each other."""
    prompt: str = Field("", max_length=200)
    """The field with what was asked, of pairs and texts."""
    into: str = Field("", max_length=200)
    """The field that the label becomes; left out: label, labels, entities, score or target."""
    instructions: str = Field("", max_length=MAX_INSTRUCTIONS_CHARS)
    consent: str = Field("", max_length=MAX_INSTRUCTIONS_CHARS)
    """What annotators must agree to first; left out: nothing."""
    overlap: StrictInt = Field(1, ge=1, le=MAX_OVERLAP)
    """How many label each item."""
    annotators: Annotators = Field([])
    """Owners of keys; left out: the task's own alone."""
    order: Literal["dataset", "random", "uncertain"] = "random"
    """uncertain: what a model that suggests was least sure of first."""
    rows: Annotated[StrictInt, Field(ge=1)] | None = None
    """At most; drawn where the dataset has more."""
    seed: StrictInt = Field(0, ge=0, le=MAX_PLACE)
    lease_s: StrictFloat = Field(600.0, ge=1, le=7 * 86400)
    """Seconds for which an item is one annotator's."""

    def scheme(self) -> dict[str, Any]:
        """Return what is asked of each item."""
        names = ("kind", "fields", "labels", "several", "least", "most", "ties", "prompt", "into")
        return self.model_dump(include=set(names))


class AnnotationChangeBody(Body):
    """Change who annotates a task, what they are told, and whether items are given out."""

    annotators: Annotators | None = None
    instructions: str | None = Field(None, max_length=MAX_INSTRUCTIONS_CHARS)
    closed: StrictBool | None = None


class ConsentBody(Body):
    """Agree to what a task asks annotators to, or agree no more."""

    agree: StrictBool


class LabelBody(Body):
    """Label an item, or skip it; and say what is wrong with it."""

    place: Place
    value: Any = None
    skip: StrictBool = False
    flag: Annotated[str, Field(min_length=1, max_length=MAX_FLAG_CHARS)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> LabelBody:
        if self.skip == (self.value is not None):
            raise InvalidRequestError("give a value, or skip: true", param="value")
        return self


class FinalBody(Body):
    """Decide an item as its reviewer."""

    place: Place
    value: Any


class SuggestBody(Body):
    """Have a model label the items first."""

    model: Ref


class ExportBody(Body):
    """Make a dataset of what was decided."""

    name: str = Field(min_length=1, max_length=300)
    partial: StrictBool = False
    """Of items that have not all their labels, too."""
    description: str = Field("", max_length=10_000)


class ItemBody(Body):
    """An item that the task's own job sends."""

    place: Place
    row: str
    shown: dict[str, JsonValue]
    rank: float


class ItemsBody(Body):
    """Items of a task that is being filled; ``done``: there are no more."""

    items: Annotated[list[ItemBody], Field(fail_fast=True, max_length=MAX_AT_ONCE)] = Field([])
    done: StrictBool = False
    left_out: dict[str, JsonValue] = Field({})


class SuggestionBody(Body):
    """What a model says of an item, and how sure it is."""

    place: Place
    value: Any
    confidence: float | None = Field(None, ge=0, le=1)


class SuggestionsBody(Body):
    """What a model suggests, as the task's own job sends it."""

    model: Ref
    suggestions: Annotated[list[SuggestionBody], Field(fail_fast=True, max_length=MAX_AT_ONCE)]
