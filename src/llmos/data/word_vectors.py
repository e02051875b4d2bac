"""Word vectors in files: the text format of word2vec and GloVe, and a model's directory.

The text format has a word and its numbers a line, separated by spaces; word2vec's begins with a
line of how many words there are and how many numbers each has, GloVe's does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from llmos.data.tokenizers import PAD, UNKNOWN, words_between_spaces
from llmos.errors import DataError

FloatMatrix = npt.NDArray[np.float32]
WEIGHT = "embed_tokens.weight"
LARGEST = float(np.finfo(np.float32).max)
MAX_NUMBERS = 100_000
"""In a line; more is no vector."""


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """Words and their vectors ``[words, size]``."""

    words: list[str]
    matrix: FloatMatrix


def read_text(path: Path, shown: str | None = None) -> WordVectors:
    """Read word2vec's or GloVe's text format.

    Args:
        shown: what the user calls the file, for errors.

    Raises:
        DataError: there is no such file, or a line of it is not a word and its numbers.
    """
    words: dict[str, int] = {}
    rows: list[FloatMatrix] = []
    expected, size = None, None
    shown = shown or str(path)
    for number, line in enumerate(_lines(path, shown), 1):
        where = f"{shown}, line {number}"
        fields = line.rstrip(" \r\n").split(" ")
        if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
            expected, size = int(fields[0]), int(fields[1])
            continue
        word, row = fields[0], _row(fields[1:], where)
        size = len(row) if size is None else size
        if len(row) != size:
            raise DataError(f"{where} has {len(row)} numbers where {size} are expected")
        if not word:
            raise DataError(f"{where} begins with a space where a word is expected")
        if word in words:
            raise DataError(f"{where}: {word!r} is there already, in line {words[word]}")
        words[word] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{shown} has no vectors")
    if expected is not None and expected != len(rows):
        raise DataError(f"{shown} says that it has {expected} words, but has {len(rows)}")
    return WordVectors(list(words), np.stack(rows))


def read_model(directory: Path) -> WordVectors:
    """Return the words of a model's directory, as `write_model` writes it, and their vectors."""
    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    return WordVectors(words, load_file(directory / "model.safetensors")[WEIGHT])


def write_text(path: Path, vectors: WordVectors, *, header: bool) -> None:
    """Write the text format, with word2vec's first line or without; numbers read back the same.

    Raises:
        DataError: a word has a space in it, which the format cannot hold.
    """
    if (odd := next((w for w in vectors.words if not w or w.split() != [w]), None)) is not None:
        raise DataError(f"{odd!r} is not one word: the text format cannot hold it")
    with path.open("w", encoding="utf-8") as file:
        if header:
            file.write(f"{len(vectors.words)} {vectors.matrix.shape[1]}\n")
        for word, row in zip(vectors.words, vectors.matrix, strict=True):
            file.write(f"{word} {' '.join(str(number) for number in row)}\n")


def write_imported(directory: Path, vectors: WordVectors) -> None:
    """Write vectors as a model's directory; its words are what stands between spaces.

    A word ``<unk>`` stands for all that there are not, which are otherwise nought.
    """
    matrix = {PAD: None, UNKNOWN: None} | dict(zip(vectors.words, vectors.matrix, strict=True))
    nought = np.zeros(vectors.matrix.shape[1], dtype=np.float32)
    rows = [nought if row is None else row for row in matrix.values()]
    write_model(directory, words_between_spaces(list(matrix)), np.stack(rows))


def write_model(directory: Path, tokenizer: Tokenizer, matrix: FloatMatrix) -> None:
    """Write a directory that transformers' AutoModel loads: a vector for each token."""
    config = {
        "architectures": ["WordVectorsModel"],
        "model_type": "word_vectors",
        "dtype": "float32",
        "vocab_size": matrix.shape[0],
        "hidden_size": matrix.shape[1],
        "pad_token_id": tokenizer.token_to_id(PAD),
    }
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("config.json", config), ("tokenizer_config.json", tokens)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file({WEIGHT: matrix}, directory / "model.safetensors", {"format": "pt"})


def _lines(path: Path, shown: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        raise DataError(f"there is no file {shown}") from None
    except IsADirectoryError:
        raise DataError(f"{shown} is a folder: name a file of vectors") from None
    except UnicodeDecodeError:
        raise DataError(
            f"{shown} is not UTF-8 text: word2vec's binary format must be saved as text first"
        ) from None


def _row(fields: Sequence[str], where: str) -> FloatMatrix:
    if not 0 < len(fields) <= MAX_NUMBERS:
        raise DataError(f"{where} must be a word and its numbers, separated by single spaces")
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        wrong = next(field for field in fields if not _is_number(field))
        raise DataError(f"{where}: {wrong[:40]!r} is not a number") from None
    if not all(abs(number) <= LARGEST for number in numbers):
        raise DataError(f"{where} has a number that is not finite")
    return np.array(numbers, dtype=np.float32)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
