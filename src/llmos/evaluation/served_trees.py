"""How good the trees of a served parser are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmos.data.trees import Parsed
from llmos.evaluation.asking import Ask, ask_all
from llmos.evaluation.trees import Tree, attachment

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def trees(context: JobContext, model: str, records: Sequence[Parsed]) -> dict[str, Any]:
    """Attachment scores over gold words, see `attachment`."""
    asks = [Ask("/api/v1/parse", {"model": model, "words": list(one.words)}) for one in records]
    found = []
    for answer in ask_all(context, asks):
        words = answer["sentences"][0]["words"]
        found.append(Tree(*([word[key] for word in words] for key in ("head", "deprel", "upos"))))
    return attachment(found, records)
