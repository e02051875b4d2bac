"""Vectors against transformers, the pooling written out, each row alone; batches change nothing."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import normalize

from llmos.engines import embedding
from llmos.engines.pipelines import PipelinesEngine
from llmos.errors import EngineError, InvalidRequestError, UnsupportedTaskError
from llmos.types import PipelineOut, PipelineWork

VOCAB = 61
WIDTH = 32
MANIFEST: dict[str, Any] = {"engine": "pipelines", "task": "embed", "context_tokens": 40}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
}
DECODER = {**ENCODER, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": None}
DISTIL = {"vocab_size": VOCAB, "dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("AutoModel", "BertConfig", {**ENCODER, "pad_token_id": 0}),
    "bert with a head": ("AutoModelForMaskedLM", "BertConfig", {**ENCODER, "pad_token_id": 0}),
    "xlm-roberta": ("AutoModel", "XLMRobertaConfig", {**ENCODER, "pad_token_id": 1}),
    "mpnet": ("AutoModel", "MPNetConfig", {**ENCODER, "pad_token_id": 1}),
    "distilbert": ("AutoModel", "DistilBertConfig", {**DISTIL, "max_position_embeddings": 48}),
    "modernbert": (
        "AutoModel",
        "ModernBertConfig",
        {**ENCODER, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 2}
        | {"sep_token_id": 2, "bos_token_id": 2, "eos_token_id": 2},
    ),
    "qwen3 with a head": ("AutoModelForCausalLM", "Qwen3Config", DECODER),
    "llama": ("AutoModel", "LlamaConfig", DECODER),
    "gpt2": (
        "AutoModelForCausalLM",
        "GPT2Config",
        {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 48},
    ),
}
Saved = tuple[Path, Any]


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A random model with large weights, and what transformers reads it back as."""
    auto, config, settings = MODELS[request.param]
    torch.manual_seed(3)
    model = getattr(transformers, auto).from_config(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    return directory, transformers.AutoModel.from_pretrained(directory).eval()


def rows(count: int = 9) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(torch.randint(3, VOCAB, (1 + i * 7 % 20,), generator=generator).tolist())
        for i in range(count)
    ]


def loaded(directory: Path, **manifest: Any) -> PipelinesEngine:
    engine = PipelinesEngine()
    engine.load(directory, {**MANIFEST, **manifest}, "cpu", 1)
    return engine


def embedded(engine: PipelinesEngine, works: list[PipelineWork]) -> torch.Tensor:
    for number, work in enumerate(works):
        engine.submit(str(number), work)
    outs: dict[str, Any] = {}
    while engine.has_work:
        outs |= dict(engine.step())
    vectors = [outs[str(number)].vector for number in range(len(works))]
    return torch.tensor([struct.unpack(f"<{len(vector) // 4}f", vector) for vector in vectors])


def alone(model: Any, row: tuple[int, ...], pooling: str) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor([row])).last_hidden_state[0]
    return {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling]


@pytest.mark.parametrize("pooling", embedding.POOLINGS)
@pytest.mark.parametrize("unit", [True, False])
def test_a_row_gets_the_pooled_hidden_state_it_would_get_alone(
    saved: Saved, pooling: str, unit: bool
) -> None:
    directory, model = saved
    options = {"pooling": pooling, "normalize": unit}
    works = [PipelineWork("embed", row, options) for row in rows()]
    expected = torch.stack([alone(model, work.input_ids, pooling) for work in works])
    if unit:
        expected = normalize(expected, dim=-1)
    got = embedded(loaded(directory), works)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    transformers.BertModel(transformers.BertConfig(**MODELS["bert"][2])).save_pretrained(directory)
    return directory


def test_fewer_dimensions_are_the_first_ones_at_unit_length_again(bert: Path) -> None:
    whole = embedded(loaded(bert), [PipelineWork("embed", (4, 5, 6))])
    short = embedded(loaded(bert), [PipelineWork("embed", (4, 5, 6), {"dimensions": 5})])
    torch.testing.assert_close(short, normalize(whole[:, :5], dim=-1))
    assert math.isclose(short.norm().item(), 1, rel_tol=1e-5)


def test_numbers_that_are_not_finite_fail_their_row_alone(bert: Path) -> None:
    engine = loaded(bert)
    engine._model.embeddings.word_embeddings.weight[9] = torch.nan
    for number, row in enumerate([(4, 5), (4, 9)]):
        engine.submit(str(number), PipelineWork("embed", row))
    outs = dict(engine.step())
    assert isinstance(outs["0"], PipelineOut)
    assert isinstance(outs["1"], EngineError)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"pooling": 1}, "pooling"),
        ({"normalize": "yes"}, "normalize"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": WIDTH + 1}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": 2.0}, "dimensions"),
        ({"num_beams": 2}, "num_beams"),
    ],
)
def test_options_out_of_range_are_refused_by_name(
    bert: Path, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        loaded(bert).submit("a", PipelineWork("embed", (4,), options))
    assert raised.value.param == param


def test_a_model_that_embeds_does_nothing_else(bert: Path) -> None:
    with pytest.raises(UnsupportedTaskError, match="does embed, not classify"):
        loaded(bert).submit("a", PipelineWork("classify", (4,)))
