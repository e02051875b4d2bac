"""The extension's C interface for ctypes: structs as ``csrc/decoder.cpp`` lays them out."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p


class CLinear(ctypes.Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("n", c_int32),
        ("k", c_int32),
        ("bits", c_int32),
        ("unused", c_int32),
    )


class CLayer(ctypes.Structure):
    _fields_ = (
        ("qkv", CLinear),
        ("output", CLinear),
        ("gate_up", CLinear),
        ("down", CLinear),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("post_mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("window", c_int32),
        ("rotary", c_int32),
    )


class CShape(ctypes.Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("vocab", c_int32),
        ("layers", c_int32),
        ("activation", c_int32),
        ("eps", c_float),
        ("attention_scale", c_float),
        ("attention_softcap", c_float),
        ("logits_softcap", c_float),
        ("embedding_scale", c_float),
        ("rotary_dim", c_int32),
    )


class CLowRank(ctypes.Structure):
    _fields_ = (
        ("a", c_void_p),
        ("b", c_void_p),
        ("rank", c_int32),
        ("k", c_int32),
    )


class CChunk(ctypes.Structure):
    _fields_ = (
        ("first", c_int32),
        ("count", c_int32),
        ("start", c_int32),
        ("unused", c_int32),
        ("blocks", c_void_p),
        ("adapter", c_void_p),
    )


class CStep(ctypes.Structure):
    _fields_ = (
        ("tokens", c_int32),
        ("chunks", c_int32),
        ("wanted", c_int32),
        ("unused", c_int32),
        ("token_ids", c_void_p),
        ("slots", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("chunk", c_void_p),
        ("wanted_tokens", c_void_p),
        ("logits", c_void_p),
        ("states", c_void_p),
    )


STRUCTS = (CLinear, CLayer, CShape, CChunk, CLowRank, CStep)


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types, and check that both sides lay the structs out alike."""
    library.llmos_decoder_new.restype = c_void_p
    library.llmos_decoder_new.argtypes = [
        POINTER(CShape),
        c_void_p,
        POINTER(CLinear),
        POINTER(CLinear),
        c_void_p,
        c_int32,
    ]
    library.llmos_decoder_free.argtypes = [c_void_p]
    library.llmos_decoder_free.restype = None
    library.llmos_decoder_set_cache.argtypes = [c_void_p, c_void_p, c_void_p, c_int64]
    library.llmos_decoder_set_cache.restype = None
    library.llmos_decoder_step.argtypes = [c_void_p, POINTER(CStep)]
    library.llmos_decoder_step.restype = c_int32
    library.llmos_set_threads.argtypes = [c_int32]
    library.llmos_set_threads.restype = None
    sizes = (c_int32 * len(STRUCTS))()
    library.llmos_struct_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(one) for one in STRUCTS], "structs differ"
