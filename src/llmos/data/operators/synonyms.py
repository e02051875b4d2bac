"""Words that may stand for a word: out of a table, or nearest by a model's vectors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmos.data.operators.synonym_groups import GROUPS

if TYPE_CHECKING:
    from llmos.data.pipeline.asking import Ask
    from llmos.sdk.word_vectors import Vectors

WORDS_AT_ONCE = 2048


class Table:
    """Synonyms out of a table of words; our own small one unless given."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self._table = {word.lower(): list(others) for word, others in table.items()} or own_table()

    def like(self, word: str) -> list[str]:
        """Return words that may stand for a word, none where it is not known."""
        return self._table.get(word.lower(), [])


class Nearest:
    """The words nearest to a word by the vectors of a served model.

    Args:
        count: how many.
        least: their cosine.
    """

    def __init__(self, ask: Ask, model: str, count: int, least: float) -> None:
        self._ask, self._model = ask, model
        self._count, self._least = count, least
        self._vectors: Vectors | None = None
        self._found: dict[str, list[str]] = {}

    def like(self, word: str) -> list[str]:
        """As `Table.like`. Raises LlmosError: the model has no word vectors."""
        if self._vectors is None:
            self._vectors = vectors_of(self._ask, self._model)
        known = self._vectors.known(word)
        if known is None:
            return []
        if known not in self._found:
            near = self._vectors.similar(known, self._count)
            self._found[known] = [one["word"] for one in near if one["score"] >= self._least]
        return self._found[known]


def vectors_of(ask: Ask, model: str) -> Vectors:
    """Return the words of a served model, and the vector that it answers with for each.

    Raises:
        LlmosError: it cannot be asked that.
    """
    import numpy as np

    from llmos.sdk.word_vectors import Vectors

    (file,) = ask(f"/api/v1/models/{model}/files/tokenizer.json", [None])
    places: dict[str, int] = file["model"]["vocab"]
    words = sorted(places, key=places.__getitem__)
    ids = [[places[word]] for word in words]
    body = {"model": model, "encoding_format": "base64", "truncate": True}
    parts = [
        {**body, "input": ids[start : start + WORDS_AT_ONCE]}
        for start in range(0, len(ids), WORDS_AT_ONCE)
    ]
    rows = [
        np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        for answer in ask("/v1/embeddings", parts)
        for one in answer["data"]
    ]
    return Vectors(words, np.stack(rows).astype(np.float32))


def own_table() -> dict[str, list[str]]:
    """Return the table of our own groups: of each word the others."""
    table: dict[str, list[str]] = {}
    for group in GROUPS:
        words = group.split()
        for word in words:
            others = [other for other in words if other != word]
            table[word] = [*table.get(word, ()), *others]
    return table
