"""A convolutional classifier of texts (Kim, arXiv:1408.5882)."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput


@strict
class ConvolutionalConfig(PreTrainedConfig):
    """Sizes of a convolutional network.

    Attributes:
        hidden_size: of a token's vector.
        num_filters: of each width.
        widths: of the filters, in tokens.
        max_position_embeddings: the longest text it is given, in tokens; it has no positions.
    """

    model_type = "convolutional"

    vocab_size: int = 32000
    hidden_size: int = 128
    num_filters: int = 100
    widths: list[int] | tuple[int, ...] = (3, 4, 5)
    dropout: float | int = 0.5
    max_position_embeddings: int = 512
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_widths(self) -> None:
        """Raise ValueError for widths that are none."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError("widths must be one or more numbers of tokens above 0")


class ConvolutionalForSequenceClassification(PreTrainedModel):
    """How strongly each filter answers at the place of a text where it does most, and a linear
    layer over these."""

    config_class = ConvolutionalConfig
    base_model_prefix = "model"

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.filters = nn.ModuleList(
            nn.Conv1d(size, config.num_filters, width) for width in config.widths
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.num_filters * len(config.widths), config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
        elif isinstance(module, nn.Conv1d | nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return logits ``[rows, labels]`` of tokens ``[rows, length]``."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embedded = self.embed_tokens(input_ids)
        embedded = embedded * mask[..., None].to(embedded.dtype)
        # The widest filter may begin before a text and end after it, so that none is too short; and
        # all see the same, whatever a batch pads it to.
        margin = max(self.config.widths) - 1
        padded = nn.functional.pad(embedded.transpose(1, 2), (margin, margin))
        pairs = zip(self.filters, self.config.widths, strict=True)
        answers = [self._strongest(one(padded).relu(), mask, width) for one, width in pairs]
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(torch.cat(answers, 1))))

    def _strongest(self, answers: Tensor, mask: Tensor, width: int) -> Tensor:
        """Return the strongest answer of each filter in each row, of the windows that have any
        token of the text."""
        margin = max(self.config.widths) - 1
        real = nn.functional.pad(mask.to(answers.dtype), (margin, margin))[:, None]
        touched = nn.functional.max_pool1d(real, width, stride=1)
        return (answers * touched).amax(2)
