"""Tiny random decoders of many families, and transformers' own ``generate`` as the oracle."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from llmos.engines.base import Engine
from llmos.types import GenerateWork, SamplingParams, TokensOut

VOCAB = 97
CONTEXT = 64
MANIFEST: dict[str, Any] = {"engine": "native", "context_tokens": CONTEXT, "dtype": "float32"}
NO_SPECIALS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    **NO_SPECIALS,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 16}
GEMMA = {**HEADS, "sliding_window": 7, "query_pre_attn_scalar": 16}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen2": ("Qwen2Config", {**GROUPED, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", HEADS),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 7}),
    "gemma": ("GemmaConfig", HEADS),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3": ("Gemma3TextConfig", GEMMA),
    "gpt2": ("GPT2Config", {**GPT2, **NO_SPECIALS}),
    "phi": ("PhiConfig", SIZES),
    "phi3": ("Phi3Config", {**GROUPED, "sliding_window": 9}),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "stablelm": ("StableLmConfig", GROUPED),  # hands no keywords down to its attention
}
"""Run with the paged cache."""

ROWWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": (
        "BloomConfig",
        {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4, **NO_SPECIALS},
    ),
    "gpt_oss": ("GptOssConfig", {**HEADS, "num_local_experts": 4, "sliding_window": 7}),
}
"""Attention that the paged cache does not cover: ALiBi, attention sinks."""


SEEDS = {"phi3": 2, "bloom": 1}
"""Of the random weights, where the usual one makes two logits nearly tie."""


def make_model(directory: Path, name: str, **changes: Any) -> Path:
    """Save a random model of family ``name``, its weights large enough to set logits apart."""
    config_class, settings = (FAMILIES | ROWWISE)[name]
    config = getattr(transformers, config_class)(**{**settings, **changes})
    torch.manual_seed(SEEDS.get(name, 1234))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(directory)
    return directory


def load_oracle(directory: Path, device: str = "cpu") -> Any:
    """The same model in transformers, eager attention, float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    return model.to(device).eval()


def generate(model: Any, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """What transformers generates greedily from this prompt alone."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    for scores in out.scores:
        best, second = scores[0].topk(2).values.tolist()
        assert best - second > 1e-3, "the oracle itself nearly ties: take another seed"
    return out.sequences[0, len(prompt) :].tolist()


def prompts(count: int, longest: int = 30) -> list[tuple[int, ...]]:
    """Random prompts of different lengths, from one token up."""
    generator = torch.Generator().manual_seed(7)
    lengths = [1 + (i * 7) % longest for i in range(count)]
    return [
        tuple(torch.randint(0, VOCAB, (length,), generator=generator).tolist())
        for length in lengths
    ]


def greedy(prompt: Sequence[int], max_tokens: int, **fields: Any) -> GenerateWork:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
    return GenerateWork(prompt_ids=tuple(prompt), sampling=sampling, **fields)


def run_works(
    engine: Engine, works: dict[str, GenerateWork], *, per_step: int | None = None
) -> dict[str, list[int]]:
    """Run works to their ends, ``per_step`` of them joining at each step; return their tokens."""
    waiting = list(works.items())
    tokens: dict[str, list[int]] = {work_id: [] for work_id in works}
    finished = set()
    woken = threading.Event()
    engine.set_waker(woken.set)
    for _ in range(10_000):
        joining = waiting[: per_step or len(waiting)]
        del waiting[: len(joining)]
        for work_id, work in joining:
            engine.submit(work_id, work)
        for work_id, out in engine.step():
            assert isinstance(out, TokensOut), out
            assert work_id not in finished
            tokens[work_id] += [piece.token_id for piece in out.pieces]
            if out.finish_reason:
                finished.add(work_id)
        if finished == set(works):
            assert not engine.has_work
            return tokens
        if not waiting and not engine.has_work:
            assert woken.wait(10)  # a grammar is being compiled
            woken.clear()
    raise AssertionError("the engine does not come to an end")
