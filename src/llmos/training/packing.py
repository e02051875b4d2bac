"""Sequence packing: several examples in one row, none of which sees another.

Positions begin anew with each example, from which transformers knows where one ends: attention is
block-diagonal, and what is learned is what each example alone would teach. Only padding is saved.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.errors import RecipeError
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Objective, TextStream, has_plain_head
from llmos.training.recipe import Recipe
from llmos.training.sampling import ExampleSampler, Sampler

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class PackedConversations:
    """Causal LM on whole conversations, as many in a row as fit ``capacity`` tokens.

    Rows are numbers of packs, which hang on the lengths of the examples alone.
    """

    capacity: int
    plain_head: bool = False

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        lengths = _pack_lengths(columns["input_ids"], self.capacity)
        return ExampleSampler(lengths, batch_size, seed)

    def all_rows(self, columns: Columns) -> IntArray:
        lengths = _pack_lengths(columns["input_ids"], self.capacity)
        return np.argsort(lengths, kind="stable").astype(np.int64)

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        packs = packs_of(columns["input_ids"], self.capacity)
        parts = [self._row(columns, packs.row(int(row)).tolist()) for row in rows]
        longest = max(len(ids) for ids, _, _ in parts)
        ids, positions, labels = (np.zeros((len(rows), longest), dtype=np.int64) for _ in range(3))
        labels.fill(IGNORE)
        for number, (row_ids, row_positions, row_labels) in enumerate(parts):
            length = len(row_ids)
            ids[number, :length], labels[number, :length] = row_ids, row_labels
            positions[number, :length] = row_positions
            # Padding counts on from the last example, which cannot see what is right of it.
            positions[number, length:] = row_positions[-1] + 1 + np.arange(longest - length)
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "use_cache": False,
        }
        return Batch(inputs, torch.from_numpy(labels), sparse=self.plain_head)

    def _row(
        self, columns: Columns, examples: Sequence[int]
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Return the ids that are read, their positions and labels, all ``[length]``."""
        texts = [columns["input_ids"].row(example) for example in examples]
        learned = [columns["learned"].row(example) for example in examples]
        return (
            np.concatenate([text[:-1] for text in texts]).astype(np.int64),
            np.concatenate([np.arange(len(text) - 1, dtype=np.int64) for text in texts]),
            np.concatenate(
                [
                    np.where(marks[1:] == 1, text[1:], IGNORE)
                    for text, marks in zip(texts, learned, strict=True)
                ]
            ).astype(np.int64),
        )


@dataclass(frozen=True, slots=True)
class Documents(TextStream):
    """Causal LM on a stream of texts, each of which ends with ``end_id``: none sees another."""

    end_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        whole = TextStream.batch(self, columns, rows)
        ids = whole.inputs["input_ids"]
        places = torch.arange(ids.shape[1]).expand_as(ids)
        begins = torch.zeros_like(ids)
        begins[:, 1:] = torch.where(ids[:, :-1] == self.end_id, places[:, 1:], 0)
        positions = places - begins.cummax(dim=1).values
        labels = whole.labels.masked_fill(ids == self.end_id, IGNORE)
        return Batch({**whole.inputs, "position_ids": positions}, labels)


def packed_objective(recipe: Recipe, model: PreTrainedModel, train: Columns) -> Objective:
    """Return how a recipe with `packing` makes batches.

    Raises:
        RecipeError: the network cannot keep examples apart, or there is nothing to pack.
    """
    check_packing(model)
    if recipe.task == "chat":
        return PackedConversations(recipe.max_tokens, has_plain_head(model))
    end_id = model.config.eos_token_id
    if not isinstance(end_id, int) or not bool((train["tokens"].flat == end_id).any()):
        raise RecipeError("packing: this text is one long sequence, of which nothing is packed")
    return Documents(recipe.block_size, end_id)


@lru_cache(maxsize=8)
def packs_of(examples: Ragged, capacity: int) -> Ragged:
    """Return the numbers of the examples that share a row, row by row: best fit, longest first.

    An example is read without its last token, which is only ever a label.
    """
    lengths = examples.lengths - 1
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for example in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[example])
        if length < 1:
            continue
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms.pop(place)
            row = with_room[room].pop()
            rows[row].append(example)
        else:
            room, row = max(capacity, length), len(rows)
            rows.append([example])
        if room > length:
            insort(rooms, room - length)
            with_room[room - length].append(row)
    return Ragged.of(rows)


@lru_cache(maxsize=8)
def _pack_lengths(examples: Ragged, capacity: int) -> IntArray:
    """Return how many tokens of each row are read."""
    packs, lengths = packs_of(examples, capacity), examples.lengths - 1
    return np.asarray([lengths[packs.row(i)].sum() for i in range(len(packs))], dtype=np.int64)


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """See that a row of two texts gives each text's own logits; tried, not looked up.

    Raises:
        RecipeError: it does not, or the network takes no positions.
    """
    was_training = model.training
    model.eval()
    ids = torch.arange(5, device=model.device)[None] % model.config.vocab_size
    texts = (ids[:, :3], ids[:, 3:])
    positions = torch.tensor([[0, 1, 2, 0, 1]], device=model.device)
    try:
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = torch.cat([model(input_ids=t, use_cache=False).logits for t in texts], dim=1)
        agrees = bool(torch.allclose(packed, alone, atol=TOLERANCE))
    except TypeError:
        agrees = False
    model.train(was_training)
    if not agrees:
        raise RecipeError(
            "packing: this network cannot keep the examples of a row apart: leave it out"
        )
