"""Which words are alike, by their vectors: what `Model.similar` and `Model.analogy` ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmos.errors import InvalidRequestError
from llmos.sdk import transfer

if TYPE_CHECKING:
    from llmos.sdk.client import Client

WEIGHT = "embed_tokens.weight"
SPECIAL = ("<pad>", "<unk>")
FloatMatrix = npt.NDArray[np.float32]


class Vectors:
    """A table of word vectors.

    Args:
        words: one for each row.
        matrix: ``[words, size]``.
    """

    def __init__(self, words: Sequence[str], matrix: FloatMatrix) -> None:
        self.words, self.matrix = list(words), matrix
        self._places = {word: place for place, word in enumerate(words) if word not in SPECIAL}
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        self._units = matrix / np.maximum(lengths, np.finfo(np.float32).tiny)

    def __contains__(self, word: str) -> bool:
        return self.known(word) is not None

    def known(self, word: str) -> str | None:
        """Return a word as it is known: as it is written, else in small letters; None: not."""
        return next((form for form in (word, word.lower()) if form in self._places), None)

    def vector(self, word: str) -> FloatMatrix:
        """Return a word's vector. Raises InvalidRequestError: it is not known."""
        row: FloatMatrix = self.matrix[self._place(word)]
        return row

    def cosine(self, word: str, other: str) -> float:
        """Return how alike two words are, from -1 to 1. Raises as ``vector``."""
        first, second = self._units[[self._place(word), self._place(other)]]
        return float(first @ second)

    def similar(self, word: str, n: int = 10) -> list[dict[str, Any]]:
        """Return the ``n`` words nearest to a word by the cosine, ``{"word", "score"}`` each.

        Raises:
            InvalidRequestError: the word is not known.
        """
        place = self._place(word)
        return self._nearest(self._units[place], n, {place})

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> list[dict[str, Any]]:
        """Return the ``n`` words that are to ``c`` what ``b`` is to ``a``: nearest to b - a + c
        (Mikolov et al., 2013), none of the three among them.

        Raises:
            InvalidRequestError: a word is not known.
        """
        places = [self._place(word) for word in (a, b, c)]
        first, second, third = self._units[places]
        return self._nearest(second - first + third, n, set(places))

    def _nearest(self, wanted: FloatMatrix, n: int, without: set[int]) -> list[dict[str, Any]]:
        if n < 1:
            raise InvalidRequestError(f"n is {n}, but must be 1 or more.", param="n")
        scores = self._units @ (wanted / max(float(np.linalg.norm(wanted)), 1e-12))
        left_out = [*without, *(i for i, w in enumerate(self.words[:8]) if w in SPECIAL)]
        scores[left_out] = -np.inf
        count = min(n, len(scores) - len(set(left_out)))
        best = np.argpartition(-scores, min(count, len(scores) - 1))[:count]
        best = best[np.lexsort((best, -scores[best]))]
        return [{"word": self.words[i], "score": float(scores[i])} for i in best]

    def _place(self, word: str) -> int:
        if (form := self.known(word)) is None:
            message = f"The model does not know the word {word[:80]!r}."
            raise InvalidRequestError(message, param="word")
        return self._places[form]


def load(client: Client, model: dict[str, Any]) -> Vectors:
    """Fetch the vectors of a version.

    Raises:
        InvalidRequestError: it has none.
    """
    from safetensors.numpy import load_file

    if model["manifest"].get("model_type") != "word_vectors":
        raise InvalidRequestError(
            f"{model['ref']} has no word vectors: train some by `llmos train word-vectors`, or "
            "import them by `llmos vectors import`.",
            param="model",
        )
    words = client.model_json(model["ref"], "tokenizer.json")["model"]["vocab"]
    with TemporaryDirectory() as folder:
        wanted = {**model, "files": {"model.safetensors": model["files"]["model.safetensors"]}}
        found = transfer.download_model(client.transport, wanted, Path(folder) / "model", None)
        matrix = load_file(found / "model.safetensors")[WEIGHT]
    return Vectors(sorted(words, key=words.__getitem__), matrix)
