"""The learning rate of each step: pure functions of the step and the losses seen. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llmos.training.recipe_sections import OptimizerSection

DECAY_SHARE = 0.1
"""Of the steps, for the last descent of `wsd` where the recipe does not say."""


def learning_rate(
    step: int, steps: int, section: OptimizerSection, validations: Sequence[float] = ()
) -> float:
    """Return the rate of one step: a linear warm-up, then as the schedule has it.

    | schedule | from the peak |
    |---|---|
    | constant | stays |
    | linear | falls to what is the minimum when the last step is done |
    | cosine | half a cosine down to it (Loshchilov and Hutter, arXiv:1608.03983) |
    | inverse_sqrt | falls as 1 / sqrt(step) (Vaswani et al., arXiv:1706.03762) |
    | wsd | stays, then falls linearly over the last `decay_steps` (Hu et al., arXiv:2404.06395) |
    | plateau | is multiplied by `factor` when `patience` validations in a row were no better |

    Args:
        step: counted from 0.
        validations: every validation loss so far; `plateau` alone looks at them.
    """
    peak, low, warmup = section.learning_rate, section.min_learning_rate, section.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    match section.schedule:
        case "constant":
            return peak
        case "linear":
            return peak + progress * (low - peak)
        case "cosine":
            return low + 0.5 * (1 + math.cos(math.pi * progress)) * (peak - low)
        case "inverse_sqrt":
            base = max(1, warmup)
            return max(low, peak * math.sqrt(base / max(base, step)))
        case "wsd":
            decay = section.decay_steps or max(1, round(DECAY_SHARE * steps))
            decay = max(1, min(decay, steps - warmup))
            left = max(0, steps - step)
            return peak if left >= decay else low + left / decay * (peak - low)
        case "plateau":
            falls = plateaus(validations, section.patience)
            return max(low, peak * section.factor**falls)


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Return how often ``patience`` losses in a row were no lower than the lowest before."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            found, waited = found + 1, 0
    return found


def num_no_better(losses: Sequence[float]) -> int:
    """Return how many losses came after the lowest, which the first of equals is."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def validation_losses(curve: Sequence[Mapping[str, float]]) -> list[float]:
    """Return the validation losses of a curve, in the order of the steps."""
    return [point["validation_loss"] for point in curve if "validation_loss" in point]
