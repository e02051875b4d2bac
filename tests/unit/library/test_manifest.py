"""Manifests: read off real directories that transformers wrote, checked against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from llmos.errors import InvalidModelError
from llmos.library import describe
from llmos.library.architectures import identify
from llmos.library.manifest import build_manifest, parse_manifest, version_digest
from llmos.types import FileRef

SMALL = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
BERT = SMALL | {"num_attention_heads": 4, "max_position_embeddings": 64}
T5 = {"vocab_size": 40, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
MARIAN = {"vocab_size": 40, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2}
MARIAN |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48}
MARIAN |= {"decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 39}
GPT2 = {"vocab_size": 40, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
LABELS = {
    "id2label": {0: "bad", 1: "good", 2: "so-so"},
    "label2id": {"bad": 0, "good": 1, "so-so": 2},
}

# class, config class, config, task, engine, context, bytes of keys and values per token (float32)
CASES: list[tuple[str, str, dict[str, Any], str, str, int, int]] = [
    ("LlamaForCausalLM", "LlamaConfig", LLAMA, "generate", "native", 64, 2 * 2 * 2 * 8 * 4),
    ("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 16}, "generate", "native", 64, 512),
    ("GPT2LMHeadModel", "GPT2Config", GPT2, "generate", "native", 128, 2 * 3 * 32 * 4),
    (
        "BertForSequenceClassification",
        "BertConfig",
        BERT | LABELS,
        "classify",
        "pipelines",
        64,
        512,
    ),
    ("BertForTokenClassification", "BertConfig", BERT | LABELS, "entities", "pipelines", 64, 512),
    ("T5ForConditionalGeneration", "T5Config", T5, "seq2seq", "pipelines", 2048, 512),
    ("MarianMTModel", "MarianConfig", MARIAN, "translate", "pipelines", 64, 512),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_facts_agree_with_transformers(case: tuple[Any, ...], tmp_path: Path) -> None:
    name, config_name, config, task, engine, context_tokens, kv_bytes = case
    model = getattr(transformers, name)(getattr(transformers, config_name)(**config))
    model.save_pretrained(tmp_path)
    manifest = build_manifest(tmp_path, source={"kind": "imported"})
    assert (manifest.task, manifest.engine) == (task, engine)
    assert manifest.architecture == name
    # Marian's position tables are computed, not stored, and one buffer is stored.
    stored = pytest.approx(model.num_parameters(only_trainable=True), abs=40)
    assert manifest.parameters == (stored if name == "MarianMTModel" else model.num_parameters())
    assert manifest.weights_bytes == 4 * manifest.parameters
    assert (manifest.dtype, manifest.vocab_size) == ("float32", 40)
    assert manifest.context_tokens == context_tokens
    assert manifest.kv_bytes_per_token == kv_bytes
    assert manifest.labels == (["bad", "good", "so-so"] if "id2label" in config else None)
    assert manifest.source == {"kind": "imported"}
    assert (manifest.translation is not None) == (task == "translate")
    assert parse_manifest(json.loads(json.dumps(manifest.to_dict()))) == manifest


def test_shards_count_as_one_model(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert build_manifest(tmp_path).parameters == model.num_parameters()


Edit = Callable[..., None]


@pytest.fixture
def edit(model_dir: Path) -> Edit:
    def change(filename: str, **values: Any) -> None:
        path = model_dir / filename
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | values))

    return change


def test_a_chat_template_makes_a_chat_model(model_dir: Path, edit: Edit) -> None:
    assert build_manifest(model_dir).task == "generate"
    edit("tokenizer_config.json", chat_template="{{ messages }}")
    assert build_manifest(model_dir).task == "chat"
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    edit("tokenizer_config.json", chat_template=several)
    assert build_manifest(model_dir).chat_template == "d"
    edit("chat_template.json", chat_template="older")
    assert build_manifest(model_dir).chat_template == "older"
    (model_dir / "chat_template.jinja").write_text("newest")
    assert build_manifest(model_dir).chat_template == "newest"
    (model_dir / "chat_template.jinja").write_text("x" * 300_000)
    with pytest.raises(InvalidModelError, match="chat template is longer"):
        build_manifest(model_dir)


def test_end_tokens_come_from_both_configs_else_the_tokenizer(model_dir: Path, edit: Edit) -> None:
    assert build_manifest(model_dir).eos_ids == [2]
    edit("generation_config.json", eos_token_id=[5, 2])
    assert build_manifest(model_dir).eos_ids == [5, 2]
    (model_dir / "generation_config.json").unlink()
    edit("config.json", eos_token_id=None)
    edit("tokenizer.json", added_tokens=[{"id": 7, "content": "</s>"}, {"id": 6, "content": "<s>"}])
    assert build_manifest(model_dir).eos_ids == [7]


def test_special_tokens_are_read_in_both_spellings(model_dir: Path, edit: Edit) -> None:
    edit("special_tokens_map.json", pad_token="<pad>", unk_token={"content": "<unk>"})
    assert build_manifest(model_dir).special_tokens == {
        "bos": "<s>",
        "eos": "</s>",
        "pad": "<pad>",
        "unk": "<unk>",
    }


def test_sampling_defaults_count_only_where_the_model_samples(model_dir: Path, edit: Edit) -> None:
    edit(
        "generation_config.json",
        temperature=0.7,
        top_p=0.8,
        repetition_penalty=1.1,
        max_new_tokens=9,
    )
    assert build_manifest(model_dir).generation == {"repetition_penalty": 1.1, "max_tokens": 9}
    edit("generation_config.json", do_sample=True, top_k="many")
    assert build_manifest(model_dir).generation == {
        "temperature": 0.7,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
        "max_tokens": 9,
    }


@pytest.mark.parametrize(
    ("readme", "license", "languages"),
    [
        ("---\nlicense: mit\nlanguage: [en, zh]\n---\n# x", "mit", ["en", "zh"]),
        ("---\nlicense: apache-2.0\nlanguage: en\n---", "apache-2.0", ["en"]),
        ("---\nlicense: [x]\nlanguage: {a: b}\n---", "", []),
        ("---\nlicense: mit", "", []),
        ("---\n: : :\n- [\n---", "", []),
        ("---\n!!python/object/apply:os.system ['true']\n---", "", []),
        ("# no front matter", "", []),
        ("", "", []),
    ],
)
def test_the_readme_says_licence_and_languages(
    model_dir: Path, readme: str, license: str, languages: list[str]
) -> None:
    (model_dir / "README.md").write_text(readme)
    manifest = build_manifest(model_dir)
    assert (manifest.license, manifest.languages) == (license, languages)


def test_extra_keys_replace_what_was_read(model_dir: Path) -> None:
    manifest = build_manifest(model_dir, extra={"metrics": {"loss": 1.5}, "license": "mit"})
    assert (manifest.metrics, manifest.license) == ({"loss": 1.5}, "mit")


def test_roberta_counts_positions_past_its_pad_token() -> None:
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert describe.context_tokens(config, {}) == 512
    assert (
        describe.context_tokens({}, {"model_max_length": 1000000000000000019884624838656}) == 2048
    )
    assert describe.context_tokens({}, {"model_max_length": 512}) == 512
    assert describe.context_tokens({"max_position_embeddings": True}, {}) == 2048


@pytest.mark.parametrize("id2label", [{"0": "a", "2": "b"}, {"x": "a"}, {}, [], "a", {"0": 1}])
def test_labels_must_be_numbered(id2label: Any) -> None:
    with pytest.raises(InvalidModelError, match="id2label"):
        describe.labels({"id2label": id2label})


def test_labels_without_names_are_numbered() -> None:
    assert describe.labels({}) == ["LABEL_0", "LABEL_1"]
    assert describe.labels({"num_labels": 3}) == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("LlavaForConditionalGeneration", "llava"),
        ("WhisperForConditionalGeneration", "whisper"),
        ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
        ("ViTForMaskedLM", "vit"),
        ("ViTModel", "vit"),
        ("MambaForCausalLM", "mamba"),
        ("BartForCausalLM", "bart"),
        ("ViTForImageClassification", "vit"),
        ("", "llama"),
    ],
)
def test_other_architectures_are_refused_by_name(name: str, model_type: str) -> None:
    with pytest.raises(InvalidModelError, match="not supported: llmos runs causal"):
        identify({"architectures": [name], "model_type": model_type})


@pytest.mark.parametrize(
    "config", [{}, {"architectures": []}, {"architectures": "Llama"}, {"model_type": "x"}]
)
def test_a_config_without_architecture_says_what_to_do(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelError, match="save_pretrained"):
        identify(config)


def test_the_digest_does_not_depend_on_order() -> None:
    a, b = FileRef("sha256:" + "0" * 64, 1), FileRef("sha256:" + "1" * 64, 1)
    one = version_digest({"x": a, "y": b}, {"task": "chat", "engine": "native"})
    assert one == version_digest({"y": b, "x": a}, {"engine": "native", "task": "chat"})
    assert one != version_digest({"x": b, "y": a}, {"task": "chat", "engine": "native"})
