"""Which files of a model directory are kept, which are passed over and which are refused.

Only names are judged here, and JSON read; ``tensors`` and ``importers`` look inside the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmos.errors import InvalidModelError, UnsafeFileError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "manifest.json"
"""What `llmos export` writes beside a model's files; import reads the description from it."""

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
        "LICENSE.txt",
        "NOTICE",
        "loss.json",
        "loss.png",
        "recipe.yaml",
    }
)
_UNSAFE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".ot", ".npy"}
    | {".npz", ".mar", ".nemo", ".keras", ".pb", ".gguf", ".onnx", ".tflite", ".zip", ".tar", ".gz"}
)


@dataclass(frozen=True, slots=True)
class Selection:
    """File names split into those a model is made of and those passed over."""

    kept: tuple[str, ...]
    skipped: tuple[str, ...]


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
    """Choose the files of a model by name; pickles and the like are never kept.

    Raises:
        InvalidModelError: no config.json or no weights.
        UnsafeFileError: the only weights are in a format that could run code when loaded.
    """
    every = sorted(set(names))
    kept = tuple(name for name in every if name in _KEPT or _WEIGHTS.fullmatch(name))
    skipped = tuple(name for name in every if name not in kept)
    if CONFIG_FILE not in kept:
        raise InvalidModelError(
            "there is no config.json: choose a directory in Hugging Face format "
            "(config.json, model.safetensors, tokenizer.json)",
            param="files",
        )
    if not any(_WEIGHTS.fullmatch(name) for name in kept):
        raise _no_weights(skipped)
    return Selection(kept, skipped)


def _no_weights(skipped: tuple[str, ...]) -> InvalidModelError | UnsafeFileError:
    unsafe = [name for name in skipped if PurePosixPath(name).suffix.lower() in _UNSAFE_SUFFIXES]
    if unsafe:
        return UnsafeFileError(
            f"the weights are only in {unsafe[0][:80]}, a format that may run code and is never "
            "loaded: convert them to safetensors (transformers: load the model, then "
            "save_pretrained)",
            param="files",
        )
    if "adapter_model.safetensors" in skipped:
        return InvalidModelError(
            "this is an adapter without its base model: merge it (peft: merge_and_unload), "
            "then save_pretrained",
            param="files",
        )
    return InvalidModelError(
        "there is no model.safetensors: save the model with transformers' save_pretrained",
        param="files",
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
