"""Reads the pieces and the normaliser of a SentencePiece model file, without its library.

The file is one protobuf message, of which only three fields matter here; the rest is passed over.
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import InvalidModelError

UNIGRAM = 1
_MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Every piece with its log-probability, in the file's order.

    ``charsmap`` is the compiled normalisation table, empty where there is none.
    """

    scores: dict[str, float]
    charsmap: bytes
    model_type: int


def read_model(path: Path) -> SentencePieceModel:
    """Read a ``.spm`` or ``.model`` file.

    Raises:
        InvalidModelError: it is not a SentencePiece model.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise _invalid(path)
    try:
        return _parse(path.read_bytes())
    except (ValueError, IndexError, struct.error) as error:
        raise _invalid(path) from error


def _parse(data: bytes) -> SentencePieceModel:
    scores: dict[str, float] = {}
    charsmap, model_type = b"", UNIGRAM
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():  # SentencePiece: 1 piece, 2 score, 3 type
                fields = dict(_fields(value))
                piece, score = fields.get(1), fields.get(2, 0.0)
                if not isinstance(piece, bytes) or not isinstance(score, float):
                    raise ValueError("malformed piece")
                if not math.isfinite(score):
                    raise ValueError("impossible score")
                scores[piece.decode()] = score
            case 2, bytes():  # TrainerSpec: 3 model_type
                found = dict(_fields(value)).get(3, UNIGRAM)
                model_type = found if isinstance(found, int) else 0
            case 3, bytes():  # NormalizerSpec: 2 precompiled_charsmap
                table = dict(_fields(value)).get(2, b"")
                charsmap = table if isinstance(table, bytes) else b""
    if not scores:
        raise ValueError("no pieces")
    return SentencePieceModel(scores, charsmap, model_type)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield (field number, value) of one protobuf message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        match key & 7:
            case 0:
                value, position = _varint(data, position)
                yield key >> 3, value
            case 1:
                position += 8
            case 2:
                length, position = _varint(data, position)
                if position + length > len(data):
                    raise ValueError("cut short")
                yield key >> 3, data[position : position + length]
                position += length
            case 5:
                yield key >> 3, float(struct.unpack_from("<f", data, position)[0])
                position += 4
            case _:
                raise ValueError("unknown wire type")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("endless number")


def _invalid(path: Path) -> InvalidModelError:
    return InvalidModelError(
        f"{path.name} is not a SentencePiece model: download it again", param="files"
    )
