"""Whether a model is to be quantised unasked, and to what: a decision over plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmos.engines.base import ITEM_BYTES, estimate
from llmos.library.quantized import KV_ITEM_BYTES
from llmos.library.variants import is_quantized

if TYPE_CHECKING:
    from llmos.engines.native.quantize import QuantizedDtype

MIN_PARAMETERS = 100_000_000
"""Smaller models are fast enough, and lose more."""


def is_worth_it(manifest: Mapping[str, Any]) -> bool:
    """Whether a model of this manifest may be quantised without being asked to."""
    is_large = int(manifest.get("parameters") or 0) >= MIN_PARAMETERS
    return is_large and manifest.get("engine") == "native" and not is_quantized(manifest)


def fitting_dtypes(
    manifest: Mapping[str, Any], free_bytes: int, *, has_extension: bool
) -> tuple[QuantizedDtype, ...]:
    """Return what to quantise to, then what else where that cannot be: int8, but int4 where a model
    as int8 would not fit into the free memory.

    Args:
        has_extension: without it torch computes int4 as int8.
    """
    if not has_extension or int8_bytes(manifest) <= free_bytes:
        return ("int8",)
    return ("int4", "int8")


def int8_bytes(manifest: Mapping[str, Any]) -> int:
    """Return the bytes that a model will take as int8, its cache included."""
    item_bytes = ITEM_BYTES.get(str(manifest.get("dtype")), 4)
    per_token = int(manifest.get("kv_bytes_per_token") or 0) * KV_ITEM_BYTES // item_bytes
    as_int8 = {
        "dtype": "int8",
        "weights_bytes": int(manifest.get("parameters") or 0),
        "kv_bytes_per_token": per_token,
    }
    return estimate({**manifest, **as_int8}).total_bytes
