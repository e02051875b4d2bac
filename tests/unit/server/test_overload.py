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


async def test_a_tenant_that_fills_the_queue_keeps_no_other_out(
    client: httpx.AsyncClient, new_client: Callable[..., httpx.AsyncClient], system: Any
) -> None:
    served = await system.tasks.serve("writer", {"generate"})
    body = {"model": "writer", "prompt": PROMPT, "max_tokens": 100}

    async def status(asker: httpx.AsyncClient, num_answers: int) -> int:
        answer = await asker.post("/v1/completions", json={**body, "n": num_answers})
        return answer.status_code

    async with system.kernel.residency.lease(served.spec, tenant="admin", num_works=MAX_QUEUE):
        other = new_client("user", name="other")
        assert await status(client, 1) == 429
        assert await status(other, MAX_QUEUE // 2 + 1) == 429
        assert await status(other, MAX_QUEUE // 2) == 200
    assert await status(client, MAX_QUEUE) == 200


async def test_a_request_for_too_many_answers_is_refused_by_name(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "writer", "prompt": ["a"] * 3, "n": 128}
    answer = await client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


async def test_more_than_the_queue_ever_takes_is_a_mistake_not_a_wait(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "writer", "prompt": PROMPT, "max_tokens": 5}
    for extra, param in (({"n": MAX_QUEUE + 1}, "n"), ({"prompt": ["a"] * 5}, "prompt")):
        answer = await client.post("/v1/completions", json={**body, **extra})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = await client.post("/v1/completions", json={**body, "n": MAX_QUEUE})
    assert answer.status_code == 200
