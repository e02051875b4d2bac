"""Which files of a model directory are kept, which are passed over and which are refused.

Only names are judged here, and JSON read; ``tensors`` and ``importers`` look inside the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from llmos.errors import InvalidModelError, UnsafeFileError
from llmos.types import NESTED_FILES

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
QUANTIZED_FILE = "quantized.safetensors"
"""The weights of a quantised decoder, in a layout of llmos' own (see ``quantized``)."""
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json")
"""What makes text into tokens, and says which of them are special."""
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
"""What `llmos export` writes beside a model's files; import reads the description from it."""
MODULES_FILE = "modules.json"
SENTENCE_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
(POOLING_FILE,) = NESTED_FILES
"""What sentence-transformers saves beside a network."""

_MAX_JSON_BYTES = 256 * 2**20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_WEIGHTS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
_KEPT = frozenset(
    {
        CONFIG_FILE,
        "generation_config.json",
        INDEX_FILE,
        TOKENIZER_FILE,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "source.spm",
        "target.spm",
        "README.md",
        "LICENSE",
        MANIFEST_FILE,
        MODULES_FILE,
        SENTENCE_FILE,
        PROMPTS_FILE,
        POOLING_FILE,
        "LICENSE.txt",
        "NOTICE",
        "loss.json",
        "loss.png",
        "step_metrics.csv",
        "recipe.yaml",
    }
)
_KEPT_OF_ADAPTER = frozenset(
    {
        ADAPTER_CONFIG_FILE,
        ADAPTER_FILE,
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        MANIFEST_FILE,
    }
)
"""An adapter reads text with its base's tokenizer; a chat template may be its own."""
_UNSAFE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".ot", ".npy"}
    | {".npz", ".mar", ".nemo", ".keras", ".pb", ".gguf", ".onnx", ".tflite", ".zip", ".tar", ".gz"}
)


@dataclass(frozen=True, slots=True)
class Selection:
    """File names split into those a model, or an adapter, is made of and those passed over."""

    kept: tuple[str, ...]
    skipped: tuple[str, ...]
    kind: Literal["model", "adapter"] = "model"


def check_filename(name: str) -> str:
    """Return ``name`` when it is a plain file name.

    Raises:
        InvalidModelError: it has a directory, ``..``, or characters no model file needs.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidModelError(
            f"{name[:80]!a} is not a plain file name: "
            "give the files of one directory, without subdirectories",
            param="files",
        )
    return name


def select(names: Iterable[str]) -> Selection:
    """Choose the files of a model or an adapter by name; pickles and the like are never kept.

    Raises:
        InvalidModelError: no config.json or no weights.
        UnsafeFileError: the only weights are in a format that could run code when loaded.
    """
    every = sorted(set(names))
    if ADAPTER_CONFIG_FILE in every and not any(_WEIGHTS.fullmatch(name) for name in every):
        return _select_adapter(every)
    weights = [name for name in every if _WEIGHTS.fullmatch(name)] or [QUANTIZED_FILE]
    kept = tuple(name for name in every if name in _KEPT or name in weights)
    skipped = tuple(name for name in every if name not in kept)
    if CONFIG_FILE not in kept:
        raise InvalidModelError(
            "there is no config.json: choose a directory in Hugging Face format "
            "(config.json, model.safetensors, tokenizer.json)",
            param="files",
        )
    if not any(name in kept for name in weights):
        raise _no_weights(skipped)
    return Selection(kept, skipped)


def _select_adapter(names: list[str]) -> Selection:
    kept = tuple(name for name in names if name in _KEPT_OF_ADAPTER)
    skipped = tuple(name for name in names if name not in kept)
    if ADAPTER_FILE not in kept:
        raise _no_weights(skipped, ADAPTER_FILE)
    return Selection(kept, skipped, "adapter")


def _no_weights(
    skipped: tuple[str, ...], missing: str = WEIGHTS_FILE
) -> InvalidModelError | UnsafeFileError:
    unsafe = [name for name in skipped if PurePosixPath(name).suffix.lower() in _UNSAFE_SUFFIXES]
    if unsafe:
        return UnsafeFileError(
            f"the weights are only in {unsafe[0][:80]}, a format that may run code and is never "
            "loaded: convert them to safetensors (transformers: load the model, then "
            "save_pretrained)",
            param="files",
        )
    if ADAPTER_FILE in skipped:
        return InvalidModelError(
            f"{ADAPTER_FILE} is an adapter's, but there is no {ADAPTER_CONFIG_FILE}: save the "
            "adapter again with peft's save_pretrained",
            param="files",
        )
    return InvalidModelError(
        f"there is no {missing}: save the model again with save_pretrained", param="files"
    )


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Return the JSON object in ``path``; an empty one where it is missing and may be.

    Raises:
        InvalidModelError: it is missing, too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InvalidModelError(f"{path.name} is too large to be one", param="files")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise InvalidModelError(f"there is no {path.name}: add it", param="files") from None
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"{path.name} is not valid JSON: {error}", param="files") from error
    if not isinstance(value, dict):
        raise InvalidModelError(f"{path.name} is not a JSON object", param="files")
    return value
