"""How good a finished parser is: its trees against those of sentences it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from llmos.data.encoding import Ragged, encode_texts
from llmos.data.trees import Parsed
from llmos.engines import heads
from llmos.errors import EngineError
from llmos.evaluation.evaluate import batches
from llmos.evaluation.trees import Tree, attachment
from llmos.tasks.parse import tree_of
from llmos.types import PipelineWork


@torch.inference_mode()
def trees(
    model: PreTrainedModel, tokenizer: Tokenizer, records: Sequence[Parsed], labels: Sequence[str]
) -> dict[str, Any]:
    """Attachment scores, see `attachment`; trees are read as the server reads them.

    Args:
        labels: of relations.

    Raises:
        EngineError: the model computes numbers that are none.
    """
    ids = Ragged.of(one.ids for one in encode_texts(tokenizer, (record.text for record in records)))
    found = [Tree((), (), ())] * len(records)
    for rows, input_ids, mask in batches(model, ids):
        out = model(input_ids=input_ids, attention_mask=mask)
        works = [PipelineWork("parse", tuple(ids.row(row).tolist())) for row in rows]
        for row, one in zip(rows, heads.results("parse", out, works, model.config), strict=True):
            if isinstance(one, EngineError):
                raise one
            words = tree_of(one, records[row].words, labels)
            found[row] = Tree(
                [word.head for word in words],
                [word.deprel for word in words],
                [word.upos for word in words],
            )
    return {**attachment(found, records), "rows": len(records)}
