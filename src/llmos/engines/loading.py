"""Reading a transformers model from disk: safetensors only, no code of its repository, no network.

Shared by the engines that compute with torch.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from llmos.engines import base
from llmos.errors import InvalidModelError
from llmos.models.registry import register

Model = Any
"""A transformers PreTrainedModel, which carries no types."""


def load_pretrained(
    auto_class: Any, path: Path, manifest: Mapping[str, Any], device: str, **options: Any
) -> Model:
    """Load a model for inference, in the dtype that ``device`` computes in unless told.

    Raises:
        InvalidModelError: the directory does not hold a model of this kind.
        torch.OutOfMemoryError: the device has no room for it.
    """
    register()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options = {"dtype": getattr(torch, base.compute_dtype(manifest, device)), **options}
    try:
        model = auto_class.from_pretrained(
            path,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise InvalidModelError(f"The model cannot be loaded: {error}") from error
    return model.to(device).eval().requires_grad_(False)


def set_threads(threads: int) -> None:
    """Let torch use this many threads for one operation."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def release_memory() -> None:
    """Give the memory of models that nothing refers to any more back to the system."""
    gc.collect()  # networks hold reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes(model: Model) -> int:
    """Return the bytes of the model's parameters and buffers, tied ones once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.nbytes for t in tensors.values())
