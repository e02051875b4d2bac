"""Networks with a bottleneck: an autoencoder of texts, and the variational one.

A text becomes a vector of ``latent_size`` numbers, which becomes a text. Asked, the network is a
language model of sequences ``text <|code|> level … level text``: it goes on from a text with its
code and then with the text that this stands for; from a code, with that text; from nothing, with a
code drawn from the prior. A level is a number rounded to a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from llmos.models.bottleneck import (
    MlpReader,
    MlpWriter,
    Reader,
    RecurrentReader,
    RecurrentWriter,
    Writer,
)
from llmos.models.codes import LEVELS
from llmos.models.recurrent import CELLS, RecurrentConfig, RecurrentPreTrainedModel

IMPOSSIBLE = -50.0
"""The logit of a token that cannot come."""
NOTHING, SOURCE, CODE_OF_SOURCE, CODE_OF_PRIOR, TEXT = range(5)
"""What a row was last reading."""


@strict
class AutoencoderConfig(RecurrentConfig):
    """Sizes of a network with a bottleneck.

    Attributes:
        cell: of the recurrent layer on either side, ``lstm``, ``gru`` or ``rnn``; or ``mlp``, which
            has none: each token is told from its place and the vector alone.
        latent_size: numbers in the vector, and bytes in a code.
        max_text_tokens: the longest text.
        max_position_embeddings: room for two of these and a code; 0: so many.
        code_token_id, first_level_id: of the tokens that codes are written in.
    """

    model_type = "autoencoder"

    num_hidden_layers: int = 1
    latent_size: int = 32
    max_text_tokens: int = 64
    max_position_embeddings: int = 0
    code_token_id: int = 1
    first_level_id: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        if not self.max_position_embeddings:
            self.max_position_embeddings = 2 * self.max_text_tokens + self.latent_size + 2
        super().__post_init__(**kwargs)

    def validate_cell(self) -> None:
        """Raise ValueError for a cell that there is not."""
        if self.cell not in (*CELLS, "mlp"):
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, mlp, not {self.cell!r}")

    def validate_latent_size(self) -> None:
        """Raise ValueError for a vector of nothing, or of more than can be counted."""
        if not 1 <= self.latent_size <= COUNTED:
            raise ValueError(f"latent_size must be 1 to {COUNTED}, not {self.latent_size}")

    def validate_max_text_tokens(self) -> None:
        """Raise ValueError for a text of more tokens than can be counted."""
        if not 1 <= self.max_text_tokens <= COUNTED:
            raise ValueError(
                f"max_text_tokens (of a recipe: max_tokens) must be 1 to {COUNTED}, "
                f"not {self.max_text_tokens}"
            )

    def validate_num_hidden_layers(self) -> None:
        """Raise ValueError for more layers than there are."""
        if self.num_hidden_layers != 1:
            raise ValueError("num_hidden_layers must be 1: a layer on either side of the vector")


COUNTED = 256
"""Whole numbers up to this one are exact in bfloat16, in which states may be kept."""


@dataclass(slots=True)
class State:
    """Where rows are: what the reader and the writer keep ``[rows, size]``, the numbers of the code
    read so far ``[rows, latent]``, the phase, and how many tokens of it were read ``[rows]``."""

    source: Tensor
    text: Tensor
    latent: Tensor
    phase: Tensor
    count: Tensor

    def packed(self) -> Tensor:
        parts = (self.source, self.text, self.latent, self.phase[:, None], self.count[:, None])
        return torch.cat([part.to(self.latent.dtype) for part in parts], 1)

    def where(self, chosen: Tensor, other: State) -> State:
        """Return this state of the chosen rows ``[rows]``, and the other one of the rest."""
        column = chosen[:, None]
        return State(
            torch.where(column, self.source, other.source),
            torch.where(column, self.text, other.text),
            torch.where(column, self.latent, other.latent),
            torch.where(chosen, self.phase, other.phase),
            torch.where(chosen, self.count, other.count),
        )


class AutoencoderForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A text to a vector of numbers between -1 and 1 and back (Rumelhart, Hinton and Williams,
    1986)."""

    config_class = AutoencoderConfig
    reach = 1.0
    """The levels of a number go from -reach to reach."""
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        size, latent_size = config.hidden_size, config.latent_size
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.reader: Reader
        self.writer: Writer
        if config.cell == "mlp":
            places = config.max_text_tokens + 1
            self.reader = MlpReader(config, places)
            self.writer = MlpWriter(config, latent_size, places)
        else:
            self.reader = RecurrentReader(config)
            self.writer = RecurrentWriter(config, latent_size)
        self.to_latent = nn.Linear(size, self._numbers * latent_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.post_init()

    _numbers = 1
    """That the features of a text are made into, for each number of the vector."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding that reads and writes."""
        return self.embed_tokens

    # -- whole batches -----------------------------------------------------------------------------

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation ``[rows, latent]`` of the vectors of texts."""
        embedded = self.dropout(self.embed_tokens(input_ids))
        return self.posterior(self.reader(embedded, attention_mask))

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation; of an autoencoder, next to none."""
        mean = torch.tanh(self.to_latent(features))
        return mean, torch.full_like(mean, self.reach / LEVELS / 2)

    def decode(self, latent: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Return logits ``[rows, length + 1, vocab]`` of texts, from the tokens before each."""
        start = torch.full_like(decoder_input_ids[:, :1], self.start_id)
        ids = torch.cat([start, decoder_input_ids], 1)
        return self._text_logits(self.writer(latent, self.dropout(self.embed_tokens(ids))))

    @torch.no_grad()
    def write(self, latent: Tensor, max_tokens: int) -> list[list[int]]:
        """Return the likeliest tokens, one after the other, of each row's text, without its end."""
        state = self.writer.begin(latent)
        ids = torch.full((len(latent),), self.start_id, device=latent.device)
        written: list[Tensor] = []
        for place in range(max_tokens):
            state = self.writer.step(latent, self.embed_tokens(ids), state)
            hidden = self.writer.hidden(latent, state, torch.full_like(ids, place))
            ids = self._text_logits(hidden).argmax(-1)
            written.append(ids)
        rows = torch.stack(written, 1).tolist()
        return [row[: row.index(self.end_id)] if self.end_id in row else row for row in rows]

    def quantised(self, latent: Tensor) -> Tensor:
        """Return each number's level, a whole number from 0 to 255."""
        share = (latent + self.reach) / (2 * self.reach)
        return (share * LEVELS).floor().clamp(0, LEVELS - 1).long()

    def values(self, levels: Tensor) -> Tensor:
        """Return the numbers in the middle of levels."""
        return (levels.to(self.dtype) + 0.5) * (2 * self.reach / LEVELS) - self.reach

    @property
    def start_id(self) -> int:
        """What the writer is given for the token before the first."""
        return self.config.bos_token_id if self.config.bos_token_id is not None else self.end_id

    @property
    def end_id(self) -> int:
        """The token that ends a text."""
        ids = self.config.eos_token_id
        return int(ids[0] if isinstance(ids, list) else ids or 0)

    # -- token by token ----------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits ``[rows, length, vocab]`` of what comes after each token.

        Args:
            attention_mask: ``[rows, past + length]``, 0 for padding, which changes nothing.
            past_key_values: the state that the tokens before left.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        length = input_ids.shape[1]
        state = self._kept(past_key_values, input_ids)
        logits = []
        for place in range(length):
            read = self._read(input_ids[:, place], state)
            if attention_mask is None:
                state = read
            else:
                state = read.where(attention_mask[:, place - length].bool(), state)
            logits.append(self._next_logits(state))
        if past_key_values is not None:
            keys = state.packed()[:, None, None].expand(-1, 1, length, -1).contiguous()
            past_key_values.update(keys, keys[..., :0], 0)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=torch.stack(logits, 1)[:, kept],
            past_key_values=past_key_values if use_cache else None,
        )

    def _kept(self, cache: DynamicCache | None, ids: Tensor) -> State:
        sizes = [self.reader.size, self.writer.size, self.config.latent_size, 1, 1]
        if cache is None or not cache.layers or not cache.get_seq_length(0):
            packed = torch.zeros(len(ids), sum(sizes), dtype=self.dtype, device=ids.device)
        else:
            packed = cache.layers[0].keys[:, 0, -1]
        source, text, latent, phase, count = torch.split(packed, sizes, 1)
        return State(source, text, latent, phase[:, 0].round().long(), count[:, 0].round().long())

    def _read(self, ids: Tensor, state: State) -> State:
        """Return the state after one more token of each row."""
        config = self.config
        level = ids - config.first_level_id
        is_level, is_code = (level >= 0) & (level < LEVELS), ids == config.code_token_id
        is_before = state.phase <= SOURCE
        is_first = state.phase == NOTHING
        begins_prior = is_first & (is_code | is_level | (ids == self.start_id))
        begins_code = (is_before & is_code) | begins_prior
        reads = is_before & ~begins_code
        phase = state.phase.masked_fill(reads, SOURCE).masked_fill(begins_code, CODE_OF_SOURCE)
        phase = phase.masked_fill(begins_prior, CODE_OF_PRIOR)
        count = torch.where(begins_code & (state.phase != SOURCE), 0, state.count)
        embedded = self.embed_tokens(ids)
        source = state.source
        if bool(reads.any()):
            seen = self.reader.step(embedded, state.source, state.count)
            source = torch.where(reads[:, None], seen, source)
        if bool((begins_code & (state.phase == SOURCE)).any()):
            # From here on the source is what it told, kept where its state was.
            source = self._told(source, state.count, begins_code & (state.phase == SOURCE))
            count = torch.where(begins_code, 0, count)
        takes = ((phase == CODE_OF_SOURCE) | (phase == CODE_OF_PRIOR)) & is_level
        place = count.clamp(max=config.latent_size - 1)[:, None]
        values = self.values(level.clamp(0, LEVELS - 1))[:, None]
        filled = state.latent.scatter(1, place, values)
        latent = torch.where(takes[:, None], filled, state.latent)
        count = count + (takes | reads | (state.phase == TEXT)).long()
        begins_text = takes & (count == config.latent_size)
        phase = phase.masked_fill(begins_text, TEXT)
        count = count.masked_fill(begins_text, 0)
        text = self._written(embedded, latent, state.text, begins_text, state.phase == TEXT)
        return State(source, text, latent, phase, count)

    def _told(self, source: Tensor, num_tokens: Tensor, chosen: Tensor) -> Tensor:
        """Return the features of the chosen rows' sources in the place of the reader's state."""
        features = self.reader.features(source, num_tokens)
        padding = source.new_zeros(len(source), source.shape[1] - features.shape[1])
        return torch.where(chosen[:, None], torch.cat([features, padding], 1), source)

    def _written(
        self, embedded: Tensor, latent: Tensor, state: Tensor, begins: Tensor, goes_on: Tensor
    ) -> Tensor:
        """Return the writer's state after the start token, or after one more of the text."""
        if bool(begins.any()):
            start = self.embed_tokens(torch.full_like(begins, self.start_id, dtype=torch.long))
            begun = self.writer.step(latent, start, self.writer.begin(latent))
            state = torch.where(begins[:, None], begun, state)
        if bool(goes_on.any()):
            further = self.writer.step(latent, embedded, state)
            state = torch.where(goes_on[:, None], further, state)
        return state

    def _next_logits(self, state: State) -> Tensor:
        """Return the logits ``[rows, vocab]`` of what comes next."""
        phase = state.phase[:, None]
        logits = torch.full(
            (len(phase), self.config.vocab_size), IMPOSSIBLE, device=phase.device, dtype=self.dtype
        )
        after_source = logits.clone()
        after_source[:, self.config.code_token_id] = 0.0
        logits = torch.where(phase <= SOURCE, after_source, logits)
        if bool(((phase == CODE_OF_SOURCE) | (phase == CODE_OF_PRIOR)).any()):
            first = self.config.first_level_id
            code = torch.full_like(logits, IMPOSSIBLE)
            code[:, first : first + LEVELS] = self._level_logits(state)
            is_code = (phase == CODE_OF_SOURCE) | (phase == CODE_OF_PRIOR)
            logits = torch.where(is_code, code, logits)
        if bool((phase == TEXT).any()):
            hidden = self.writer.hidden(state.latent, state.text, state.count)
            logits = torch.where(phase == TEXT, self._text_logits(hidden), logits)
            is_full = (phase == TEXT) & (state.count >= self.config.max_text_tokens)[:, None]
            ids = torch.arange(logits.shape[1], device=logits.device)
            logits = logits.masked_fill(is_full & (ids != self.end_id), IMPOSSIBLE)
        return logits

    def _level_logits(self, state: State) -> Tensor:
        """Return the log-density, up to a constant, of the next number at each level."""
        features = state.source[:, : self.config.hidden_size]
        told, prior = self.posterior(features), self.prior(state.latent)
        of_source = (state.phase == CODE_OF_SOURCE)[:, None]
        place = state.count.clamp(max=self.config.latent_size - 1)[:, None]
        mean, deviation = (
            torch.where(of_source, ours, before).gather(1, place)
            for ours, before in zip(told, prior, strict=True)
        )
        values = self.values(torch.arange(LEVELS, device=mean.device))
        distance = (values - mean.clamp(-self.reach, self.reach)) / deviation
        return (-0.5 * distance**2).clamp(min=IMPOSSIBLE)

    def prior(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a vector of no text: of an autoencoder no more than
        a guess, as nothing had its vectors lie anywhere."""
        return torch.zeros_like(like), torch.full_like(like, self.reach / 2)

    def _text_logits(self, hidden: Tensor) -> Tensor:
        """Return logits in which no token is one of a code."""
        logits: Tensor = self.lm_head(self.dropout(hidden))
        ids = torch.arange(logits.shape[-1], device=logits.device)
        level = ids - self.config.first_level_id
        is_code = ((level >= 0) & (level < LEVELS)) | (ids == self.config.code_token_id)
        return logits.masked_fill(is_code, IMPOSSIBLE)


class VaeConfig(AutoencoderConfig):
    """Sizes of a variational autoencoder; see ``AutoencoderConfig``."""

    model_type = "vae"


class VaeForCausalLM(AutoencoderForCausalLM):
    """A text to a normal distribution of vectors; a vector, of a text or drawn, to a text (Kingma
    and Welling, arXiv:1312.6114; Bowman et al., arXiv:1511.06349)."""

    config_class = VaeConfig
    reach = 4.0
    _numbers = 2

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation."""
        mean, log_variance = self.to_latent(features).chunk(2, 1)
        return mean, (0.5 * log_variance.clamp(-10.0, 10.0)).exp()

    def prior(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean 0 and standard deviation 1."""
        return torch.zeros_like(like), torch.ones_like(like)


class AutoencoderModel(AutoencoderForCausalLM):
    """The reader alone: a text's vector is its embedding."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Return a text's vector as the state of each of its tokens ``[rows, length, latent]``:
        however they are pooled, that is what comes out."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = self.encode(input_ids, mask)[0]
        return BaseModelOutput(mean[:, None].expand(-1, input_ids.shape[1], -1))


class VaeModel(VaeForCausalLM):
    """As ``AutoencoderModel``, of the means."""

    forward = AutoencoderModel.forward  # type: ignore[assignment]
