"""A recurrent encoder and decoder with attention: one text to another.

The encoder reads in both directions (Bahdanau et al., arXiv:1409.0473). The decoder, a language
model that begins with what the encoder ended with, looks back at it for each token ("general"
attention of Luong et al., arXiv:1508.04025). In training it reads the right answer (teacher
forcing), so all its tokens are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from llmos.models.recurrent import (
    Layer,
    RecurrentConfig,
    RecurrentPreTrainedModel,
    Rows,
    keep_state,
    kept_state,
    replaced,
)


@strict
class RecurrentSeq2SeqConfig(RecurrentConfig):
    """Sizes of the encoder and the decoder, which are as deep and wide as each other.

    Attributes:
        cell: see ``RecurrentConfig``.
        hidden_size: of a state; the encoder's two directions have half of it each.
    """

    model_type = "recurrent_seq2seq"

    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = None

    def validate_hidden_size(self) -> None:
        """Raise ValueError for a size that two directions cannot share."""
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even, not {self.hidden_size}")


@dataclass
class EncoderOutput(ModelOutput):
    """What an encoder returns: each token's state ``[rows, length, hidden]``, and the last states
    ``[rows, layers, hidden]``, what is told and what is kept. Rows come first everywhere, as
    ``generate`` repeats them for its beams."""

    last_hidden_state: Tensor | None = None
    told: Tensor | None = None
    kept: Tensor | None = None


class RecurrentEncoder(RecurrentPreTrainedModel):
    """Reads the source in both directions."""

    config_class = RecurrentSeq2SeqConfig
    main_input_name = "input_ids"

    def __init__(self, config: RecurrentSeq2SeqConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config)
        self.embed_tokens = embed_tokens
        half = RecurrentConfig(cell=config.cell, hidden_size=config.hidden_size // 2)
        self.layers = nn.ModuleList(
            Layer(half, config.hidden_size, is_two_way=True)
            for _ in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> EncoderOutput:
        """Read tokens ``[rows, length]``."""
        embedded = self.embed_tokens(input_ids)
        rows = Rows(embedded, attention_mask)
        hidden = rows.packed(self.dropout(embedded))
        told: list[Tensor] = []
        kept: list[Tensor] = []
        for layer in self.layers:
            hidden, state = layer(hidden)
            hidden = replaced(hidden, self.dropout(hidden.data))
            for parts, part in zip((told, kept), state, strict=True):
                parts.append(part.transpose(0, 1).flatten(1))
        return EncoderOutput(rows.unpacked(hidden), torch.stack(told, 1), torch.stack(kept, 1))


class RecurrentForConditionalGeneration(RecurrentPreTrainedModel, GenerationMixin):
    """The encoder, and the decoder that looks back at it."""

    config_class = RecurrentSeq2SeqConfig
    _tied_weights_keys = {  # noqa: RUF012
        "encoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }

    def __init__(self, config: RecurrentSeq2SeqConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.shared = nn.Embedding(config.vocab_size, size)
        self.encoder = RecurrentEncoder(config, self.shared)
        self.layers = nn.ModuleList(Layer(config, size) for _ in range(config.num_hidden_layers))
        self.question = nn.Linear(size, size, bias=False)
        self.mix = nn.Linear(2 * size, size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, *_: Any, **__: Any) -> PreTrainedModel:
        """Return what reads the source; ``generate`` asks for it."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding that source and target share."""
        return self.shared

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """Return logits ``[rows, target length, vocab]``, and the loss where there are ``labels``.

        Args:
            attention_mask: of the source, ``[rows, source length]``.
            encoder_outputs: what the encoder returned, where it has read already.
            past_key_values: the decoder's states after the tokens before.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        cache = past_key_values.self_attention_cache if past_key_values is not None else None
        hidden = self._read(decoder_input_ids, encoder_outputs, cache)
        source = encoder_outputs.last_hidden_state
        scores = self.question(hidden) @ source.transpose(1, 2)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, -torch.inf)
        seen = scores.softmax(-1) @ source
        mixed = torch.tanh(self.mix(torch.cat([seen, hidden], -1)))
        logits = self.lm_head(self.dropout(mixed))
        loss = None
        if labels is not None:
            flat = logits.flatten(0, 1), labels.flatten()
            loss = nn.functional.cross_entropy(*flat)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            encoder_last_hidden_state=source,
        )

    def _read(self, ids: Tensor | None, source: Any, cache: DynamicCache | None) -> Tensor:
        """Return the decoder's states ``[rows, length, hidden]`` at each of its tokens."""
        embedded = self.shared(ids)
        rows = Rows(embedded, None)
        hidden = rows.packed(self.dropout(embedded))
        for index, layer in enumerate(self.layers):
            begun = [part[None, :, index].contiguous() for part in (source.told, source.kept)]
            hidden, state = layer(hidden, kept_state(cache, index) or (begun[0], begun[1]))
            hidden = replaced(hidden, self.dropout(hidden.data))
            if cache is not None:
                keep_state(cache, index, state, embedded.shape[1])
        return rows.unpacked(hidden)
