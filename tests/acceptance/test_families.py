"""Networks of our own are trained, listed, shown and asked like any other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Llmos
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.models.registry import register
from llmos.sdk.models import Model
from llmos.starter import sentiment

QUICK = ("steps=20", "batch_size=8", "eval_every=10", "eval_batches=1", "optimizer.warmup_steps=5")


def trained(llmos: Llmos, recipe: str, *changes: str) -> str:
    sets = [part for change in (*QUICK, *changes) for part in ("--set", change)]
    llmos.ok("train", recipe, *sets, "--name", f"my-{recipe}")
    return f"my-{recipe}"


def evaluated(
    llmos: Llmos, model: str, folder: Path, rows: Sequence[dict[str, Any]] | str
) -> dict[str, Any]:
    """Return what `llmos evaluate` measures of a model, on rows or on a plain text."""
    path = folder / ("held-out.txt" if isinstance(rows, str) else "held-out.jsonl")
    text = rows if isinstance(rows, str) else "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_text(text, "utf-8")
    metrics: dict[str, Any] = llmos.json("evaluate", model, path)["result"]["metrics"]
    card = llmos.ok("show", model)
    assert all(f"| held-out/{name} |" in card for name in metrics), card
    return metrics


def test_an_ngram_model_is_counted_and_writes(llmos: Llmos, play: Path, tmp_path: Path) -> None:
    llmos.ok("train", "char-ngram", "--set", f"data.path={play}", "--name", "my-ngram")
    shown = next(row for row in llmos.json("list") if row["name"] == "my-ngram")["manifest"]
    assert shown["model_type"] == "ngram" and shown["metrics"]["perplexity"] < 2
    options = ("--max-tokens", "120", "--temperature", "0")
    text = llmos.ok("run", "my-ngram", "ROMEO:", *options)
    assert len(text.rstrip("\n")) > 100 and llmos.ok("run", "my-ngram", "ROMEO:", *options) == text
    with llmos.client() as client:
        asked = {"model": "my-ngram", "prompt": "ROMEO", "max_tokens": 1, "logprobs": 3}
        told = client.transport.json("POST", "/v1/completions", json=asked)
    assert told["choices"][0]["text"] == ":"
    assert sum(map(math.exp, told["choices"][0]["logprobs"]["top_logprobs"][0].values())) > 0.9
    metrics = evaluated(llmos, "my-ngram", tmp_path, "ROMEO:\nO Romeo, wherefore art thou?\n")
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / math.log(2))
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    limit = metrics["bits_per_character"]
    for bound, deploy in ((limit - 0.1, llmos.refused), (limit + 0.1, llmos.ok)):
        said = deploy("deploy", "my-ngram:1", "--gate", f"held-out/bits_per_character <= {bound}")
        assert ("does not pass" in said) == (bound < limit)
    spring = tmp_path / "spring.txt"
    spring.write_text("春天来了，花都开了。\n小鸟在树上唱着歌。\n" * 30, "utf-8")
    llmos.ok("train", "char-ngram", "--set", f"data.path={spring}", "--name", "my-spring")
    text = llmos.ok("run", "my-spring", "小鸟", "--temperature", "0")
    assert text.startswith("小鸟在树上唱着歌。\n春天来了，")
    said = llmos.refused("train", "char-ngram", "--set", "steps=9", "--name", "my-ngram")
    assert "takes no steps" in said


def test_word_vectors_tell_what_is_alike(llmos: Llmos, tmp_path: Path) -> None:
    changes = ("data.rows=12000", "vectors.epochs=4", "model.config.hidden_size=32")
    sets = [part for change in changes for part in ("--set", change)]
    llmos.ok("train", "word-vectors", *sets, "--name", "my-vectors")
    shown = next(row for row in llmos.json("list") if row["name"] == "my-vectors")["manifest"]
    assert (shown["task"], shown["model_type"]) == ("embed", "word_vectors")
    assert shown["metrics"]["analogies"]["accuracy"] > 0.6
    capital = llmos.json("vectors", "analogy", "my-vectors", "France", "Paris", "Japan", "--n", "3")
    assert "tokyo" in [one["word"] for one in capital]
    roles = {"王后", "王冠", "王位", "宫殿", "王子", "公主", "父亲", "丈夫", "爷爷", "叔叔"}
    near = llmos.json("vectors", "similar", "my-vectors", "国王", "--n", "4")
    assert len(roles & {one["word"] for one in near}) >= 3
    with llmos.client() as client:
        model = Model(client, client.model("my-vectors"))
        assert model.analogy("France", "Paris", "Japan", 3) == capital
        king, both = model.embed(["king", "king queen"], normalize=False)
        queen = model.vectors.vector("queen")
        assert both == pytest.approx(((np.array(king) + queen) / 2).tolist(), abs=1e-6)
    asked = ": capitals\nFrance Paris Japan Tokyo\nFrance Paris Zzz Tokyo\n"
    metrics = evaluated(llmos, "my-vectors", tmp_path, asked)
    assert metrics["known"] == 1 and metrics["accuracy"] == float(capital[0]["word"] == "tokyo")
    pairs = [("国王", "王后", 9), ("国王", "法国", 1), ("king", "queen", 8), ("king", "paris", 0)]
    rows = [dict(zip(("anchor", "positive", "score"), pair, strict=True)) for pair in pairs]
    metrics = evaluated(llmos, "my-vectors", tmp_path, rows)
    assert metrics["known"] == 4 and metrics["spearman"] > 0.5
    for header, name in (("--header", "word2vec"), ("--no-header", "glove")):
        text = tmp_path / f"{name}.txt"
        llmos.ok("vectors", "export", "my-vectors", text, header)
        llmos.ok("vectors", "import", text, "--name", f"my-{name}")
        again = llmos.json(
            "vectors", "analogy", f"my-{name}", "france", "paris", "japan", "--n", "3"
        )
        assert [one["word"] for one in again] == [one["word"] for one in capital]
    assert "does not know" in llmos.refused("vectors", "similar", "my-vectors", "zzz")
    text.write_text("king 1 2\nqueen 1 x\n")
    said = llmos.refused("vectors", "import", text, "--name", "my-broken")
    assert "line 2: 'x' is not a number" in said


@pytest.mark.parametrize(
    ("recipe", "architecture", "sizes"),
    [
        ("char-lstm", "recurrent", ("model.config.cell=gru", "model.config.hidden_size=32")),
        ("char-llama", "llama", ("model.config.num_hidden_layers=1",)),
    ],
)
def test_a_network_trained_on_a_text_writes(
    llmos: Llmos, play: Path, recipe: str, architecture: str, sizes: tuple[str, ...]
) -> None:
    name = trained(llmos, recipe, f"data.path={play}", *sizes)
    assert architecture in llmos.ok("show", name)
    options = ("--max-tokens", "150", "--temperature", "0")
    text = llmos.ok("run", name, "ROMEO:", *options)
    assert len(text.rstrip("\n")) > 100, "it goes on past its context"
    assert llmos.ok("run", name, "ROMEO:", *options) == text


def test_a_convolutional_network_classifies(llmos: Llmos) -> None:
    name = trained(llmos, "text-cnn", "data.rows=200", "evaluate.splits=[]")
    answer = llmos.ok("classify", "这家餐厅很好吃", "--model", name)
    assert answer.split()[0] in {"negative", "neutral", "positive"}


def test_classifiers_begin_with_word_vectors(llmos: Llmos, tmp_path: Path) -> None:
    words = ("data.path=starter:sentiment", "data.rows=2000", "tokenizer.split_cjk=true")
    words += ("evaluate.splits=[]", "vectors.epochs=1", "model.config.hidden_size=16")
    sets = [part for change in words for part in ("--set", change)]
    llmos.ok("train", "word-vectors", *sets, "--name", "my-words")
    small = ("data.rows=200", "evaluate.splits=[]", "model.config.hidden_size=16")
    name = trained(llmos, "text-lstm", *small, "model.vectors=my-words", "tokenizer.kind=vectors")
    source = llmos.json("show", name)["manifest"]["source"]
    assert (source["vectors"], source["vectors_found"]) == ("my-words:1", 1.0)
    assert "my-words:1" in llmos.ok("lineage", name)
    classes = {"negative", "neutral", "positive"}
    for text in ("这家餐厅很好吃", "The soup was excellent."):
        assert llmos.ok("classify", text, "--model", name).split()[0] in classes
    file = tmp_path / "words.txt"
    llmos.ok("vectors", "export", "my-words", file, "--no-header")
    tokens = "tokenizer={kind: word, split_cjk: true, lowercase: true}"
    begun = (tokens, f"model.vectors={file}", "model.freeze_vectors=true")
    name = trained(llmos, "text-cnn", *small, *begun)
    assert llmos.json("show", name)["manifest"]["source"]["vectors_found"] > 0.9
    assert llmos.ok("classify", "我不喜欢这个", "--model", name).split()[0] in classes
    wrong = ("--set", f"model.vectors={name}")
    assert "has no word vectors" in llmos.refused("train", "text-lstm", *wrong)


def test_an_adapter_is_trained_over_a_model(llmos: Llmos, play: Path, my_model: str) -> None:
    changes = (f"model.base={my_model}", "task=generate", f"data.path={play}", "block_size=32")
    name = trained(llmos, "lora-chat", *changes, "adapter.rank=2")
    row = next(row for row in llmos.json("list") if row["name"] == name)
    assert (row["kind"], row["manifest"]["base"]) == ("adapter", f"{my_model}:1")
    options = ("--max-tokens", "20", "--temperature", "0")
    own = llmos.ok("run", name, "ROMEO:", *options)
    assert own == llmos.ok("run", f"{my_model}+{name}", "ROMEO:", *options)
    said = llmos.refused("train", "char-gpt", "--set", "steps=1", "--name", name)
    assert "adapter" in said


def test_what_there_is_is_told(llmos: Llmos) -> None:
    told = {one["architecture"] for one in llmos.json("architectures")}
    assert {"gpt2", "recurrent", "convolutional"} <= told
    assert "Kim, 2014" in llmos.ok("architectures")


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("translate-gru", ("model.config.hidden_size=32",)),
        ("translate-mini", ("model.config.d_model=32", "model.config.encoder_layers=1")),
    ],
)
def test_an_encoder_and_decoder_translates(
    llmos: Llmos, recipe: str, sizes: tuple[str, ...]
) -> None:
    name = trained(llmos, recipe, "data.rows=200", "evaluate.splits=[]", *sizes)
    engines = {one["name"]: one["manifest"]["engine"] for one in llmos.json("list")}
    assert engines[name] == "pipelines"
    text = llmos.ok("translate", "Hello, world!", "--to", "zh", "--model", name)
    with llmos.client() as client:
        told = client.translate("Hello, world!", "en", "zh", name)
    assert text.rstrip("\n") == told["text"].rstrip("\n")


SMALL_CODES = ("data.rows=400", "evaluate.splits=[]", "model.config.hidden_size=32")


def test_an_autoencoder_writes_codes_and_reads_them(llmos: Llmos, tmp_path: Path) -> None:
    name = trained(llmos, "text-autoencoder", *SMALL_CODES, "model.config.latent_size=6")
    text = "这家餐厅很好吃"
    code = llmos.ok("encode", text, "--model", name).strip()
    assert len(bytes.fromhex(code)) == 6
    written = llmos.ok("decode", code, "--model", name)
    assert llmos.ok("run", name, text) == text + written, "going on is writing it again"
    with llmos.client() as client:
        assert client.reconstruct(text, name) == written.rstrip("\n")
        assert client.encode(text, name) == bytes.fromhex(code)
    metrics = evaluated(llmos, name, tmp_path, f"{text}\nThe soup was great.\n")
    with llmos.client() as client:
        again = [client.reconstruct(one, name) for one in (text, "The soup was great.")]
    assert metrics["exact"] == sum(map(str.__eq__, again, (text, "The soup was great."))) / 2
    assert (metrics["code_bytes"], metrics["texts"]) == (6, 2) and "kl" not in metrics
    assert 0 <= metrics["token_accuracy"] <= 1
    assert "6 bytes, not 1" in llmos.refused("decode", "00", "--model", name)
    assert "hexadecimal" in llmos.refused("decode", "xy", "--model", name)


def divergence(llmos: Llmos, name: str, texts: Sequence[str], folder: Path) -> float:
    """Return KL of texts' vectors from the prior, in closed form (Kingma and Welling, appendix B),
    nats a text, of the model's files in torch."""
    with llmos.client() as client:
        files = client.export_model(name, folder / "files")
    register()
    network = AutoModelForCausalLM.from_pretrained(files).eval()
    tokenizer = AutoTokenizer.from_pretrained(files)
    total = 0.0
    with torch.inference_mode():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            mean, deviation = network.encode(ids, torch.ones_like(ids))
            variance = deviation**2
            total += float(0.5 * (mean**2 + variance - 1 - variance.log()).sum())
    return total / len(texts)


def test_a_vae_draws_texts_and_goes_from_one_to_another(
    llmos: Llmos, my_model: str, tmp_path: Path
) -> None:
    changes = (*SMALL_CODES, "model.config.latent_size=4", "model.config.cell=mlp")
    name = trained(llmos, "text-vae", *changes)
    metrics = llmos.json("show", name)["manifest"]["metrics"]
    assert metrics["elbo"] <= -metrics["kl"] <= 0
    texts = [row["text"] for row in sentiment.records("test_combinations", 0, 60)]
    served = evaluated(llmos, name, tmp_path, "".join(f"{text}\n" for text in texts))
    assert served["kl"] == pytest.approx(divergence(llmos, name, texts, tmp_path), abs=1.0)
    assert served["elbo"] == pytest.approx(metrics["elbo"], rel=0.2)
    with llmos.client() as client:
        drawn = [
            client.generate(name, "", temperature=1.0, seed=seed)["text"] for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        first, last = "The soup was great.", "我不喜欢这个"
        between = client.interpolate(first, last, 3, name)
        assert [between[0], between[-1]] == [client.reconstruct(one, name) for one in (first, last)]
    shown = llmos.ok("interpolate", first, last, "--steps", "3", "--model", name)
    assert shown == "".join(f"{text}\n" for text in between)
    assert "has no codes" in llmos.refused("encode", "Hello", "--model", my_model)


def test_a_seqgan_publishes_its_language_model(llmos: Llmos) -> None:
    phases = ("adversarial.pretrain_steps=10", "adversarial.critic_steps=4")
    sizes = ("data.rows=400", "model.config.hidden_size=32", "tokenizer.vocab_size=600")
    name = trained(llmos, "text-seqgan", *sizes, *phases)
    metrics = llmos.json("show", name)["manifest"]["metrics"]
    assert {"bleu", "self_bleu", "distinct_2"} <= set(metrics)
    with llmos.client() as client:
        drawn = [client.generate(name, "", seed=seed)["text"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_runs_are_compared(llmos: Llmos, my_model: str, tmp_path: Path) -> None:
    name = trained(llmos, "char-gpt", "data.path=starter:tales", "model.config.n_layer=1")
    picture = tmp_path / "curves.png"
    shown = llmos.ok("compare", my_model, name, "--plot", picture)
    assert "model.config.n_layer" in shown and "validation_loss" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = llmos.json("compare", my_model, name)
    assert told["models"] == [f"{my_model}:1", f"{name}:1"]
    assert told["recipe"]["model.config.n_layer"] == {f"{my_model}:1": 4, f"{name}:1": 1}
    assert "two models or more" in llmos.refused("compare", my_model)


def test_one_encoder_does_several_tasks(llmos: Llmos, tmp_path: Path) -> None:
    counts = [f"also.{task}.data.rows=200" for task in ("entities", "rate", "answer")]
    small = ("data.rows=200", *counts, "evaluate.splits=[]", "model.config.hidden_size=32")
    name = trained(llmos, "multitask-mini", *small)
    row = next(row for row in llmos.json("list") if row["name"] == name)
    assert [*row["manifest"]["heads"]] == ["classify", "entities", "rate", "answer"]
    assert "classify entities rate answer" in llmos.ok("list")
    card = llmos.ok("show", name)
    assert "rate/validation" in card and "largest difference" in card
    label = llmos.json("classify", "这家餐厅很好吃", "--model", name)["label"]
    assert label in {"negative", "neutral", "positive"}
    for found in llmos.json("entities", "Alice flew to Paris.", "--model", name)["entities"]:
        assert found["label"] in {"DATE", "LOCATION", "MONEY", "ORGANIZATION", "PERSON", "TIME"}
    assert math.isfinite(llmos.json("rate", "The soup was excellent.", "--model", name)["score"])
    context = "Bob is a cook. Alice lives in Paris."
    found = llmos.json("answer", "Where does Alice live?", context, "--model", name)
    assert found["text"] == context[found["start"] : found["end"]]
    rated = tmp_path / "meals.jsonl"
    rows = [json.dumps({"text": f"Meal {score} was fine.", "score": score}) for score in range(5)]
    rated.write_text("\n".join(rows), "utf-8")
    metrics = llmos.json("evaluate", name, rated, "--task", "rate")["result"]["metrics"]
    assert metrics["mse"] >= 0 and "| rate/meals/mse |" in llmos.ok("show", name)
    assert llmos.json("deploy", f"{name}:1", "--gate", "rate/meals/mse <= 1000")["model"]
    assert "but for classify, entities" in llmos.refused("evaluate", name, rated, "--task", "embed")
    with llmos.client() as client:
        model = Model(client, client.model(name))
        assert model.classify("这家餐厅很好吃")["label"] == label
        assert client.rate("The soup was excellent.", name)["model"] == f"{name}:1"
    said = llmos.refused("embed", "Hello", "--model", name)
    assert "'classify', 'entities', 'rate', 'answer', not for 'embed'" in said


def test_texts_are_classified_by_labels_nobody_trained_for(llmos: Llmos, my_model: str) -> None:
    small = ("data.rows=300", "evaluate.splits=[]", "model.config.hidden_size=32")
    embedder = trained(llmos, "embed-mini", *small)
    labels = "Where is the station?，我想喝一杯茶。,Bob 是老师。"
    done = llmos.json("classify", "我想喝一杯茶。", "--labels", labels, "--model", embedder)
    assert done["label"] == "我想喝一杯茶。" and sum(done["scores"].values()) == pytest.approx(1)
    assert len(done["scores"]) == 3
    with llmos.client() as client:
        model = Model(client, client.model(embedder))
        options = {"template": "It is about {}."}
        asked = model.classify("It is about tea.", ["tea", "a station"], **options)
        assert asked["label"] == "tea"
        written = client.classify("ROMEO:", my_model, ["love", "war"])
        assert {*written["scores"]} == {"love", "war"}
    classifier = trained(llmos, "text-cnn", "data.rows=200", "evaluate.splits=[]")
    said = llmos.refused("classify", "Hello", "--labels", "a,b", "--model", classifier)
    assert "for 'classify', not for" in said and "need a model that embeds" in said


def test_an_encoder_fills_masks_and_its_heads_go_on_from_it(llmos: Llmos, tmp_path: Path) -> None:
    small = ("data.rows=300", "evaluate.splits=[]", "model.config.hidden_size=32")
    encoder = trained(llmos, "encoder-mini", *small)
    done = llmos.json("fill-mask", "I drink [MASK] and 我喝[MASK]。", "--model", encoder)
    assert [len(fills) for fills in done["masks"]] == [5, 5]
    assert all(0 < fill["score"] < 1 for fills in done["masks"] for fill in fills)
    assert "no [MASK]" in llmos.refused("fill-mask", "I drink tea.", "--model", encoder)
    metrics = evaluated(llmos, encoder, tmp_path, "I drink tea.\n我喝茶。\nShe lives in Paris.\n")
    assert metrics["masked"] >= 3 and 0 <= metrics["accuracy"] <= metrics["accuracy_at_5"] <= 1
    base = (f"model.base={encoder}", "model.architecture=null", "model.config={}")
    small = (*base, "tokenizer.kind=base", "data.rows=200", "evaluate.splits=[]")
    reader = trained(llmos, "answer-mini", *small, "max_tokens=96")
    context = "Bob is a cook. Alice lives in Paris."
    found = llmos.json("answer", "Where does Alice live?", context, "--model", reader)
    assert found["text"] == context[found["start"] : found["end"]]
    asked = {"question": "Where does Alice live?", "context": context}
    rows = [asked | {"answer": found["text"]}, asked | {"answer": "a cook"}]
    metrics = evaluated(llmos, reader, tmp_path, rows)
    assert metrics["exact_match"] >= 0.5 and metrics["f1"] >= metrics["exact_match"]
    embedder = trained(llmos, "embed-mini", *small)
    vectors = llmos.ok("embed", "你好", "Hello", "--model", embedder).splitlines()
    assert [len(json.loads(vector)) for vector in vectors] == [32, 32]
    rows = [{"anchor": text, "positive": text} for text in ("你好", "Hello", "I drink tea.")]
    assert evaluated(llmos, embedder, tmp_path, rows) == {
        "accuracy": 1.0,
        "recall_at_5": 1.0,
        "recall_at_10": 1.0,
        "mrr": 1.0,
    }
    rows = [{**rows[0], "score": 5}, {"anchor": "你好", "positive": "I drink tea.", "score": 1}]
    assert evaluated(llmos, embedder, tmp_path, rows)["spearman"] == 1.0
    rater = trained(llmos, "rate-mini", *small)
    stars = float(llmos.ok("rate", "The soup was excellent.", "--model", rater))
    assert llmos.json("rate", "The soup was excellent.", "--model", rater)["score"] == (
        pytest.approx(stars, abs=1e-3)
    )
    rows = [{"text": "The soup was excellent.", "score": stars + 1}, {"text": "差", "score": 2}]
    other = llmos.json("rate", "差", "--model", rater)["score"]
    metrics = evaluated(llmos, rater, tmp_path, rows)
    assert metrics["mse"] == pytest.approx((1 + (other - 2) ** 2) / 2, abs=0.01)
    kinds = {row["name"]: row["manifest"]["task"] for row in llmos.json("list")}
    assert [kinds[name] for name in (encoder, reader, embedder, rater)] == [
        "fill_mask",
        "answer",
        "embed",
        "rate",
    ]


def test_a_t5_fills_spans_and_a_translator_goes_on_from_it(llmos: Llmos, tmp_path: Path) -> None:
    small = ("data.rows=300", "evaluate.splits=[]", "model.config.d_model=32")
    filler = trained(llmos, "span-mini", *small)
    text = "I drink [MASK] every day. 我每天都[MASK]。"
    done = llmos.json("fill-mask", text, "--model", filler)
    assert len(done["masks"]) == 2 and all(len(fills) <= 1 for fills in done["masks"])
    with llmos.client() as client:
        named = text.replace("[MASK]", "<extra_id_5>")
        assert client.fill_mask(named, filler)["masks"] == done["masks"]
    assert "no [MASK]" in llmos.refused("fill-mask", "I drink tea.", "--model", filler)
    folder = tmp_path / "filler"
    llmos.ok("export", filler, folder)
    llmos.ok("import", folder, "--name", "my-imported-filler")
    again = llmos.json("fill-mask", text, "--model", "my-imported-filler")
    assert again["masks"] == done["masks"]
    base = (f"model.base={filler}", "model.architecture=null", "model.config={}")
    prefix = 'translation.prefix="translate to {target_lang}: "'
    changes = (*base, "tokenizer.kind=base", prefix, "data.rows=200", "evaluate.splits=[]")
    translator = trained(llmos, "translate-gru", *changes)
    shown = next(row for row in llmos.json("list") if row["name"] == translator)["manifest"]
    assert (shown["model_type"], shown["task"]) == ("t5", "translate")
    said = llmos.ok("translate", "Hello, world!", "--to", "zh", "--model", translator)
    assert llmos.ok("translate", "Hello, world!", "--to", "zh", "--model", translator) == said


def test_the_vectors_of_a_bottleneck_are_embeddings(llmos: Llmos, tmp_path: Path) -> None:
    name = trained(llmos, "text-vae", *SMALL_CODES, "model.config.latent_size=6")
    texts = ["这家餐厅很好吃", "The soup was great."]
    assert "--task embed" in llmos.refused("embed", texts[0], "--model", name)
    folder = tmp_path / "vae"
    llmos.ok("export", name, folder)
    llmos.ok("import", folder, "--name", "my-latents", "--task", "embed")
    with llmos.client() as client:
        codes = [client.encode(text, name) for text in texts]
        model = Model(client, client.model("my-latents"))
        vectors = np.array(model.embed(texts, normalize=False))
        assert model.embed(texts, dimensions=2, normalize=False)[0] == (
            pytest.approx(vectors[0][:2].tolist(), abs=1e-5)
        )
    levels = np.clip((vectors + 4) / 8 * 256, 0, 255)
    assert np.abs(levels - [[byte + 0.5 for byte in code] for code in codes]).max() < 1
    assert "have 6 numbers" in llmos.refused(
        "embed", texts[0], "--model", "my-latents", "--dimensions", "7"
    )
