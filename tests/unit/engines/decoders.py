"""Tiny random Llama-like decoders of every architecture, and the extension or why there is none."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.extension import extension
from llmos.engines.native.fused import BLOCK_SIZE, FusedRunner
from llmos.engines.native.int8 import Int8, Int8Linear
from llmos.engines.native.quantize import Quantized, open_quantized, quantize_directory
from llmos.engines.native.restore import restore

VOCAB = 333
WINDOW = 16
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_HEADS = {**_SIZES, "head_dim": 32}
_WIDE = {**_SIZES, "hidden_size": 128}
_GEMMA = {**_HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 128}

LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _HEADS),
    "llama with biases": ("LlamaConfig", {**_HEADS, "attention_bias": True, "mlp_bias": True}),
    "llama with yarn": ("LlamaConfig", {**_HEADS, "rope_parameters": YARN}),
    "qwen2": ("Qwen2Config", _WIDE),
    "qwen2 tied": ("Qwen2Config", {**_WIDE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", _HEADS),
    "mistral": ("MistralConfig", {**_HEADS, "sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", _HEADS),
    "gemma2": ("Gemma2Config", _GEMMA),
    "gemma3": ("Gemma3TextConfig", _GEMMA),
    "phi3": ("Phi3Config", _WIDE),
}
_OLD = {"vocab_size": VOCAB, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB}),
    "olmo2": ("Olmo2Config", _SIZES),
    "phi": ("PhiConfig", _WIDE),
    "stablelm": ("StableLmConfig", _WIDE),  # its norms take the mean off
    "gpt_neox": ("GPTNeoXConfig", _WIDE),
    "falcon": ("FalconConfig", {**_OLD, "new_decoder_architecture": False}),
    "bloom": ("BloomConfig", {**_OLD, "n_layer": 2, "n_head": 4}),  # ALiBi: rows run one by one
    "opt": ("OPTConfig", {**_OLD, "ffn_dim": 256, "word_embed_proj_dim": 64}),
    "dynamic rope": ("LlamaConfig", {**_HEADS, "rope_parameters": YARN | {"rope_type": "dynamic"}}),
}
"""Not Llama-like."""
EXPERTS = ("MixtralConfig", {**_WIDE, "num_local_experts": 4})
"""Most of its weights are not in linear layers."""


def make_decoder(
    directory: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Save a random model whose weights and norms are large enough to set logits apart."""
    name, sizes = (LLAMA_LIKE | OTHERS)[kind]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**sizes, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    model.generation_config = transformers.GenerationConfig()
    model.to(dtype).save_pretrained(directory)
    return directory


def make_quantized(
    folder: Path, kind: str = "llama", dtype: Any = "int8", **changes: Any
) -> tuple[Path, Quantized]:
    """Return the directory of a random quantised model, and the model opened."""
    source = make_decoder(folder / "source", kind, **changes)
    quantize_directory(source, folder / dtype, dtype)
    return folder / dtype, open_quantized(folder / dtype)


def restored(quantized: Quantized, path: Path) -> Any:
    """The quantised weights in transformers' own modules, as float32: the oracle."""
    model = restore(quantized, path)
    for name, module in list(model.named_modules()):
        if isinstance(module, Int8Linear):
            linear = torch.nn.Linear(
                module.in_features, module.out_features, module.bias is not None
            )
            weights = {"weight": Int8(module.weight, module.scale).float(), "bias": module.bias}
            linear.load_state_dict({k: t for k, t in weights.items() if t is not None})
            model.set_submodule(name, linear)
    return model.requires_grad_(False)


def needed_extension() -> ctypes.CDLL:
    """Return the extension; skip the test where it cannot be had."""
    library = extension()
    if library is None:
        pytest.skip("no C++ extension: the CPU lacks AVX512-VNNI, or there is no compiler")
    return library


def fused(quantized: Quantized, threads: int = 1, num_blocks: int = 32) -> FusedRunner:
    """Return a runner with its cache."""
    runner = FusedRunner(needed_extension(), quantized, threads)
    runner.allocate(num_blocks, BLOCK_SIZE)
    return runner


def random_ids(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(token) for token in torch.randint(VOCAB, (count,), generator=generator)]


def chunk(
    name: str, ids: list[int], start: int, blocks: list[int], num_logits: int, adapter: str = ""
) -> RowChunk:
    return RowChunk(name, ids, start, blocks, num_logits, adapter)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative error of logits."""
    return float((ours - theirs).norm() / theirs.norm())


@torch.inference_mode()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """What transformers computes ``[tokens, vocab]``."""
    logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits
