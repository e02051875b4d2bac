"""Makes tokenizer.json for Marian translation models (Helsinki-NLP's), which have none.

They cut the source text with source.spm and number the pieces by vocab.json, which holds those of
both languages. transformers offers no conversion of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from llmos.errors import InvalidModelError
from llmos.library.checks import tokenizer_errors
from llmos.library.files import read_json
from llmos.library.sentencepiece import UNIGRAM, SentencePieceModel, read_model

SOURCE_FILE = "source.spm"
_NEVER = -1e6
"""Log-probability of a longer piece that source.spm does not have: it is only ever decoded."""
_UNKNOWN_PENALTY = 10.0
"""What SentencePiece takes off the least score for a character it does not know."""


def tokenizer_json(directory: Path) -> bytes:
    """Return the content of tokenizer.json for the Marian model in ``directory``.

    Raises:
        InvalidModelError: source.spm or vocab.json is missing, malformed or of another kind.
    """
    source = read_model(directory / SOURCE_FILE)
    if source.model_type != UNIGRAM:
        raise InvalidModelError(
            "source.spm is not a unigram model, so no tokenizer.json can be made: "
            "choose another translation model",
            param="files",
        )
    pieces = _ordered_pieces(read_json(directory / "vocab.json"))
    with tokenizer_errors(SOURCE_FILE):
        text: str = _build(pieces, source).to_str()
    return text.encode()


def _ordered_pieces(vocabulary: dict[str, object]) -> list[str]:
    """Return the pieces by id; the ids must run from 0 without a gap."""
    by_id = {number: piece for piece, number in vocabulary.items() if type(number) is int}
    if sorted(by_id) != list(range(len(vocabulary))) or not {"<unk>", "</s>"} <= set(vocabulary):
        raise InvalidModelError(
            "vocab.json does not number its pieces 0, 1, 2, …: download it again", param="files"
        )
    return [by_id[number] for number in range(len(by_id))]


def _build(pieces: list[str], source: SentencePieceModel) -> Tokenizer:
    unknown = min(source.scores.values()) - _UNKNOWN_PENALTY
    scored = [
        (piece, source.scores.get(piece, unknown if len(piece) == 1 else _NEVER))
        for piece in pieces
    ]
    tokenizer = Tokenizer(models.Unigram(scored, pieces.index("<unk>")))
    steps: list[Any] = [normalizers.Precompiled(source.charsmap)] if source.charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", pieces.index("</s>"))]
    )
    languages = [piece for piece in pieces if piece.startswith(">>") and piece.endswith("<<")]
    special = ["</s>", "<unk>", *(["<pad>"] if "<pad>" in pieces else []), *languages]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer
