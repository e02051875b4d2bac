"""A linear chain over the labels of a text's units: likelihoods, and the best labellings.

Each span label has four states, for a unit that begins a span, lies in it, ends it or is all of it
(B, M, E and S: Xue, 2003); states that cannot follow each other never do. Sums are taken in float64
(Lafferty, McCallum and Pereira, 2001, section 3; Rabiner, 1989, for the recursions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

IMPOSSIBLE = -1e4
"""A score that no labelling makes up for."""
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class States:
    """What a unit may be, of a set of labels.

    Attributes:
        label_of: of each state, ``[states]``.
        kind_of: of each label the number of its kind, ``[labels]``: B-X and I-X are of one kind.
        is_inside: whether a label is an I-, ``[labels]``.
        state_of: ``[kinds, 2, 2]``: the state of a unit that begins a span of a kind, or does not,
            and ends it, or does not.
        allowed: whether the second state may follow the first, ``[states, states]``.
        may_begin, may_end: a text, ``[states]``.
    """

    label_of: Tensor
    kind_of: Tensor
    is_inside: Tensor
    state_of: Tensor
    allowed: Tensor
    may_begin: Tensor
    may_end: Tensor

    def __len__(self) -> int:
        return len(self.label_of)


@lru_cache(maxsize=8)
def states_of(labels: tuple[str, ...]) -> States:
    """Return the states of BIO labels; any other label is one state, that may stand anywhere."""
    kinds = list(dict.fromkeys(map(_kind, labels)))
    label_of: list[int] = []
    begins: list[bool] = []
    ends: list[bool] = []
    kind: list[int] = []
    state_of = torch.zeros(len(kinds), 2, 2, dtype=torch.long, device="cpu")
    for number, name in enumerate(kinds):
        own = {label[:2]: at for at, label in enumerate(labels) if _kind(label) == name}
        places = [(1, 1), (1, 0), (0, 0), (0, 1)] if "I-" in own and "B-" in own else [(1, 1)]
        if len(places) == 1:
            state_of[number] = len(label_of)
        for is_first, is_last in places:
            state_of[number, is_first, is_last] = len(label_of)
            prefix = "B-" if is_first else "I-"
            label_of.append(own.get(prefix, next(iter(own.values()))))
            begins.append(bool(is_first))
            ends.append(bool(is_last))
            kind.append(number)
    allowed = [
        [
            begins[two] if ends[one] else not begins[two] and kind[one] == kind[two]
            for two in range(len(kind))
        ]
        for one in range(len(kind))
    ]

    def table(values: object) -> Tensor:
        return torch.tensor(values, device="cpu")  # whatever network is being made just now

    return States(
        table(label_of),
        table([kinds.index(_kind(label)) for label in labels]),
        table([label.startswith("I-") for label in labels]),
        state_of,
        table(allowed),
        table(begins),
        table(ends),
    )


def _kind(label: str) -> str:
    return label[2:] if label[:2] in ("B-", "I-") else label


def gold_states(labels: Tensor, lengths: Tensor, states: States) -> Tensor:
    """Return the states ``[rows, units]`` of labels ``[rows, units]``. An I- behind another kind
    begins a span; what is behind a row's ``lengths`` is anything."""
    kinds = states.kind_of.to(labels.device)[labels]
    goes_on = states.is_inside.to(labels.device)[labels]
    goes_on[:, 1:] &= kinds[:, 1:] == kinds[:, :-1]
    goes_on[:, 0] = False
    places = torch.arange(labels.shape[1], device=labels.device)
    goes_on &= places < lengths[:, None]
    is_last = torch.ones_like(goes_on)
    is_last[:, :-1] = ~goes_on[:, 1:]
    return states.state_of.to(labels.device)[kinds, (~goes_on).long(), is_last.long()]


@dataclass(frozen=True, slots=True)
class Chain:
    """The scores of all labellings of some rows.

    Attributes:
        emissions: ``[rows, units, states]``, float64.
        transitions: ``[states, states]``, IMPOSSIBLE where one cannot follow the other.
        starts, ends: ``[states]``.
        lengths: units of each row, 1 at least: ``[rows]``.
    """

    emissions: Tensor
    transitions: Tensor
    starts: Tensor
    ends: Tensor
    lengths: Tensor

    @classmethod
    def of(
        cls,
        emissions: Tensor,
        transitions: Tensor,
        starts: Tensor,
        ends: Tensor,
        lengths: Tensor,
        states: States,
    ) -> Chain:
        """Make one of learned scores, without what cannot be."""

        def possible(scores: Tensor, may: Tensor) -> Tensor:
            return scores.double().masked_fill(~may.to(scores.device), IMPOSSIBLE)

        return cls(
            emissions.double(),
            possible(transitions, states.allowed),
            possible(starts, states.may_begin),
            possible(ends, states.may_end),
            lengths,
        )

    def log_partition(self) -> Tensor:
        """Return the log of the sum of all labellings' exponentiated scores, ``[rows]``."""
        moves = self.transitions.exp()
        reached = self.starts + self.emissions[:, 0]
        for place in range(1, self.emissions.shape[1]):
            top = reached.detach().amax(1, keepdim=True)
            moved = ((reached - top).exp() @ moves).clamp(min=TINY).log() + top
            is_real = (place < self.lengths)[:, None]
            reached = torch.where(is_real, moved + self.emissions[:, place], reached)
        return torch.logsumexp(reached + self.ends, 1)

    def score(self, path: Tensor) -> Tensor:
        """Return the score of one labelling of each row: states ``[rows, units]`` -> ``[rows]``."""
        places = torch.arange(path.shape[1], device=path.device)
        is_real = places < self.lengths[:, None]
        told = self.emissions.gather(2, path[..., None])[..., 0]
        moved = self.transitions[path[:, :-1], path[:, 1:]]
        last = path.gather(1, (self.lengths - 1)[:, None])[:, 0]
        total = told.masked_fill(~is_real, 0.0).sum(1)
        total = total + moved.masked_fill(~is_real[:, 1:], 0.0).sum(1)
        return total + self.starts[path[:, 0]] + self.ends[last]

    def best_scores(self) -> Tensor:
        """Return the score of the best labelling that has a state at a unit: ``[rows, units,
        states]``. The largest of each unit make up Viterbi's path, where no two are as good."""
        count = self.emissions.shape[1]
        forward = [self.starts + self.emissions[:, 0]]
        for place in range(1, count):
            best = (forward[-1][:, :, None] + self.transitions).amax(1)
            forward.append(best + self.emissions[:, place])
        behind = self.ends.expand(len(self.lengths), -1)
        found = [forward[-1] + behind]
        for place in range(count - 2, -1, -1):
            best = (self.transitions + (self.emissions[:, place + 1] + behind)[:, None]).amax(2)
            behind = torch.where((place + 1 < self.lengths)[:, None], best, self.ends)
            found.append(forward[place] + behind)
        return torch.stack(found[::-1], 1)


def by_label(scores: Tensor, states: States, num_labels: int) -> Tensor:
    """Return the best score of each label's states: ``[…, states]`` -> ``[…, labels]``."""
    told = scores.new_full((*scores.shape[:-1], num_labels), IMPOSSIBLE)
    where = states.label_of.to(scores.device).expand(scores.shape)
    return told.scatter_reduce(-1, where, scores, "amax", include_self=False)


def names_of(labels: dict[int, str] | Sequence[str]) -> tuple[str, ...]:
    """Return the labels of a config's ``id2label``, in order."""
    if isinstance(labels, dict):
        return tuple(labels[number] for number in sorted(labels))
    return tuple(labels)
