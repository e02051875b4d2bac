from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import httpx

from llmos.sdk.asking import MAX_INPUTS
from llmos.sdk.client import Client
from llmos.sdk.models import Model
from llmos.sdk.vectors import from_base64, numbers, to_base64

ClientOf = Callable[..., Client]


def test_vectors_survive_base64_to_the_bit() -> None:
    values = [0.1, -2.5, 1e-30]
    vector = struct.pack("<3f", *values)
    assert from_base64(to_base64(vector)) == numbers(vector)
    assert struct.pack("<3f", *numbers(vector)) == vector


def test_texts_beyond_one_request_are_embedded_in_several(client_of: ClientOf) -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        coded = [to_base64(struct.pack("<f", len(text))) for text in sent[-1]["input"]]
        return httpx.Response(200, json={"data": [{"embedding": one} for one in coded]})

    model = Model(client_of(handler), {"ref": "m:1"})
    texts = ["x" * (i % 7) for i in range(MAX_INPUTS + 2)]
    assert model.embed(texts, dimensions=1) == [[float(len(text))] for text in texts]
    assert [len(body["input"]) for body in sent] == [MAX_INPUTS, 2]
    assert sent[0]["model"] == "m:1"
    assert sent[0]["dimensions"] == 1
    assert "normalize" not in sent[0]


def test_ranks_and_tokens_come_back_plain(client_of: ClientOf) -> None:
    results = [{"index": 1, "relevance_score": 0.5, "document": {"text": "b"}}]
    answers = {
        "/v1/rerank": {"results": results},
        "/tokenize": {"tokens": [1, 2], "count": 2},
        "/detokenize": {"text": "ab"},
    }
    sent: dict[str, Any] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        sent[request.url.path] = json.loads(request.content)
        return httpx.Response(200, json=answers[request.url.path])

    model = Model(client_of(handler), {"ref": "m:1"})
    assert model.rerank("q", ["a", "b"], top_n=1) == results
    assert model.tokenize("ab", special_tokens=False) == [1, 2]
    assert model.detokenize([1, 2]) == "ab"
    asked = {"model": "m:1", "query": "q", "documents": ["a", "b"], "top_n": 1}
    assert sent["/v1/rerank"] == asked
    assert sent["/tokenize"]["add_special_tokens"] is False
