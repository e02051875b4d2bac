"""The two halves of a network with a bottleneck: readers of a text into features, and writers of a
text from a vector. Each does a whole batch at once, to train, and token by token, to be asked.

States are flat, ``[rows, size]``, so that a cache of any kind can keep them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from llmos.models.recurrent import Layer, RecurrentConfig, Rows


class Reader(Protocol):
    """Makes features of a text."""

    size: int
    """Of its state."""

    def __call__(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Return features ``[rows, hidden]`` of ``[rows, length, hidden]``."""
        ...

    def step(self, embedded: Tensor, state: Tensor, place: Tensor) -> Tensor:
        """Return the state after one more token ``[rows, hidden]``, the ``place``-th, from 0."""
        ...

    def features(self, state: Tensor, num_tokens: Tensor) -> Tensor: ...


class Writer(Protocol):
    """Says what comes next in the text that a vector stands for."""

    size: int

    def __call__(self, latent: Tensor, embedded: Tensor) -> Tensor:
        """Return ``[rows, length, hidden]`` from the tokens before each, the start token first."""
        ...

    def begin(self, latent: Tensor) -> Tensor:
        """Return the state before the first token."""
        ...

    def step(self, latent: Tensor, embedded: Tensor, state: Tensor) -> Tensor: ...

    def hidden(self, latent: Tensor, state: Tensor, place: Tensor) -> Tensor:
        """Return what the token at ``place`` is told from, ``[rows, hidden]``."""
        ...


class RecurrentReader(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.layer = Layer(config, config.hidden_size)
        self.size = 2 * config.hidden_size

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        told: Tensor = self.layer(Rows(embedded, mask).packed(embedded))[1][0]
        return told[0]

    def step(self, embedded: Tensor, state: Tensor, place: Tensor) -> Tensor:
        return _stepped(self.layer, embedded, state)

    def features(self, state: Tensor, num_tokens: Tensor) -> Tensor:
        return state.chunk(2, 1)[0]


class RecurrentWriter(nn.Module):
    """A recurrent layer that begins with the vector, and is given it again with each token."""

    def __init__(self, config: RecurrentConfig, latent_size: int) -> None:
        super().__init__()
        self.layer = Layer(config, config.hidden_size + latent_size)
        self.start = nn.Linear(latent_size, config.hidden_size)
        self.size = 2 * config.hidden_size

    def forward(self, latent: Tensor, embedded: Tensor) -> Tensor:
        repeated = latent[:, None].expand(-1, embedded.shape[1], -1)
        rows = Rows(embedded, None)
        inputs = rows.packed(torch.cat([embedded, repeated], 2))
        begun = self.begin(latent).chunk(2, 1)
        state = (begun[0][None].contiguous(), begun[1][None].contiguous())
        return rows.unpacked(self.layer(inputs, state)[0])

    def begin(self, latent: Tensor) -> Tensor:
        told = torch.tanh(self.start(latent))
        return torch.cat([told, torch.zeros_like(told)], 1)

    def step(self, latent: Tensor, embedded: Tensor, state: Tensor) -> Tensor:
        return _stepped(self.layer, torch.cat([embedded, latent], 1), state)

    def hidden(self, latent: Tensor, state: Tensor, place: Tensor) -> Tensor:
        return state.chunk(2, 1)[0]


class MlpReader(nn.Module):
    """The mean, over the tokens, of a layer that sees each with its place."""

    def __init__(self, config: RecurrentConfig, max_tokens: int) -> None:
        super().__init__()
        self.size = config.hidden_size
        self.places = nn.Embedding(max_tokens, self.size)
        self.mix = nn.Linear(2 * self.size, self.size)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(embedded.shape[1], device=embedded.device).expand(mask.shape)
        seen = self._seen(embedded, places) * mask[..., None]
        return self.features(seen.sum(1), mask.sum(1))

    def step(self, embedded: Tensor, state: Tensor, place: Tensor) -> Tensor:
        return state + self._seen(embedded, place)

    def features(self, state: Tensor, num_tokens: Tensor) -> Tensor:
        return state / num_tokens.clamp(min=1)[:, None] ** 0.5

    def _seen(self, embedded: Tensor, places: Tensor) -> Tensor:
        known = self.places(places.clamp(max=self.places.num_embeddings - 1))
        mixed: Tensor = self.mix(torch.cat([embedded, known], -1))
        return mixed.relu()


class MlpWriter(nn.Module):
    """Two layers that see the vector and a place, and none of the tokens: all are told at once."""

    def __init__(self, config: RecurrentConfig, latent_size: int, max_tokens: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.size = 0
        self.places = nn.Embedding(max_tokens, size)
        self.mix = nn.Sequential(
            nn.Linear(size + latent_size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size)
        )

    def forward(self, latent: Tensor, embedded: Tensor) -> Tensor:
        places = torch.arange(embedded.shape[1], device=embedded.device)
        repeated = latent[:, None].expand(-1, embedded.shape[1], -1)
        return self._hidden(repeated, places.expand(embedded.shape[:2]))

    def begin(self, latent: Tensor) -> Tensor:
        return latent.new_zeros(len(latent), 0)

    def step(self, latent: Tensor, embedded: Tensor, state: Tensor) -> Tensor:
        return state

    def hidden(self, latent: Tensor, state: Tensor, place: Tensor) -> Tensor:
        return self._hidden(latent, place)

    def _hidden(self, latent: Tensor, places: Tensor) -> Tensor:
        known = self.places(places.clamp(max=self.places.num_embeddings - 1))
        mixed: Tensor = self.mix(torch.cat([known, latent], -1))
        return mixed


def _stepped(layer: Layer, inputs: Tensor, state: Tensor) -> Tensor:
    """Return a recurrent layer's state, what is told and what is kept, after one token."""
    told, kept = (part[None].contiguous() for part in state.chunk(2, 1))
    _, last = layer.cell(inputs[None], (told, kept) if layer.is_lstm else told)
    pair = last if layer.is_lstm else (last, kept)
    return torch.cat([pair[0][0], pair[1][0]], 1)
