"""AdamW with weight decay on matrices only, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from llmos.training.recipe import OptimizerSection


def learning_rate(step: int, steps: int, section: OptimizerSection) -> float:
    """Linear warm-up, then half a cosine down to the minimum at the last of ``steps``."""
    peak, low, warmup = section.learning_rate, section.min_learning_rate, section.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return low + 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) * (peak - low)


def adamw(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """AdamW over what is trained: matrices and embeddings decay, biases and norms do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=section.learning_rate,
        betas=(section.betas[0], section.betas[1]),
        eps=section.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
