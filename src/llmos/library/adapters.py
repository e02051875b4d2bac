"""LoRA adapters in PEFT's format: what adapter_config.json says, and whether the tensors obey.

Torch-free. An adapter adds ``x @ A.T @ B.T * scaling`` to the output of some linear modules of its
base (Hu et al. 2021, section 4.1). ``bases`` finds the base; ``engines.native.lora`` computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import regex

from llmos.errors import InvalidModelError
from llmos.library.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, read_json
from llmos.library.manifest import Task
from llmos.library.tensors import TensorInfo, read_header

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MATRIX = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
_BASE_COPY = re.compile(r"base_model\.model\..+\.base_layer\.weight")
"""The base's own head, which PEFT saves along where it has an update; training left it alone."""
_MAX_PATTERN_CHARS = 1000
_MATCH_TIMEOUT_S = 0.1
"""For one pattern on one name: a pattern that needs more was made to hang its reader."""
_MERGE = "merge it into its base (peft: merge_and_unload), save_pretrained, and import that model"
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules saved whole",
    "lora_bias": "a bias of its own",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained embeddings",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron's layers",
}
"""Settings that change what an adapter computes, and what a person calls them."""
_PLAIN_INITS = frozenset({True, False, None, "gaussian", "eva", "orthogonal"})
"""Ways to begin training that leave the base as it is; after others it is another base."""


class LoraConfig(msgspec.Struct, frozen=True):
    """The fields of adapter_config.json that say what an adapter computes, by PEFT's names."""

    peft_type: str
    r: int
    lora_alpha: float
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None

    def rank_of(self, path: str) -> int:
        """Return the rank of the update of module ``path``."""
        return int(_by_pattern(self.rank_pattern, path, self.r))

    def scaling_of(self, path: str) -> float:
        """Return what the update is multiplied by: alpha/r, or alpha/sqrt(r) (rsLoRA)."""
        rank, alpha = self.rank_of(path), _by_pattern(self.alpha_pattern, path, self.lora_alpha)
        return float(alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def is_target(self, path: str) -> bool:
        """Whether the module has an update, as PEFT decides it (check_target_module_exists)."""
        if self.exclude_modules and _names(self.exclude_modules, path):
            return False
        if isinstance(self.target_modules, str) or self.layers_to_transform in (None, []):
            return _names(self.target_modules or (), path)
        return path in (self.target_modules or ()) or (
            _names(self.target_modules or (), path) and self._is_in_layers(path)
        )

    def _is_in_layers(self, path: str) -> bool:
        layers = self.layers_to_transform
        wanted = [layers] if isinstance(layers, int) else layers or []
        return self._layer_of(path) in wanted

    def _layer_of(self, path: str) -> int | None:
        """Return the number of the layer a module is in: the first one in its path."""
        patterns = self.layers_pattern or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if found := _match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\..*", path):
                return int(found["layer"])
        return None


@dataclass(frozen=True, slots=True)
class Update:
    """The shape of what an adapter adds to one module: A is [rank, inputs], B [outputs, rank]."""

    rank: int
    num_inputs: int
    num_outputs: int
    scaling: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A checked adapter: its config, its updates by module path, its tensors by name."""

    config: LoraConfig
    updates: dict[str, Update]
    tensors: dict[str, TensorInfo]

    @property
    def rank(self) -> int:
        """The largest rank of all."""
        return max(update.rank for update in self.updates.values())


class AdapterManifest(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter version's facts, named as a model's are (see ``manifest.Manifest``)."""

    task: Task
    base: str
    """The version it is for, ``name:number``; its own name alone runs it over this one."""
    base_digest: str
    rank: int
    target_modules: list[str]
    parameters: int
    dtype: str
    weights_bytes: int
    engine: Literal["native"] = "native"
    chat_template: str | None = None
    languages: list[str] = []
    license: str = ""
    source: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    parity: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    description: str = ""
    limits: str = ""
    recommended: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, every key present."""
        return dict(msgspec.to_builtins(self))


def parse_adapter(values: Mapping[str, Any]) -> AdapterManifest:
    """Check an adapter manifest's keys and types. Raises InvalidModelError."""
    try:
        return msgspec.convert(dict(values), AdapterManifest)
    except msgspec.ValidationError as error:
        raise InvalidModelError(f"the adapter's manifest is not valid: {error}") from error


def read_config(values: Mapping[str, Any]) -> LoraConfig:
    """Return the content of adapter_config.json when it is of a LoRA that llmos computes.

    Raises:
        InvalidModelError: it is malformed, of another method, or of a variant of LoRA.
    """
    if values.get("peft_type") != "LORA":
        kind = str(values.get("peft_type"))[:40]
        raise _refusal(f"its peft_type is {kind!r} and llmos runs LORA only: {_MERGE}")
    for key, meaning in _REFUSED.items():
        if values.get(key):
            raise _refusal(f"it uses {meaning} ({key}), which llmos does not run: {_MERGE}")
    try:
        config = msgspec.convert(dict(values), LoraConfig)
    except msgspec.ValidationError as error:
        raise _refusal(f"{ADAPTER_CONFIG_FILE} is not valid ({error}): save it again") from error
    if config.bias != "none":
        raise _refusal(f"it trained biases (bias={config.bias[:40]!r}): {_MERGE}")
    if config.init_lora_weights not in _PLAIN_INITS:
        init = str(config.init_lora_weights)[:40]
        raise _refusal(
            f"it began from a changed base (init_lora_weights={init!r}): save it with peft's "
            "path_initial_model_for_weight_conversion"
        )
    ranks = (config.r, *(config.rank_pattern or {}).values())
    alphas = (config.lora_alpha, *(config.alpha_pattern or {}).values())
    if min(ranks) < 1 or not all(map(math.isfinite, alphas)):
        raise _refusal(f"{ADAPTER_CONFIG_FILE} has a rank below 1 or an alpha that is no number")
    return config


def read_layout(directory: Path) -> Layout:
    """Return the checked adapter in ``directory``, by its config and the header of its tensors.

    Raises:
        InvalidModelError: a matrix is missing or misshaped, or there is more than LoRA in it.
    """
    config = read_config(read_json(directory / ADAPTER_CONFIG_FILE))
    saved = read_header(directory / ADAPTER_FILE)
    tensors = {name: info for name, info in saved.items() if not _BASE_COPY.fullmatch(name)}
    found = [match for name in tensors if (match := _MATRIX.fullmatch(name))]
    if len(found) < len(tensors):
        raise _foreign(min(tensors.keys() - {match[0] for match in found}))
    paths = sorted({match["path"] for match in found})
    if not paths:
        raise _refusal(f"{ADAPTER_FILE} holds no tensors: save it again")
    return Layout(config, {path: _update(config, tensors, path) for path in paths}, tensors)


def matrix_names(path: str) -> tuple[str, str]:
    """Return the names of a module's A and B in the adapter's file."""
    return f"base_model.model.{path}.lora_A.weight", f"base_model.model.{path}.lora_B.weight"


def check_fits(layout: Layout, base: Mapping[str, TensorInfo], base_ref: str) -> None:
    """See that the base has every module the adapter updates, of its shape, and none it forgot.

    Args:
        base: the base's tensors by name. A linear's weight is [outputs, inputs]; GPT-2's layers
            have it the other way round, and only the engine can tell which is which.

    Raises:
        InvalidModelError: the adapter is another model's, or not complete.
    """
    weights = {
        name.removesuffix(".weight"): info.shape
        for name, info in base.items()
        if name.endswith(".weight") and len(info.shape) == 2
    }
    prefix = _prefix(layout.updates, weights)
    weights = {prefix + path: shape for path, shape in weights.items()}
    for path, update in layout.updates.items():
        shape = weights.get(path)
        if shape is None and path.rpartition(".")[2] == "lm_head":
            continue  # tied to the embeddings: only the network has it
        if shape is None:
            raise wrong_base(base_ref, f"it has no {path}")
        wanted = (update.num_outputs, update.num_inputs)
        if shape not in (wanted, wanted[::-1]):
            raise wrong_base(base_ref, f"{path} is {list(shape)}, not {list(wanted)}")
    _check_complete(layout, weights)


def wrong_base(base_ref: str, difference: str) -> InvalidModelError:
    """Return the error for an adapter that does not fit a model."""
    return InvalidModelError(
        f"the adapter does not fit {base_ref}: {difference}; name the model it was trained on",
        param="base",
    )


def _check_complete(layout: Layout, weights: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter with fewer updates than its config says: it would do half its work."""
    targets = layout.config.target_modules
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return  # which modules are linear, only the network says
    for path in weights.keys() - layout.updates.keys():
        if layout.config.is_target(path):
            raise _refusal(
                f"{path} is one of its target_modules but has no matrices: save it again"
            )


def _prefix(updates: Iterable[str], weights: Mapping[str, Any]) -> str:
    """Return what checkpoints saved without their head lack at the start of names."""
    for path in updates:
        first, _, rest = path.partition(".")
        if path in weights or rest in weights:
            return "" if path in weights else f"{first}."
    return ""


def _update(config: LoraConfig, tensors: Mapping[str, TensorInfo], path: str) -> Update:
    a, b = (tensors.get(name) for name in matrix_names(path))
    if ".experts." in path:
        raise _refusal(
            f"it trained single experts ({path[:200]}), which llmos does not run: {_MERGE}"
        )
    if a is None or b is None:
        raise _refusal(
            f"lora_{'B' if b is None else 'A'} of {path[:200]} is missing: save it again"
        )
    rank = config.rank_of(path)
    is_sound = len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1] == rank
    if not is_sound or {a.dtype, b.dtype} - _FLOATS or 0 in (*a.shape, *b.shape):
        raise _refusal(
            f"{path[:200]} has A {a.dtype} {list(a.shape)} and B {b.dtype} {list(b.shape)}, where "
            f"rank {rank} wants [{rank}, inputs] and [outputs, {rank}]: save it again"
        )
    return Update(rank, a.shape[1], b.shape[0], config.scaling_of(path))


def _foreign(name: str) -> InvalidModelError:
    for mark, meaning in (
        ("lora_embedding_", "LoRA on embeddings"),
        ("lora_magnitude_vector", "DoRA"),
        ("embed_tokens", "embeddings saved whole"),
    ):
        if mark in name:
            return _refusal(f"it uses {meaning} ({name[:200]}), which llmos does not run: {_MERGE}")
    return _refusal(f"{ADAPTER_FILE} has {name[:200]!a}, which is no matrix of LoRA: {_MERGE}")


def _names(targets: str | Iterable[str], path: str) -> bool:
    """Whether PEFT's targets mean the module: a pattern of its path, or a list of ends of it."""
    if isinstance(targets, str):
        return _match(targets, path) is not None
    return any(path == target or path.endswith(f".{target}") for target in targets)


def _by_pattern(values: Mapping[str, float] | None, path: str, default: float) -> float:
    """Return the value of the first pattern that ends ``path``, else the default."""
    for pattern, value in (values or {}).items():
        if _match(rf"(.*\.)?({pattern})", path):
            return value
    return default


def _match(pattern: str, text: str) -> Any:
    """``re.fullmatch`` with limits: patterns are strangers'."""
    try:
        if len(pattern) > _MAX_PATTERN_CHARS:
            raise TimeoutError
        return regex.fullmatch(pattern, text, timeout=_MATCH_TIMEOUT_S)
    except TimeoutError:
        raise _refusal(f"the pattern {pattern[:80]!a} is too complex") from None
    except (regex.error, RecursionError, OverflowError) as error:
        raise _refusal(f"{pattern[:80]!a} is not a pattern: {str(error)[:100]}") from error


def _refusal(reason: str) -> InvalidModelError:
    return InvalidModelError(f"the adapter cannot be used: {reason}", param="files")
