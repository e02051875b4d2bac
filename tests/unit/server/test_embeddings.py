"""/v1/embeddings, /v1/rerank, /tokenize and /detokenize over the echo engine."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.server.routes import tokenize
from llmos.types import NewVersion, Priority

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    """The usual models, one that embeds and one that ranks."""
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        version = opened.library.resolve("writer")
        embedding = {"pooling": "mean", "normalize": True, "dimensions": 8, "prompts": {}}
        changes: dict[str, dict[str, Any]] = {
            "embedder": {"task": "embed", "embedding": embedding},
            "ranker": {"task": "rerank", "labels": ["no", "yes"]},
        }
        for name, changed in changes.items():
            manifest = {**version.manifest, **changed}
            opened.library.add(NewVersion("model", name, version.files, manifest), "admin")
        yield opened


async def test_vectors_come_as_numbers_or_as_base64_of_them(client: httpx.AsyncClient) -> None:
    asked = {"model": "embedder", "input": ["ab", "a"]}
    body = (await client.post("/v1/embeddings", json=asked)).json()
    assert (body["object"], body["model"]) == ("list", "embedder:1")
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [(one["object"], one["index"]) for one in body["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    vectors = [one["embedding"] for one in body["data"]]
    assert vectors == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    coded = (
        await client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"})
    ).json()
    decoded = [
        list(struct.unpack("<8f", base64.b64decode(one["embedding"]))) for one in coded["data"]
    ]
    assert decoded == vectors


@pytest.mark.parametrize("given", ["ab", ["ab"], [1, 2], [[1, 2]]])
async def test_one_input_may_stand_alone(client: httpx.AsyncClient, given: Any) -> None:
    asked = {"model": "embedder", "input": given, "dimensions": 3}
    body = (await client.post("/v1/embeddings", json=asked)).json()
    assert [one["embedding"] for one in body["data"]] == [[0, 1, 1]]


async def test_documents_are_ranked_the_best_first(client: httpx.AsyncClient) -> None:
    documents = ["ab", {"text": "abc"}, "b"]
    asked = {"model": "ranker", "query": "a", "documents": documents}
    body = (await client.post("/v1/rerank", json=asked)).json()
    assert body["model"] == "ranker:1"
    assert body["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert body["results"] == [  # the echo engine likes pairs of odd length
        {"index": 0, "relevance_score": 1.0, "document": {"text": "ab"}},
        {"index": 1, "relevance_score": 0.0, "document": {"text": "abc"}},
        {"index": 2, "relevance_score": 0.0, "document": {"text": "b"}},
    ]
    asked |= {"top_n": 2, "return_documents": False}
    body = (await client.post("/v1/rerank", json=asked)).json()
    assert body["results"] == [
        {"index": 0, "relevance_score": 1.0},
        {"index": 1, "relevance_score": 0.0},
    ]


async def test_texts_and_messages_become_tokens_and_texts_again(client: httpx.AsyncClient) -> None:
    body = (await client.post("/tokenize", json={"model": "judge", "text": "ab"})).json()
    assert body == {"model": "judge:1", "count": 2, "max_model_len": 200, "tokens": [1, 2]}
    again = (await client.post("/tokenize", json={"model": "judge", "prompt": "ab"})).json()
    assert again == body
    messages = [{"role": "user", "content": "hi"}]
    body = (await client.post("/tokenize", json={"model": "talker", "messages": messages})).json()
    text = {"model": "talker", "tokens": [*body["tokens"], 0]}
    assert (await client.post("/detokenize", json=text)).json()["text"] == "u:hi\na:~"
    text["skip_special_tokens"] = True
    assert (await client.post("/detokenize", json=text)).json()["text"] == "u:hi\na:"


E, R = {"model": "embedder"}, {"model": "ranker", "query": "a", "documents": ["a"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("/v1/embeddings", {**E}, 400, "input", "missing"),
        ("/v1/embeddings", {**E, "input": []}, 400, "input", "empty"),
        ("/v1/embeddings", {**E, "input": ""}, 400, "input", "empty"),
        ("/v1/embeddings", {**E, "input": ["a", ""]}, 400, "input.1", "empty"),
        ("/v1/embeddings", {**E, "input": [[]]}, 400, "input", "empty"),
        ("/v1/embeddings", {**E, "input": {"a": 1}}, 400, "input", "must be a text"),
        ("/v1/embeddings", {**E, "input": None}, 400, "input", "must be a text"),
        ("/v1/embeddings", {**E, "input": ["a", 3]}, 400, "input.1", "must be a text"),
        ("/v1/embeddings", {**E, "input": [1, "a"]}, 400, "input", "must be a text"),
        ("/v1/embeddings", {**E, "input": [[1, True]]}, 400, "input", "must be a text"),
        ("/v1/embeddings", {**E, "input": ["a", [-1]]}, 400, "input.1", "must be a text"),
        ("/v1/embeddings", {**E, "input": [[10**6]]}, 400, "input", "1000000"),
        ("/v1/embeddings", {**E, "input": ["a"] * 2049}, 400, "input", "2049"),
        ("/v1/embeddings", {**E, "input": ["a", "a" * 300]}, 400, "input.1", "300 tokens"),
        ("/v1/embeddings", {**E, "input": "a", "dimensions": 0}, 400, "dimensions", "dimensions"),
        ("/v1/embeddings", {**E, "input": "a", "dimensions": 9}, 400, "dimensions", "8"),
        ("/v1/embeddings", {**E, "input": "a", "encoding_format": "hex"}, 400, None, "hex"),
        (
            "/v1/embeddings",
            {**E, "input": "a", "prompt_name": "q"},
            400,
            "prompt_name",
            "no prompt",
        ),
        ("/v1/embeddings", {**E, "input": "a", "deadline_ms": 0}, 400, "deadline_ms", "0"),
        ("/v1/embeddings", {"model": "writer", "input": "a"}, 400, "model", "--task embed"),
        ("/v1/embeddings", {"model": "judge", "input": "a"}, 400, "model", "'classify'"),
        ("/v1/embeddings", {"model": "nobody", "input": "a"}, 404, None, "nobody"),
        ("/v1/rerank", {**R, "query": ""}, 400, "query", "empty"),
        ("/v1/rerank", {**R, "documents": []}, 400, "documents", "empty"),
        ("/v1/rerank", {**R, "documents": "a"}, 400, "documents", "array"),
        ("/v1/rerank", {**R, "documents": ["a", {}]}, 400, "documents.1", "text"),
        ("/v1/rerank", {**R, "documents": ["a", " "]}, 400, "documents.1", "empty"),
        ("/v1/rerank", {**R, "documents": ["a" * 300]}, 400, "documents.0", "301 tokens"),
        ("/v1/rerank", {**R, "query": "q" * 300}, 400, "query", "300 tokens"),
        (
            "/v1/rerank",
            {**R, "query": "q" * 300, "documents": ["a" * 300], "truncate": True},
            400,
            "query",
            "300 tokens",
        ),
        ("/v1/rerank", {**R, "top_n": 0}, 400, "top_n", "top_n"),
        ("/v1/rerank", {**R, "model": "embedder"}, 400, "model", "'embed'"),
        ("/tokenize", {"model": "writer"}, 400, None, "one of text and messages"),
        ("/tokenize", {"model": "writer", "text": "a", "prompt": "a"}, 400, None, "one of"),
        ("/tokenize", {"model": "judge", "messages": []}, 400, "messages", "messages"),
        ("/detokenize", {"model": "writer", "tokens": [999]}, 400, "tokens", "999"),
        ("/detokenize", {"model": "writer", "tokens": [-1]}, 400, "tokens.0", "tokens"),
    ],
)
async def test_bad_input_gets_one_clear_sentence_and_the_field(
    client: httpx.AsyncClient, path: str, body: Any, status: int, param: str | None, says: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert param is None or error["param"] == param


async def test_truncate_takes_what_would_be_too_long(client: httpx.AsyncClient) -> None:
    asked = {"model": "embedder", "input": "a" * 300, "truncate": True}
    body = (await client.post("/v1/embeddings", json=asked)).json()
    assert body["usage"]["prompt_tokens"] == 200


async def test_a_key_for_other_models_may_not_ask_this_one(
    new_client: Callable[..., httpx.AsyncClient],
) -> None:
    limited = new_client("user", models=["writer"])
    response = await limited.post("/v1/embeddings", json={**E, "input": "a"})
    assert response.status_code == 403
    urgent = new_client("user", name="other", best_priority=Priority.STANDARD)
    asked = {**E, "input": "a", "priority": "interactive"}
    assert (await urgent.post("/v1/embeddings", json=asked)).status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/tokenize", {"text": "a" * 60_000}, "50000"),
        ("/tokenize", {"prompt": "你" * 20_000}, "50000"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a" * 60_000}]}, "50000"),
        ("/detokenize", {"tokens": [1] * 30_000}, "20000"),
    ],
)
async def test_more_than_can_be_tokenised_in_a_second_or_so_is_refused(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    limit: str,
) -> None:
    monkeypatch.setattr(tokenize, "MAX_TEXT_BYTES", 50_000)
    monkeypatch.setattr(tokenize, "MAX_IDS", 20_000)
    response = await client.post(path, json={"model": "writer", **body})
    assert response.status_code == 413, response.text
    error = response.json()["error"]
    assert limit in error["message"]
    assert error["param"] == next(iter(body))
