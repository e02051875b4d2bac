"""Tiny recipes, and the real JobContext with nobody at the other end of the socket."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON = {
    "name": "tiny",
    "seed": 3,
    "steps": 4,
    "batch_size": 4,
    "block_size": 16,
    "max_tokens": 48,
    "eval_every": 2,
    "eval_batches": 2,
    "checkpoint_every": 2,
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
    "evaluate": {"rows": 8},
}
BPE = {"kind": "byte_bpe", "vocab_size": 300, "split_cjk": True}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
BERT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
MARIAN = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}
STARTER = {"rows": 60, "validation_rows": 12}
RECIPES: dict[str, dict[str, Any]] = {
    "generate": {
        "task": "generate",
        "model": {"architecture": "gpt2", "config": {"n_layer": 1, "n_head": 2, "n_embd": 16}},
        "tokenizer": {"kind": "character"},
        "data": {"path": "starter:tales"},
    },
    "chat": {
        "task": "chat",
        "model": {"architecture": "llama", "config": LLAMA},
        "tokenizer": {
            **BPE,
            "special_tokens": ["<|im_start|>", "<|im_end|>"],
            "end_token": "<|im_end|>",
        },
        "data": {"path": "starter:chat", **STARTER},
        "chat_template": CHAT_TEMPLATE,
        "max_tokens": 160,
    },
    "translate": {
        "task": "translate",
        "model": {"architecture": "marian", "config": MARIAN},
        "tokenizer": {**BPE, "special_tokens": ["<2zh>", "<2en>"]},
        "data": {"path": "starter:translation", **STARTER},
        "translation": {"pairs": [["en", "zh"], ["zh", "en"]]},
        "max_tokens": 160,
    },
    "classify": {
        "task": "classify",
        "model": {"architecture": "bert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:sentiment", **STARTER},
    },
    "entities": {
        "task": "entities",
        "model": {"architecture": "bert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:entities", **STARTER},
    },
    "fill_mask": {
        "task": "fill_mask",
        "model": {"architecture": "bert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:sentences", **STARTER},
    },
    "spans": {
        "task": "fill_mask",
        "objective": "span_lm",
        "model": {"architecture": "t5", "config": T5},
        "tokenizer": BPE,
        "data": {"path": "starter:sentences", **STARTER},
    },
    "parse": {
        "task": "parse",
        "model": {
            "architecture": "biaffine",
            "config": {"hidden_size": 8, "num_layers": 2, "num_buckets": 512},
        },
        "tokenizer": {"kind": "byte_bpe", "vocab_size": 259},
        "data": {"path": "starter:tagged_en", **STARTER},
        "optimizer": {"learning_rate": 5e-2, "warmup_steps": 1},  # what scores arcs begins at 0
        "max_tokens": 200,
    },
    "answer": {
        "task": "answer",
        "model": {"architecture": "bert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:questions", **STARTER},
    },
    "embed": {
        "task": "embed",
        "model": {"architecture": "modernbert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:alike", **STARTER},
    },
    "rate": {
        "task": "rate",
        "model": {"architecture": "bert", "config": BERT},
        "tokenizer": BPE,
        "data": {"path": "starter:ratings", **STARTER},
    },
}
ALSO = ("entities", "rate", "answer", "fill_mask", "embed")
RECIPES["multitask"] = {
    **RECIPES["classify"],
    "also": {task: {"data": RECIPES[task]["data"]} for task in ALSO},
}


def make_recipe(task: str, **changes: Any) -> dict[str, Any]:
    """A recipe of a task that trains in a blink; keyword arguments replace top-level keys."""
    return copy.deepcopy(COMMON | RECIPES[task] | changes)


def make_job(
    directory: Path, recipe: dict[str, Any], **params: Any
) -> tuple[JobContext, list[FromWorker]]:
    """A job context on one thread, and what the handler sends to the server."""
    sent: list[FromWorker] = []
    start = StartJob(
        job_id=1,
        fence=1,
        attempt=1,
        handler="llmos.training.handler:run",
        name="tiny",
        params={"recipe": recipe, "name": "tiny", "data": {}, "base": None, **params},
        owner="admin",
        home=str(directory / "home"),
        checkpoint_dir=str(directory / "checkpoint"),
        threads=1,
        heartbeat_s=10.0,
    )
    return JobContext(start, sent.append), sent
