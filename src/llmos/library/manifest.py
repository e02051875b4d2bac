"""What llmos knows of a model version, and how to read it off a Hugging Face-format directory.

Torch-free: sizes come from safetensors headers, the rest from config.json, generation_config.json,
the tokenizer's files and the README's front matter. Whether the files are safe is ``importers``'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from llmos.errors import InvalidModelError
from llmos.library import describe, embedders
from llmos.library.architectures import TRANSLATORS, Architecture, AskedTask, identify
from llmos.library.files import (
    CONFIG_FILE,
    INDEX_FILE,
    QUANTIZED_FILE,
    WEIGHTS_FILE,
    check_filename,
    read_json,
)
from llmos.library.quantized import read_quantized
from llmos.library.tensors import DTYPE_BITS, TensorInfo, read_header
from llmos.types import FileRef

Task = Literal[
    "chat",
    "generate",
    "translate",
    "classify",
    "entities",
    "seq2seq",
    "embed",
    "rerank",
    "fill_mask",
    "answer",
    "rate",
    "parse",
]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_GENERATION_KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "num_beams": "num_beams",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "length_penalty": "length_penalty",
}
_SAMPLING_KEYS = frozenset({"temperature", "top_p", "top_k", "min_p"})
_DIGEST_KEYS = (
    "task",
    "engine",
    "architecture",
    "dtype",
    "context_tokens",
    "labels",
    "chat_template",
    "special_tokens",
    "eos_ids",
    "generation",
    "translation",
)
_DIGEST_KEYS_IF_SET = ("embedding",)
"""Younger keys: unset, they leave the digests of older versions as they were."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A model version's facts. Sizes in bytes or tokens as named; unset means unknown."""

    task: Task
    engine: Literal["native", "pipelines", "echo"]
    architecture: str
    model_type: str
    parameters: int = 0
    dtype: str = "float32"
    context_tokens: int = 0
    vocab_size: int = 0
    languages: list[str] = []
    labels: list[str] | None = None
    heads: dict[str, list[str]] | None = None
    """Of a model for several tasks: each task, that of ``task`` the first, and its labels."""
    chat_template: str | None = None
    special_tokens: dict[str, str] = {}
    eos_ids: list[int] = []
    generation: dict[str, Any] = {}
    translation: dict[str, Any] | None = None
    embedding: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    license: str = ""
    source: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    parity: dict[str, Any] | None = None
    """Of a trained version: how far engine and trainer were apart when it was published."""
    recipe: dict[str, Any] | None = None
    description: str = ""
    limits: str = ""
    recommended: list[str] = []
    kv_bytes_per_token: int = 0
    weights_bytes: int = 0

    def made_for(self, tasks: Collection[str]) -> Manifest | None:
        """Return the manifest of the model as one for one of ``tasks`` alone; None: it does none
        of them."""
        if not self.heads:
            return self if self.task in tasks else None
        task = next((task for task in (self.task, *self.heads) if task in tasks), None)
        if task is None:
            return None
        metrics, parity = of_task(self.metrics, task), (self.parity or {}).get(task)
        labels = self.heads[task] or None
        return msgspec.structs.replace(
            self, task=task, labels=labels, metrics=metrics, parity=parity
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, every key present."""
        return dict(msgspec.to_builtins(self))


def of_task(metrics: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the metrics of one task of several, by split: those called ``task/split``."""
    prefix = f"{task}/"
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
    }


def parse_manifest(values: Mapping[str, Any]) -> Manifest:
    """Check a manifest's keys and types; unknown keys are kept by the caller, not here.

    Raises:
        InvalidModelError: a key is missing or has the wrong type.
    """
    try:
        return msgspec.convert(dict(values), Manifest)
    except msgspec.ValidationError as error:
        raise InvalidModelError(f"the manifest is not valid: {error}") from error


def version_digest(files: Mapping[str, FileRef], manifest: Mapping[str, Any]) -> str:
    """Return ``sha256:…`` over every file's digest and the manifest keys that change outputs."""
    behaviour = {key: manifest.get(key) for key in _DIGEST_KEYS}
    behaviour |= {key: manifest[key] for key in _DIGEST_KEYS_IF_SET if manifest.get(key)}
    identity = {"files": {name: ref.digest for name, ref in files.items()}, "manifest": behaviour}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def build_manifest(
    directory: Path,
    *,
    source: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    task: AskedTask | None = None,
) -> Manifest:
    """Read the manifest of the model in ``directory``.

    Args:
        directory: holds config.json, safetensors, tokenizer files; checked before.
        source: where it came from, ``{"kind": "imported" | "pulled" | "trained" | …}``.
        extra: keys that replace what was read (metrics, recipe, description, …).
        task: what to use the model for, where the files do not say it.

    Raises:
        InvalidModelError: config.json is missing or not one of a supported model.
    """
    config = read_json(directory / CONFIG_FILE)
    task = embedders.wanted_task(directory, config, task)
    architecture = identify(config, task)
    tokenizer_config = read_json(directory / "tokenizer_config.json", missing_ok=True)
    chat_template = describe.chat_template(directory, tokenizer_config)
    card = describe.read_card(directory / "README.md")
    special_tokens = describe.special_tokens(directory, tokenizer_config)
    mask = describe.mask_token(directory, tokenizer_config)
    heads = describe.heads(config) if architecture.family == "multitask" else {}
    tasks = {architecture.family, *heads}
    if "fill_mask" in tasks and mask is not None:
        special_tokens["mask"] = mask
    generation_config = read_json(directory / "generation_config.json", missing_ok=True)
    values: dict[str, Any] = {
        "task": next(iter(heads), None) or _task(architecture, chat_template, config, task),
        "engine": "native" if architecture.family == "causal" else "pipelines",
        "architecture": architecture.name,
        "model_type": architecture.model_type,
        "context_tokens": _context_tokens(directory, architecture, config, tokenizer_config),
        "vocab_size": _integer(config, "vocab_size"),
        "languages": list(card.languages),
        "labels": describe.labels(config)
        if architecture.family in {"classify", "entities", "parse"}
        else next(iter(heads.values()), None) or None,
        "heads": heads or None,
        "chat_template": chat_template if architecture.family == "causal" else None,
        "special_tokens": special_tokens,
        "eos_ids": describe.eos_ids(directory, generation_config, config, special_tokens),
        "generation": _generation(generation_config),
        "translation": _translation(architecture),
        "embedding": embedders.embedding(directory, config, is_decoder=architecture.is_decoder)
        if "embed" in tasks
        else None,
        "license": card.license,
        "source": dict(source or {}),
        **_sizes(directory, config),
    }
    return parse_manifest(values | dict(extra or {}))


def _sizes(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest keys that say what the weights are and take."""
    if (directory / QUANTIZED_FILE).exists():
        return read_quantized(directory).manifest_keys()
    tensors = read_tensors(directory).values()
    dtype = main_dtype(tensors)
    return {
        "dtype": dtype,
        "parameters": sum(info.elements for info in tensors),
        "weights_bytes": sum(info.end - info.begin for info in tensors),
        "kv_bytes_per_token": kv_bytes_per_token(config, dtype),
    }


def read_tensors(directory: Path) -> dict[str, TensorInfo]:
    """Return every tensor of the model's (possibly several) safetensors files by name.

    Raises:
        InvalidModelError: a file is missing or corrupted, or the index does not match the files.
    """
    if (directory / WEIGHTS_FILE).exists():
        return read_header(directory / WEIGHTS_FILE)
    shard_of = _weight_map(directory)
    shards = {name: _shard(directory, name) for name in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise InvalidModelError(
                f"{INDEX_FILE} places {name[:80]!r} in {shard}, which does not hold it: "
                "download the model again",
                param="files",
            )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _weight_map(directory: Path) -> dict[str, str]:
    if not (directory / INDEX_FILE).exists():
        raise InvalidModelError(
            f"the weights are split but {INDEX_FILE} is missing: add it", param="files"
        )
    weight_map = read_json(directory / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidModelError(f"{INDEX_FILE} has no weight_map: download it again", param="files")
    if not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InvalidModelError(f"{INDEX_FILE} is malformed: download it again", param="files")
    return weight_map


def _shard(directory: Path, name: str) -> dict[str, TensorInfo]:
    path = directory / check_filename(name)
    if not path.is_file():
        raise InvalidModelError(
            f"{INDEX_FILE} names {name}, which is missing: add it or download the model again",
            param="files",
        )
    return read_header(path)


def _task(
    architecture: Architecture,
    chat_template: str | None,
    config: Mapping[str, Any],
    asked: AskedTask | None,
) -> Task:
    match architecture.family:
        case "causal":
            return "chat" if chat_template else "generate"
        case "seq2seq" if asked == "fill_mask":
            return "fill_mask"
        case "seq2seq":
            return "translate" if architecture.model_type in TRANSLATORS else "seq2seq"
        case "classify":
            return _classifier_task(config, asked)
        case "multitask":
            raise AssertionError("its heads name its tasks")
        case family:
            return family


def _classifier_task(config: Mapping[str, Any], asked: AskedTask | None) -> Task:
    """A classifier with one output, a number, is taken for a cross-encoder unless told."""
    count = len(describe.labels(config))
    if asked == "rate" and count != 1:
        raise InvalidModelError(
            f"a model that rates has one output, not {count}: import it without a task",
            param="task",
        )
    if asked == "rerank" and count > 2:
        raise InvalidModelError(
            f"a model that ranks has one output, or two (no match, match), not {count}: "
            "import it without a task",
            param="task",
        )
    is_regression = count == 1 and config.get("problem_type") in {None, "regression"}
    if asked in ("rerank", "rate"):
        return asked
    return "rerank" if asked is None and is_regression else "classify"


def _context_tokens(
    directory: Path,
    architecture: Architecture,
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
) -> int:
    limit = describe.context_tokens(config, tokenizer_config)
    made_for = None
    if architecture.family == "embed":
        made_for = embedders.longest_text(directory, config)
    return min(limit, made_for or limit)


def _translation(architecture: Architecture) -> dict[str, Any] | None:
    return {"prefix": "", "pairs": []} if architecture.model_type in TRANSLATORS else None


def main_dtype(tensors: Iterable[TensorInfo]) -> str:
    """Return the floating-point type that holds most bytes."""
    held: dict[str, int] = {}
    for info in tensors:
        held[info.dtype] = held.get(info.dtype, 0) + info.end - info.begin
    floats = {name: held[name] for name in held if name in _DTYPES}
    if not floats:
        raise InvalidModelError(
            "the weights are not float32, float16 or bfloat16: "
            "choose a checkpoint that is not quantised",
            param="files",
        )
    return _DTYPES[max(floats, key=lambda name: floats[name])]


def _generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that generation_config sets; sampling ones only where it samples."""
    return {
        ours: config[theirs]
        for theirs, ours in _GENERATION_KEYS.items()
        if isinstance(config.get(theirs), int | float)
        and (config.get("do_sample") or theirs not in _SAMPLING_KEYS)
    }


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes of keys and values of all layers for one token, in the weights' dtype."""
    layers = _integer(config, "num_hidden_layers", "n_layer", "num_layers", "decoder_layers")
    heads = _integer(
        config, "num_attention_heads", "n_head", "num_heads", "decoder_attention_heads"
    )
    hidden = _integer(config, "hidden_size", "n_embd", "d_model")
    kv_heads = _integer(config, "num_key_value_heads") or heads
    head_dim = _integer(config, "head_dim", "d_kv") or (hidden // heads if heads else 0)
    bits = next(DTYPE_BITS[theirs] for theirs, ours in _DTYPES.items() if ours == dtype)
    return 2 * layers * kv_heads * head_dim * bits // 8


def _integer(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of ``names`` that is a positive integer in ``config``, else 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), 0)
