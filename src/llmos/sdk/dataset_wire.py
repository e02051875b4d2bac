"""The bodies of requests about datasets, shared by the server and whoever writes a client."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, StrictInt

from llmos.sdk.wire import MAX_FILES, MAX_NAMES, Body

FileFormat = Literal[
    "text",
    "markdown",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "conll",
    "conllu",
    "parquet",
    "html",
    "pdf",
    "docx",
    "epub",
    "warc",
    "zip",
    "tar",
]


class AddDatasetBody(Body):
    """Make a dataset of uploaded files: ``files`` maps what they are called to blob digests. Or of
    what lies at ``url``: https://, hf://OWNER/NAME, s3://BUCKET/KEY, feedback:MODEL,
    answers:MODEL."""

    max_items: ClassVar[dict[str, int]] = {"files": MAX_FILES}
    name: str
    files: dict[str, str] = Field(default_factory=dict)
    url: str | None = Field(None, min_length=1, max_length=2000)
    reads: Literal["chat", "preferences", "generate"] | None = None
    """What feedback is made into."""
    format: FileFormat | None = None
    """Unset: by each file's suffix."""
    encoding: str | None = None
    """Unset: found out."""
    unit: Literal["paragraph", "line", "document", "page"] | None = None
    """What of a text or a document is a row; unset: what each format is cut into."""
    columns: Annotated[list[str], Field(fail_fast=True, max_length=MAX_NAMES)] | None = None
    """Of files of cells without a header line; of CoNLL, of its lines."""
    on_bad: Literal["skip", "stop"] | None = None
    """What a row that cannot be read does."""
    max_bad: float | None = Field(None, ge=0, le=1)
    """The share of rows that may be bad."""
    license: str | None = Field(None, max_length=200)
    source: str | None = Field(None, max_length=2000)
    description: str | None = Field(None, max_length=10_000)


class CrawlBody(Body):
    """Make a dataset of the pages of a site, from the one at ``url`` on."""

    name: str
    url: str = Field(min_length=1, max_length=2000)
    depth: StrictInt | None = Field(None, ge=0, le=20)
    """Links from the first page."""
    pages: StrictInt | None = Field(None, ge=1, le=10_000)
    """At most."""
    rate: float | None = Field(None, ge=0.01, le=10)
    """Pages a second, at most."""
    license: str | None = Field(None, max_length=200)
    source: str | None = Field(None, max_length=2000)
    description: str | None = Field(None, max_length=10_000)


class RunPipelineBody(Body):
    """Run a pipeline of operators, as its YAML has it: name, input, steps, and more."""

    pipeline: dict[str, JsonValue]

    def params(self) -> dict[str, Any]:
        """Return it as the job takes it."""
        return {"pipeline": self.pipeline}


class SplitBody(Body):
    """Split a dataset into parts, each a dataset of its own: NAME-PART."""

    max_items: ClassVar[dict[str, int]] = {"parts": 20}
    input: str
    parts: dict[str, float]
    """The share of each, 1 together."""
    name: str | None = None
    by: str | None = None
    """The field whose equal values stay together."""
    stratify: str | None = None
    """The field of labels that each part has in the same shares."""
    time: str | None = None
    """The field by which the parts follow one another."""
    seed: int = 0


class MixBody(Body):
    """Mix datasets by weights: ``{"NAME": weight}``."""

    max_items: ClassVar[dict[str, int]] = {"inputs": 100}
    name: str
    inputs: dict[str, float]
    rows: int | None = None
    """Unset: as many as there can be without one twice."""
    repeat: bool = False
    seed: int = 0
    description: str | None = Field(None, max_length=10_000)


class KAnonymityBody(Body):
    """Count which rows of a dataset are alike in some fields, and which too few others are like."""

    input: str
    fields: Annotated[list[str], Field(fail_fast=True, max_length=MAX_NAMES)]
    """What others may know of somebody."""
    k: StrictInt | None = None
    """Rows that must be alike in all of these."""
    sensitive: str | None = None
    """The field of which rows that are alike must not all say the same."""
    diversity: StrictInt | None = None
    """Different values of it that they must have."""


class DiffBody(Body):
    """Compare two datasets by the ids of their rows."""

    before: str
    after: str
