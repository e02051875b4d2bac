"""Embedding and ranking by real engines behind a real server, against transformers.

Small random networks are imported as a user would, and asked with the unmodified openai client.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from llmos.errors import ContextLengthError, DeadlineExceededError, UnsupportedTaskError
from llmos.sdk.client import Client
from llmos.sdk.connect import read_admin_key, wait_for_server
from llmos.sdk.models import Model
from llmos.settings import load_settings

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "the", "cat", "dog", "sat", "ran", "on", "mat", "house", "in", "where", "was"]
WORDS += ["is", "a"]
TEXTS = ["the cat sat on the mat", "dog", "where is the house the dog ran in", "a cat was in"]
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
}
MAIN = """
import sys
from llmos.server.process import run_foreground
from llmos.settings import load_settings
run_foreground(load_settings({"home": sys.argv[1], "port": 0, "threads": 1}))
"""


def tokenizer(is_decoder: bool = False) -> Tokenizer:
    """One token a word; [SEP] ends a text, and for an encoder [CLS] begins it."""
    made = Tokenizer(models.WordLevel(dict(zip(WORDS, range(99), strict=False)), "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    if is_decoder:
        single, pair = "$A [SEP]", "$A $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing(single, pair, special)
    made.enable_truncation(4)  # what a file says of truncation and padding must not count
    made.enable_padding()
    return made


def save(directory: Path, auto: str, config: str, **settings: Any) -> Path:
    torch.manual_seed(3)
    made = getattr(transformers, config)(**{**SMALL, **settings})
    model = getattr(transformers, auto).from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    tokenizer(is_decoder="Qwen" in config).save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    ranker = "AutoModelForSequenceClassification"
    made = {
        "bert": save(root / "bert", "AutoModel", "BertConfig"),
        "qwen": save(
            root / "qwen", "AutoModelForCausalLM", "Qwen3Config", num_key_value_heads=1, head_dim=16
        ),
        "ranker": save(root / "ranker", ranker, "BertConfig", num_labels=1),
        "xlm-ranker": save(
            root / "xlm-ranker", ranker, "XLMRobertaConfig", num_labels=2, type_vocab_size=1
        ),
    }
    types = ("Transformer", "Pooling")  # no Normalize: vectors keep their lengths
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in types]
    (made["bert"] / "modules.json").write_text(json.dumps(modules))
    (made["bert"] / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (made["bert"] / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(folders: dict[str, Path], home: Path) -> Iterator[Client]:
    """To a server that has the models: "bert", "qwen" (twice), "ranker" and "xlm-ranker"."""
    process = subprocess.Popen([sys.executable, "-P", "-c", MAIN, str(home)])
    settings = load_settings({"home": home}, {})
    try:
        with Client(wait_for_server(settings, timeout_s=60), read_admin_key(settings)) as made:
            asked = {"qwen": "embed", "xlm-ranker": "rerank"}
            for name, folder in folders.items():
                made.wait(made.import_model(folder, name, task=asked.get(name))["id"])
            made.wait(made.import_model(folders["qwen"], "writer")["id"])
            yield made
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def ai(client: Client, home: Path) -> Iterator[openai.OpenAI]:
    key = read_admin_key(load_settings({"home": home}, {}))
    with openai.OpenAI(base_url=f"{client.endpoint.url}/v1", api_key=key, max_retries=0) as made:
        yield made


def encoded(text: str, is_decoder: bool = False) -> torch.Tensor:
    made = tokenizer(is_decoder)
    made.no_truncation()
    made.no_padding()
    return torch.tensor([made.encode(text).ids])


def hidden(folder: Path, text: str, is_decoder: bool = False) -> torch.Tensor:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states: torch.Tensor = model(encoded(text, is_decoder)).last_hidden_state[0]
    return states


def close(got: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(got), expected, atol=2e-5, rtol=1e-4)


def test_an_imported_encoder_embeds_as_sentence_transformers_would(
    ai: openai.OpenAI, folders: dict[str, Path]
) -> None:
    expected = torch.stack([hidden(folders["bert"], text).mean(dim=0) for text in TEXTS])
    plain = ai.embeddings.create(model="bert", input=TEXTS, encoding_format="float")
    coded = ai.embeddings.create(model="bert", input=TEXTS)  # base64, as the client likes it
    close([one.embedding for one in plain.data], expected)
    close([one.embedding for one in coded.data], expected)
    assert [one.index for one in coded.data] == [0, 1, 2, 3]
    tokens = sum(encoded(text).shape[1] for text in TEXTS)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == tokens


def test_token_arrays_give_the_vectors_of_their_texts(ai: openai.OpenAI, client: Client) -> None:
    ids = [client.tokenize(text, "bert") for text in TEXTS]
    assert client.detokenize(ids[1], "bert") == "[CLS] dog [SEP]"
    texts = ai.embeddings.create(model="bert", input=TEXTS).data
    arrays = ai.embeddings.create(model="bert", input=ids).data
    close([one.embedding for one in arrays], torch.tensor([one.embedding for one in texts]))


def test_a_decoder_imported_to_embed_gives_its_last_state_at_unit_length(
    ai: openai.OpenAI, folders: dict[str, Path]
) -> None:
    states = torch.stack([hidden(folders["qwen"], text, is_decoder=True)[-1] for text in TEXTS])
    made = ai.embeddings.create(model="qwen", input=TEXTS)
    close([one.embedding for one in made.data], torch.nn.functional.normalize(states, dim=-1))
    short = ai.embeddings.create(model="qwen", input="dog", dimensions=8).data[0].embedding
    assert len(short) == 8
    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-5)


def test_a_model_that_writes_says_how_to_make_it_embed(client: Client) -> None:
    with pytest.raises(UnsupportedTaskError, match="--task embed"):
        client.embed(["dog"], "writer")


def test_hundreds_of_texts_come_back_in_order(client: Client) -> None:
    model = Model(client, client.model("bert"))
    texts = [" ".join(WORDS[4 + i % 13 :][: 1 + i % 7]) for i in range(400)]
    vectors = model.embed(texts)
    distinct = list(dict.fromkeys(texts))
    once = dict(zip(distinct, model.embed(distinct), strict=True))
    close(vectors, torch.tensor([once[text] for text in texts]))


@pytest.mark.parametrize("name", ["ranker", "xlm-ranker"])
def test_documents_are_scored_as_transformers_scores_the_pairs(
    client: Client, folders: dict[str, Path], name: str
) -> None:
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folders[name]).eval()
    made = tokenizer()
    made.no_truncation()
    made.no_padding()
    query, expected = "where is the cat", []
    for text in TEXTS:
        pair = made.encode(query, text)
        inputs = {"input_ids": torch.tensor([pair.ids])}
        if name == "ranker":
            inputs["token_type_ids"] = torch.tensor([pair.type_ids])
        with torch.inference_mode():
            logits = network(**inputs).logits[0]
        expected.append((logits.sigmoid() if name == "ranker" else logits.softmax(-1))[-1].item())
    results = Model(client, client.model(name)).rerank(query, TEXTS)
    order = sorted(range(len(TEXTS)), key=lambda index: -expected[index])
    assert [one["index"] for one in results] == order
    close([one["relevance_score"] for one in results], torch.tensor([expected[i] for i in order]))
    assert [one["document"]["text"] for one in results] == [TEXTS[index] for index in order]
    assert len(client.rerank(query, TEXTS, name, top_n=2)) == 2


def test_too_long_is_an_error_with_both_numbers_unless_it_may_be_cut(client: Client) -> None:
    long = "cat " * 40
    with pytest.raises(ContextLengthError, match=r"42 tokens.*24"):
        client.embed([long], "bert")
    assert client.embed([long], "bert", truncate=True) == client.embed(["cat " * 22], "bert")
    with pytest.raises(ContextLengthError, match=r"documents\.1 has 44 tokens.*24"):
        client.rerank("dog", ["cat", long], "ranker")
    assert client.rerank("dog", [long], "ranker", truncate=True)


def test_a_deadline_that_passes_is_a_504(client: Client) -> None:
    with pytest.raises(DeadlineExceededError):
        client.embed(["cat " * 20] * 2048, "bert", deadline_ms=1)
    assert client.embed(["cat"], "bert")


def test_an_exported_embedder_is_a_sentence_transformers_folder_again(
    client: Client, tmp_path: Path
) -> None:
    folder = client.export_model("bert", tmp_path / "out")
    assert (folder / "1_Pooling" / "config.json").is_file()
    job = client.wait(client.import_model(folder, "again")["id"])
    assert job["result"]["task"] == "embed"
    assert client.embed(["dog"], "again") == client.embed(["dog"], "bert")
