"""From what OpenAI's clients say of a fine-tuning to a recipe: what each "auto" stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from llmos.apps.tuning_files import Method, TuningFile
from llmos.library.versions import Version

Auto = Literal["auto"]
HELD_BACK = 0.1
"""Of the training file, where there is no validation file."""
EPOCHS = 3
FEW_EXAMPLES, MANY_EXAMPLES, MAX_EPOCHS = 100, 25_000, 25
MIN_BATCH, MAX_BATCH, BATCH_SHARE = 4, 32, 0.002
LORA_RATE, MAX_LORA_RATE = 2e-4, 5e-3
"""Learning rate of an adapter over a billion parameters, and at most."""
REFERENCE_PARAMETERS = 1e9
FULL_SHARE, DPO_SHARE = 0.1, 0.1
BETA = 0.1
RANK, ALPHA = 8, 16
WARMUP_SHARE = 0.05
VALIDATIONS = 20
"""In a whole training, where it has so many steps."""
CHECKPOINTS = 3
"""The last epochs whose models are kept, as OpenAI does."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What was asked for."""

    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    beta: float | Auto = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done: nothing is left open. ``is_adapter``: a LoRA is trained, else all of it."""

    method: Method
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float
    steps: int
    learning_rate: float
    is_adapter: bool
    keep_at: tuple[int, ...]
    """Steps before the last that end an epoch whose model is kept."""

    def told(self) -> dict[str, Any]:
        """Return the hyperparameters by OpenAI's names."""
        told: dict[str, Any] = {
            "n_epochs": self.n_epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }
        return told | ({"beta": self.beta} if self.method == "dpo" else {})


def plan(
    method: Method,
    wanted: Hyperparameters,
    num_examples: int,
    num_parameters: int,
    *,
    is_adapter: bool,
) -> Plan:
    """Return what is done for what was asked for.

    Args:
        num_examples: that are trained on.
        num_parameters: of the model.
    """
    batch_size = _or_auto(wanted.batch_size, auto_batch_size(num_examples))
    n_epochs = _or_auto(wanted.n_epochs, auto_epochs(num_examples) if method != "dpo" else 1)
    multiplier = float(_or_auto(wanted.learning_rate_multiplier, 1.0))
    steps = epoch_steps(n_epochs, num_examples, batch_size)
    return Plan(
        method,
        n_epochs,
        batch_size,
        multiplier,
        float(_or_auto(wanted.beta, BETA)),
        steps=steps[-1],
        learning_rate=multiplier * base_rate(method, num_parameters, is_adapter=is_adapter),
        is_adapter=is_adapter,
        keep_at=tuple(steps[:-1]),
    )


def epoch_steps(n_epochs: int, num_examples: int, batch_size: int) -> list[int]:
    """Return the steps that end an epoch, each once, of the last `CHECKPOINTS` epochs."""
    first = max(1, n_epochs - CHECKPOINTS + 1)
    ends = (math.ceil(epoch * num_examples / batch_size) for epoch in range(first, n_epochs + 1))
    return sorted({max(1, end) for end in ends})


def auto_epochs(num_examples: int) -> int:
    """Return 3, more where the examples are few and fewer where they are many: so that a training
    sees 100 to 25,000 (OpenAI's cookbook, "Data preparation and analysis for chat model
    fine-tuning")."""
    if num_examples * EPOCHS < FEW_EXAMPLES:
        return min(MAX_EPOCHS, FEW_EXAMPLES // max(1, num_examples))
    if num_examples * EPOCHS > MANY_EXAMPLES:
        return max(1, MANY_EXAMPLES // num_examples)
    return EPOCHS


def auto_batch_size(num_examples: int) -> int:
    """Return 0.2% of the examples, 4 to 32, and no more than there are."""
    share = round(BATCH_SHARE * num_examples)
    return max(1, min(num_examples, max(MIN_BATCH, min(MAX_BATCH, share))))


def base_rate(method: Method, num_parameters: int, *, is_adapter: bool) -> float:
    """Return the learning rate for a multiplier of 1.

    That of an adapter falls as 1 / width, so as 1 / sqrt(parameters) (Adam's in Yang et al.,
    arXiv:2203.03466, table 3), from 2e-4 at a billion, and is 5e-3 at most. All weights of a model
    take a tenth of it, and so does DPO.
    """
    rate = LORA_RATE * math.sqrt(REFERENCE_PARAMETERS / max(1, num_parameters))
    rate = min(rate, MAX_LORA_RATE)
    return rate * (1.0 if is_adapter else FULL_SHARE) * (DPO_SHARE if method == "dpo" else 1.0)


def recipe_of(
    plan: Plan,
    base: Version,
    name: str,
    seed: int,
    training: tuple[str, TuningFile],
    validation: tuple[str, TuningFile] | None,
) -> dict[str, Any]:
    """Return the recipe, see docs/recipes.md.

    Args:
        training, validation: the path that the recipe names a file by, and what is known of it.
    """
    files = [training] if validation is None else [training, validation]
    is_dpo = plan.method == "dpo"
    data = {"path": training[0], "format": "jsonl", "validation": HELD_BACK}
    recipe: dict[str, Any] = {
        "name": name,
        "task": "chat",
        "objective": "dpo" if is_dpo else "causal_lm",
        "seed": seed,
        "model": {"base": base.ref},
        "tokenizer": {"kind": "base"},
        "data": data if validation is None else data | {"validation_path": validation[0]},
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "max_tokens": max(4, *(file.longest_tokens for _, file in files)),
        "optimizer": {
            "learning_rate": plan.learning_rate,
            "warmup_steps": math.ceil(WARMUP_SHARE * plan.steps),
            "weight_decay": 0.0,
        },
        "eval_every": max(1, plan.steps // VALIDATIONS),
        "eval_batches": 20,
        "checkpoint_every": max(1, plan.steps // VALIDATIONS),
        "save_dtype": _save_dtype(base, plan),
        "keep_at": [*plan.keep_at],
        "card": {
            "description": f"{base.ref}, fine-tuned ({plan.method}).",
            "limits": "It is as able as its base, and answers in the manner of its examples.",
            "license": base.manifest.get("license", ""),
            "languages": base.manifest.get("languages", []),
        },
    }
    if plan.is_adapter:
        recipe["adapter"] = {"rank": RANK, "alpha": ALPHA}
    if is_dpo:
        recipe["dpo"] = {"beta": plan.beta}
    return recipe


def _save_dtype(base: Version, plan: Plan) -> str:
    """An adapter is small, and so exact; a model is as its base is."""
    is_half = base.manifest.get("dtype") in ("bfloat16", "float16")
    return "bfloat16" if is_half and not plan.is_adapter else "float32"


def _or_auto(value: Any, auto: Any) -> Any:
    return auto if value == "auto" else value
