"""The counters of the token path: what a work is charged, and when it may go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmos.errors import EngineError, QuotaExceededError
from llmos.kernel.leases import Lease
from llmos.kernel.protocol import Cancel, Submit
from llmos.kernel.quotas import Limits
from llmos.kernel.tabs import Account, Counts, Tab
from llmos.kernel.telemetry import Telemetry
from llmos.kernel.works import Works
from llmos.types import (
    EngineStats,
    GenerateWork,
    PipelineOut,
    PipelineWork,
    Priority,
    SamplingParams,
    TokenPiece,
    TokensOut,
)

WORK = GenerateWork((1, 2, 3), SamplingParams())


def tokens(count: int, finish_reason: Any = None, num_cached: int = 0) -> TokensOut:
    pieces = tuple(map(TokenPiece, range(count)))
    return TokensOut(pieces, finish_reason, num_cached=num_cached)


class Desk:
    """Works of one tenant at one model, and what was sent to the engine."""

    def __init__(self, **limits: Any) -> None:
        self.account = Account("alice")
        self.account.limit(Limits(**limits))
        self.tab = Tab(self.account, "m", lambda: 0.0)
        self.sent: list[Any] = []
        self.works = Works(self.sent.append, lambda live: True, lambda: 0.0)
        self.telemetry = Telemetry(lambda owner, model: self.tab)

    def lease(self) -> Lease:
        with self.telemetry.request("m:1", Priority.STANDARD, "alice") as metered:
            return Lease(
                lambda work, meter, deadline_at: self.works.add("m", work, meter, deadline_at),
                self.works.drop,
                metered,
                lambda: 1.0,
                max_works=8,
                deadline_at=None,
            )

    @property
    def submitted(self) -> list[str]:
        return [message.id for message in self.sent if isinstance(message, Submit)]


async def begun(desk: Desk, lease: Lease, work: GenerateWork = WORK) -> asyncio.Task[list[Any]]:
    """Begin a generation; it is in the engine then, unless it was refused."""

    async def read() -> list[Any]:
        return [out async for out in lease.generate(work)]

    task = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    return task


async def test_a_prompt_is_charged_when_it_is_sent_and_counted_when_it_was_read() -> None:
    desk = Desk()
    task = await begun(desk, desk.lease())
    assert (desk.account.tokens, desk.tab.counts.prompt_tokens) == (3, 0)
    (work_id,) = desk.submitted
    desk.works.take_output(work_id, tokens(0, num_cached=2))
    assert desk.tab.counts.prompt_tokens == 0
    desk.works.take_output(work_id, tokens(2))
    desk.works.take_output(work_id, tokens(1, "stop"))
    await task
    assert desk.account.tokens == 6
    assert desk.tab.counts == Counts(
        requests=1, prompt_tokens=3, cached_tokens=2, completion_tokens=3
    )


async def test_a_prompt_that_is_never_read_is_given_back() -> None:
    desk = Desk()
    task = await begun(desk, desk.lease())
    desk.works.fail(desk.submitted[0], EngineError())
    with pytest.raises(EngineError):
        await task
    assert desk.account.tokens == 0
    assert desk.tab.counts == Counts(requests=1)


async def test_choices_share_one_prompt_and_are_charged_for_it_once() -> None:
    desk = Desk()
    lease = desk.lease()
    tasks = [await begun(desk, lease) for _ in range(3)]
    for work_id in desk.submitted:
        desk.works.take_output(work_id, tokens(2, "length"))
    await asyncio.gather(*tasks)
    assert desk.account.tokens == 3 + 3 * 2
    assert (desk.tab.counts.prompt_tokens, desk.tab.counts.completion_tokens) == (3, 6)


async def test_every_row_of_a_forward_task_is_charged() -> None:
    desk = Desk()
    lease = desk.lease()
    rows = [asyncio.ensure_future(lease.run(PipelineWork("seq2seq", (1, 2)))) for _ in range(2)]
    await asyncio.sleep(0)
    for work_id in desk.submitted:
        desk.works.take_output(work_id, PipelineOut(token_ids=(7, 8, 9)))
    await asyncio.gather(*rows)
    assert (desk.tab.counts.prompt_tokens, desk.tab.counts.completion_tokens) == (4, 6)
    assert desk.account.tokens == 10


async def test_a_stream_ends_with_the_days_last_token_and_is_cancelled_in_the_engine() -> None:
    desk = Desk(tokens_per_day=6)
    task = await begun(desk, desk.lease())
    (work_id,) = desk.submitted
    desk.works.take_output(work_id, tokens(2))
    assert not any(isinstance(message, Cancel) for message in desk.sent)
    desk.works.take_output(work_id, tokens(1))
    with pytest.raises(QuotaExceededError, match="6 tokens of this day"):
        await task
    assert desk.sent[-1] == Cancel(work_id)
    assert desk.account.tokens == 6


async def test_an_answer_that_ends_with_the_days_last_token_is_whole() -> None:
    desk = Desk(tokens_per_day=6)
    task = await begun(desk, desk.lease())
    desk.works.take_output(desk.submitted[0], tokens(3, "stop"))
    (out,) = await task
    assert out.finish_reason == "stop"


@pytest.mark.parametrize("limits", [{"tokens_per_day": 3}, {"compute_s_per_day": 0}])
async def test_what_the_day_has_no_room_for_is_not_sent(limits: dict[str, Any]) -> None:
    desk = Desk(**limits)
    task = await begun(desk, desk.lease())
    with pytest.raises(QuotaExceededError):
        await task
    assert desk.sent == []
    assert desk.account.tokens == 0


async def test_prompts_that_wait_to_be_read_count_already() -> None:
    desk = Desk(tokens_per_day=9)
    tasks = [await begun(desk, desk.lease()) for _ in range(3)]
    with pytest.raises(QuotaExceededError):
        await tasks[2]
    assert len(desk.submitted) == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_compute_is_charged_to_whom_the_engine_says() -> None:
    tabs: dict[tuple[str, str], Tab] = {}

    def tab_of(owner: str, model: str) -> Tab:
        return tabs.setdefault((owner, model), Tab(Account(owner), model, lambda: 0.0))

    telemetry = Telemetry(tab_of)
    telemetry.took("m:1", EngineStats(), EngineStats(), {"a": 0.25, "b": 0.5})
    telemetry.took("m:1", EngineStats(), EngineStats(), {"a": 0.25})
    assert {owner: tab.counts.compute_s for (owner, _), tab in tabs.items()} == {"a": 0.5, "b": 0.5}
    assert tabs["a", "m:1"].account.compute_s == 0.5


@pytest.mark.parametrize(
    ("error", "failed"), [(None, 0), (EngineError(), 1), (asyncio.CancelledError(), 0)]
)
def test_a_request_counts_once_and_as_failed_unless_it_was_given_up(
    error: BaseException | None, failed: int
) -> None:
    tab = Tab(Account("a"), "m", lambda: 0.0)
    telemetry = Telemetry(lambda owner, model: tab)
    try:
        with telemetry.request("m:1", Priority.STANDARD, "a"):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert (tab.counts.requests, tab.counts.failed) == (1, failed)


def test_what_was_used_adds_up_and_unknown_energy_stays_unknown() -> None:
    total = Counts(requests=1, compute_s=0.5)
    total.add(Counts(requests=2, jobs=1, compute_s=0.25))
    assert total == Counts(requests=3, jobs=1, compute_s=0.75)
    total.add(Counts(joules=2.0))
    total.add(Counts())
    assert total.joules == 2.0
