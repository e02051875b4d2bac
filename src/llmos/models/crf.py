"""A conditional random field over the units of a text (Lafferty, McCallum and Pereira, 2001).

It reads bytes, cuts them into units, and scores each by hashed features of it and of what stands
around it; a chain of transitions makes the labels of a text agree with each other.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import TokenClassifierOutput

from llmos.models.byte_level import NO_BYTE
from llmos.models.chain import IMPOSSIBLE, Chain, by_label, gold_states, names_of, states_of
from llmos.models.lexicon import DICTIONARIES
from llmos.models.units import Analysed, analysed


@strict
class CrfConfig(PreTrainedConfig):
    """Sizes of a tagger.

    Attributes:
        token_bytes: of each token the byte that it is, NO_BYTE of special ones.
        num_buckets: that features are hashed into.
        hidden_size: of a feature's vector, and of a unit's.
        window: units on either side whose vectors a unit sees.
        dictionary: whose words are features, of Chinese: ``jieba``, which must be installed
            wherever the model is.
        max_position_embeddings: the longest text it is given, in bytes; it has no positions.
    """

    model_type = "crf"

    vocab_size: int = 259
    token_bytes: list[int] | tuple[int, ...] = ()
    num_buckets: int = 65536
    hidden_size: int = 64
    window: int = 1
    dropout: float | int = 0.3
    dictionary: str | None = None
    max_position_embeddings: int = 1024
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_sizes(self) -> None:
        """Raise ValueError for sizes or a dictionary that are none."""
        if self.dictionary is not None and self.dictionary not in DICTIONARIES:
            raise ValueError(f"dictionary must be {DICTIONARIES[0]}, not {self.dictionary!r}")
        if self.window < 0 or self.num_buckets < self.vocab_size:
            raise ValueError("window must be 0 or more, num_buckets vocab_size or more")


class CrfForTokenClassification(PreTrainedModel):
    """Labels of a text's bytes, those of one unit alike."""

    config_class = CrfConfig
    base_model_prefix = "model"

    def __init__(self, config: CrfConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self._labels = names_of(config.id2label or {})
        count = len(states_of(self._labels))
        self.features = nn.EmbeddingBag(config.num_buckets, size, mode="sum")
        self.around = nn.Conv1d(size, size, 2 * config.window + 1, padding=config.window)
        self.dropout = nn.Dropout(config.dropout)
        self.emissions = nn.Linear(2 * size, count)
        self.transitions = nn.Parameter(torch.zeros(count, count))
        self.starts = nn.Parameter(torch.zeros(count))
        self.ends = nn.Parameter(torch.zeros(count))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.EmbeddingBag):
            init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.Conv1d | nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CrfForTokenClassification):  # where a base had other labels
            for scores in (module.transitions, module.starts, module.ends):
                init.zeros_(scores)

    def get_input_embeddings(self) -> nn.Module:
        """Return the vectors of features."""
        return self.features

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        allowed: Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """Return logits ``[rows, length, labels]`` of tokens ``[rows, length]``: the score of the
        best labelling that has a label at a token's unit, less that of the best of all, so that
        the largest are Viterbi's; 0 at tokens that are in no unit.

        Args:
            allowed: labels that a unit may have, at its first token: ``[rows, length, labels]``.
        """
        rows = _Rows(input_ids, attention_mask, self.config)
        logits = input_ids.new_zeros((*input_ids.shape, len(self._labels)), dtype=self.dtype)
        if not rows.found:
            return TokenClassifierOutput(logits=logits)
        chain = self._chain(rows)
        states = states_of(self._labels)
        if allowed is not None:
            may = rows.of_units(allowed)[..., states.label_of.to(allowed.device)]
            barred = chain.emissions.masked_fill(~may, IMPOSSIBLE)
            chain = Chain(barred, chain.transitions, chain.starts, chain.ends, chain.lengths)
        scores = by_label(chain.best_scores(), states, len(self._labels))
        scores = (scores - scores.amax(-1, keepdim=True)).to(logits.dtype)
        for at, one, own in zip(rows.numbers, rows.found, scores, strict=True):
            for token, unit in zip(rows.tokens[at], one.unit_of, strict=True):
                if unit >= 0:
                    logits[at, token] = own[unit]
        return TokenClassifierOutput(logits=logits)

    def path_loss(
        self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return minus the log-probability of labels ``[rows, length]``, in nats, summed over rows.

        A unit's label is that of its first token.
        """
        rows = _Rows(input_ids, attention_mask, self.config)
        if not rows.found:
            return self.starts.sum() * 0.0
        chain = self._chain(rows)
        gold = rows.of_units(labels).clamp(min=0)
        path = gold_states(gold, chain.lengths, states_of(self._labels))
        return (chain.log_partition() - chain.score(path)).sum().float()

    def _chain(self, rows: _Rows) -> Chain:
        flat, offsets, counts = rows.features()
        vectors = self.dropout(self.features(flat, offsets))
        padded = pad_sequence(list(vectors.split(counts)), batch_first=True)
        around = self.around(padded.transpose(1, 2)).transpose(1, 2).relu()
        emissions = self.emissions(torch.cat([padded, self.dropout(around)], -1))
        lengths = torch.tensor(counts, device=padded.device)
        states = states_of(self._labels)
        return Chain.of(emissions, self.transitions, self.starts, self.ends, lengths, states)


class _Rows:
    """The units of padded rows ``[rows, length]``.

    Attributes:
        tokens: of each row, where it has bytes.
        found: what was found in the rows that have any unit.
        numbers: of these.
    """

    def __init__(self, input_ids: Tensor, mask: Tensor | None, config: CrfConfig) -> None:
        self._device = input_ids.device
        real = torch.ones_like(input_ids) if mask is None else mask
        of_token = config.token_bytes
        self.tokens: list[list[int]] = []
        self.found: list[Analysed] = []
        self.numbers: list[int] = []
        pairs = zip(input_ids.tolist(), real.tolist(), strict=True)
        for number, (ids, is_real) in enumerate(pairs):
            places = [
                at
                for at, token in enumerate(ids)
                if is_real[at] and token < len(of_token) and of_token[token] != NO_BYTE
            ]
            data = bytes(of_token[ids[at]] for at in places)
            one = analysed(data, config.num_buckets, config.dictionary)
            self.tokens.append(places)
            if one.first:
                self.found.append(one)
                self.numbers.append(number)

    def features(self) -> tuple[Tensor, Tensor, list[int]]:
        """Return all features, where those of each unit begin, and how many units rows have."""
        flat = [feature for one in self.found for unit in one.features for feature in unit]
        sizes = [len(unit) for one in self.found for unit in one.features]
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        counts = [len(one.first) for one in self.found]
        return torch.tensor(flat, device=self._device), offsets.to(self._device), counts

    def of_units(self, values: Tensor) -> Tensor:
        """Return what stands at units' first tokens: ``[rows, length, …]`` -> ``[rows with units,
        units, …]``; 0 behind a row's last."""
        picked = [
            values[number, torch.tensor([self.tokens[number][byte] for byte in one.first])]
            for number, one in zip(self.numbers, self.found, strict=True)
        ]
        return pad_sequence(picked, batch_first=True)
