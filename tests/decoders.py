"""Tiny networks of every decoder that docs/models/decoders.md names: architecture and config."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FED = SIZES | {"intermediate_size": 48}
GROUPED = FED | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2 | {"activation_function": "gelu"}),
    "gpt_bigcode": ("gpt_bigcode", GPT2 | {"activation_function": "gelu"}),
    "xglm": (
        "xglm",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}
        | {"activation_function": "gelu"},
    ),
    "gpt_neox": ("gpt_neox", FED),
    "starcoder2": ("starcoder2", GROUPED),
    "stablelm": ("stablelm", GROUPED),
    "arcee": ("arcee", GROUPED | {"hidden_act": "gelu"}),
    "llama": ("llama", GROUPED),
    "llama, all heads": ("llama", GROUPED | {"num_key_value_heads": 4}),
    "llama, GeGLU": ("llama", GROUPED | {"hidden_act": "gelu"}),
    "llama, GLU": ("llama", GROUPED | {"hidden_act": "sigmoid"}),
}
