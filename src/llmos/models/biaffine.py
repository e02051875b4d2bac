"""A parser that scores each word as the head of each other (Dozat and Manning, arXiv:1611.01734).

It reads bytes, in which spaces part words. What it takes for their parts of speech it tells itself,
from a first layer, and reads on with how likely it finds each (Zhang and Weiss, arXiv:1603.06598).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from llmos.models.byte_level import NO_BYTE
from llmos.models.lexicon import DICTIONARIES
from llmos.models.recurrent import begin_recurrent
from llmos.models.trees import best_tree
from llmos.models.words import UPOS, features_of

IMPOSSIBLE = -1e4
"""The score of an arc that cannot be."""
IGNORE = -100


@strict
class BiaffineConfig(PreTrainedConfig):
    """Sizes of a parser.

    Attributes:
        token_bytes: of each token the byte that it is, NO_BYTE of special ones.
        num_buckets: that features of words are hashed into.
        embedding_size: of a feature's vector, and of a word's.
        hidden_size: of each direction of a layer.
        num_layers: the first tells parts of speech.
        tag_size: of a part of speech's vector.
        arc_size, relation_size: of a word's vector as a head and as a dependent, for whether there
            is an arc, and for what relation it is.
        dictionary: that says of what kind words are, of Chinese: ``jieba``, which must be installed
            wherever the model is.
        max_position_embeddings: the longest sentence it is given, in bytes; it has no positions.
    """

    model_type = "biaffine"

    vocab_size: int = 259
    token_bytes: list[int] | tuple[int, ...] = ()
    num_buckets: int = 32768
    embedding_size: int = 96
    hidden_size: int = 128
    num_layers: int = 3
    tag_size: int = 32
    arc_size: int = 128
    relation_size: int = 64
    dropout: float | int = 0.33
    dictionary: str | None = None
    max_position_embeddings: int = 1024
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_sizes(self) -> None:
        """Raise ValueError for sizes or a dictionary that are none."""
        if self.dictionary is not None and self.dictionary not in DICTIONARIES:
            raise ValueError(f"dictionary must be {DICTIONARIES[0]}, not {self.dictionary!r}")
        if self.num_layers < 2 or self.num_buckets < self.vocab_size:
            raise ValueError("num_layers must be 2 or more, num_buckets vocab_size or more")


@dataclass
class ParserOutput(ModelOutput):
    """What is told of sentences; behind a row's last word it means nothing.

    Attributes:
        arcs: log-probabilities ``[rows, words, 1 + words]`` of each word's heads; 0 is the root.
        heads: ``[rows, words]``, in the best tree.
        relations: logits ``[rows, words, labels]`` of the arcs to these.
        tags: logits ``[rows, words, UPOS]``.
        lengths: words of each row.
    """

    arcs: Tensor | None = None
    heads: Tensor | None = None
    relations: Tensor | None = None
    tags: Tensor | None = None
    lengths: Tensor | None = None


class BiaffineForDependencyParsing(PreTrainedModel):
    """Trees over the words of sentences."""

    config_class = BiaffineConfig
    base_model_prefix = "model"

    def __init__(self, config: BiaffineConfig) -> None:
        super().__init__(config)
        size, wide = config.embedding_size, 2 * config.hidden_size
        self.features = nn.EmbeddingBag(config.num_buckets, size, mode="sum")
        self.root = nn.Parameter(torch.zeros(size))
        self.layers = nn.ModuleList(
            nn.LSTM(
                size if at == 0 else wide + (config.tag_size if at == 1 else 0),
                config.hidden_size,
                batch_first=True,
                bidirectional=True,
            )
            for at in range(config.num_layers)
        )
        self.tags = nn.Linear(wide, len(UPOS))
        self.tag_vectors = nn.Linear(len(UPOS), config.tag_size, bias=False)
        self.arc_head = nn.Linear(wide, config.arc_size)
        self.arc_dependent = nn.Linear(wide, config.arc_size)
        self.relation_head = nn.Linear(wide, config.relation_size)
        self.relation_dependent = nn.Linear(wide, config.relation_size)
        self.arcs = nn.Parameter(torch.zeros(config.arc_size + 1, config.arc_size))
        width = config.relation_size + 1
        self.relations = nn.Parameter(torch.zeros(config.num_labels, width, width))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.EmbeddingBag):
            init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            begin_recurrent(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the vectors of features."""
        return self.features

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> ParserOutput:
        """Return the trees of sentences, tokens ``[rows, length]`` of them."""
        read = self._read(input_ids, attention_mask)
        arcs = self._arcs(read).log_softmax(-1)
        heads = torch.zeros(arcs.shape[:2], dtype=torch.long)
        for row, (scores, count) in enumerate(zip(arcs, read.counts, strict=True)):
            if count:
                own = scores[:count, : count + 1].detach().cpu().double().numpy()
                heads[row, :count] = torch.tensor(best_tree(own))
        heads = heads.to(arcs.device)
        return ParserOutput(
            arcs=arcs,
            heads=heads,
            relations=self._relations(read, heads),
            tags=read.tags,
            lengths=torch.tensor(read.counts, device=arcs.device),
        )

    def parse_loss(
        self,
        input_ids: Tensor,
        heads: Tensor,
        relations: Tensor,
        tags: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return minus the log-probability of heads, of their relations and of parts of speech,
        each ``[rows, words]``, summed, in nats; IGNORE stands behind a row's last word, and where
        there is no part of speech."""
        read = self._read(input_ids, attention_mask)
        scored = self._relations(read, heads.clamp(min=0))
        told = ((self._arcs(read), heads), (scored, relations), (read.tags, tags))
        losses = [
            F.cross_entropy(
                logits.flatten(0, 1).float(), gold.flatten(), ignore_index=IGNORE, reduction="sum"
            )
            for logits, gold in told
        ]
        return torch.stack(losses).sum()

    def _read(self, input_ids: Tensor, mask: Tensor | None) -> _Read:
        """Return what is known of words in the sentences that they stand in."""
        rows = self._words(input_ids, mask)
        vectors = self._vectors(rows, input_ids.device)
        counts = [len(words) for words in rows]
        hidden = self._layer(0, self._dropped(vectors), counts)
        tags = self.tags(self._dropped(hidden))
        told = self.tag_vectors(tags.softmax(-1))
        told[:, 0] = 0.0  # the root has no part of speech
        hidden = torch.cat([hidden, told], -1)
        for at in range(1, len(self.layers)):
            hidden = self._layer(at, self._dropped(hidden), counts)
        return _Read(self._dropped(hidden), tags[:, 1:], counts)

    def _words(self, input_ids: Tensor, mask: Tensor | None) -> list[tuple[tuple[int, ...], ...]]:
        """Return the features of each row's words."""
        of_token, config = self.config.token_bytes, self.config
        real = torch.ones_like(input_ids) if mask is None else mask
        found = []
        for ids, is_real in zip(input_ids.tolist(), real.tolist(), strict=True):
            of_row = (
                of_token[token]
                for token, one in zip(ids, is_real, strict=True)
                if one and token < len(of_token)
            )
            data = bytes(byte for byte in of_row if byte != NO_BYTE)
            found.append(features_of(data, config.num_buckets, config.dictionary))
        return found

    def _vectors(self, rows: list[tuple[tuple[int, ...], ...]], device: torch.device) -> Tensor:
        """Return the vectors of words ``[rows, 1 + words, size]``, the root's first. In training
        some features of words are left out."""
        words = [word for row in rows for word in row]
        flat = torch.tensor([one for word in words for one in word], dtype=torch.long)
        offsets = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)[: len(words)]
        kept = F.dropout(torch.ones(len(flat)), self.config.dropout, self.training)
        weights = kept.to(device=device, dtype=self.features.weight.dtype)
        bags: Tensor = self.features(
            flat.to(device), offsets.to(device), per_sample_weights=weights
        )
        longest = max(map(len, rows))
        vectors = bags.new_zeros(len(rows), 1 + longest, bags.shape[1])
        vectors[:, 0] = self.root
        places = [(number, 1 + at) for number, row in enumerate(rows) for at in range(len(row))]
        if places:
            where = torch.tensor(places, device=device).T
            vectors = vectors.index_put((where[0], where[1]), bags)
        return vectors

    def _layer(self, at: int, hidden: Tensor, counts: list[int]) -> Tensor:
        lengths = torch.tensor(counts) + 1
        packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.layers[at](packed)
        return pad_packed_sequence(out, batch_first=True, total_length=hidden.shape[1])[0]

    def _dropped(self, hidden: Tensor) -> Tensor:
        """Drop the same of all words of a sentence (Gal and Ghahramani, arXiv:1512.05287)."""
        ones = torch.ones_like(hidden[:, :1])
        return hidden * F.dropout(ones, self.config.dropout, self.training)

    def _arcs(self, read: _Read) -> Tensor:
        """Return the scores of heads ``[rows, words, 1 + words]`` (equation 6 of the paper)."""
        head = self._dropped(F.leaky_relu(self.arc_head(read.hidden), 0.1))
        dependent = self._dropped(F.leaky_relu(self.arc_dependent(read.hidden[:, 1:]), 0.1))
        scores: Tensor = _with_one(dependent) @ self.arcs @ head.transpose(1, 2)
        places = torch.arange(head.shape[1], device=head.device)
        counts = torch.tensor(read.counts, device=head.device)
        impossible = (places > counts[:, None])[:, None] | (places == places[1:, None])
        return scores.masked_fill(impossible, IMPOSSIBLE)

    def _relations(self, read: _Read, heads: Tensor) -> Tensor:
        """Return the scores of relations ``[rows, words, labels]`` of arcs to heads ``[rows,
        words]`` (equation 3)."""
        head = self._dropped(F.leaky_relu(self.relation_head(read.hidden), 0.1))
        dependent = F.leaky_relu(self.relation_dependent(read.hidden[:, 1:]), 0.1)
        own = head.gather(1, heads[..., None].expand(-1, -1, head.shape[-1]))
        half = torch.einsum("bnd,rde->bnre", _with_one(self._dropped(dependent)), self.relations)
        return torch.einsum("bnre,bne->bnr", half, _with_one(own))


@dataclass(frozen=True, slots=True)
class _Read:
    """Words as they were read.

    Attributes:
        hidden: ``[rows, 1 + words, 2 * hidden_size]``, the root's first.
        tags: logits ``[rows, words, UPOS]``.
        counts: words of each row.
    """

    hidden: Tensor
    tags: Tensor
    counts: list[int]


def _with_one(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, 1), value=1.0)
