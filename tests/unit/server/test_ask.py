from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.tasks import answer as finding
from llmos.tasks import masks
from llmos.tasks.tokenizers import Tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


USAGE = {"cached_tokens": 0, "reasoning_tokens": 0}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_generate_answers_with_text_and_usage(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/generate", json={"model": "writer", "prompt": "Hello"})
    assert response.status_code == 200
    body = response.json()
    assert body["text"] == "Hello"
    assert body["model"] == "writer:1"
    assert body["finish_reason"] == "stop"
    assert body["usage"] == USAGE | {"prompt_tokens": 5, "completion_tokens": 5}


async def test_generate_streams_the_same(client: httpx.AsyncClient) -> None:
    asked = {"model": "writer", "prompt": "你好 world", "stream": True}
    got = events(await client.post("/api/v1/generate", json=asked))
    assert "".join(event["text"] for event in got) == "你好 world"
    assert got[-1]["finish_reason"] == "stop"
    assert got[-1]["usage"] == USAGE | {"prompt_tokens": 8, "completion_tokens": 8}


async def test_messages_are_rendered(client: httpx.AsyncClient) -> None:
    asked = {"model": "talker", "messages": [{"role": "user", "content": "hi"}]}
    assert (await client.post("/api/v1/generate", json=asked)).json()["text"] == "u:hi\na:"


async def test_several_choices_with_logprobs(client: httpx.AsyncClient) -> None:
    asked = {"model": "writer", "prompt": "ab", "n": 2, "logprobs": 1}
    body = (await client.post("/api/v1/generate", json=asked)).json()
    assert [choice["text"] for choice in body["choices"]] == ["ab", "ab"]
    token = body["choices"][1]["logprobs"][0]
    assert (token["token"], token["bytes"], token["logprob"]) == ("a", [97], 0.0)


async def test_translate_classify_entities(client: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"model": "translator", "text": "Hello. Bye."}
    asked |= {"source_lang": "en", "target_lang": "zh"}
    done = (await client.post("/api/v1/translate", json=asked)).json()
    assert (done["text"], done["model"]) == ("Hello.Bye.", "translator:1")
    done = (await client.post("/api/v1/classify", json={"model": "judge", "text": "abc"})).json()
    assert (done["label"], done["score"]) == ("positive", 1.0)
    done = (await client.post("/api/v1/entities", json={"model": "finder", "text": "abcd"})).json()
    assert done["entities"] == [
        {"text": "abcd", "label": "PERSON", "start": 0, "end": 4, "score": 1.0}
    ]


async def test_parse_tells_trees_of_texts_and_of_words(client: httpx.AsyncClient) -> None:
    done = (await client.post("/api/v1/parse", json={"model": "parser", "text": " abc"})).json()
    word = {"id": 1, "text": "abc", "upos": "ADJ", "head": 0, "deprel": "root", "score": 1.0}
    at = {"start": 1, "end": 4}
    assert done == {"model": "parser:1", "sentences": [{"words": [word | at]}]}
    done = (await client.post("/api/v1/parse", json={"model": "parser", "words": ["abc"]})).json()
    assert done["sentences"] == [{"words": [word | {"start": None, "end": None}]}]


async def test_fill_mask_answer_and_rate(client: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"model": "filler", "text": "a[MASK]c[MASK]", "top_k": 2}
    done = (await client.post("/api/v1/fill_mask", json=asked)).json()
    assert done["model"] == "filler:1"
    assert done["masks"] == [
        [
            {"token": "a", "score": 0.5, "text": "aac~"},
            {"token": "b", "score": 0.5, "text": "abc~"},
        ],
        [
            {"token": "a", "score": 0.5, "text": "a~ca"},
            {"token": "b", "score": 0.5, "text": "a~cb"},
        ],
    ]
    asked = {"model": "reader", "question": "ab?", "context": "cdefghi"}
    done = (await client.post("/api/v1/answer", json=asked)).json()
    assert done["text"] == asked["context"][done["start"] : done["end"]] == "e"
    assert 0 < done["score"] < 1
    done = (await client.post("/api/v1/rate", json={"model": "rater", "text": "abc"})).json()
    assert done == {"model": "rater:1", "score": 3.0}


async def test_a_text_may_have_so_many_masks_and_repeat_so_much(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": "filler", "text": "[MASK]" * masks.MAX_MASKS, "top_k": 2}
    done = await client.post("/api/v1/fill_mask", json=asked)
    assert len(done.json()["masks"]) == masks.MAX_MASKS
    monkeypatch.setattr(masks, "MAX_FILLED_CHARS", 2 * 32 * 32)
    assert (await client.post("/api/v1/fill_mask", json=asked)).status_code == 200
    monkeypatch.setattr(system.tasks.residency, "lease", None)  # refused before a model is loaded
    for more in ({"top_k": 3}, {"text": "[MASK]" * 32 + "a"}, {"text": "[MASK]" * 33}):
        refused = await client.post("/api/v1/fill_mask", json=asked | more)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "text"


async def test_a_context_far_too_long_is_refused_before_it_is_tokenised_whole(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "MAX_WINDOWS", 100)
    monkeypatch.setattr(Tokenizer, "windows", None)
    asked = {"model": "reader", "question": "a?", "context": "x" * 80_000}
    refused = await client.post("/api/v1/answer", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "context"


async def test_answers_are_read_off_the_event_loop(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    best_span = finding.best_span

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return best_span(*args)

    monkeypatch.setattr(finding, "best_span", noted)
    asked = {"model": "reader", "question": "ab?", "context": "cdefghi" * 60}
    assert (await client.post("/api/v1/answer", json=asked)).status_code == 200
    assert len(threads) > 1
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("generate", {"model": "nobody", "prompt": "x"}, 404, "nobody"),
        ("fill_mask", {"model": "filler", "text": "abc"}, 400, "no [MASK] to fill"),
        ("fill_mask", {"model": "judge", "text": "a[MASK]"}, 400, "judge:1"),
        ("answer", {"model": "reader", "question": " ", "context": "x"}, 400, "question is empty"),
        ("answer", {"model": "reader", "question": "a" * 200, "context": "x"}, 400, "no room"),
        ("answer", {"model": "reader", "question": "a" * 70_000, "context": "x"}, 400, "no room"),
        (
            "answer",
            {"model": "reader", "question": "a?", "context": "x" * 80_000},
            400,
            "more than 512 windows of 200 tokens",
        ),
        ("fill_mask", {"model": "filler", "text": "[MASK]" * 33}, 400, "33 masks"),
        ("rate", {"model": "rater", "text": ""}, 400, "empty"),
        ("parse", {"model": "parser", "text": ""}, 400, "empty"),
        ("parse", {"model": "parser"}, 400, "text or words"),
        ("parse", {"model": "parser", "text": "a", "words": ["a"]}, 400, "text or words"),
        ("parse", {"model": "parser", "text": "小猫"}, 400, "without spaces"),
        ("parse", {"model": "parser", "words": []}, 400, "words"),
        ("parse", {"model": "parser", "words": ["a", " "]}, 400, "word 2 is empty"),
        ("parse", {"model": "parser", "words": ["a"] * 2000}, 400, "words"),
        ("parse", {"model": "parser", "words": ["ab" * 200]}, 400, "400 tokens"),
        ("parse", {"model": "rater", "text": "a"}, 400, "parse"),
        ("generate", {"model": "../etc", "prompt": "x"}, 400, "not a valid name"),
        ("generate", {"model": "a b", "prompt": "x"}, 400, "not a valid name"),
        ("generate", {"model": "writer:9", "prompt": "x"}, 404, "no version 9"),
        ("generate", {"model": "writer", "prompt": "x" * 300}, 400, "300 tokens"),
        ("generate", {"model": "writer", "prompt": "x", "max_tokens": -1}, 400, "'max_tokens'"),
        ("generate", {"model": "writer", "prompt": "x", "temperature": "hot"}, 400, "temperature"),
        ("generate", {"model": "writer", "prompt": "x", "n": 10**6}, 400, "'n'"),
        ("generate", {"model": "writer", "prompt": "x", "tempreature": 1}, 400, "tempreature"),
        ("generate", {"model": "writer", "prompt": ""}, 400, "empty"),
        ("generate", {"model": "writer", "prompt": [10**9]}, 400, "1000000000"),
        ("generate", {"model": "writer", "prompt": [1, -1]}, 400, "prompt"),
        ("generate", {"model": "writer", "prompt": [1, 10**30]}, 400, "'prompt.1'"),
        ("generate", {"model": "writer", "prompt": ["9" * 30]}, 400, "prompt"),
        ("generate", {"model": "writer", "prompt": "x", "top_k": 10**30}, 400, "'top_k'"),
        ("generate", {"model": "writer", "prompt": "x", "top_k": "9" * 30}, 400, "'top_k'"),
        ("generate", {"model": "writer", "prompt": "x", "top_k": 2**31}, 400, "'top_k'"),
        ("generate", {"model": "writer", "prompt": "x", "max_tokens": 10**30}, 400, "'max_tokens'"),
        ("generate", {"model": "writer", "prompt": "x", "max_tokens": 2**31}, 400, "'max_tokens'"),
        ("generate", {"model": "writer", "prompt": "x", "seed": 10**30}, 400, "'seed'"),
        ("generate", {"model": "writer", "prompt": "x", "temperature": 10**30}, 400, "temperature"),
        (
            "translate",
            {"text": "x", "source_lang": "en", "target_lang": "zh", "max_tokens": 2**31},
            400,
            "'max_tokens'",
        ),
        (
            "translate",
            {"text": "x", "source_lang": "en", "target_lang": "zh", "num_beams": 10**30},
            400,
            "'num_beams'",
        ),
        ("generate", {"model": "writer"}, 400, "either prompt or messages"),
        ("generate", {"model": "writer", "messages": []}, 400, "'messages'"),
        ("generate", {"prompt": "x"}, 400, "'model' is missing"),
        (
            "generate",
            {"model": "writer", "messages": [{"role": "user", "content": "x"}]},
            400,
            "completions",
        ),
        ("generate", {"model": "judge", "prompt": "x"}, 400, "'classify'"),
        ("translate", {"model": "translator", "text": "x"}, 400, "'source_lang' is missing"),
        (
            "translate",
            {"model": "translator", "text": "x", "source_lang": "en", "target_lang": "fr"},
            400,
            "en to zh, zh to en",
        ),
        ("classify", {"model": "judge", "text": ""}, 400, "empty"),
        ("classify", {"model": "judge", "text": "x" * 300}, 400, "300 tokens"),
        ("entities", {"model": "nobody", "text": "x"}, 404, "nobody"),
        (
            "classify",
            {"model": "judge", "text": "x", "labels": ["a", "b"]},
            400,
            "Labels of your own need a model that embeds",
        ),
        ("classify", {"text": "x", "labels": ["a", "b"]}, 404, "no model for embed"),
        ("classify", {"model": "judge", "text": "x", "labels": ["a"]}, 400, "'labels'"),
        ("classify", {"model": "judge", "text": "x", "labels": ["a", "b" * 1001]}, 400, "labels.1"),
        ("classify", {"model": "judge", "text": "x", "template": "a {}"}, 400, "is for labels"),
        ("classify", [], 400, "not valid"),
    ],
)
async def test_bad_input_gets_one_clear_sentence(
    client: httpx.AsyncClient, path: str, body: Any, status: int, says: str
) -> None:
    response = await client.post(f"/api/v1/{path}", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert says in error["message"]
    assert "\n" not in error["message"]


async def test_a_stream_that_cannot_begin_has_the_right_status(client: httpx.AsyncClient) -> None:
    asked = {"model": "writer", "prompt": "x" * 300, "stream": True}
    response = await client.post("/api/v1/generate", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 50_000, b'{"a": NaN'])
async def test_invalid_json_is_a_400(client: httpx.AsyncClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/generate", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_half_characters_are_refused(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (
        b'{"model": "writer", "prompt": "\\ud800"}',
        b'{"model": "\\ud800", "prompt": "x"}',
    ):
        response = await client.post("/api/v1/generate", content=body, headers=headers)
        assert response.status_code == 400
