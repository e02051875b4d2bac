"""How good the vectors of a served model are: whether texts that belong together lie near each
other, whether cosines go with what people think, and whether words solve analogies."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from llmos.data.judgements import Analogy, Judged
from llmos.data.record import Alike
from llmos.errors import DataError
from llmos.evaluation import metrics
from llmos.evaluation.asking import Ask, ask_all, read

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmos.kernel.context import JobContext
    from llmos.sdk.word_vectors import Vectors

TEXTS_AT_ONCE = 64
WORDS_AT_ONCE = 2048
ROWS_AT_ONCE = 1024
"""Of texts that are held against all partners."""
TOP = 5


def likeness(context: JobContext, model: str, records: Sequence[Alike]) -> dict[str, Any]:
    """How near a text's own partner is among all partners, see `metrics.ranking_scores`. Partners
    that are the same text count as one."""
    import numpy as np

    partners = list(dict.fromkeys(one.positive for one in records))
    places = {text: place for place, text in enumerate(partners)}
    found = _units(_embedded(context, model, [*partners, *(one.anchor for one in records)]))
    theirs, ours = found[: len(partners)], found[len(partners) :]
    own = np.array([places[one.positive] for one in records])
    ranks: list[int] = []
    for start in range(0, len(records), ROWS_AT_ONCE):
        cosines = ours[start : start + ROWS_AT_ONCE] @ theirs.T
        of_own = np.take_along_axis(cosines, own[start : start + ROWS_AT_ONCE, None], axis=1)
        ranks += ((cosines > of_own).sum(axis=1) + 1).tolist()
    return metrics.ranking_scores(ranks)


def judgements(context: JobContext, model: str, records: Sequence[Judged]) -> dict[str, Any]:
    """How the cosines of pairs go together with the numbers that people gave them."""
    texts = list(dict.fromkeys(chain.from_iterable((one.anchor, one.positive) for one in records)))
    places = {text: place for place, text in enumerate(texts)}
    found = _units(_embedded(context, model, texts))
    cosines = [float(found[places[one.anchor]] @ found[places[one.positive]]) for one in records]
    return metrics.correlations(cosines, [one.score for one in records])


def analogies(context: JobContext, model: str, records: Sequence[Analogy]) -> dict[str, Any]:
    """Of the questions whose words the model knows, the shares of which the right word is nearest,
    and among the nearest 5 (Mikolov et al., arXiv:1301.3781); and how many these are."""
    vectors = _vocabulary(context, model)
    asked = [[vectors.known(word) for word in (one.a, one.b, one.c, one.d)] for one in records]
    known = [[word for word in words if word is not None] for words in asked if None not in words]
    if not known:
        raise DataError("the model knows the words of none of the questions")
    first = among = 0
    for a, b, c, d in known:
        nearest = [found["word"] for found in vectors.analogy(a, b, c, TOP)]
        first += nearest[:1] == [d]
        among += d in nearest
    shares = {"accuracy": first / len(known), f"accuracy_at_{TOP}": among / len(known)}
    return {**shares, "known": len(known)}


def word_judgements(context: JobContext, model: str, records: Sequence[Judged]) -> dict[str, Any]:
    """As `judgements`, of the pairs whose words the model knows; and how many these are."""
    vectors = _vocabulary(context, model)
    known = [one for one in records if one.anchor in vectors and one.positive in vectors]
    if not known:
        raise DataError("the model knows the words of none of the pairs")
    cosines = [vectors.cosine(one.anchor, one.positive) for one in known]
    found = metrics.correlations(cosines, [one.score for one in known])
    return {**found, "known": len(known)}


def _vocabulary(context: JobContext, model: str) -> Vectors:
    """Return the words of a model, and the vectors that it answers with for each."""
    from llmos.sdk.word_vectors import Vectors

    file = read(context, f"/api/v1/models/{model}/files/tokenizer.json")
    places: dict[str, int] = file["model"]["vocab"]
    words = sorted(places, key=places.__getitem__)
    ids = [[places[word]] for word in words]
    return Vectors(words, _embedded(context, model, ids, WORDS_AT_ONCE))


def _embedded(
    context: JobContext,
    model: str,
    inputs: Sequence[str | list[int]],
    at_once: int = TEXTS_AT_ONCE,
) -> npt.NDArray[np.float32]:
    """Return the vector of each text, or of tokens, ``[inputs, size]``; what is longer than the
    model reads is cut."""
    import numpy as np

    body = {"model": model, "encoding_format": "base64", "truncate": True}
    asks = [
        Ask("/v1/embeddings", {**body, "input": list(inputs[start : start + at_once])})
        for start in range(0, len(inputs), at_once)
    ]

    rows = [
        np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        for answer in ask_all(context, asks)
        for one in answer["data"]
    ]
    return np.stack(rows).astype(np.float32)


def _units(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units: npt.NDArray[np.float32] = matrix / np.maximum(lengths, np.finfo(np.float32).tiny)
    return units
