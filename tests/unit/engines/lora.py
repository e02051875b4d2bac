"""Random LoRA adapters made and saved by peft, and peft's own forward as the oracle."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's import
    from peft import LoraConfig, PeftModel, get_peft_model

LLAMA = ["q_proj", "v_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj"]


def save_adapter(directory: Path, model: Any, seed: int = 0, **config: Any) -> Path:
    """Save a random adapter of ``model`` as peft does, its matrices large enough to matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out is set for GPT-2, says peft
        wanted = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config})
        adapted = get_peft_model(copy.deepcopy(model), wanted)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3, generator=generator)
        adapted.save_pretrained(directory)
    return directory


def load_adapted(model: Any, directory: Path) -> Any:
    """The model with the adapter, in peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(model), str(directory)).eval()
