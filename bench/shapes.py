"""Models of real shape with random weights: they run at the speed of the real ones.

`python bench/shapes.py qwen2.5-0.5b` makes one as a Hugging Face directory: bfloat16 safetensors
and a small byte-level BPE whose vocabulary is filled up with words, so that every id decodes. With
``--formats`` the same tensors also as GGUF (f16, q8_0, q4_0) and OpenVINO IR (int8, int4), by the
tools that `bench/peers.py install` puts under --peers-home, and quantised by llmos. What is there
already is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

PEERS_HOME = Path("~/.cache/llmos-bench")
SOURCE = Path(__file__).parents[1] / "src" / "llmos"
TEXT = SOURCE / "starter" / "text" / "tales.txt"
WRITE_GGUF = Path(__file__).parent / "workers" / "write_gguf.py"
END = "<|endoftext|>"
NUM_MERGES = 1500
FIRST_WORD_ID = 1 + 256 + NUM_MERGES
"""Ids from here on are whole words, in no merge; below are the end token, bytes and merges."""
FORMATS = ("hf", "f16", "q8_0", "q4_0", "ov-int8", "ov-int4", "llmos-int8", "llmos-int4")
QUANTIZERS = (
    "engines/native/quantize.py",
    "engines/native/packing.py",
    "engines/native/int8.py",
    "library/quantized.py",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One architecture and its sizes."""

    name: str
    config: Callable[[], PretrainedConfig]


def _qwen2(layers: int, width: int, heads: int, kv_heads: int, mlp: int, vocab: int) -> Any:
    return Qwen2Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )


def _llama_160m() -> Any:
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", lambda: _qwen2(2, 128, 2, 1, 256, 4096)),
        Shape("qwen2.5-0.5b", lambda: _qwen2(24, 896, 14, 2, 4864, 151936)),
        Shape("qwen2.5-1.5b", lambda: _qwen2(28, 1536, 12, 2, 8960, 151936)),
        Shape("llama-160m", _llama_160m),
        Shape("gpt2-124m", GPT2Config),
    )
}


@dataclass(frozen=True, slots=True)
class Files:
    """Where one model lies in each format. ``seed`` tells models of one shape apart."""

    home: Path
    shape: str
    seed: int = 0

    @property
    def root(self) -> Path:
        return self.home / "shapes" / (f"{self.shape}@{self.seed}" if self.seed else self.shape)

    def path(self, form: str) -> Path:
        """Return the directory or file (GGUF) of a format, whether or not it is made."""
        if form.startswith("llmos-"):
            return self.root / f"{form}-{_quantizer_version()}"
        is_directory = form == "hf" or form.startswith("ov-")
        return self.root / (form if is_directory else f"{form}.gguf")

    def config(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.path("hf") / "config.json").read_text("utf-8"))
        return values

    @property
    def vocab_size(self) -> int:
        return int(self.config()["vocab_size"])

    def weights_bytes(self, form: str) -> int:
        """Return the bytes of weights a decode step reads. Of a bare input embedding it reads one
        row, so that is taken off (it has the share of the file that it has of the parameters)."""
        path = self.path(form)
        suffixes = {".safetensors", ".bin", ".gguf"}
        files = [path] if path.is_file() else [f for f in path.iterdir() if f.suffix in suffixes]
        total = sum(f.stat().st_size for f in files if "tokenizer" not in f.name)
        return int(total * (1 - self._unread_share()))

    def _unread_share(self) -> float:
        config = SHAPES[self.shape].config()
        if config.tie_word_embeddings:
            return 0.0
        sizes = {name: tensor.numel() for name, tensor in _empty_model(config).items()}
        return sizes["model.embed_tokens.weight"] / sum(sizes.values())


def make(home: Path, shape: str, formats: list[str], seed: int = 0) -> Files:
    """Make a model in the formats that are missing; return where they lie."""
    files = Files(home.expanduser().absolute(), shape, seed)
    for form in ("hf", *(one for one in formats if one != "hf")):
        target = files.path(form)
        if target.exists():
            continue
        print(f"making {target}", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"part-{target.name}")
        shutil.rmtree(part, ignore_errors=True)
        _MAKERS[form](files, part)
        part.rename(target)
    return files


# -- Hugging Face ----------------------------------------------------------------------------------


def _make_hf(files: Files, target: Path) -> None:
    config = SHAPES[files.shape].config()
    config.eos_token_id = config.bos_token_id = 0
    config.dtype = "bfloat16"
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    target.mkdir()
    config.save_pretrained(target)
    generator = torch.Generator().manual_seed(1337 + files.seed)
    tensors = {
        name: _random(name, tensor.shape, generator)
        for name, tensor in _empty_model(config).items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    tokenizer = word_tokenizer(config.vocab_size)
    tokenizer.save(str(target / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "bos_token": None,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": getattr(config, "max_position_embeddings", 1024),
    }
    (target / "tokenizer_config.json").write_text(json.dumps(facts, indent=2), "utf-8")


def _empty_model(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the model's own tensors without storage; tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return dict(model.named_parameters())


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Return weights as a fresh model has them.

    Output rows of the end token and of single bytes are zero, so that greedy text never ends early
    nor waits for the rest of a character.
    """
    if "norm" in name or ".ln_" in name:
        fill = torch.zeros if name.endswith("bias") else torch.ones
        return fill(shape, dtype=torch.bfloat16)
    tensor = torch.empty(shape, dtype=torch.float32).normal_(0, 0.02, generator=generator)
    if name.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight")):
        tensor[: min(FIRST_WORD_ID, shape[0] // 2)] = 0
    return tensor.to(torch.bfloat16)


def word_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE with a few merges, and words up to ``vocab_size``."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_WORD_ID,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train([str(TEXT)], trainer)
    state = json.loads(trained.to_str())["model"]
    vocabulary = dict(state["vocab"])
    vocabulary |= {f"Ġw{i}": i for i in range(len(vocabulary), vocab_size)}
    merges = [tuple(merge) for merge in state["merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    return made


# -- other formats ---------------------------------------------------------------------------------


def _make_f16(files: Files, target: Path) -> None:
    python = files.home / "convert" / "bin" / "python"
    _run(python, WRITE_GGUF, files.path("hf"), target)


def _make_quantized_gguf(form: str) -> Callable[[Files, Path], None]:
    def convert(files: Files, target: Path) -> None:
        source = make(files.home, files.shape, ["f16"], files.seed).path("f16")
        quantize = files.home / "llama-cpp" / "build" / "bin" / "llama-quantize"
        _run(quantize, source, target, form.upper())

    return convert


def _make_openvino(form: str) -> Callable[[Files, Path], None]:
    def convert(files: Files, target: Path) -> None:
        cli = files.home / "convert" / "bin" / "optimum-cli"
        weights = ("--weight-format", form.removeprefix("ov-"))
        task = ("--task", "text-generation-with-past")
        _run(cli, "export", "openvino", "--model", files.path("hf"), *task, *weights, target)

    return convert


def _make_llmos(form: str) -> Callable[[Files, Path], None]:
    def convert(files: Files, target: Path) -> None:
        from llmos.engines.native.quantize import quantize_directory

        dtype = "int8" if form == "llmos-int8" else "int4"
        quantize_directory(files.path("hf"), target, dtype)

    return convert


def _quantizer_version() -> str:
    """Return what changes with the code that quantises, so that no stale files are measured."""
    return f"{zlib.crc32(b''.join((SOURCE / name).read_bytes() for name in QUANTIZERS)):08x}"


_MAKERS: dict[str, Callable[[Files, Path], None]] = {
    "hf": _make_hf,
    "f16": _make_f16,
    "q8_0": _make_quantized_gguf("q8_0"),
    "q4_0": _make_quantized_gguf("q4_0"),
    "ov-int8": _make_openvino("ov-int8"),
    "ov-int4": _make_openvino("ov-int4"),
    "llmos-int8": _make_llmos("llmos-int8"),
    "llmos-int4": _make_llmos("llmos-int4"),
}


def _run(*command: object) -> None:
    """Run a converter; it works on local files, with the hub out of reach."""
    environ = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(word) for word in command], env=environ, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--formats", nargs="*", default=["hf"], choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers-home", type=Path, default=PEERS_HOME)
    options = parser.parse_args()
    files = make(options.peers_home, options.shape, options.formats, options.seed)
    for form in ("hf", *options.formats):
        print(form, files.path(form), f"{files.weights_bytes(form) / 1e6:.0f} MB of weights")


if __name__ == "__main__":
    main()
