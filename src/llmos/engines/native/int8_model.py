"""A transformers network whose linear layers and token embedding have int8 weights (see ``int8``).

It has the names of the original network, and where the tensors come from is not its business: they
are what ``state_dict`` would hold, with a ``scale`` beside the ``weight`` of each int8 matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llmos.engines.loading import Model
from llmos.engines.native import attention
from llmos.engines.native.int8 import ByRows, Int8Embedding, Int8Linear
from llmos.engines.native.lora import linear_size
from llmos.engines.native.probe import UNSUITED
from llmos.errors import InvalidModelError
from llmos.models.registry import register


def build(path: Path, change: Callable[[Any], None] = lambda config: None) -> Model:
    """Return the float32 network that a directory's config names; what its weights are is open.

    Args:
        change: may alter the text model's config before.
    """
    register()
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    change(config.get_text_config())
    with no_init_weights():  # memory that is never touched takes no room
        # Another dtype would be every thread's default while the network is built.
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    model.tie_weights()
    return model.eval().requires_grad_(False)


def fill(model: Model, tensors: dict[str, Tensor]) -> None:
    """Give a network its tensors, which it keeps; one that is tied to another may be left out.

    Raises:
        InvalidModelError: they are not the tensors of this network.
    """
    try:
        every = tensors | _tied(model, tensors)
        for name, tensor in every.items():
            if tensor.dtype is torch.int8:
                _replace(model, name.removesuffix(".weight"))
        model.load_state_dict({name: _computed(t) for name, t in every.items()}, assign=True)
        _share(model)
        for path, module in list(model.named_modules()):
            if is_of_single_numbers(module):
                model.set_submodule(path, ByRows(module))
    except UNSUITED as error:
        raise InvalidModelError(
            f"config.json names another network than the weights are of: {error}"
        ) from error
    model.register_forward_pre_hook(_attend_exactly)


def embedding_factor(module: nn.Module) -> float | None:
    """Return what a table of embeddings multiplies its rows by; None where it does other things."""
    if not isinstance(module, nn.Embedding):
        return None
    kept = module.weight
    ones = torch.ones(1, module.embedding_dim).expand(module.num_embeddings, -1)
    module.weight = nn.Parameter(ones, requires_grad=False)
    try:
        factors = module(torch.zeros(1, 1, dtype=torch.long))[0, 0]
    finally:
        module.weight = kept
    return float(factors[0]) if bool((factors == factors[0]).all()) else None


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by its weight, adds its bias if it has one, and that is all."""
    size = linear_size(module)
    weight = getattr(module, "weight", None)
    if size is None or not isinstance(weight, nn.Parameter) or sorted(weight.shape) != sorted(size):
        return False
    x = torch.linspace(-1, 1, size[0])[None]
    bias = getattr(module, "bias", None)
    expected = F.linear(x, weight_of(module).float(), None if bias is None else bias.float())
    try:
        got = module(x)
    except UNSUITED:
        return False
    return isinstance(got, Tensor) and torch.allclose(got, expected, rtol=1e-3, atol=1e-4)


def is_of_single_numbers(module: nn.Module) -> bool:
    """Whether a module has nothing of its own and changes each number by itself, if at all."""
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())):
        return False
    x = torch.linspace(-3, 3, 64)[None]
    try:
        whole, half = module(x), module(x[:, :32])
    except UNSUITED:
        return False
    is_same_shape = isinstance(whole, Tensor) and whole.shape == x.shape
    return is_same_shape and torch.allclose(whole[:, :32], half)


def weight_of(module: Any) -> Tensor:
    """Return the weight ``[outputs, inputs]`` of a linear module, however it keeps it."""
    weight: Tensor = module.weight
    return weight.t() if type(module).__name__ == "Conv1D" else weight


def _tied(model: Model, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what is there under another name, with its scale."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if name not in tensors and other in tensors:
            found[name] = tensors[other]
            if (scale := tensors.get(_scale_of(other))) is not None:
                found[_scale_of(name)] = scale
    return found


def _scale_of(weight: str) -> str:
    return weight.removesuffix("weight") + "scale"


def _replace(model: Model, path: str) -> None:
    """Put an empty int8 module in the place of a linear one or of the token embedding."""
    module = model.get_submodule(path)
    if (factor := embedding_factor(module)) is not None:
        made: nn.Module = Int8Embedding(module.num_embeddings, module.embedding_dim, factor)
    elif (size := linear_size(module)) is not None:
        made = Int8Linear(*size, has_bias=getattr(module, "bias", None) is not None)
    else:
        raise ValueError(f"{path} is neither linear nor an embedding")
    model.set_submodule(path, made.eval())


def _computed(tensor: Tensor) -> Tensor:
    """Return a tensor in what it is computed in: int8 as it is, all else as float32."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _share(model: Model) -> None:
    """Let an embedding and a head of one matrix be one parameter, so that it counts once."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight.data_ptr() == embedding.weight.data_ptr():
        head.weight = embedding.weight
        if isinstance(head, Int8Linear):
            head.scale = embedding.scale


def _attend_exactly(model: nn.Module, args: Any) -> None:
    """Have attention keep to the promise of int8: what it rounds does not show (see there)."""
    if (step := attention.current_step.get(None)) is not None:
        step.is_exact = True
