"""Which networks llmos can run, and for what: config.json's architecture -> engine and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmos.errors import InvalidModelError

Family = Literal["causal", "seq2seq", "classify", "entities"]

_CAUSAL = frozenset({"GPT2LMHeadModel", "OpenAIGPTLMHeadModel"})
"""Decoders whose class name does not end in ForCausalLM."""

_NO_KV_CACHE = frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "mamba",
        "mamba2",
        "nemotron_h",
        "recurrent_gemma",
        "rwkv",
        "xlstm",
        "zamba",
        "zamba2",
    }
)
"""Model types with recurrent state, which the native engine's KV cache does not hold."""

_SEQ2SEQ = frozenset(
    {
        "bart",
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "fsmt",
        "led",
        "longt5",
        "m2m_100",
        "marian",
        "mbart",
        "mt5",
        "mvp",
        "nllb-moe",
        "pegasus",
        "pegasus_x",
        "plbart",
        "prophetnet",
        "switch_transformers",
        "t5",
        "t5gemma",
        "umt5",
    }
)
"""Model types of text-to-text encoder-decoders; the name ForConditionalGeneration alone also means
speech and image models."""

TRANSLATORS = frozenset({"fsmt", "marian"})
"""Model types that translate as they stand. Those that are told the languages by special tokens on
both sides (M2M100, NLLB, mBART) count as plain text to text."""

_SUPPORTED = (
    "llmos runs causal language models (…ForCausalLM), text-to-text models (T5, BART, Marian, …), "
    "…ForSequenceClassification and …ForTokenClassification"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The network class a config names."""

    name: str
    model_type: str
    family: Family


def identify(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that ``config`` (the content of config.json) names.

    Raises:
        InvalidModelError: it names none, or one that llmos cannot run.
    """
    names, model_type = config.get("architectures"), config.get("model_type")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not isinstance(model_type, str):
        raise InvalidModelError(
            "config.json does not say which network this is (architectures, model_type): "
            "save the model again with transformers' save_pretrained",
            param="files",
        )
    family = _family(name, model_type)
    if family is None:
        raise InvalidModelError(
            f"the architecture {name[:80]!r} ({model_type[:40]}) is not supported: {_SUPPORTED}",
            param="files",
        )
    return Architecture(name, model_type, family)


def _family(name: str, model_type: str) -> Family | None:
    if name.endswith("ForSequenceClassification"):
        return "classify"
    if name.endswith("ForTokenClassification"):
        return "entities"
    if model_type in _SEQ2SEQ and name.endswith(("ForConditionalGeneration", "MTModel")):
        return "seq2seq"
    if (
        name.endswith("ForCausalLM") or name in _CAUSAL
    ) and model_type not in _NO_KV_CACHE | _SEQ2SEQ:
        return "causal"
    return None
