"""What the host asks of an engine, and what the server may ask about one. Loads no torch.

An engine instance holds one loaded model. It deals in token ids and scores; text is for tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmos.engines.native.extension import is_likely
from llmos.engines.parking import Parked
from llmos.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    LlmosError,
    UnsupportedTaskError,
)
from llmos.library.quantized import DTYPES
from llmos.library.quantized import memory as quantized_memory
from llmos.types import EngineStats, GenerateWork, Priority, Work, WorkOut

ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
DEFAULT_KV_CACHE_BYTES = 2**30
CONTEXTS_IN_CACHE = 16
LARGEST_BLOCK_TOKENS = 64
DEFAULT_CONTEXT_TOKENS = 2048
MAX_STEP_TOKENS = 2048
"""Computed in one step at most, unless an engine is told another number."""
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


@dataclass(frozen=True, slots=True)
class Urgency:
    """How much the work of one model presses; by it the host picks the model of the next step."""

    slack_s: float = math.inf
    """Seconds left until a row misses its inter-token target or its deadline."""
    priority: int = Priority.STANDARD
    """Best class among the works."""
    tenants: tuple[str, ...] = ()
    """Whose works of that class there are, each once."""
    stream_slack_s: float = math.inf
    """Seconds left until a row that is being answered token by token misses its target."""
    step_limit_s: float = math.inf
    """How long a step may take, of any model, for such rows to keep their pace."""


class Engine(Protocol):
    """One loaded model. All methods but the loading ones are called from one thread, and return at
    once, except ``step``, which computes for a moment. An engine that inherits from this protocol
    need not have the methods after ``unload``: the host then goes by the works it passed on."""

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
    def has_work(self) -> bool:
        """Whether there is something to do for ``step`` now."""
        ...

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Advance the queued work a little; return what there is to report, in order.

        Raises:
            DeviceLostError: nothing on this device can be computed any more.
        """
        ...

    def unload(self) -> None:
        """Free the model. Queued work is forgotten."""
        ...

    def park(self, max_bytes: int) -> Parked | None:
        """Return what to keep of its cached prefixes, to be copied before it is unloaded."""
        return None

    def unpark(self, parked: Any) -> None:
        """Take back what `park` of an engine of the same model returned, before there is work."""

    def load_adapter(self, key: str, path: Path) -> int:
        """Lay the adapter in directory ``path`` over the model, for works that name its key;
        return the bytes it takes on the device. The works of others go on meanwhile.

        Raises:
            UnsupportedTaskError: this engine runs no adapters.
            InvalidModelError: the files are no adapter of this model.
            OutOfMemoryError: the device has no room for it.
        """
        raise UnsupportedTaskError("The engine of this model runs no adapters.")

    def drop_adapter(self, key: str) -> None:
        """Free an adapter; no work uses it. Unknown keys are ignored."""
        return

    def urgency(self, now: float) -> Urgency | None:
        """Return how much the queued work presses at ``now`` (monotonic seconds)."""
        return None

    def last_shares(self) -> Mapping[str, float]:
        """Return each tenant's share of the last step's computing; the sum is 1, or 0 if none."""
        return {}

    def set_virtual_times(self, virtual_ms: Mapping[str, float]) -> None:
        """Take each tenant's virtual time before a step: the lower goes first in its class."""

    def set_step_limit(self, seconds: float) -> None:
        """Take how long the next step should take at most, for the sake of other models."""

    def set_waker(self, wake: Callable[[], None]) -> None:
        """Take what to call, from any thread, where ``has_work`` becomes true by itself."""

    def stats(self) -> EngineStats | None:
        """Return what the model does; called about once a second."""
        return None


def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> Estimate:
    """Return what the engine named in ``manifest`` will take on ``device``."""
    own = _estimate_alone(manifest, device)
    if (draft := manifest.get("draft")) is None or not manifest.get("speculates", True):
        return own
    other = _estimate_alone({**draft, "engine": "native"}, device)
    num_tokens = kv_cache_tokens(manifest, other.kv_bytes_per_token)
    return Estimate(
        own.weights_bytes + other.weights_bytes,
        own.kv_bytes_per_token,
        own.kv_cache_bytes + other.kv_bytes_per_token * num_tokens,
    )


def _estimate_alone(manifest: Mapping[str, Any], device: str) -> Estimate:
    """Return the same without the draft model."""
    if manifest.get("engine") == "echo":
        return Estimate(0)
    stored = str(manifest.get("dtype") or "float32")
    if stored in DTYPES:  # is computed as it is stored
        memory = quantized_memory(manifest, has_extension=is_cpu(device) and is_likely())
        per_token = memory.kv_bytes_per_token
        workspace_bytes = memory.workspace_bytes_per_token * MAX_STEP_TOKENS
        cache_bytes = per_token * kv_cache_tokens(manifest, per_token)
        return Estimate(memory.weights_bytes + workspace_bytes, per_token, cache_bytes)
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
    """Return the dtype a model computes in: on a CPU float32, unless the manifest's
    ``compute_dtype`` says another; elsewhere that of its weights, or bfloat16."""
    if device.partition(":")[0] == "cpu":
        return str(manifest.get("compute_dtype") or "float32")
    dtype = str(manifest.get("dtype"))
    return dtype if dtype in ITEM_BYTES else "bfloat16"


def cpu_dtype(manifest: Mapping[str, Any], wanted: str, capacity_bytes: int) -> str:
    """Return what a model whose weights are not quantised computes in on a CPU.

    Args:
        wanted: float32 or bfloat16; anything else leaves it open: float32, which is exact for any
            stored weights, or bfloat16 where only that fits.
        capacity_bytes: what may be reserved.
    """
    if wanted in ("float32", "bfloat16"):
        return wanted
    as_float32, as_bfloat16 = (
        estimate(one).total_bytes - spare_bytes(one)
        for one in ({**manifest, "compute_dtype": dtype} for dtype in ("float32", "bfloat16"))
    )
    return "bfloat16" if as_bfloat16 <= capacity_bytes < as_float32 else "float32"


def context_tokens(manifest: Mapping[str, Any]) -> int:
    """Return the longest sequence (prompt and output) of the model."""
    return int(manifest.get("context_tokens") or DEFAULT_CONTEXT_TOKENS)


def kv_cache_tokens(manifest: Mapping[str, Any], bytes_per_token: int) -> int:
    """Return how many tokens the KV cache holds: room for several full contexts, within a budget
    (manifest key ``kv_cache_bytes``, else 1 GiB)."""
    budget_bytes = int(manifest.get("kv_cache_bytes") or DEFAULT_KV_CACHE_BYTES)
    wanted = context_tokens(manifest) * CONTEXTS_IN_CACHE
    return min(wanted, budget_bytes // bytes_per_token) if bytes_per_token else wanted


def spare_bytes(manifest: Mapping[str, Any], device: str = "cpu") -> int:
    """Return how much less than `estimate` will do: all of the cache but one whole context."""
    per_token = estimate(manifest, device).kv_bytes_per_token
    context = -(-context_tokens(manifest) // LARGEST_BLOCK_TOKENS) * LARGEST_BLOCK_TOKENS
    return max(kv_cache_tokens(manifest, per_token) - context, 0) * per_token


def with_smaller_cache(
    manifest: Mapping[str, Any], short_bytes: int, device: str = "cpu"
) -> Mapping[str, Any]:
    """Return the manifest of the same model that takes so many bytes less than `estimate` says."""
    if not short_bytes:
        return manifest
    per_token = estimate(manifest, device).kv_bytes_per_token
    cache_bytes = kv_cache_tokens(manifest, per_token) * per_token
    return {**manifest, "kv_cache_bytes": max(cache_bytes - short_bytes, 1)}


def check_generate(work: GenerateWork, vocab_size: int, context: int) -> None:
    """Refuse generation work that cannot be done, before it can disturb other rows.

    Raises:
        InvalidRequestError: a field is out of range (``param`` names it).
        ContextLengthError: prompt and already generated tokens leave no room for another.
    """
    _check_sampling(work)
    _check_logit_bias(work, vocab_size)
    ids = (*work.prompt_ids, *work.generated_ids)
    if not work.prompt_ids:
        raise InvalidRequestError("The prompt is empty: give at least one token.", param="prompt")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequestError(
            f"A token id is outside the vocabulary (0 to {vocab_size - 1}).", param="prompt"
        )
    is_scored = work.prompt_logprobs is not None  # then nothing need follow
    if len(work.prompt_ids) >= context + is_scored:
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
        "no_repeat_ngram_size": (params.no_repeat_ngram_size, 0, math.inf),
        "prompt_logprobs": (work.prompt_logprobs or 0, 0, MAX_LOGPROBS),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:  # NaN is refused too
            raise InvalidRequestError(
                f"`{name}` is {value}, but must be between {least} and {most}.", param=name
            )


def _check_logit_bias(work: GenerateWork, vocab_size: int) -> None:
    for token_id, bias in work.sampling.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"`logit_bias` names token {token_id}, but this model's ids go from 0 to "
                f"{vocab_size - 1}.",
                param="logit_bias",
            )
        if not -100 <= bias <= 100:
            raise InvalidRequestError(
                f"`logit_bias` of token {token_id} is {bias}, but must be between -100 and 100.",
                param="logit_bias",
            )


def is_cpu(wanted: str) -> bool:
    """Say, without torch, whether ``find_device(wanted)`` is the CPU."""
    return wanted == "cpu" or (wanted == "auto" and not NVIDIA_DRIVER.exists())


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
