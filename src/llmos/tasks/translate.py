"""Translation: language pairs, sentence by sentence, the text's own lines and paragraphs kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmos.errors import InvalidRequestError, UnsupportedTaskError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import Piece, pieces_of, run_all
from llmos.tasks.rows import Terms
from llmos.types import PipelineWork, Usage

TRANSLATE_TASKS = frozenset({"translate"})
UNSPACED_LANGS = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages written without spaces between sentences."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated text."""

    text: str
    usage: Usage


async def translate(
    context: TaskContext,
    served: Served,
    text: str,
    source_lang: str,
    target_lang: str,
    *,
    options: Mapping[str, Any],
    terms: Terms,
) -> Translation:
    """Translate a text of any length.

    Args:
        source_lang, target_lang: codes such as "en" and "zh".
        options: num_beams, no_repeat_ngram_size, length_penalty, max_tokens; unset ones are the
            model's own.

    Raises:
        InvalidRequestError: the text is empty, or the model does not translate this pair.
        ContextLengthError: a clause alone is longer than the model reads.
    """
    prefix = prefix_of(served, source_lang, target_lang)
    pieces = await pieces_of(served, text, prefix)
    given = {name: value for name, value in options.items() if value is not None}
    merged = {**_pipeline_defaults(served), **given}
    num_output_tokens = 0
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:

        async def one(piece: Piece) -> str:
            nonlocal num_output_tokens
            ids = piece.encoded.ids
            work = PipelineWork("seq2seq", ids, merged, terms.priority, tenant=terms.tenant)
            out = await lease.run(work)
            num_output_tokens += len(out.token_ids)
            return served.tokenizer.decode(out.token_ids).strip()

        translated = await run_all(pieces, one)
    num_input_tokens = sum(len(piece.encoded.ids) for piece in pieces)
    joined = _rejoined(text, pieces, translated, target_lang)
    return Translation(joined, Usage(num_input_tokens, num_output_tokens))


def prefix_of(served: Served, source_lang: str, target_lang: str) -> str:
    """Return what this model wants before each text for this pair of languages.

    Raises:
        InvalidRequestError, UnsupportedTaskError: it does not translate it, or does not say how.
    """
    translation = served.manifest.translation
    if translation is None:
        raise UnsupportedTaskError(f"{served.ref} does not say how it translates.", param="model")
    pairs = [(str(source), str(target)) for source, target in translation.get("pairs") or ()]
    if pairs and (source_lang, target_lang) not in pairs:
        known = ", ".join(f"{source} to {target}" for source, target in pairs)
        raise InvalidRequestError(
            f"{served.ref} does not translate {source_lang} to {target_lang}: it knows {known}.",
            param="target_lang",
        )
    prefix = str(translation.get("prefix") or "")
    return prefix.replace("{source_lang}", source_lang).replace("{target_lang}", target_lang)


def _pipeline_defaults(served: Served) -> dict[str, Any]:
    names = ("num_beams", "no_repeat_ngram_size", "length_penalty", "max_tokens")
    generation = served.manifest.generation
    return {name: generation[name] for name in names if name in generation}


def _rejoined(text: str, pieces: list[Piece], translated: list[str], target_lang: str) -> str:
    """Put translations where their originals stood; line breaks and indents stay as they were."""
    unspaced = target_lang.partition("-")[0].lower() in UNSPACED_LANGS
    out: list[str] = []
    last_end = 0
    for piece, translation in zip(pieces, translated, strict=True):
        gap = text[last_end : piece.start]
        if last_end and "\n" not in gap and "\r" not in gap:
            gap = "" if unspaced else " "
        out += [gap, translation]
        last_end = piece.end
    return "".join([*out, text[last_end:]])
