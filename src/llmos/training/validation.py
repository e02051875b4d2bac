"""How good a model is on rows that it does not learn from: means over batches that are always the
same."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.training.distribution import Team, alone
from llmos.training.objectives import Objective


def evaluation_batches(
    objective: Objective, columns: Columns, batch_size: int, limit: int | None = None
) -> list[IntArray]:
    """Batches over all rows, or ``limit`` of them spread evenly: always the same."""
    rows = objective.all_rows(columns)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if limit is None or len(batches) <= limit:
        return batches
    return [batches[index * len(batches) // limit] for index in range(limit)]


def mean_loss(
    model: PreTrainedModel, objective: Objective, columns: Columns, batches: list[IntArray]
) -> float:
    """Mean loss per label over batches, in nats, in eval mode; restores the mode."""
    return means(model, objective, columns, batches)["loss"]


def means(
    model: PreTrainedModel,
    objective: Objective,
    columns: Columns,
    batches: list[IntArray],
    team: Team = alone,
) -> dict[str, float]:
    """Means of what the objective measures over batches, `loss` first, in eval mode; restores the
    mode. Each process of a team takes some batches, and all take as many."""
    was_training = model.training
    model.eval()
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    size, place = (team.size, team.rank) if team.shares_rows else (1, 0)
    with torch.inference_mode():
        for first in range(0, len(batches), size):
            counts_too = first + place < len(batches)
            rows = batches[first + place if counts_too else first]
            batch = objective.batch(columns, rows).to(model.device)
            for name, (total, count) in batch.measures(model).items():
                totals[name] = totals.get(name, 0.0) + total * counts_too
                counts[name] = counts.get(name, 0) + count * counts_too
    model.train(was_training)
    names = [*totals]
    summed = team.sums([*totals.values(), *map(float, counts.values())])
    found = zip(names, summed[: len(names)], summed[len(names) :], strict=True)
    return {name: total / max(1.0, count) for name, total, count in found}
