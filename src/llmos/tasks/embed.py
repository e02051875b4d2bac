"""Embedding: texts, or token ids, to vectors whose angles tell how alike the texts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmos.errors import InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.rows import Terms, check_count, check_total, fitted, rows_of, run_rows
from llmos.tasks.tokenizers import Row
from llmos.types import PipelineWork, Usage

EMBED_TASKS = frozenset({"embed"})
EmbedInput = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What may be asked of the vectors; None means the model's own way.

    ``dimensions`` keeps the first so many numbers (of a model trained for it, as Matryoshka models
    are); ``prompt_name`` is one of the model's prompts, put before each text.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    prompt_name: str | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, as little-endian float32 numbers."""

    vectors: list[bytes]
    usage: Usage


async def embed(
    context: TaskContext,
    served: Served,
    inputs: Sequence[EmbedInput],
    options: EmbedOptions,
    terms: Terms,
) -> Embeddings:
    """Embed every input; token ids are taken as they are, without special tokens around them.

    Raises:
        InvalidRequestError: there are no inputs, too many, an empty one, or an unknown option.
        ContextLengthError: an input is longer than the model reads, and ``truncate`` is not set.
        DeadlineExceededError: they were not done in time.
    """
    check_count(len(inputs), "input")
    names = ["input"] if len(inputs) == 1 else [f"input.{index}" for index in range(len(inputs))]
    wanted = _engine_options(served, options)
    prompt = _prompt(served, options.prompt_name)
    rows = await _rows(served, inputs, names, prompt, options.truncate)
    works = [PipelineWork("embed", row.ids, wanted) for row in rows]
    outs = await run_rows(context, served, works, terms)
    usage = Usage(sum(len(row.ids) for row in rows), 0)
    return Embeddings([out.vector for out in outs], usage)


async def _rows(
    served: Served,
    inputs: Sequence[EmbedInput],
    names: Sequence[str],
    prompt: str,
    truncate: bool,
) -> list[Row]:
    """Return each input's tokens. Raises InvalidRequestError for empty ones and unknown ids."""
    texts: list[tuple[str, str]] = []
    for given, name in zip(inputs, names, strict=True):
        if not (given.strip() if isinstance(given, str) else given):
            raise InvalidRequestError(f"{name} is empty: give some text.", param=name)
        if isinstance(given, str):
            texts.append((prompt + given, name))
        else:
            check_ids(given, served, name)
    encoded = await rows_of(
        served, [text for text, _ in texts], [name for _, name in texts], truncate=truncate
    )
    of_texts = iter(encoded)
    rows = [
        next(of_texts)
        if isinstance(given, str)
        else fitted(Row(given, (), (0,) * len(given)), served, name, truncate)
        for given, name in zip(inputs, names, strict=True)
    ]
    check_total(rows, names[0])
    return rows


def check_ids(ids: Sequence[int], served: Served, name: str) -> None:
    """Raise InvalidRequestError for the first id that the model does not have."""
    size = served.manifest.vocab_size or served.tokenizer.vocab_size
    wrong = next((i for i in ids if not 0 <= i < size), None)
    if wrong is not None:
        raise InvalidRequestError(
            f"{name} has the token id {wrong}, but {served.ref} has ids from 0 to {size - 1}.",
            param=name,
        )


def _engine_options(served: Served, options: EmbedOptions) -> dict[str, Any]:
    own = served.manifest.embedding or {}
    wanted = {"pooling": own.get("pooling", "mean"), "normalize": own.get("normalize", True)}
    if options.normalize is not None:
        wanted["normalize"] = options.normalize
    if options.dimensions is not None:
        most = int(own.get("dimensions") or 0)
        if most and options.dimensions > most:
            raise InvalidRequestError(
                f"dimensions is {options.dimensions}, but the vectors of {served.ref} have {most} "
                "numbers: ask for at most so many.",
                param="dimensions",
            )
        wanted["dimensions"] = options.dimensions
    return wanted


def _prompt(served: Served, name: str | None) -> str:
    prompts: dict[str, str] = (served.manifest.embedding or {}).get("prompts") or {}
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise InvalidRequestError(
            f"{served.ref} has no prompt {name[:100]!r}; it has: {known}.", param="prompt_name"
        )
    return prompts[name]
