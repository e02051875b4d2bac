"""SentencePiece files are read without their library, and Marian's tokenizers made from them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llmos.errors import InvalidModelError
from llmos.library.checks import check_tokenizer
from llmos.library.conversion import tokenizer_json
from llmos.library.sentencepiece import read_model

SOURCE = {"<unk>": 0.0, "<s>": 0.0, "</s>": 0.0, "▁": -4.0, "▁hello": -2.0, "▁world": -2.5}
SOURCE |= {"h": -6.0, "e": -5.0, "l": -5.5, "o": -5.0, ",": -3.0, "▁he": -4.5, "ll": -6.0}
VOCAB = {"</s>": 0, "<unk>": 1, ">>cmn_Hans<<": 2, "▁你": 3, "好": 4, "你好": 5}
VOCAB |= {
    piece: 6 + index for index, piece in enumerate(sorted(set(SOURCE) - {"<s>", "</s>", "<unk>"}))
}
VOCAB |= {"<pad>": len(VOCAB)}


def field(number: int, wire: int, payload: bytes) -> bytes:
    return varint(number << 3 | wire) + payload


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, payload: bytes) -> bytes:
    return field(number, 2, varint(len(payload)) + payload)


def spm(scores: dict[str, float], model_type: int = 1, charsmap: bytes = b"") -> bytes:
    """Write what sentencepiece's trainer writes, as far as it is read."""
    pieces = [
        message(1, message(1, piece.encode()) + field(2, 5, struct.pack("<f", score)))
        for piece, score in scores.items()
    ]
    trainer = message(2, message(1, b"corpus.txt") + field(3, 0, varint(model_type)))
    normaliser = message(3, message(1, b"nmt_nfkc") + (message(2, charsmap) if charsmap else b""))
    return b"".join(pieces) + trainer + normaliser + field(9, 1, bytes(8))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "source.spm").write_bytes(spm(SOURCE))
    (tmp_path / "vocab.json").write_text(json.dumps(VOCAB))
    return tmp_path


def test_pieces_and_scores_are_read(directory: Path) -> None:
    model = read_model(directory / "source.spm")
    assert model.scores == SOURCE
    assert (model.model_type, model.charsmap) == (1, b"")
    (directory / "source.spm").write_bytes(spm(SOURCE, charsmap=b"\1\2"))
    assert read_model(directory / "source.spm").charsmap == b"\1\2"


@pytest.fixture
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json(directory).decode())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello world", ["▁hello", "▁world"]),
        ("  hello   world ", ["▁hello", "▁world"]),
        ("hell", ["▁he", "ll"]),
        ("hello, hello", ["▁hello", ",", "▁hello"]),
        (">>cmn_Hans<< hello", [">>cmn_Hans<<", "▁hello"]),
        ("hello好", ["▁hello", "好"]),
        ("hello?", ["▁hello", "?"]),
        ("", []),
    ],
)
def test_text_is_cut_by_the_source_and_numbered_by_the_vocabulary(
    tokenizer: Tokenizer, text: str, tokens: list[str]
) -> None:
    encoding = tokenizer.encode(text)
    assert encoding.tokens == [*tokens, "</s>"]
    assert encoding.ids == [*(VOCAB.get(token, 1) for token in tokens), 0]


def test_target_pieces_decode(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([VOCAB["▁你"], VOCAB["好"], VOCAB["<pad>"], 0]) == "你好"
    assert tokenizer.get_vocab() == VOCAB


def test_a_broken_normaliser_is_refused(directory: Path) -> None:
    (directory / "source.spm").write_bytes(spm(SOURCE, charsmap=b"\1\2"))
    with pytest.raises(InvalidModelError, match=r"source\.spm is not a valid tokenizer"):
        tokenizer_json(directory)


def test_a_normaliser_that_panics_is_found_by_the_check(directory: Path) -> None:
    (directory / "source.spm").write_bytes(spm(SOURCE, charsmap=b"\4\0\0\0abcd"))
    (directory / "tokenizer.json").write_bytes(tokenizer_json(directory))
    with pytest.raises(InvalidModelError, match=r"tokenizer\.json is not a valid tokenizer"):
        check_tokenizer(directory, 100)


def test_a_bpe_model_is_refused(directory: Path) -> None:
    (directory / "source.spm").write_bytes(spm(SOURCE, model_type=2))
    with pytest.raises(InvalidModelError, match="not a unigram model"):
        tokenizer_json(directory)


@pytest.mark.parametrize(
    "vocab", [{}, {"</s>": 0}, {"</s>": 0, "<unk>": 2}, {"</s>": "0", "<unk>": 1}]
)
def test_a_vocabulary_with_gaps_is_refused(directory: Path, vocab: dict[str, object]) -> None:
    (directory / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(InvalidModelError, match=r"vocab\.json does not number"):
        tokenizer_json(directory)


def test_a_missing_vocabulary_is_said(directory: Path) -> None:
    (directory / "vocab.json").unlink()
    with pytest.raises(InvalidModelError, match=r"no vocab\.json"):
        tokenizer_json(directory)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("spm") / "source.spm"
    path.write_bytes(data)
    try:
        assert read_model(path).scores
    except InvalidModelError as error:
        assert "not a SentencePiece model" in error.message


@given(st.integers(0, len(spm(SOURCE)) - 1), st.integers(0, 255))
def test_a_mutated_model_is_a_model_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    raw = bytearray(spm(SOURCE))
    raw[position] = byte
    path = tmp_path_factory.mktemp("spm") / "source.spm"
    path.write_bytes(raw)
    try:
        assert read_model(path).scores
    except InvalidModelError as error:
        assert "not a SentencePiece model" in error.message
