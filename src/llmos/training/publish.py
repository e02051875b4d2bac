"""A trained model as a directory that transformers' Auto classes load, checked before it counts."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from llmos.data.encoding import Columns
from llmos.data.record import Record, Tokenized
from llmos.data.tokenizers import UNKNOWN, Specials
from llmos.errors import LlmosError
from llmos.training import readers
from llmos.training.examples import Data
from llmos.training.networks import CLASSES
from llmos.training.recipe import Recipe, dump
from llmos.training.recipe_parts import parts_of

CHECK_TOKENS = 16
"""Most tokens of a prompt, and most to go on with; no more than fit the model."""
PROMPTS = 4
TOLERANCE = 1e-4
MERGED_TOLERANCE = 1e-3
"""Of the largest logit."""
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "arcs", "relations")
COPIED = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class PublishingError(LlmosError):
    """The saved model does not do what the trained one did."""

    code = "publishing_failed"


def save(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    specials: Specials,
    directory: Path,
    base: Path | None,
) -> None:
    """Write the model's files. Afterwards ``model`` holds the values that were saved."""
    model.eval()
    model.generation_config = _generation_config(recipe, model)
    copy.deepcopy(model).to(getattr(torch, recipe.save_dtype)).save_pretrained(directory)
    _round_to_saved(model, directory)
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(directory / "tokenizer.json"))
    if base is None:
        config = _tokenizer_config(recipe, specials)
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    else:
        for name in COPIED:
            if (base / name).exists():
                shutil.copyfile(base / name, directory / name)
    if recipe.chat_template is not None:
        (directory / "chat_template.jinja").write_text(recipe.chat_template, "utf-8")
    if "embed" in [part.task for part in parts_of(recipe)]:
        readers.write_modules(recipe, model, directory)
    (directory / "recipe.yaml").write_text(dump(recipe), "utf-8")


def _round_to_saved(model: PreTrainedModel, directory: Path) -> None:
    """Give each tensor the value it has in the saved files, in float32."""
    ours = model.state_dict()
    saved: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        saved |= load_file(path)
    if not saved.keys() <= ours.keys():  # saved under the names of older versions
        saved = type(model).from_pretrained(directory, dtype=torch.float32).state_dict()
    for name, tensor in saved.items():
        ours[name].copy_(tensor)


def prompts(recipe: Recipe, validation: Columns) -> list[list[int]]:
    """What the check asks: the first tokens of a few places of the validation split."""
    length = _check_length(recipe)
    if recipe.reads != "generate":
        rows = validation["input_ids"]
        return [rows.row(i)[:length].tolist() for i in range(min(PROMPTS, len(rows)))]
    flat = validation["tokens"].flat
    starts = range(0, len(flat) - length, max(1, len(flat) // PROMPTS))
    return [flat[start : start + length].tolist() for start in starts]


def samples(data: Data) -> list[Record]:
    """A few records of the validation split; none of a running text, nor of ids."""
    records = [] if data.is_text else data.split("validation", PROMPTS)
    return [record for record in records if not isinstance(record, Tokenized)]


def load(recipe: Recipe, directory: Path) -> PreTrainedModel:
    """Return the model in a directory as anyone would load it, in float32."""
    return CLASSES[recipe.head].from_pretrained(directory, dtype=torch.float32).eval()


def check(
    recipe: Recipe,
    model: PreTrainedModel,
    fresh: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
) -> None:
    """Compare logits and greedy tokens with those of what was loaded afresh.

    Raises:
        PublishingError: they differ.
    """
    fresh.to(model.device)
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        ours, theirs = _outputs(model, ids), _outputs(fresh, ids)
        difference = float((ours - theirs).abs().max())
        if not difference <= TOLERANCE:
            raise PublishingError(
                f"the saved model's logits differ from the trained model's by {difference:.2g}"
            )
        if recipe.head not in ("causal_lm", "seq2seq"):
            continue
        length = _check_length(recipe)
        if _greedy(model, ids, length) != _greedy(fresh, ids, length):
            raise PublishingError("the saved model's greedy tokens differ from the trained model's")


def check_merged(
    model: PreTrainedModel, merged: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> float:
    """Compare logits with those of the base that an adapter was merged into: up to rounding, as
    sums are taken in another order. Return the largest difference, over the largest logit where
    that is above 1.

    Raises:
        PublishingError: they differ.
    """
    largest = 0.0
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        ours, theirs = _outputs(model, ids), _outputs(merged, ids)
        difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))
        if not difference <= MERGED_TOLERANCE:
            raise PublishingError(
                f"the base with the adapter merged into it differs from it by {difference:.2g}"
            )
        largest = max(largest, difference)
    return largest


def _check_length(recipe: Recipe) -> int:
    return min(CHECK_TOKENS, recipe.max_length // 2)


def check_tokenizer(
    tokenizer: Tokenizer, directory: Path, prompts: Sequence[Sequence[int]]
) -> None:
    """See that transformers reads text with the saved tokenizer as the server does with ours.

    Raises:
        PublishingError: it does not.
    """
    saved = AutoTokenizer.from_pretrained(directory)
    for prompt in prompts:
        text = tokenizer.decode(list(prompt))
        if saved(text)["input_ids"] != tokenizer.encode(text).ids:
            raise PublishingError(f"the saved tokenizer reads {text!r} in another way")


@torch.inference_mode()
def _outputs(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :4]
    out = model(**inputs)
    return torch.cat([out[name].flatten() for name in OUTPUTS if name in out])


@torch.inference_mode()
def _greedy(model: PreTrainedModel, ids: torch.Tensor, count: int) -> list[int]:
    """The next tokens by plain argmax, the whole sequence read again for each."""
    config = model.config
    encoder_ids, written = ids, ids
    if config.is_encoder_decoder:
        written = torch.tensor([[config.decoder_start_token_id]], device=ids.device)
    for _ in range(count):
        inputs = {"input_ids": written}
        if config.is_encoder_decoder:
            inputs = {"input_ids": encoder_ids, "decoder_input_ids": written}
        chosen = model(**inputs).logits[:, -1:].argmax(-1)
        written = torch.cat([written, chosen], dim=1)
    return list(written[0].tolist())


def _generation_config(recipe: Recipe, model: PreTrainedModel) -> GenerationConfig:
    wanted, config = recipe.generation, model.config
    values: dict[str, Any] = {
        "max_new_tokens": wanted.max_tokens,
        "repetition_penalty": wanted.repetition_penalty,
        "num_beams": wanted.num_beams,
        "no_repeat_ngram_size": wanted.no_repeat_ngram_size,
        "length_penalty": wanted.length_penalty,
    }
    if wanted.temperature:
        values |= {"do_sample": True, "temperature": wanted.temperature}
        values |= {"top_p": wanted.top_p, "top_k": wanted.top_k}
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    values |= {name: getattr(config, name, None) for name in names}
    return GenerationConfig(**{k: v for k, v in values.items() if v is not None})


def _tokenizer_config(recipe: Recipe, specials: Specials) -> dict[str, Any]:
    has_unknown = recipe.tokenizer.kind in ("character", "word", "vectors")
    named = {
        "bos_token": specials.bos,
        "eos_token": specials.eos,
        "pad_token": specials.pad,
        "unk_token": specials.unk or (UNKNOWN if has_unknown else None),
    }
    mask = {"content": specials.mask, "lstrip": True, "special": True, "__type": "AddedToken"}
    more = {"mask_token": mask} if specials.mask else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.max_length,
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in named.items() if token},
        **more,
    }
