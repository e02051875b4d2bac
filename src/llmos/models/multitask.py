"""One encoder of transformers with a head for each of several tasks (Caruana, 1997, Multitask
Learning). Saved with the encoder's own config and names, so that any other head goes on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class MultitaskEncoder(PreTrainedModel):
    """An encoder, and a linear head for each task of ``config.heads``, a list of
    ``{"task", "labels"}``.

    A class or a number is told of the mean of a text's hidden states; an entity's tag, and where an
    answer starts and ends, of each token's. What hides behind a mask is told by the embeddings,
    tied. Vectors are hidden states: `embed` has no weights of its own.
    """

    _model_mapping = AutoModel._model_mapping
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        encoder = AutoModel.from_config(config)
        self.base_model_prefix = encoder.base_model_prefix
        self.add_module(self.base_model_prefix, encoder)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", None) or 0.0)
        self.heads = nn.ModuleDict()
        for head in config.heads:
            if (made := _head(head["task"], head["labels"], encoder)) is not None:
                self.heads[head["task"]] = made
        self.post_init()

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> Self:
        """Return a fresh model, as the Auto classes do."""
        made: Self = cls._from_config(config)
        return made

    @classmethod
    def from_pretrained(
        cls, path: Path, heads: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> Self:
        """Load a model of several tasks, or with ``heads`` any encoder, fresh heads on it.

        Raises:
            ValueError: the directory's config is none of a network with heads.
        """
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if heads is not None:
            config.heads = [dict(head) for head in heads]
            config.problem_type = None  # was the base's head's
        if not getattr(config, "heads", None):
            raise ValueError("config.json names no heads")
        made: Self = super().from_pretrained(path, config=config, **options)
        return made

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FillHead):
            init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        task: str | None = None,
        **_: Any,
    ) -> ModelOutput:
        """Return what the network of one task would of tokens ``[rows, length]``: the first task of
        the config's unless told."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **types)
        hidden = encoded.last_hidden_state
        task = task or self.config.heads[0]["task"]
        if task == "embed":
            return BaseModelOutput(last_hidden_state=hidden)
        head = self.heads[task]
        if task == "entities":
            return TokenClassifierOutput(logits=head(self.dropout(hidden)))
        if task == "answer":
            starts, ends = head(hidden).unbind(-1)
            return QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends)
        if task == "fill_mask":
            embeddings = self.base_model.get_input_embeddings().weight
            return MaskedLMOutput(logits=head(hidden, embeddings))
        mean = _mean(hidden, attention_mask)
        return SequenceClassifierOutput(logits=head(self.dropout(mean)))


class FillHead(nn.Module):
    """Hidden states to logits of all tokens, by the embeddings (Devlin et al., 2018).

    Args:
        hidden_size: of what comes in.
        vocab_size, size: of the embeddings.
    """

    def __init__(self, hidden_size: int, vocab_size: int, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, size)
        self.norm = nn.LayerNorm(size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return logits ``[…, vocabulary]``."""
        changed = self.norm(nn.functional.gelu(self.dense(hidden)))
        return nn.functional.linear(changed, embeddings, self.bias)


class OneTask:
    """A model of several tasks, asked as a model of one; anything else of it is the model's."""

    def __init__(self, model: MultitaskEncoder, task: str) -> None:
        self.model = model
        self.task = task

    def __call__(self, **inputs: Any) -> ModelOutput:
        return self.model(**inputs, task=self.task)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def asked_for(task: str, model: PreTrainedModel) -> PreTrainedModel | OneTask:
    """Return a model as one of a task; one that is for a single task as it is."""
    return OneTask(model, task) if isinstance(model, MultitaskEncoder) else model


def _head(task: str, labels: Sequence[str], encoder: PreTrainedModel) -> nn.Module | None:
    """Return the weights of a task; None where it has none of its own."""
    size = encoder.config.hidden_size
    match task:
        case "embed":
            return None
        case "fill_mask":
            return FillHead(size, *encoder.get_input_embeddings().weight.shape)
        case "classify" | "entities":
            return nn.Linear(size, len(labels))
        case _:
            return nn.Linear(size, 2 if task == "answer" else 1)


def _mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the hidden states ``[rows, length, size]`` of real tokens."""
    if mask is None:
        return hidden.mean(dim=1)
    real = mask[..., None].to(hidden.dtype)
    return (hidden * real).sum(dim=1) / real.sum(dim=1)
