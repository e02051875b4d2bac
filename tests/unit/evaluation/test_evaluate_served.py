"""What an evaluation asks of readers, vectors and codes, and how their answers are scored."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.evaluation.test_evaluate_job import Body, Context

from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.errors import DataError
from llmos.evaluation import handler, served_masks
from llmos.evaluation.jobs import METRICS, asked_of, validate
from llmos.models.codes import CODE_TOKEN
from llmos.sdk.vectors import to_base64
from llmos.storage.blobs import BlobStore

Answer = Callable[[str, Body], Any]
Measured = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Return a function that evaluates on a file and returns the metrics."""

    def run(task: str, name: str, rows: Sequence[Body] | str, answer: Answer) -> dict[str, Any]:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        blobs = BlobStore(tmp_path / "blobs")
        digest = blobs.put_bytes(text.encode()).digest
        params = validate({"model": "m:1", "task": task, "data": {name: digest}})
        context: Any = Context(blobs, params, answer)
        found: dict[str, Any] = handler.run(context).summary["metrics"]
        numbers = {name for name, value in found.items() if not isinstance(value, str)}
        assert all(METRICS[task].fullmatch(name) for name in numbers), "gates can name them"
        return found

    return run


def test_what_is_asked_follows_from_the_task_and_the_network() -> None:
    assert asked_of({"task": "generate", "model_type": "ngram"}) == "generate"
    assert asked_of({"task": "generate", "model_type": "vae"}) == "reconstruct"
    assert asked_of({"task": "embed", "model_type": "word_vectors"}) == "word_vectors"
    assert asked_of({"task": "embed"}) == "embed"


# -- readers ---------------------------------------------------------------------------------------


def test_answers_are_held_against_the_right_one_that_fits_best(measured: Measured) -> None:
    english = "Denver Broncos won in Santa Clara, California."
    rows = [
        {"question": "Who won?", "context": english,
         "answers": {"text": ["Denver Broncos", "Broncos"], "answer_start": [0, 7]}},
        {"question": "Where?", "context": english, "answer": "Santa Clara, California"},
        {"question": "谁住在柏林？", "context": "住在柏林的是卡罗尔。", "answer": "卡罗尔"},
        {"question": "Why?", "context": english, "answers": {"text": [], "answer_start": []}},
    ]  # fmt: skip
    said = {
        "Who won?": "the Broncos",
        "Where?": "in Santa Clara",
        "谁住在柏林？": "是卡罗",
        "Why?": "",
    }

    def answer(path: str, body: Body) -> Any:
        assert (path, body["model"]) == ("/api/v1/answer", "m:1")
        return {"text": said[body["question"]]}

    found = measured("answer", "x.jsonl", rows, answer)
    # "broncos" is right; of "in santa clara" 2 of 3 words and 2 of 3; of 是卡罗 2 characters of 3
    # and 3; and nothing is what there is.
    assert found == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3 + 2 / 3 + 1) / 4)}


def test_numbers_are_held_against_the_right_ones(measured: Measured) -> None:
    given, right = [1.0, 2.5, 2.0, 4.5], [1.0, 2.0, 3.0, 4.0]
    said = dict(zip("abcd", given, strict=True))
    rows = [{"text": text, "score": score} for text, score in zip("abcd", right, strict=True)]
    found = measured("rate", "x.jsonl", rows, lambda _, body: {"score": said[body["text"]]})
    assert found["mse"] == pytest.approx((0.25 + 1 + 0.25) / 4)
    assert found["pearson"] == pytest.approx(np.corrcoef(given, right)[0, 1])
    assert found["spearman"] == pytest.approx(np.corrcoef([0, 2, 1, 3], [0, 1, 2, 3])[0, 1])


TOKENIZER = train_byte_bpe(
    ["我喝茶。我喝水。 I drink tea. I drink water.", "Tea", "water"] * 9,
    specials_of("fill_mask"),
    400,
    Splitting(cjk=True, punctuation=True, lowercase=True),
)


def about(path: str) -> Any:
    """What the server tells of the model that fills masks."""
    if path == "/api/v1/models/m:1/files/tokenizer.json":
        return json.loads(TOKENIZER.to_str())
    assert path == "/api/v1/models/m:1"
    return {"manifest": {"context_tokens": 40, "special_tokens": {"mask": "<mask>"}}}


def test_hidden_tokens_are_asked_for(measured: Measured) -> None:
    fills = [["茶", "水"], ["茶", "水"], ["x", "y", "tea"], ["x", "y"]]

    def answer(path: str, body: Body | None) -> Any:
        if body is None:
            return about(path)
        assert (path, body["text"], body["top_k"]) == ("/api/v1/fill_mask", "[MASK]", 5)
        return {"masks": [[{"token": token} for token in fills.pop(0)]]}

    found = measured("fill_mask", "x.txt", "茶\n水\n\nTea\nwater\n", answer)
    assert found == {"accuracy": 1 / 4, "accuracy_at_5": 3 / 4, "masked": 4}


@pytest.mark.parametrize("text", ["I drink Tea. 我喝茶。", "water and 茶 " * 60, "Ünï 🍵 tea"])
def test_what_is_hidden_can_be_put_back(text: str) -> None:
    masks = 0
    for number in range(20):
        hidden = served_masks.hide(TOKENIZER, text, random.Random(number))
        assert hidden is not None
        parts = hidden.text.split("[MASK]")
        assert len(parts) == len(hidden.gold) + 1
        again = "".join(chain.from_iterable(zip(parts, [*hidden.gold, ""], strict=True)))
        assert again.lower() == text.lower()
        masks += len(hidden.gold)
    num_tokens = len(TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert masks / 20 <= max(2, 0.2 * num_tokens), "and it is no more than is learned from"


def test_a_long_text_is_asked_about_in_parts(measured: Measured) -> None:
    asked: list[str] = []

    def answer(path: str, body: Body | None) -> Any:
        if body is None:
            return about(path)
        asked.append(body["text"])
        return {"masks": [[{"token": "?"}]] * body["text"].count("[MASK]")}

    rows = [{"text": "I drink water. " * 30}]
    found = measured("fill_mask", "x.jsonl", rows, answer)
    assert len(asked) > 3 and max(len(TOKENIZER.encode(text).ids) for text in asked) <= 40
    before = [*asked]
    asked.clear()
    assert measured("fill_mask", "x.jsonl", rows, answer) == found and asked == before


def test_a_text_with_a_mask_of_its_own_is_refused(measured: Measured) -> None:
    for mask in ("[MASK]", "<mask>"):
        with pytest.raises(DataError, match="text 2 has a mask"):
            measured("fill_mask", "x.txt", f"I drink tea.\nI drink {mask}.", lambda p, _: about(p))


def test_rankings_are_held_against_the_documents_that_answer(measured: Measured) -> None:
    orders = {"q": [2, 0, 1], "问": [1, 0]}

    def answer(path: str, body: Body) -> Any:
        assert (path, body["truncate"]) == ("/v1/rerank", True)
        return {"results": [{"index": place} for place in orders[body["query"]]]}

    rows = [
        {"query": "q", "documents": ["a", "b", "c"], "relevant": [0, 1]},
        {"query": "问", "documents": ["答", "对"], "relevant": [1]},
    ]
    found = measured("rerank", "x.jsonl", rows, answer)
    second, third = 1 / math.log2(3), 1 / 2
    assert found["ndcg_at_10"] == pytest.approx(((second + third) / (1 + second) + 1) / 2)
    assert (found["mrr"], found["accuracy"]) == (0.75, 0.5)


# -- vectors ---------------------------------------------------------------------------------------


def embeddings(vectors: dict[Any, Sequence[float]]) -> Answer:
    """Return what answers with a table's vectors."""

    def answer(path: str, body: Body) -> Any:
        assert (path, body["truncate"]) == ("/v1/embeddings", True)
        keys = [tuple(one) if isinstance(one, list) else one for one in body["input"]]
        rows = [np.array(vectors[key], "<f4").tobytes() for key in keys]
        return {"data": [{"embedding": to_base64(row)} for row in rows]}

    return answer


def test_a_text_s_own_partner_is_looked_for_among_all(measured: Measured) -> None:
    rows = [{"anchor": one, "positive": f"{one}!"} for one in ("a", "b", "c")]
    table = {"a": (1, 0), "b": (0, 2), "c": (1, 1), "a!": (3, 0.5), "b!": (1, 3), "c!": (0, 1)}
    found = measured("embed", "x.jsonl", rows, embeddings(table))
    # b is nearer to c! than to its own, c to both of the others
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["recall_at_5"] == found["recall_at_10"] == 1.0
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_cosines_of_pairs_are_held_against_what_people_said(measured: Measured) -> None:
    angles = {"a": 0.0, "b": 0.2, "c": 1.0, "d": 2.0}
    table = {name: (math.cos(angle), math.sin(angle)) for name, angle in angles.items()}
    rows = [{"anchor": "a", "positive": to, "score": n} for to, n in (("b", 5), ("c", 3), ("d", 4))]
    found = measured("embed", "x.jsonl", rows, embeddings(table))
    cosines = [math.cos(angles[to]) for to in "bcd"]
    assert found["spearman"] == pytest.approx(0.5)
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, [5, 3, 4])[0, 1], abs=1e-6)


WORDS = {"<pad>": 0, "<unk>": 1, "man": 2, "woman": 3, "king": 4, "queen": 5, "国王": 6, "王后": 7}
PLACES = [(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 2), (1, 1, 2), (1, 0, 3), (1, 1, 3)]


def word_vectors(path: str, body: Body | None) -> Any:
    if body is None:
        assert path == "/api/v1/models/m:1/files/tokenizer.json"
        return {"model": {"vocab": WORDS}}
    return embeddings({(place,): vector for place, vector in enumerate(PLACES)})(path, body)


def test_analogies_are_those_whose_words_are_known(measured: Measured) -> None:
    text = ": family\nMan woman king queen\nman 国王 woman 王后\nman woman cat kitten\n"
    found = measured("word_vectors", "x.txt", text, word_vectors)
    assert found["known"] == 2 and found["accuracy"] == found["accuracy_at_5"] == 1.0
    rows = [dict(zip("abcd", ("man", "woman", "king", "国王"), strict=True))]
    wrong = measured("word_vectors", "x.jsonl", rows, word_vectors)
    assert (wrong["accuracy"], wrong["accuracy_at_5"], wrong["known"]) == (0.0, 1.0, 1)
    with pytest.raises(DataError, match="none of the questions"):
        measured("word_vectors", "x.txt", "a b c d", word_vectors)


def test_words_are_alike_as_people_said(measured: Measured) -> None:
    pairs = [("king", "国王", 9), ("king", "queen", 6), ("king", "man", 2), ("king", "cat", 1)]
    rows = [dict(zip(("anchor", "positive", "score"), pair, strict=True)) for pair in pairs]
    found = measured("word_vectors", "x.jsonl", rows, word_vectors)
    assert (found["spearman"], found["known"]) == (pytest.approx(1.0), 3)


# -- codes -----------------------------------------------------------------------------------------


def network(model_type: str) -> Answer:
    """Return what answers as a network of 2 levels does that writes the first letter for each."""
    config = {"model_type": model_type, "latent_size": 2, "max_text_tokens": 5}
    config |= {"code_token_id": 300, "first_level_id": 301, "eos_token_id": [0]}

    def answer(path: str, body: Body | None) -> Any:
        if body is None:
            assert path == "/api/v1/models/m:1/files/config.json"
            return config
        if path == "/tokenize":
            return {"tokens": [ord(char) for char in body["text"]]}
        if path == "/api/v1/generate":
            first = chr(body["prompt"][0])
            level = -0.5 if body["temperature"] else 0.0
            codes = [(CODE_TOKEN, 0.0), ("<|7|>", level), ("<|9|>", level)]
            told = [{"token": token, "logprob": logprob} for token, logprob in codes]
            return {"choices": [{"text": first * len(body["prompt"]), "logprobs": told}]}
        assert (path, body["echo"], body["max_tokens"]) == ("/v1/completions", True, 0)
        assert body["prompt"][:3] == [300, 308, 310] and body["prompt"][-1] == 0
        text = [*map(chr, body["prompt"][3:-1]), "<end>"]
        chosen = [None, -2.0, -2.0, *(-1.0 if token == text[0] else -3.0 for token in text)]
        top = [None, {"x": -2.0}, {"x": -2.0}, *({text[0]: -1.0, token: -3.0} for token in text)]
        told = {"tokens": ["", "", "", *text], "token_logprobs": chosen, "top_logprobs": top}
        return {"choices": [{"text": "", "logprobs": told}]}

    return answer


def test_what_comes_back_of_a_text_is_told(measured: Measured) -> None:
    found = measured("reconstruct", "x.txt", "aaa\nabab\ntoo long a text\n", network("autoencoder"))
    assert found == {
        "exact": 0.5,
        "character_error": 2 / 7,
        "token_accuracy": 5 / 9,  # all of aaa but its end, and of abab twice
        "code_bytes": 2,
        "text_bytes": 3.5,
        "texts": 2,
    }


def test_the_bound_of_a_variational_network_is_told(measured: Measured) -> None:
    found = measured("reconstruct", "x.txt", "aaa\nabab\n", network("vae"))
    assert found["kl"] == pytest.approx(2 * (-0.5) - 2 * (-2.0))
    likelihood = ((3 * -1.0 - 3.0) + (2 * -1.0 - 3 * 3.0)) / 2
    assert found["elbo"] == pytest.approx(likelihood - found["kl"])
    with pytest.raises(DataError, match="no text has 1 to 5 tokens"):
        measured("reconstruct", "x.txt", "far too long", network("vae"))
