"""An n-gram language model: interpolated modified Kneser-Ney (Chen and Goodman, 1998).

Its weights are sorted tables that stay in the pages of the file they are loaded from; what they
hold is counted, in ``llmos.training.counting``. Logits are log-probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

MAX_ORDER = 6
NOTHING = -1
"""Stands where there is no token, or no such n-gram."""


@strict
class NgramConfig(PreTrainedConfig):
    """Sizes of an n-gram model.

    Attributes:
        order: tokens in the longest n-grams; a token is predicted from ``order - 1`` before it.
        entries: how many n-grams of 2, 3, … ``order`` tokens there are.
        max_position_embeddings: the longest text it is given, in tokens; it has no positions.
        num_hidden_layers: of the cache, which holds the tokens that came before.
    """

    model_type = "ngram"

    order: int = 5
    entries: list[int] | tuple[int, ...] = ()
    vocab_size: int = 32000
    max_position_embeddings: int = 65536
    num_hidden_layers: int = 1
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_order(self) -> None:
        """Raise ValueError for an order that is none, or tables of another."""
        if not 1 <= self.order <= MAX_ORDER:
            raise ValueError(f"order must be 1 to {MAX_ORDER}, not {self.order}")
        if self.entries and (len(self.entries) != self.order - 1 or min(self.entries) < 0):
            raise ValueError(f"entries must be {self.order - 1} numbers, not {self.entries}")


class Grams(nn.Module):
    """The n-grams of one length, in the order of their keys.

    The key of an n-gram is the place of its first ``n - 1`` tokens among those of that length,
    times the size of the vocabulary, plus its last token: those that share a context are
    neighbours.
    """

    keys: Tensor
    probabilities: Tensor
    backoffs: Tensor

    def __init__(self, num_entries: int, *, is_longest: bool) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(num_entries, dtype=torch.int64))
        self.register_buffer("probabilities", torch.zeros(num_entries))
        if not is_longest:
            self.register_buffer("backoffs", torch.ones(num_entries))

    def find(self, contexts: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
        """Return the places of n-grams of a context's place and a token, NOTHING where there is no
        such; all of one shape."""
        wanted = contexts * vocab_size + tokens
        places = torch.searchsorted(self.keys, wanted)
        places = places.where(places < len(self.keys), NOTHING)
        found = (contexts >= 0) & (tokens >= 0) & (at(self.keys, places, NOTHING) == wanted)
        return places.where(found, NOTHING)

    def add_to(self, probabilities: Tensor, contexts: Tensor) -> None:
        """Add to ``probabilities`` ``[rows, vocab]`` those of the tokens seen after the contexts at
        these places ``[rows]``."""
        vocab_size = probabilities.shape[1]
        begins = torch.searchsorted(self.keys, contexts * vocab_size)
        ends = torch.searchsorted(self.keys, (contexts + 1) * vocab_size)
        counts = ends - begins
        rows = torch.arange(len(contexts), device=contexts.device).repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        places = torch.arange(len(rows), device=rows.device) + (begins - before)[rows]
        flat = rows * vocab_size + self.keys[places] % vocab_size
        probabilities.view(-1)[flat] += self.probabilities[places]


class NgramForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of counts.

    With the context's longest suffix :math:`h` of ``order - 1`` tokens,
    :math:`p(w|h) = d(hw) + \\gamma(h) p(w|h')`, where :math:`h'` is shorter by its first token: the
    tables hold :math:`d` and :math:`\\gamma`; a context that was not seen has none of the first and
    1 of the second. At the beginning of a text the context is what there is.
    """

    config_class = NgramConfig
    base_model_prefix = "model"
    backoffs: Tensor

    def __init__(self, config: NgramConfig) -> None:
        super().__init__(config)
        entries = config.entries or [0] * (config.order - 1)
        self.unigrams = nn.Embedding(config.vocab_size, 1)
        if config.order > 1:
            self.register_buffer("backoffs", torch.ones(config.vocab_size))
        self.grams = nn.ModuleList(
            Grams(count, is_longest=length == config.order)
            for length, count in enumerate(entries, 2)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Before anything is counted all tokens are alike."""
        if isinstance(module, nn.Embedding):
            init.constant_(module.weight, 1 / module.weight.shape[0])

    def get_input_embeddings(self) -> nn.Module:
        """Return the only table with an entry for each token: its probability by itself."""
        return self.unigrams

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return log-probabilities ``[rows, length, vocab]`` of the token after each, of the last
        ``logits_to_keep`` only where that is given; and the loss where there are ``labels``.

        Args:
            input_ids: ``[rows, length]``.
            attention_mask: ``[rows, past + length]``, 0 for padding, which no context reaches into.
            past_key_values: the tokens that came before.
        """
        tokens = input_ids
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if past_key_values is not None:
            states = input_ids[:, None, :, None]
            tokens = past_key_values.update(states, states, 0)[0][:, 0, :, 0]
        contexts = self._contexts(tokens, attention_mask)
        contexts = [places[:, -input_ids.shape[1] :] for places in contexts]
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._log_probabilities([places[:, kept] for places in contexts])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **others)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values if use_cache else None
        )

    @property
    def _tables(self) -> list[Grams]:
        return [grams for grams in self.grams if isinstance(grams, Grams)]

    def _contexts(self, tokens: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return the places of the 1, 2, … ``order - 1`` tokens that end at each of ``tokens``
        ``[rows, length]``, NOTHING where these were not seen."""
        if mask is not None and not bool(mask.all()):
            order = mask.argsort(dim=1, stable=True)  # real tokens together, at the end
            real = tokens.masked_fill(mask == 0, NOTHING).gather(1, order)
            back = order.argsort(1)
            return [places.gather(1, back) for places in self._contexts(real, None)]
        places = [tokens]
        for grams in self._tables[:-1]:
            shorter = nn.functional.pad(places[-1][:, :-1], (1, 0), value=NOTHING)
            places.append(grams.find(shorter, tokens, self.config.vocab_size))
        return places

    def _log_probabilities(self, contexts: list[Tensor]) -> Tensor:
        """Return ``[rows, length, vocab]`` of contexts ``[rows, length]`` of 1, 2, … tokens."""
        shape = contexts[0].shape
        tables = self._tables
        backoffs = [self.backoffs, *(grams.backoffs for grams in tables[:-1])] if tables else []
        probabilities = self.unigrams.weight[:, 0].detach().repeat(shape.numel(), 1)
        for grams, factors, context in zip(tables, backoffs, contexts[: len(tables)], strict=True):
            places = context.reshape(-1)
            probabilities *= at(factors, places, 1)[:, None]
            grams.add_to(probabilities, places)
        return probabilities.log().view(*shape, -1)


def at(table: Tensor, places: Tensor, missing: int) -> Tensor:
    """Return the entries at these places, and ``missing`` where a place is NOTHING."""
    if not len(table):
        return torch.full_like(places, missing, dtype=table.dtype)
    return table[places.clamp(min=0)].where(places >= 0, missing)
