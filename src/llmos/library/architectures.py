"""Which networks llmos can run, and for what: config.json's architecture -> engine and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmos.errors import InvalidModelError

Family = Literal[
    "causal",
    "seq2seq",
    "classify",
    "entities",
    "embed",
    "fill_mask",
    "answer",
    "parse",
    "multitask",
]
AskedTask = Literal["embed", "rerank", "classify", "rate", "fill_mask"]
"""What an import may be told to make of a network that serves more than one purpose."""

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
        "recurrent_seq2seq",
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

_ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "big_bird",
        "camembert",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "eurobert",
        "longformer",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "nystromformer",
        "rembert",
        "roberta",
        "roformer",
        "squeezebert",
        "xlm-roberta",
        "word_vectors",
        "xlm-roberta-xl",
    }
)
"""Model types of text encoders; …Model alone also names networks for images and sound."""

MULTITASK = "MultitaskEncoder"
"""Our network with a head for each of several tasks on any text encoder."""

_READERS: dict[str, Family] = {"ForMaskedLM": "fill_mask", "ForQuestionAnswering": "answer"}
"""What text encoders with these heads do."""

_NEEDED: dict[AskedTask, str] = {
    "embed": "a text encoder or decoder",
    "fill_mask": "a …ForMaskedLM or a text-to-text model",
}
"""What a network must be that is asked for a task, where that is no classifier."""

_DECODERS = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "stablelm",
    }
)
"""Model types of decoders that are also saved without a language-model head, to embed."""

_SUPPORTED = (
    "llmos runs causal language models (…ForCausalLM), text-to-text models (T5, BART, Marian, …), "
    "…ForSequenceClassification, …ForTokenClassification, text encoders …ForMaskedLM and "
    "…ForQuestionAnswering, and embedding models (BertModel, XLMRobertaModel, Qwen3Model, …)"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The network class a config names."""

    name: str
    model_type: str
    family: Family
    is_decoder: bool = False
    """Whether a token reads only those before it."""


def identify(config: Mapping[str, Any], task: AskedTask | None = None) -> Architecture:
    """Return the architecture that ``config`` (the content of config.json) names.

    Args:
        task: what it is to be used for, where that is not what its name says.

    Raises:
        InvalidModelError: it names none, or one that llmos cannot run, or not for ``task``.
    """
    names, model_type = config.get("architectures"), config.get("model_type")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not isinstance(model_type, str):
        raise InvalidModelError(
            "config.json does not say which network this is (architectures, model_type): "
            "save the model again with transformers' save_pretrained",
            param="files",
        )
    is_decoder = _is_causal(name, model_type) or model_type in _DECODERS
    family = _embed(name, model_type) if task == "embed" else _family(name, model_type)
    if task is not None and not _can(family, task):
        needed = _NEEDED.get(task, "a …ForSequenceClassification")
        raise InvalidModelError(
            f"the architecture {name[:80]!r} ({model_type[:40]}) cannot {task}, for which it must "
            f"be {needed}: leave the task out, or choose another model",
            param="task",
        )
    if family is None:
        raise InvalidModelError(
            f"the architecture {name[:80]!r} ({model_type[:40]}) is not supported: {_SUPPORTED}",
            param="files",
        )
    return Architecture(name, model_type, family, is_decoder)


def is_encoder(model_type: str) -> bool:
    """Whether a model type is one of a text encoder."""
    return model_type in _ENCODERS


def _can(family: Family | None, task: AskedTask) -> bool:
    """Whether a network of a family serves a task that is asked for; masks are also filled by what
    writes spans."""
    if task == "fill_mask":
        return family in ("fill_mask", "seq2seq")
    return family == ("embed" if task == "embed" else "classify")


def _family(name: str, model_type: str) -> Family | None:
    if name == MULTITASK and model_type in _ENCODERS:
        return "multitask"
    if name.endswith("ForSequenceClassification"):
        return "classify"
    if name.endswith("ForTokenClassification"):
        return "entities"
    if name.endswith("ForDependencyParsing"):
        return "parse"
    if model_type in _ENCODERS and (family := _READERS.get(name[name.rfind("For") :])) is not None:
        return family
    if model_type in _SEQ2SEQ and name.endswith(("ForConditionalGeneration", "MTModel")):
        return "seq2seq"
    if _is_causal(name, model_type):
        return "causal"
    is_headless = name.endswith("Model") and not name.endswith(("HeadModel", "HeadsModel"))
    return "embed" if is_headless and model_type in _ENCODERS | _DECODERS else None


def _embed(name: str, model_type: str) -> Family | None:
    """What a network is that is asked to embed: its head, if it has one, is left out."""
    is_known = name.endswith(("Model", "ForMaskedLM")) and model_type in _ENCODERS | _DECODERS
    return "embed" if is_known or _is_causal(name, model_type) else None


def _is_causal(name: str, model_type: str) -> bool:
    is_named_so = name.endswith("ForCausalLM") or name in _CAUSAL
    return is_named_so and model_type not in _NO_KV_CACHE | _SEQ2SEQ
