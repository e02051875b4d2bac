"""More requests than the queue of a class takes: some are told to come back, the others finish."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_QUEUE = 4
PROMPT = "hello world"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    home = tmp_path_factory.mktemp("home")
    async with make_system(home, max_queue=MAX_QUEUE) as opened:
        yield opened


def complete(client: httpx.AsyncClient, priority: str) -> Any:
    body = {"model": "writer", "prompt": PROMPT, "max_tokens": 100, "priority": priority}
    return client.post("/v1/completions", json=body)


async def test_beyond_the_queue_of_a_class_requests_get_429_and_the_admitted_finish(
    client: httpx.AsyncClient,
) -> None:
    asked = ["standard"] * (MAX_QUEUE + 6) + ["batch"] * (MAX_QUEUE - 1)
    answers = await asyncio.gather(*(complete(client, priority) for priority in asked))
    pairs = zip(asked, answers, strict=True)
    outcomes = Counter((priority, answer.status_code) for priority, answer in pairs)
    assert outcomes == {
        ("standard", 200): MAX_QUEUE,
        ("standard", 429): 6,
        ("batch", 200): MAX_QUEUE - 1,
    }
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["text"] == PROMPT
            continue
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("overloaded", "rate_limit_error")
    again = await asyncio.gather(*(complete(client, "standard") for _ in range(MAX_QUEUE)))
    assert [answer.status_code for answer in again] == [200] * MAX_QUEUE
