"""Recognises Llama-like decoders by what their modules are and do, never by their name.

Norm, fused QKV with rotary embedding, attention, norm, gated MLP, each added to what came in; with
the variations that the extension knows: query and key norms, norms after a branch, sliding windows,
soft caps, partial rotary, an embedding scale. Numbers are read off the modules by running them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from llmos.engines.loading import Model
from llmos.engines.native.probe import HARMLESS, UNSUITED
from llmos.library.quantized import HEAD_NORMS, LayerStructure, Rotary, Structure

_RECORDER = "llmos_structure"
_POSITIONS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
_UNSTEADY_ROTARY = frozenset({"dynamic", "longrope"})
"""Their angles depend on the longest sequence in the batch."""
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.silu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.gelu,
)
"""In the order of the extension's numbers."""


@dataclass(frozen=True, slots=True)
class LayerModules:
    """The modules of one decoder layer by what they do; a part of a fused matrix is a range of its
    output rows."""

    q: Part
    k: Part
    v: Part
    output: Part
    gate: Part
    up: Part
    down: Part
    norms: dict[str, nn.Module]
    """By the names attention_norm, mlp_norm and, where there are, post_attention_norm,
    post_mlp_norm, query_norm, key_norm."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``first:last`` of a linear module; ``path`` is its name below the layer."""

    path: str
    module: nn.Linear
    first: int
    last: int

    def weight(self) -> Tensor:
        return self.module.weight[self.first : self.last]

    def bias(self) -> Tensor | None:
        return None if self.module.bias is None else self.module.bias[self.first : self.last]


def layer_modules(layer: nn.Module) -> LayerModules | None:
    """Return the modules of a decoder layer; None where it is not built like one of Llama."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    if not isinstance(attention, nn.Module) or not isinstance(mlp, nn.Module):
        return None
    qkv = _parts(attention, "self_attn", ("q_proj", "k_proj", "v_proj"), "qkv_proj")
    gate_up = _parts(mlp, "mlp", ("gate_proj", "up_proj"), "gate_up_proj")
    output = _parts(attention, "self_attn", ("o_proj",), "")
    down = _parts(mlp, "mlp", ("down_proj",), "")
    norms = _norms(layer, attention)
    if not (qkv and gate_up and output and down) or norms is None:
        return None
    (q, k, v), (gate, up) = qkv, gate_up
    return LayerModules(q, k, v, output[0], gate, up, down[0], norms)


def _parts(owner: nn.Module, path: str, names: tuple[str, ...], fused: str) -> list[Part] | None:
    modules = [getattr(owner, name, None) for name in names]
    if all(type(module) is nn.Linear for module in modules):
        pairs = zip(names, modules, strict=True)
        return [Part(f"{path}.{n}", m, 0, m.out_features) for n, m in pairs if m is not None]
    module = getattr(owner, fused, None) if fused else None
    if type(module) is not nn.Linear:
        return None
    sizes = _fused_sizes(owner, module.out_features, len(names))
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if ends[-1] != module.out_features:
        return None
    starts = [0, *ends[:-1]]
    return [Part(f"{path}.{fused}", module, a, b) for a, b in zip(starts, ends, strict=True)]


def _fused_sizes(owner: nn.Module, total: int, count: int) -> list[int]:
    if count == 2:
        return [total // 2, total // 2]
    head_dim, output = getattr(owner, "head_dim", 0), getattr(owner, "o_proj", None)
    queries = getattr(output, "in_features", total)
    rest = (total - queries) // 2
    return [queries, rest, rest] if head_dim else [0, 0, 0]


def _norms(layer: nn.Module, attention: nn.Module) -> dict[str, nn.Module] | None:
    has_post = hasattr(layer, "pre_feedforward_layernorm")
    names = {
        "attention_norm": (layer, "input_layernorm"),
        "mlp_norm": (
            layer,
            "pre_feedforward_layernorm" if has_post else "post_attention_layernorm",
        ),
        "query_norm": (attention, "q_norm"),
        "key_norm": (attention, "k_norm"),
    }
    if has_post:
        names["post_attention_norm"] = (layer, "post_attention_layernorm")
        names["post_mlp_norm"] = (layer, "post_feedforward_layernorm")
    found = {key: getattr(owner, name, None) for key, (owner, name) in names.items()}
    norms = {key: module for key, module in found.items() if isinstance(module, nn.Module)}
    return norms if {"attention_norm", "mlp_norm"} <= norms.keys() else None


def norm_weight(norm: nn.Module, size: int) -> Tensor:
    """Return the factors that a root-mean-square norm applies, whatever it keeps them as."""
    scaled: Tensor = norm.float()(torch.full((1, size), 1e4))[0]  # so large that eps is nothing
    return scaled.detach().contiguous()


@dataclass(slots=True)
class _Seen:
    """What the recorder saw of the attention calls, by layer number."""

    scaling: dict[int, float] = field(default_factory=dict)
    softcap: dict[int, float] = field(default_factory=dict)
    window: dict[int, int] = field(default_factory=dict)
    rotary: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    head_dim: int = 0
    embedding_scale: float = 1.0
    ignored: set[str] = field(default_factory=set)
    """Tensors that layers passed and we do not know, as attention sinks."""


_seen: list[_Seen] = []


def _record(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    seen, layer = _seen[-1], module.layer_idx
    seen.scaling[layer] = query.shape[-1] ** -0.5 if scaling is None else scaling
    seen.softcap[layer] = softcap or 0.0
    seen.head_dim = query.shape[-1] if query.shape[-1] == value.shape[-1] else 0
    seen.window[layer] = sliding_window or 0
    seen.ignored |= {name for name, value in others.items() if isinstance(value, Tensor)}
    group = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (key, value))
    out = F.scaled_dot_product_attention(query, keys, values, is_causal=True)
    return out.transpose(1, 2), None


AttentionInterface.register(_RECORDER, _record)


def recognize(model: Model) -> Structure | None:
    """Return the structure of a causal language model; None where it is not Llama-like."""
    base = getattr(model, "model", None)
    layers = getattr(base, "layers", None)
    head = model.get_output_embeddings()
    if not isinstance(layers, nn.ModuleList) or type(head) is not nn.Linear:
        return None
    modules = [layer_modules(layer) for layer in layers]
    first = modules[0] if modules else None
    norm = getattr(base, "norm", None)
    if first is None or None in modules or not isinstance(norm, nn.Module) or head.bias is not None:
        return None
    config = model.config.get_text_config()
    eps = float(getattr(config, "rms_norm_eps", 1e-6))
    if _is_unsteady(config) or not _are_rms(modules, norm, eps):
        return None
    try:
        seen = _watch(model, layers)
    except UNSUITED:
        return None
    head_dim = seen.head_dim
    activation = _activation(layers[0].mlp)
    rotary = _rotaries(base, seen, len(layers))
    if activation is None or rotary is None or head_dim % 16 or not head_dim:
        return None
    if seen.ignored - HARMLESS:
        return None
    kinds = sorted(set(rotary), key=rotary.index)
    if len({len(kind.inverse_frequencies) for kind in kinds}) != 1:
        return None
    query_rows, key_rows = first.q.last - first.q.first, first.k.last - first.k.first
    if query_rows % head_dim or key_rows % head_dim or not _are_alike(modules, head_dim):
        return None
    if first.output.module.in_features != query_rows or first.v.last - first.v.first != key_rows:
        return None  # gated attention, or values of another size
    return Structure(
        hidden=head.in_features,
        heads=query_rows // head_dim,
        kv_heads=key_rows // head_dim,
        head_dim=head_dim,
        intermediate=first.gate.last - first.gate.first,
        vocab=head.out_features,
        activation=activation,
        eps=eps,
        attention_scale=seen.scaling[0],
        attention_softcap=seen.softcap[0],
        logits_softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        embedding_scale=seen.embedding_scale,
        is_tied=head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr(),
        rotary=tuple(kinds),
        layers=tuple(
            LayerStructure(seen.window[i], kinds.index(rotary[i])) for i in range(len(layers))
        ),
    )


def _are_alike(modules: list[LayerModules | None], head_dim: int) -> bool:
    """Say whether every layer has the first one's sizes, and head norms norm single heads."""

    def sizes(layer: LayerModules) -> tuple[Any, ...]:
        parts = (layer.q, layer.k, layer.v, layer.output, layer.gate, layer.up, layer.down)
        return (*((p.last - p.first, p.module.in_features) for p in parts), sorted(layer.norms))

    found = [layer for layer in modules if layer is not None]
    head_norms = [norm for layer in found for key, norm in layer.norms.items() if key in HEAD_NORMS]
    fits = all(norm.get_parameter("weight").numel() == head_dim for norm in head_norms)
    return fits and all(sizes(layer) == sizes(found[0]) for layer in found)


def _are_rms(modules: list[LayerModules | None], last: nn.Module, eps: float) -> bool:
    """Say whether every norm divides by the root mean square and then multiplies by a weight."""
    norms = [norm for layer in modules if layer for norm in layer.norms.values()]
    if not all(isinstance(getattr(norm, "weight", None), nn.Parameter) for norm in (*norms, last)):
        return False
    return all(_is_rms(norm, eps) for norm in (*norms, last))


@torch.inference_mode()
def _is_rms(norm: nn.Module, eps: float) -> bool:
    size = norm.get_parameter("weight").numel()
    x = torch.linspace(-1, 2, size)[None] * (10 * eps) ** 0.5  # so small that eps counts
    wanted = x * torch.rsqrt(x.square().mean() + eps) * norm_weight(norm, size)
    return torch.allclose(norm.float()(x), wanted, rtol=1e-3, atol=1e-4)


def _is_unsteady(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type", kind.get("type")) in _UNSTEADY_ROTARY for kind in kinds)


@torch.inference_mode()
def _watch(model: Model, layers: nn.ModuleList) -> _Seen:
    """Run a few tokens and note what each layer is given and calls."""
    seen = _Seen()
    table = model.get_input_embeddings().weight
    token_id = int(torch.linalg.vector_norm(table, dim=-1).argmax())  # unused ones may be zero
    embedded = table[token_id].float()

    def before(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            if index == 0:
                ratio = (given[0, 0].float() @ embedded) / embedded.square().sum().clamp_min(1e-30)
                seen.embedding_scale = 1.0 if abs(ratio - 1) < 1e-2 else float(ratio)
            pair = kwargs.get("position_embeddings")
            if pair is not None:
                seen.rotary[index] = (pair[0][0].float(), pair[1][0].float())

        return hook

    hooks = [
        layer.register_forward_pre_hook(before(i), with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    previous = model.config._attn_implementation
    model.set_attn_implementation(_RECORDER)
    _seen.append(seen)
    try:
        count = len(_POSITIONS)
        ids = torch.full((1, count), token_id, device=model.device)
        positions = torch.tensor([_POSITIONS], device=model.device)
        model(input_ids=ids, position_ids=positions, use_cache=False)
    finally:
        _seen.pop()
        model.set_attn_implementation(previous)
        for hook in hooks:
            hook.remove()
    return seen


def _activation(mlp: nn.Module) -> int | None:
    act = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    if act is None:
        return None
    x = torch.linspace(-6, 6, 97)
    matches = (i for i, f in enumerate(ACTIVATIONS) if torch.allclose(act(x), f(x), atol=1e-5))
    return next(matches, None)


def _rotaries(base: nn.Module, seen: _Seen, num_layers: int) -> list[Rotary] | None:
    """Return each layer's rotary embedding, found among the buffers of the model's module."""
    buffers = [b.float().cpu() for b in _frequency_buffers(base)]
    found: list[Rotary] = []
    for layer in range(num_layers):
        if layer not in seen.rotary:
            return None
        cos, sin = (x.cpu() for x in seen.rotary[layer])
        factor = float(torch.hypot(cos[0], sin[0])[0])
        match = next((b for b in buffers if _fits(b, factor, cos, sin)), None)
        if match is None:
            return None
        found.append(Rotary(tuple(match.tolist()), factor))
    return found


def _frequency_buffers(base: nn.Module) -> Iterator[Tensor]:
    for name, buffer in base.named_buffers():
        if "inv_freq" in name and "original" not in name and buffer.dim() == 1:
            yield buffer


def _fits(frequencies: Tensor, factor: float, cos: Tensor, sin: Tensor) -> bool:
    if cos.shape[-1] != 2 * len(frequencies):
        return False
    angles = torch.tensor(_POSITIONS, dtype=torch.float32)[:, None] * frequencies
    wanted_cos, wanted_sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    # Loose enough for tables a model computes in bfloat16.
    return torch.allclose(wanted_cos * factor, cos, atol=1e-2) and torch.allclose(
        wanted_sin * factor, sin, atol=1e-2
    )
