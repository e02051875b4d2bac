"""The bodies of /v1/embeddings (OpenAI's) and /v1/rerank (Cohere's and Jina's).

Both also take llmos' own fields: priority, deadline_ms, truncate.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from llmos.errors import InvalidRequestError
from llmos.sdk.wire import MAX_INT32, Constrained, PriorityName, TokenId
from llmos.tasks.embed import EmbedInput, EmbedOptions
from llmos.tasks.rows import check_count


def read_inputs(given: Any) -> list[EmbedInput]:
    """Return texts and token arrays; one of either may stand alone.

    Raises:
        InvalidRequestError: it is something else (``param`` names the entry).
    """
    if isinstance(given, str) or (isinstance(given, list) and given and _is_id(given[0])):
        given = [given]
    if not isinstance(given, list):
        raise _not_an_input("input")
    check_count(len(given), "input")
    return [
        _input(entry, "input" if len(given) == 1 else f"input.{index}")
        for index, entry in enumerate(given)
    ]


def _input(entry: Any, name: str) -> EmbedInput:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, list) and all(_is_id(item) and 0 <= item <= MAX_INT32 for item in entry):
        return tuple(entry)
    raise _not_an_input(name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _not_an_input(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name} must be a text, an array of token ids, or an array of either.", param=name
    )


def read_documents(given: Any) -> list[str]:
    """Return the texts of documents, each a text or an object with ``text``.

    Raises:
        InvalidRequestError: one is something else (``param`` names it).
    """
    if not isinstance(given, list):
        raise InvalidRequestError("documents must be an array of texts.", param="documents")
    check_count(len(given), "documents")
    return [_document(entry, f"documents.{index}") for index, entry in enumerate(given)]


def _document(entry: Any, name: str) -> str:
    text = entry.get("text") if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise InvalidRequestError(f"{name} must be a text, or an object with text.", param=name)
    return text


Inputs = Annotated[
    list[EmbedInput],
    PlainValidator(
        read_inputs, json_schema_input_type=str | list[str] | list[TokenId] | list[list[TokenId]]
    ),
]
Documents = Annotated[
    list[str],
    PlainValidator(read_documents, json_schema_input_type=list[str | dict[str, Any]]),
]


class _Rows(Constrained):
    model: str
    priority: PriorityName | None = None
    deadline_ms: int | None = Field(None, ge=1, le=MAX_INT32)
    truncate: bool = False
    """Cut what is too long for the model at its end, instead of refusing it."""
    user: str | None = None


class EmbeddingsBody(_Rows):
    """``POST /v1/embeddings``"""

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=MAX_INT32)
    normalize: bool | None = None
    prompt_name: str | None = None
    """One of the model's prompts (`llmos show MODEL --json`: manifest.embedding.prompts)."""

    def options(self) -> EmbedOptions:
        """Return what is asked of the vectors."""
        return EmbedOptions(self.dimensions, self.normalize, self.prompt_name, self.truncate)


class RerankBody(_Rows):
    """``POST /v1/rerank``"""

    query: str
    documents: Documents
    top_n: int | None = Field(None, ge=1, le=MAX_INT32)
    return_documents: bool = True
