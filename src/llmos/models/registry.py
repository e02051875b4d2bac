"""Makes our networks known to transformers' Auto classes."""

from __future__ import annotations

import importlib
from functools import lru_cache

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from llmos.models.families import FAMILIES
from llmos.models.multitask import MultitaskEncoder

AUTO_CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "masked_lm": AutoModelForMaskedLM,
    "question_answering": AutoModelForQuestionAnswering,
    "embedding": AutoModel,
    "dependency_parsing": AutoModel,
    "multitask": MultitaskEncoder,
}
"""By what a network ends in."""


@lru_cache(maxsize=1)
def register() -> None:
    """Have ``from_config`` and ``from_pretrained`` find the networks of this package."""
    for family in FAMILIES:
        if family.module is None:
            continue
        module = importlib.import_module(family.module)
        config = getattr(module, family.config)
        AutoConfig.register(family.architecture, config)
        for objective, name in family.classes:
            AUTO_CLASSES[objective].register(config, getattr(module, name))
