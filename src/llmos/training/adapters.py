"""LoRA: a few small matrices are trained over a frozen base (Hu et al., arXiv:2106.09685).

peft puts them into the network and takes them out again; what is published is in its format.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmos.errors import RecipeError
from llmos.library.adapters import AdapterManifest, read_layout
from llmos.library.files import ADAPTER_FILE
from llmos.library.manifest import main_dtype
from llmos.training.base_model import BaseModel
from llmos.training.recipe import Recipe, dump
from llmos.training.recipe_sections import AdapterSection

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX = "base_model.model."
"""Before the names of an adapter's tensors in its file."""


def add_adapter(model: PreTrainedModel, section: AdapterSection) -> PreTrainedModel:
    """Freeze a model and put matrices that add nothing yet beside its linear layers.

    Raises:
        RecipeError: peft is not installed, or the model has none of the layers that are named.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise RecipeError("a LoRA is trained with peft: pip install 'llmos[lora]'") from None
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.targets if isinstance(section.targets, str) else [*section.targets],
        task_type="CAUSAL_LM",
    )
    head = model.get_output_embeddings()
    if not any(isinstance(m, nn.Linear | Conv1D) and m is not head for m in model.modules()):
        raise RecipeError("adapter: this network has no linear layers to put one beside")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that GPT-2's layers have their weights turned
            model.add_adapter(config)
    except ValueError as error:
        raise RecipeError(f"adapter.targets do not fit the model: {error}") from error
    _check_targets(model, section)
    return model


def _check_targets(model: PreTrainedModel, section: AdapterSection) -> None:
    """Refuse targets that name no layer, or one that could not be published."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {
        name: module.get_base_layer()
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    for name, layer in found.items():
        if not isinstance(layer, nn.Linear | Conv1D):
            raise RecipeError(f"adapter.targets: {name} is no linear layer")
    for target in [] if isinstance(section.targets, str) else section.targets:
        if not any(name == target or name.endswith(f".{target}") for name in found):
            raise RecipeError(f"adapter.targets: the model has no linear layer {target}")


def save_adapter(recipe: Recipe, model: PreTrainedModel, base: BaseModel, directory: Path) -> None:
    """Write the adapter's files. Afterwards ``model`` holds the values that were saved."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    model.eval()
    directory.mkdir(parents=True)
    dtype = getattr(torch, recipe.save_dtype)
    tensors = get_peft_model_state_dict(model, adapter_name="default")
    saved = {name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}
    set_peft_model_state_dict(model, {k: t.float() for k, t in saved.items()}, "default")
    named = {f"{PREFIX}{name}": tensor.cpu() for name, tensor in saved.items()}
    save_file(named, directory / ADAPTER_FILE, metadata={"format": "pt"})
    config: LoraConfig = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = base.ref, True
    config.save_pretrained(str(directory))
    if recipe.chat_template is not None:
        (directory / "chat_template.jinja").write_text(recipe.chat_template, "utf-8")
    (directory / "recipe.yaml").write_text(dump(recipe), "utf-8")


def load_adapted(base: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Return a float32 base with the adapter in ``directory``."""
    from peft import LoraConfig

    tensors = load_file(directory / ADAPTER_FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base.load_adapter(
            peft_config=LoraConfig.from_pretrained(str(directory)),
            adapter_state_dict={
                name.removeprefix(PREFIX): t.float() for name, t in tensors.items()
            },
        )
    return base.eval()


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Add what a model's adapter adds to the weights themselves; return the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return model


def adapter_manifest(directory: Path, base: BaseModel, told: dict[str, Any]) -> AdapterManifest:
    """Return the facts of a trained adapter.

    Args:
        told: what the recipe and the training say, by manifest key.
    """
    layout = read_layout(directory)
    tensors = layout.tensors.values()
    known = {key: told[key] for key in AdapterManifest.__struct_fields__ if key in told}
    return AdapterManifest(
        **known,
        base=base.ref,
        base_digest=base.digest,
        rank=layout.rank,
        target_modules=sorted({path.rpartition(".")[2] for path in layout.updates}),
        parameters=sum(info.elements for info in tensors),
        dtype=main_dtype(tensors),
        weights_bytes=sum(info.end - info.begin for info in tensors),
    )
