"""Token arrays: text encoded as rows of ids in one flat numpy array, kept on disk. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

CHUNK_CHARACTERS = 1 << 16
BATCH_TEXTS = 4096

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of token ids: row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: npt.NDArray[np.int32]
    offsets: IntArray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | npt.NDArray[Any]]) -> Ragged:
        """Pack rows."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        return cls(flat, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.offsets)

    def row(self, index: int) -> npt.NDArray[np.int32]:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: IntArray, fill: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """The chosen rows as ``[rows, longest]`` filled up with ``fill``, and where they are real.

        The mask goes by length alone, so a row may hold the value of ``fill`` itself.
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        columns = np.arange(int(lengths.max(initial=0)))
        mask = columns < lengths[:, None]
        values = np.full(mask.shape, fill, dtype=np.int64)
        values[mask] = self.flat[(starts[:, None] + columns)[mask]]
        return values, mask


Columns = dict[str, Ragged]


def encode_stream(tokenizer: Tokenizer, texts: Iterable[str], end_id: int | None) -> Ragged:
    """All texts as one row of tokens, each followed by ``end_id`` where given.

    Long texts are encoded in pieces cut at line ends, which bounds memory.
    """
    parts: list[npt.NDArray[np.int32]] = []
    for text in texts:
        for encoded in tokenizer.encode_batch_fast(list(_pieces(text)), add_special_tokens=False):
            parts.append(np.asarray(encoded.ids, dtype=np.int32))
        if end_id is not None:
            parts.append(np.asarray([end_id], dtype=np.int32))
    return Ragged.of([np.concatenate(parts)] if parts else [[]])


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of one text, as `encode_stream` has them: long ones are encoded in pieces."""
    found: list[int] = []
    for encoded in tokenizer.encode_batch_fast(list(_pieces(text)), add_special_tokens=False):
        found += encoded.ids
    return found


def encode_texts(
    tokenizer: Tokenizer, texts: Iterable[str], add_special_tokens: bool = True
) -> Iterator[Encoding]:
    """Encode many texts in batches, in order."""
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH_TEXTS)):
        yield from tokenizer.encode_batch(batch, add_special_tokens=add_special_tokens)


def save(columns: Columns, directory: Path, prefix: str) -> None:
    """Write columns as ``prefix.name.npy`` and ``prefix.name.offsets.npy``."""
    for name, ragged in columns.items():
        np.save(directory / f"{prefix}.{name}.npy", ragged.flat, allow_pickle=False)
        np.save(directory / f"{prefix}.{name}.offsets.npy", ragged.offsets, allow_pickle=False)


def load(directory: Path, prefix: str, names: Iterable[str]) -> Columns:
    """Read back what `save` wrote, memory-mapped."""
    return {
        name: Ragged(
            np.load(directory / f"{prefix}.{name}.npy", mmap_mode="r", allow_pickle=False),
            np.load(directory / f"{prefix}.{name}.offsets.npy", allow_pickle=False),
        )
        for name in names
    }


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = len(text)
        if cut - start > CHUNK_CHARACTERS:
            cut = text.rfind("\n", start, start + CHUNK_CHARACTERS) + 1 or start + CHUNK_CHARACTERS
        yield text[start:cut]
        start = cut
