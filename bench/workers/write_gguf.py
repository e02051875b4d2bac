"""Write a Hugging Face directory as a GGUF file: ``python write_gguf.py DIR FILE``.

Runs in the `convert` environment (gguf, torch, safetensors). llama.cpp's own converter knows only
tokenizers it has seen; this one writes the byte-level BPE that bench/shapes.py makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}


def main(source: Path, target: Path) -> None:
    config = json.loads((source / "config.json").read_text("utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    add_sizes(writer, config)
    add_tokenizer(writer, source)
    for name, numbers in tensors(source, config, architecture):
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if config["model_type"] == "gpt2":
        writer.add_block_count(config["n_layer"])
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(config["rope_parameters"]["rope_theta"]))
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, source: Path) -> None:
    model = json.loads((source / "tokenizer.json").read_text("utf-8"))["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [gguf.TokenType.NORMAL] * len(words)
    types[0] = gguf.TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)


def tensors(
    source: Path, config: dict[str, Any], architecture: gguf.MODEL_ARCH
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield tensors by their GGUF names: matrices in half precision, the rest in single."""
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(architecture, layers)
    with safe_open(source / "model.safetensors", framework="pt") as file:
        keys = file.keys()
        for key in keys:
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name is None:
                sys.exit(f"GGUF has no name for {key}")
            tensor = oriented(key, file.get_tensor(key), config)
            dtype = torch.float16 if tensor.dim() > 1 and "wpe" not in key else torch.float32
            yield name, tensor.to(dtype).contiguous().numpy()


def oriented(key: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """GPT-2 stores its matrices transposed; llama.cpp wants Llama's rotary halves interleaved."""
    kind = config["model_type"]
    if kind == "gpt2" and key.endswith(("attn.weight", "c_fc.weight", "c_proj.weight")):
        return tensor.T
    if kind == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
        is_query = "q_proj" in key
        heads = config["num_attention_heads" if is_query else "num_key_value_heads"]
        rows, columns = tensor.shape
        return (
            tensor.view(heads, 2, rows // heads // 2, columns)
            .transpose(1, 2)
            .reshape(rows, columns)
        )
    return tensor


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
