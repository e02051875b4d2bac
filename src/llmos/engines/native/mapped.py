"""A decoder whose weights stay in the pages of its files, to look through one larger than memory.

Each module has its weights as float32 while it computes, so that results are those of the model
loaded as float32, and no copy of more than one matrix is ever made.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llmos.engines.loading import Model, load_pretrained


def open_mapped(path: Path) -> Model:
    """Return the causal language model of a directory, in the dtype its weights are stored in.

    Raises:
        InvalidModelError: the directory does not hold one.
    """
    model = load_pretrained(
        AutoModelForCausalLM, path, {}, "cpu", dtype="auto", attn_implementation="eager"
    )
    _widen_buffers(model)
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            _compute_in_float32(module)
    return model


def _widen_buffers(model: Model) -> None:
    """Make what the network itself computed (scales, frequencies) what it would be in float32."""
    with no_init_weights():  # memory that is never touched
        twin = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    stored = model.state_dict().keys()
    for name, buffer in twin.named_buffers():
        if name not in stored:
            model.get_buffer(name).data = buffer.data


def _compute_in_float32(module: nn.Module) -> None:
    stored: dict[str, Tensor] = {}

    def widen(*_: object) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            stored[name] = parameter.data
            parameter.data = parameter.data.float()

    def narrow(*_: object) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = stored.pop(name)

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(narrow, always_call=True)
