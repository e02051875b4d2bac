"""How good a model is on rows that it does not learn from: means over batches that are always the
same."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.training.distribution import Team, alone
from llmos.training.mixture import Mixture
from llmos.training.objectives import Objective


def evaluation_batches(
    objective: Objective, columns: Columns, batch_size: int, limit: int | None = None
) -> list[IntArray]:
    """Batches over all rows, or ``limit`` of them (of each task) spread evenly: always the same."""
    if isinstance(objective, Mixture):
        tasks = objective.by_task(columns)
        return [batch for rows in tasks for batch in _cut(rows, batch_size, limit)]
    return _cut(objective.all_rows(columns), batch_size, limit)


def _cut(rows: IntArray, batch_size: int, limit: int | None) -> list[IntArray]:
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
    mode. Each process of a team takes some batches, and all take as many. Of several tasks `loss`
    is the joint one, and what is measured of each is called `task_loss`, ….
    """
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
            for measure, (total, count) in batch.measures(model).items():
                name = "_".join(filter(None, (batch.inputs.get("task"), measure)))
                totals[name] = totals.get(name, 0.0) + total * counts_too
                counts[name] = counts.get(name, 0) + count * counts_too
    model.train(was_training)
    names = [*totals]
    summed = team.sums([*totals.values(), *map(float, counts.values())])
    found = zip(names, summed[: len(names)], summed[len(names) :], strict=True)
    told = {name: total / max(1.0, count) for name, total, count in found}
    if isinstance(objective, Mixture):
        losses = [told[f"{task}_loss"] for task in objective.objectives]
        told = {"loss": objective.joint(losses), **told}
    return told
