"""Models that embed or rank: what a directory says, what is asked for, what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmos.errors import InvalidModelError, InvalidRequestError
from llmos.library import importers
from llmos.library.architectures import identify
from llmos.library.jobs import check_import, check_pull
from llmos.library.manifest import build_manifest, version_digest
from llmos.types import NESTED_FILES

POOLING = "1_Pooling--config.json"
MODULES = ["Transformer", "Pooling", "Normalize"]


def edit(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values))


@pytest.fixture
def encoder(model_dir: Path) -> Path:
    """A bare BERT, its weights too few to run."""
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 8,
        "hidden_size": 4,
        "max_position_embeddings": 64,
    }
    (model_dir / "config.json").write_text(json.dumps(config))
    tensors = {"embeddings.word_embeddings.weight": np.zeros((8, 4), np.float32)}
    save_file(tensors, model_dir / "model.safetensors")
    return model_dir


def sentence(directory: Path, *modules: str, **pooling: Any) -> None:
    """Put beside a network what sentence-transformers saves."""
    listed = [
        {"idx": number, "path": "", "type": f"sentence_transformers.models.{name}"}
        for number, name in enumerate(modules or MODULES)
    ]
    (directory / "modules.json").write_text(json.dumps(listed))
    edit(directory / POOLING, **(pooling or {"pooling_mode_mean_tokens": True}))


def test_a_bare_encoder_embeds_by_the_mean_at_unit_length(encoder: Path) -> None:
    manifest = build_manifest(encoder)
    assert (manifest.task, manifest.engine) == ("embed", "pipelines")
    assert manifest.embedding == {
        "pooling": "mean",
        "normalize": True,
        "dimensions": 4,
        "prompts": {},
    }


@pytest.mark.parametrize(
    ("pooling", "ours"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 4}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_sentence_transformers_says_how_to_pool(
    encoder: Path, pooling: dict[str, Any], ours: str
) -> None:
    sentence(encoder, **pooling)
    embedding = build_manifest(encoder).embedding
    assert embedding is not None
    assert (embedding["pooling"], embedding["normalize"]) == (ours, True)


def test_it_also_says_length_prompts_and_normalisation(encoder: Path) -> None:
    sentence(encoder, "Transformer", "Pooling")
    edit(encoder / "sentence_bert_config.json", max_seq_length=16)
    prompts = {"query": "search_query: ", "document": "", "broken": 3}
    edit(encoder / "config_sentence_transformers.json", prompts=prompts)
    manifest = build_manifest(encoder)
    assert manifest.context_tokens == 16
    assert manifest.embedding is not None
    assert manifest.embedding["normalize"] is False
    assert manifest.embedding["prompts"] == {"query": "search_query: "}
    edit(encoder / POOLING, include_prompt=False)
    assert (build_manifest(encoder).embedding or {})["prompts"] == {}


@pytest.mark.parametrize(
    ("modules", "pooling", "says"),
    [
        (("Transformer", "Pooling", "Dense"), {}, "module 'Dense'"),
        ((), {"pooling_mode_max_tokens": True}, "pool by max_tokens"),
        (
            (),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "mean_tokens, cls_token",
        ),
        ((), {"word_embedding_dimension": 4}, "pool by nothing"),
    ],
)
def test_what_the_engine_would_compute_otherwise_is_refused(
    encoder: Path, modules: tuple[str, ...], pooling: dict[str, Any], says: str
) -> None:
    sentence(encoder, *modules, **pooling)
    with pytest.raises(InvalidModelError, match=says):
        build_manifest(encoder)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "[1]", '[{"path": ""}]', "[" * 10_000, "[}", " " * 200_000]
)
def test_broken_modules_are_one_clear_sentence(encoder: Path, text: str) -> None:
    sentence(encoder)
    (encoder / "modules.json").write_text(text)
    with pytest.raises(InvalidModelError, match="not a list of modules"):
        build_manifest(encoder)


def test_a_missing_pooling_file_is_named(encoder: Path) -> None:
    sentence(encoder)
    (encoder / POOLING).unlink()
    with pytest.raises(InvalidModelError, match=r"no 1_Pooling/config\.json"):
        build_manifest(encoder)


def test_a_decoder_embeds_by_its_last_token_where_asked_or_saved_so(model_dir: Path) -> None:
    assert build_manifest(model_dir).task == "generate"
    asked = build_manifest(model_dir, task="embed")
    assert (asked.task, asked.engine, asked.chat_template) == ("embed", "pipelines", None)
    assert (asked.embedding or {})["pooling"] == "last"
    sentence(model_dir, pooling_mode_lasttoken=True)
    assert build_manifest(model_dir) == asked


@pytest.mark.parametrize(
    ("name", "model_type", "task"),
    [
        ("Qwen3Model", "qwen3", None),
        ("XLMRobertaModel", "xlm-roberta", None),
        ("BertForMaskedLM", "bert", "embed"),
        ("GPT2LMHeadModel", "gpt2", "embed"),
        ("VaeForCausalLM", "vae", "embed"),
    ],
)
def test_networks_that_embed(name: str, model_type: str, task: Any) -> None:
    assert identify({"architectures": [name], "model_type": model_type}, task).family == "embed"


@pytest.mark.parametrize(
    ("name", "model_type", "task"),
    [
        ("T5ForConditionalGeneration", "t5", "embed"),
        ("BertForSequenceClassification", "bert", "embed"),
        ("MambaForCausalLM", "mamba", "embed"),
        ("ViTModel", "vit", "embed"),
        ("BertModel", "bert", "rerank"),
        ("LlamaForCausalLM", "llama", "classify"),
        ("LlamaForCausalLM", "llama", "fill_mask"),
    ],
)
def test_a_task_the_network_cannot_do_is_refused(name: str, model_type: str, task: str) -> None:
    with pytest.raises(InvalidModelError, match=f"cannot {task}"):
        identify({"architectures": [name], "model_type": model_type}, task)  # type: ignore[arg-type]


def test_a_bottleneck_s_vectors_are_as_long_as_they_are_and_of_texts_as_long_as_it_reads(
    model_dir: Path,
) -> None:
    sizes = {"latent_size": 6, "max_text_tokens": 14, "max_position_embeddings": 36}
    edit(model_dir / "config.json", architectures=["VaeForCausalLM"], model_type="vae", **sizes)
    asked = build_manifest(model_dir, task="embed")
    assert (asked.embedding or {})["dimensions"] == 6 and asked.context_tokens == 14
    assert build_manifest(model_dir).context_tokens == 36


def test_what_writes_spans_fills_masks_where_asked(model_dir: Path) -> None:
    named = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}
    edit(model_dir / "config.json", **named)
    assert build_manifest(model_dir).task == "seq2seq"
    assert build_manifest(model_dir, task="fill_mask").task == "fill_mask"


@pytest.mark.parametrize(
    ("config", "asked", "task"),
    [
        ({"id2label": {"0": "LABEL_0"}}, None, "rerank"),
        ({"num_labels": 1, "problem_type": "regression"}, None, "rerank"),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, None, "classify"),
        ({"num_labels": 1}, "classify", "classify"),
        ({"num_labels": 2}, None, "classify"),
        ({"num_labels": 2}, "rerank", "rerank"),
    ],
)
def test_a_classifier_with_one_output_ranks(
    encoder: Path, config: dict[str, Any], asked: Any, task: str
) -> None:
    edit(encoder / "config.json", architectures=["BertForSequenceClassification"], **config)
    assert build_manifest(encoder, task=asked).task == task


def test_a_classifier_with_three_labels_cannot_rank(encoder: Path) -> None:
    edit(encoder / "config.json", architectures=["BertForSequenceClassification"], num_labels=3)
    with pytest.raises(InvalidModelError, match="not 3"):
        build_manifest(encoder, task="rerank")


def test_an_import_keeps_what_tells_how_to_embed_and_comes_back_from_an_export(
    context: Any, store: Callable[[Path], dict[str, str]], model_dir: Path
) -> None:
    sentence(model_dir, pooling_mode_mean_tokens=True)
    context.params = check_import({"name": "mine", "files": store(model_dir)})
    (new,) = importers.run(context).artifacts
    assert {"modules.json", POOLING} <= set(new.files)
    assert new.manifest["task"] == "embed"
    assert NESTED_FILES[POOLING] == "1_Pooling/config.json"


def test_the_asked_task_survives_an_export(
    context: Any, store: Callable[[Path], dict[str, str]], model_dir: Path
) -> None:
    params = {"name": "mine", "files": store(model_dir), "task": "embed"}
    context.params = check_import(params)
    (new,) = importers.run(context).artifacts
    assert new.manifest["task"] == "embed"
    (model_dir / "manifest.json").write_text(json.dumps(new.manifest))
    context.params = check_import({"name": "mine", "files": store(model_dir)})
    (again,) = importers.run(context).artifacts
    assert again.manifest["task"] == "embed"


@pytest.mark.parametrize("task", ["chat", "Embed", 3])
def test_only_some_tasks_may_be_asked_for(task: Any) -> None:
    with pytest.raises(InvalidRequestError, match="use one of embed, rerank, classify") as raised:
        check_pull({"repo": "a/b", "task": task})
    assert raised.value.param == "task"


def test_how_a_model_embeds_is_part_of_its_digest_and_of_no_others() -> None:
    plain = {"task": "chat", "engine": "native"}
    assert version_digest({}, plain) == version_digest({}, plain | {"embedding": None})
    cls, mean = ({"task": "embed", "embedding": {"pooling": name}} for name in ("cls", "mean"))
    assert version_digest({}, cls) != version_digest({}, mean)
