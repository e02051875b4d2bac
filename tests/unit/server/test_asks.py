"""What jobs ask is answered by the same routes, on the terms of whoever submitted them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from llmos.kernel.jobs import Job
from llmos.kernel.protocol import Answer, JobAsk
from llmos.kernel.quotas import Limits
from llmos.security.actors import Actor
from llmos.server.app import create_app
from llmos.server.asks import KEY_CHECKED_S, RouteAnswers
from llmos.types import Priority

pytestmark = pytest.mark.asyncio(loop_scope="module")
USER = Actor("key-1", "user", "user")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def app(system: Any) -> Any:
    return create_app(system)


@pytest.fixture
def answerer(app: Any) -> RouteAnswers:
    """Answers, the keys of whoever asks being good."""
    return RouteAnswers(app, lambda key_id: None)


async def job_of(
    system: Any, actor: Actor | None = USER, priority: Priority = Priority.BATCH
) -> Job:
    """Return a job that was submitted by an actor; None: it may not ask."""
    asker = None if actor is None else actor.to_dict()
    return await system.kernel.jobs.submit(
        "train", {}, owner="user", priority=priority, asker=asker
    )


def complete(**fields: Any) -> JobAsk:
    body = {"model": "writer", "prompt": "hi"} | fields
    return JobAsk(1, "/v1/completions", json.dumps(body).encode())


def error(answer: Answer) -> dict[str, Any]:
    return json.loads(answer.body)["error"]


async def test_an_ask_is_answered_as_a_request_would_be(system: Any, answerer: Any) -> None:
    answer = await answerer(await job_of(system), complete())
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["text"] == "hi"
    assert len(answer.request_id) == 32


async def test_without_a_body_it_reads(system: Any, answerer: Any) -> None:
    answer = await answerer(await job_of(system), JobAsk(1, "/v1/files?limit=1", None))
    assert json.loads(answer.body)["data"] == []


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (complete(temperature=9), 400, "invalid_request"),
        (complete(model="nothing"), 404, "model_not_found"),
        (JobAsk(1, "/v1/completions", b"{"), 400, "invalid_request"),
        (JobAsk(1, "/v1/nothing", b"{}"), 404, "not_found"),
        (JobAsk(1, "/v1/completions", b" " * 200_000), 413, "request_too_large"),
        (JobAsk(1, "/api/v1/shutdown", b"{}"), 403, "permission_denied"),
    ],
)
async def test_mistakes_are_answers_with_their_status(
    system: Any, answerer: Any, ask: JobAsk, status: int, code: str
) -> None:
    answer = await answerer(await job_of(system), ask)
    assert (answer.status, error(answer)["code"]) == (status, code)


async def test_a_jobs_asks_are_held_to_the_key_that_submitted_it(
    system: Any, answerer: Any
) -> None:
    limited = Actor("key-2", "user", "user", models=frozenset({"talker"}))
    job = await job_of(system, limited)
    assert (await answerer(job, complete())).status == 403
    limited = Actor("key-3", "user", "user", actions=frozenset({"models.read"}))
    assert (await answerer(await job_of(system, limited), complete())).status == 403


async def test_asks_run_at_the_jobs_class_and_in_no_better_one(
    system: Any, answerer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Priority] = []
    lease = system.kernel.residency.lease

    def recorded(spec: Any, priority: Priority, *args: Any, **options: Any) -> Any:
        seen.append(priority)
        return lease(spec, priority, *args, **options)

    monkeypatch.setattr(type(system.kernel.residency), "lease", staticmethod(recorded))
    job = await job_of(system)
    assert (await answerer(job, complete())).status == 200
    assert (await answerer(job, complete(priority="background"))).status == 200
    assert seen == [Priority.BATCH, Priority.BACKGROUND]
    answer = await answerer(job, complete(priority="standard"))
    assert (answer.status, error(answer)["param"]) == (403, "priority")
    late = Actor("key-4", "user", "user", best_priority=Priority.BACKGROUND)
    assert (await answerer(await job_of(system, late), complete())).status == 200
    assert seen[-1] is Priority.BACKGROUND


async def test_a_job_that_was_given_no_terms_may_ask_nothing(system: Any, answerer: Any) -> None:
    answer = await answerer(await job_of(system, None), complete())
    assert (answer.status, error(answer)["code"]) == (403, "permission_denied")


async def test_a_key_that_is_revoked_is_refused_within_a_second(system: Any, app: Any) -> None:
    now, looks = 0.0, 0

    def look_up(key_id: str) -> object:
        nonlocal looks
        looks += 1
        return system.keys.actor_of(key_id)

    info, _ = system.keys.create("rita")
    job = await job_of(system, Actor(info.id, "rita", "user"))
    answerer = RouteAnswers(app, look_up, lambda: now)
    answers = await asyncio.gather(*(answerer(job, complete()) for _ in range(5)))
    assert ({answer.status for answer in answers}, looks) == ({200}, 1)
    system.keys.revoke(info.id)
    now += KEY_CHECKED_S
    for _ in range(2):
        answer = await answerer(job, complete())
        assert (answer.status, error(answer)["code"]) == (401, "invalid_api_key")
    assert looks == 2


async def test_the_server_looks_the_keys_of_jobs_up(system: Any, app: Any) -> None:
    answer = await system.kernel.workers.answerer(await job_of(system), complete())
    assert answer.status == 401


async def test_backpressure_says_when_to_come_again(system: Any, answerer: Any) -> None:
    await system.kernel.accounts.set_limits("busy", Limits(tokens_per_day=1), "admin")
    refused = await answerer(await job_of(system, Actor("key-5", "busy", "user")), complete())
    assert refused.status == 429
    assert refused.retry_after_s >= 1


async def test_what_jobs_ask_leaves_no_line_in_the_log(
    system: Any, answerer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = await job_of(system)
    with caplog.at_level(logging.INFO):
        await answerer(job, complete())
        assert "/v1/completions" not in caplog.text
        await answerer(job, complete(temperature=9))
        assert "POST /v1/completions 400" in caplog.text


@pytest.mark.parametrize(
    "actor",
    [
        USER,
        Actor("a", "b", "admin", frozenset({"x", "y"}), frozenset({"m"}), Priority.BACKGROUND),
    ],
)
async def test_an_actor_is_kept_with_a_job_whole(actor: Actor) -> None:
    assert Actor.from_dict(json.loads(json.dumps(actor.to_dict()))) == actor
