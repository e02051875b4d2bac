"""Recurrent networks: Elman's, the LSTM and the GRU, as language models and classifiers.

A language model predicts each token from a state that has read those before it; its output matrix
is its embedding (Press and Wolf, arXiv:1608.05859). A classifier reads in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@strict
class RecurrentConfig(PreTrainedConfig):
    """Sizes of a recurrent network.

    Attributes:
        cell: ``rnn`` (Elman, 1990), ``lstm`` (Hochreiter and Schmidhuber, 1997) or ``gru`` (Cho et
            al., arXiv:1406.1078).
        max_position_embeddings: the longest text it is given, in tokens; it has no positions.
    """

    model_type = "recurrent"

    cell: str = "lstm"
    vocab_size: int = 32000
    hidden_size: int = 256
    num_hidden_layers: int = 2
    dropout: float | int = 0.1
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_cell(self) -> None:
        """Raise ValueError for a cell that there is not."""
        if self.cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, not {self.cell!r}")


class Layer(nn.Module):
    """One recurrent layer, in one direction or in both."""

    def __init__(self, config: RecurrentConfig, size: int, *, is_two_way: bool = False) -> None:
        super().__init__()
        self.cell = CELLS[config.cell](size, config.hidden_size, bidirectional=is_two_way)
        self.is_lstm = config.cell == "lstm"

    def forward(
        self, inputs: PackedSequence, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        """Return the outputs and the last state, ``[directions, rows, hidden]`` twice: what is told
        and, of an LSTM, what is kept."""
        given = state if self.is_lstm or state is None else state[0]
        outputs, last = self.cell(inputs, given)
        return outputs, last if self.is_lstm else (last, torch.zeros_like(last))


class RecurrentPreTrainedModel(PreTrainedModel):
    """What all of them share."""

    config_class = RecurrentConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Small normal embeddings; of recurrences what `begin_recurrent` gives them."""
        if isinstance(module, nn.Embedding | nn.Linear):
            init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            begin_recurrent(module)


def begin_recurrent(module: nn.RNNBase) -> None:
    """Fill a layer with its first weights: orthogonal recurrences (Saxe et al., arXiv:1312.6120),
    gates of an LSTM that begin open to the past (Jozefowicz et al., 2015)."""
    size = module.hidden_size
    for name, weight in module.named_parameters():
        if getattr(weight, "_is_hf_initialized", False):
            continue  # it was loaded; parts of it below would not say so
        if name.startswith("weight_ih"):
            init.xavier_uniform_(weight)
        elif name.startswith("weight_hh"):
            for gate in torch.split(weight, size):
                init.orthogonal_(gate)
        else:
            init.zeros_(weight)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                init.constant_(weight[size : 2 * size], 1.0)


class RecurrentModel(RecurrentPreTrainedModel):
    """The layers of a language model, without its head."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, config.hidden_size) for _ in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Read tokens ``[rows, length]``; return hidden states ``[rows, length, hidden]``.

        Args:
            attention_mask: ``[rows, past + length]``, 0 for padding at either end, which leaves the
                state as it is.
            past_key_values: the states that the tokens before left.
        """
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        rows = Rows(embedded, attention_mask)
        hidden = rows.packed(self.dropout(embedded))
        for index, layer in enumerate(self.layers):
            hidden, state = layer(hidden, kept_state(past_key_values, index))
            hidden = replaced(hidden, self.dropout(hidden.data))
            if past_key_values is not None:
                keep_state(past_key_values, index, state, embedded.shape[1])
        return BaseModelOutputWithPast(
            last_hidden_state=rows.unpacked(hidden),
            past_key_values=past_key_values if use_cache else None,
        )


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits ``[rows, length, vocab]``, of the last ``logits_to_keep`` tokens only where
        that is given; and the loss where there are ``labels`` ``[rows, length]``."""
        read = self.model(input_ids, attention_mask, past_key_values, inputs_embeds, use_cache)
        hidden = read.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **others)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=read.past_key_values
        )


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """A classifier: the largest value that each feature of a two-way network takes in a text, and a
    linear layer over these (Conneau et al., arXiv:1705.02364)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        sizes = [config.hidden_size, *[2 * config.hidden_size] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList(Layer(config, size, is_two_way=True) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return logits ``[rows, labels]`` of tokens ``[rows, length]``."""
        embedded = self.embed_tokens(input_ids)
        rows = Rows(embedded, attention_mask)
        hidden = rows.packed(self.dropout(embedded))
        for layer in self.layers:
            hidden = layer(hidden)[0]
            hidden = replaced(hidden, self.dropout(hidden.data))
        features = rows.unpacked(hidden)
        if attention_mask is not None:
            features = features.masked_fill(attention_mask[..., None] == 0, -torch.inf)
        return SequenceClassifierOutput(logits=self.classifier(features.amax(1)))


class Rows:
    """Which tokens of padded rows ``[rows, length, …]`` are real: of each row one at least, and all
    of them neighbours."""

    def __init__(self, padded: Tensor, mask: Tensor | None) -> None:
        num_rows, self._length = padded.shape[:2]
        device = padded.device
        if mask is None or bool(mask.all()):
            self.lengths = torch.full((num_rows,), self._length, device=device)
            self._places: Tensor | None = None
            return
        real = mask[:, -self._length :].bool()
        self.lengths = real.sum(1).clamp(min=1)
        first = real.int().argmax(1)
        self._places = (torch.arange(self._length, device=device) + first[:, None]) % self._length

    def packed(self, padded: Tensor) -> PackedSequence:
        """Return the real tokens of ``[rows, length, size]``."""
        if self._places is not None:
            padded = torch.take_along_dim(padded, self._places[..., None], dim=1)
        lengths = self.lengths.cpu()
        return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)

    def unpacked(self, packed: PackedSequence) -> Tensor:
        """Return ``[rows, length, size]`` again, 0 where there is padding."""
        padded, _ = pad_packed_sequence(packed, batch_first=True, total_length=self._length)
        if self._places is None:
            return padded
        back = self._places.argsort(1)[..., None]
        return torch.take_along_dim(padded, back, dim=1)


def replaced(packed: PackedSequence, values: Tensor) -> PackedSequence:
    """Return other values for the same rows."""
    return PackedSequence(
        values, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
    )


def kept_state(cache: DynamicCache | None, index: int) -> tuple[Tensor, Tensor] | None:
    """Return what a layer left in a cache."""
    if cache is None or len(cache.layers) <= index or not cache.get_seq_length(index):
        return None
    layer = cache.layers[index]
    return layer.keys[:, 0, -1][None].contiguous(), layer.values[:, 0, -1][None].contiguous()


def keep_state(
    cache: DynamicCache, index: int, state: tuple[Tensor, Tensor], num_tokens: int
) -> None:
    """Put a layer's state into a cache that counts tokens: its last place has the state."""
    keys, values = (
        part[0][:, None, None].expand(-1, 1, num_tokens, -1).contiguous() for part in state
    )
    cache.update(keys, values, index)
