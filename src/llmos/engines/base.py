"""What the host asks of an engine, and what the server may ask about one. Loads no torch.

An engine instance holds one loaded model. It deals in token ids and scores; text is for tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmos.errors import ContextLengthError, EngineError, InvalidRequestError, LlmosError
from llmos.types import GenerateWork, Work, WorkOut

ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
MAX_KV_CACHE_BYTES = 2**30
CONTEXTS_IN_CACHE = 16
DEFAULT_CONTEXT_TOKENS = 2048
MAX_LOGPROBS = 128
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class DeviceLostError(EngineError):
    """The device failed: the engine process must end and be started again."""

    code = "device_lost"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes a loaded model takes on its device."""

    weights_bytes: int
    kv_bytes_per_token: int = 0
    kv_cache_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes


class Engine(Protocol):
    """One loaded model. All methods but ``load`` are called from one thread, and return at once,
    except ``step``, which computes for a moment."""

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> Estimate:
        """Return what loading will take, before it is done."""
        ...

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Load the model in directory ``path``; return the bytes it takes on the device.

        Raises:
            InvalidModelError: the files are not a model this engine can run.
            OutOfMemoryError: the device has no room for it.
        """
        ...

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a piece of work.

        Raises:
            InvalidRequestError, ContextLengthError, UnsupportedTaskError: it cannot be done.
        """
        ...

    def cancel(self, work_id: str) -> None:
        """Drop a piece of work; nothing more is reported for it. Unknown ids are ignored."""
        ...

    @property
    def has_work(self) -> bool: ...

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Advance the queued work a little; return what there is to report, in order.

        Raises:
            DeviceLostError: nothing on this device can be computed any more.
        """
        ...

    def unload(self) -> None:
        """Free the model. Queued work is forgotten."""
        ...


def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> Estimate:
    """Return what the engine named in ``manifest`` will take on ``device``."""
    if manifest.get("engine") == "echo":
        return Estimate(0)
    stored = str(manifest.get("dtype") or "float32")
    item_bytes = ITEM_BYTES[compute_dtype(manifest, device)]
    if parameters := int(manifest.get("parameters") or 0):
        weights_bytes = parameters * item_bytes
    else:
        weights_bytes = int(manifest.get("weights_bytes") or 0)
        weights_bytes = weights_bytes * item_bytes // ITEM_BYTES.get(stored, item_bytes)
    if manifest.get("engine") != "native":
        return Estimate(weights_bytes)
    per_token = int(manifest.get("kv_bytes_per_token") or 0)
    per_token = per_token * item_bytes // ITEM_BYTES.get(stored, item_bytes)
    return Estimate(weights_bytes, per_token, per_token * kv_cache_tokens(manifest, per_token))


def compute_dtype(manifest: Mapping[str, Any], device: str) -> str:
    """Return the dtype a model computes in: float32 on a CPU, else the manifest's or bfloat16."""
    if device.partition(":")[0] == "cpu":
        return "float32"
    dtype = str(manifest.get("dtype"))
    return dtype if dtype in ITEM_BYTES else "bfloat16"


def context_tokens(manifest: Mapping[str, Any]) -> int:
    """Return the longest sequence (prompt and output) of the model."""
    return int(manifest.get("context_tokens") or DEFAULT_CONTEXT_TOKENS)


def kv_cache_tokens(manifest: Mapping[str, Any], bytes_per_token: int) -> int:
    """Return how many tokens the KV cache holds: room for several full contexts, within a budget
    (manifest key ``kv_cache_bytes``, else 1 GiB)."""
    budget_bytes = int(manifest.get("kv_cache_bytes") or MAX_KV_CACHE_BYTES)
    wanted = context_tokens(manifest) * CONTEXTS_IN_CACHE
    return min(wanted, budget_bytes // bytes_per_token) if bytes_per_token else wanted


def check_generate(work: GenerateWork, vocab_size: int, context: int) -> None:
    """Refuse generation work that cannot be done, before it can disturb other rows.

    Raises:
        InvalidRequestError: a field is out of range (``param`` names it).
        ContextLengthError: prompt and already generated tokens leave no room for another.
    """
    _check_sampling(work)
    ids = (*work.prompt_ids, *work.generated_ids)
    if not work.prompt_ids:
        raise InvalidRequestError("The prompt is empty: give at least one token.", param="prompt")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequestError(
            f"A token id is outside the vocabulary (0 to {vocab_size - 1}).", param="prompt"
        )
    if len(work.prompt_ids) >= context:
        raise ContextLengthError(
            f"The prompt has {len(work.prompt_ids)} tokens, but the model's context holds "
            f"{context}, the answer included: shorten the prompt.",
            param="prompt",
        )


def _check_sampling(work: GenerateWork) -> None:
    params = work.sampling
    ranges = {
        "max_tokens": (params.max_tokens, 0, math.inf),
        "temperature": (params.temperature, 0, 100),
        "top_p": (params.top_p, 0, 1),
        "top_k": (params.top_k, 0, math.inf),
        "min_p": (params.min_p, 0, 1),
        "repetition_penalty": (params.repetition_penalty, 0.01, 100),
        "presence_penalty": (params.presence_penalty, -100, 100),
        "frequency_penalty": (params.frequency_penalty, -100, 100),
        "logprobs": (params.logprobs or 0, 0, MAX_LOGPROBS),
        "choice": (work.choice, 0, 2**32),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:  # NaN is refused too
            raise InvalidRequestError(
                f"`{name}` is {value}, but must be between {least} and {most}.", param=name
            )


def find_device(wanted: str) -> str:
    """Return ``wanted``, or for "auto" the first CUDA device, else the CPU.

    For the processes that compute: torch is asked, and so loaded, only where an NVIDIA driver is.
    """
    if wanted != "auto":
        return wanted
    if not NVIDIA_DRIVER.exists():
        return "cpu"
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
