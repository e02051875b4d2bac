"""Vectors of words, such as word2vec and GloVe make: a table, and a network that looks them up."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput


@strict
class WordVectorsConfig(PreTrainedConfig):
    """Sizes of a table of word vectors.

    Attributes:
        hidden_size: numbers in a vector.
        max_position_embeddings: the longest text it is given, in words; it has no positions.
    """

    model_type = "word_vectors"

    vocab_size: int = 32000
    hidden_size: int = 100
    max_position_embeddings: int = 65536
    pad_token_id: int | None = None


class WordVectorsModel(PreTrainedModel):
    """Looks words up; their mean stands for a text."""

    config_class = WordVectorsConfig
    base_model_prefix = "model"

    def __init__(self, config: WordVectorsConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.zeros_(module.weight)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Return the vectors ``[rows, length, hidden]`` of words ``[rows, length]``."""
        return BaseModelOutput(last_hidden_state=self.embed_tokens(input_ids))
