"""Which version runs when a model is asked for: itself, or the quantised one that was made of it.

A quantised version names what it was made of by digest, in its lineage and in its manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmos.library.quantized import DTYPES
from llmos.library.versions import Version
from llmos.security.actors import OPERATORS

_ADAPTABLE = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"}
    | {"gate_proj", "up_proj", "gate_up_proj", "down_proj"}
)
"""Modules that an adapter may change in a quantised model."""

MIN_INT4_AGREEMENT = 0.9
"""Positions at which an int4 model finds the same likeliest token, for it to stand in."""


def variant_name(name: str, dtype: str) -> str:
    """Return what the quantised version of a model is called unless told."""
    return f"{name}-{dtype}"


def is_quantized(manifest: Mapping[str, Any]) -> bool:
    """Whether the weights are int8 or int4."""
    return manifest.get("dtype") in DTYPES


def runs_as(version: Version, made_of_it: Iterable[Version], adapter: Version | None) -> Version:
    """Return the newest int8 version of exactly this one, else a close int4 one, else itself.

    Another user's does not count: what answers to a name is its owner's to decide. Nor does any
    for an adapter that changes more than a quantised model lets it.

    Args:
        made_of_it: versions whose lineage has this one's digest.
        adapter: what is to be laid over it.
    """
    if adapter is not None and not _ADAPTABLE.issuperset(adapter.manifest["target_modules"]):
        return version
    fitting = [
        other
        for other in made_of_it
        if (other.manifest.get("quantization") or {}).get("base_digest") == version.digest
        and other.owner in {version.owner, *OPERATORS}
        and _is_close(other.manifest)
    ]
    rank = {"int8": 1, "int4": 0}
    return max(fitting, key=lambda o: (rank[o.manifest["dtype"]], o.id), default=version)


def _is_close(manifest: Mapping[str, Any]) -> bool:
    """Whether a quantised model may answer for the one it was made of: int4 only if measured so."""
    if manifest["dtype"] == "int8":
        return True
    measured = (manifest.get("metrics") or {}).get("quantization") or {}
    return bool(measured.get("top1_agreement", 0.0) >= MIN_INT4_AGREEMENT)
