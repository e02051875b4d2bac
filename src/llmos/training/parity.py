"""The gate between training and serving: a version is published only if both agree.

Texts become the same tokens by the trainer's encoder and by what serves requests, and the engine
that will serve the version, loaded from its files in float32, gives the trainer's own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from llmos.data.record import Record
from llmos.data.tokenizers import Specials
from llmos.engines import builtin
from llmos.library.manifest import Manifest
from llmos.plugins.manager import load_plugins
from llmos.training import parity_ids
from llmos.training.parity_engine import Compared, Loaded
from llmos.training.parity_outputs import compare_classes, compare_decoder, compare_seq2seq
from llmos.training.parity_readers import (
    compare_masks,
    compare_ratings,
    compare_spans,
    compare_trees,
    compare_vectors,
)
from llmos.training.publish import PublishingError
from llmos.training.recipe import Recipe

Rows = Sequence[Sequence[int]]
Compare = Callable[["Trained", Loaded, Rows], Compared]

COMPARISONS: dict[str, Compare] = {
    "generate": compare_decoder,
    "chat": compare_decoder,
    "translate": compare_seq2seq,
    "classify": compare_classes,
    "entities": compare_classes,
    "fill_mask": compare_masks,
    "answer": compare_spans,
    "embed": compare_vectors,
    "rate": compare_ratings,
    "parse": compare_trees,
}
"""By the task of a manifest: how what its engine says is compared with what the trainer's model
says. A new task is published once it has its own here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is to be published, and the model in memory that was trained.

    Attributes:
        directory: of a model's files; with ``adapter``, of those of its base.
        adapter: directory of an adapter's files.
        manifest: as the version will have it; with ``adapter``, that of both together.
        samples: some records that the model can read.
        rows: token ids to compare answers to, beside those of texts.
    """

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: Tokenizer
    specials: Specials
    directory: Path
    adapter: Path | None = None
    manifest: Manifest
    samples: Sequence[Record]
    rows: Rows


def check(trained: Trained) -> dict[str, Any]:
    """Return what was compared and how much it differed: the gate's report, for the card.

    Raises:
        PublishingError: trainer and serving differ, or the task has no comparison.
    """
    task = trained.manifest.task
    if (compare := COMPARISONS.get(task)) is None:
        raise PublishingError(
            f"nothing compares trainer and engine for task {task}: "
            "add its comparison to llmos.training.parity.COMPARISONS"
        )
    read = parity_ids.check(trained)
    path = load_plugins([builtin]).engines()[trained.manifest.engine]
    with Loaded.of(path, trained.directory, trained.manifest, trained.model.device) as engine:
        if trained.adapter is not None:
            engine.adapt(trained.adapter)
        compared = compare(trained, engine, [*read.rows, *trained.rows])
    return {
        "engine": trained.manifest.engine,
        "dtype": "float32",
        "texts": read.num_texts,
        "text_tokens": read.num_tokens,
        **compared.report(),
    }
