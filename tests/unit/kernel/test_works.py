from __future__ import annotations

import asyncio
import logging

import pytest

from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
)
from llmos.kernel.deferring import DEFER_S
from llmos.kernel.protocol import Cancel, Submit, encode
from llmos.kernel.works import LiveWork, Works
from llmos.types import (
    GenerateWork,
    PipelineOut,
    PipelineWork,
    Priority,
    SamplingParams,
    TokenPiece,
    TokensOut,
)


class Engine:
    """Takes what is sent, and says which models are loaded."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.loaded = {"m"}
        self.now = 0.0
        self.works = Works(self.send, lambda live: live.key in self.loaded, lambda: self.now)

    def send(self, message: Submit | Cancel) -> None:
        encode(message)
        self.sent.append(message)

    def restart(self) -> None:
        self.loaded.clear()
        self.works.engine_died("was killed by SIGKILL")
        self.loaded.add("m")
        self.works.dispatch()

    def taken(self) -> list[str]:
        """Return the ids submitted since the last call."""
        ids = [message.id for message in self.sent if isinstance(message, Submit)]
        self.sent.clear()
        return ids


@pytest.fixture
def engine() -> Engine:
    return Engine()


def stream(engine: Engine, *prompt: int) -> LiveWork:
    return engine.works.add("m", GenerateWork(prompt, SamplingParams()))


def token(number: int) -> TokensOut:
    return TokensOut((TokenPiece(number),))


async def test_work_waits_for_its_model(engine: Engine) -> None:
    engine.loaded.clear()
    live = stream(engine, 1)
    assert engine.taken() == []
    engine.loaded.add("m")
    engine.works.dispatch()
    engine.works.dispatch()
    assert engine.taken() == [live.id]


async def test_outputs_are_passed_on_and_the_last_one_ends_the_work(engine: Engine) -> None:
    live = stream(engine, 1)
    engine.works.take_output(live.id, token(5))
    engine.works.take_output(live.id, TokensOut(finish_reason="stop"))
    engine.works.take_output(live.id, token(6))
    assert await live.next() == TokensOut((TokenPiece(5),), "stop")
    assert engine.works.of("m") == []
    row = engine.works.add("m", PipelineWork("classify", (1,)))
    engine.works.take_output(row.id, PipelineOut())
    assert await row.next() == PipelineOut()
    assert engine.works.of("m") == []


async def test_an_error_of_the_engine_is_raised_as_it_is(engine: Engine) -> None:
    live = stream(engine, 1)
    engine.works.fail(live.id, ContextLengthError("too long"))
    with pytest.raises(ContextLengthError, match="too long"):
        await live.next()


async def test_dropping_sent_work_cancels_it_and_finished_work_does_not(engine: Engine) -> None:
    live, done = stream(engine, 1), stream(engine, 1)
    engine.works.take_output(done.id, TokensOut(finish_reason="stop"))
    engine.sent.clear()
    engine.works.drop(live)
    engine.works.drop(live)
    engine.works.drop(done)
    assert engine.sent == [Cancel(live.id)]
    with pytest.raises(EngineError, match="given up"):
        await live.next()


async def test_a_death_is_logged_with_what_becomes_of_the_work(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    stream(engine, 1)
    stream(engine, 2)
    with caplog.at_level(logging.WARNING, "llmos"):
        engine.restart()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    expected = "the engine was killed by SIGKILL: 2 works go on in the next one, 0 are given up"
    assert record.message == expected


async def test_after_a_death_work_goes_on_after_the_tokens_it_gave(engine: Engine) -> None:
    live = engine.works.add("m", GenerateWork((1,), SamplingParams(), generated_ids=(7,)))
    engine.works.take_output(live.id, TokensOut((TokenPiece(8), TokenPiece(9))))
    engine.sent.clear()
    engine.restart()
    (message,) = engine.sent
    assert message.id == live.id
    assert message.work.generated_ids == (7, 8, 9)


async def test_three_deaths_in_a_row_are_too_many(engine: Engine) -> None:
    live = stream(engine, 1)
    for _ in range(2):
        engine.restart()
        engine.works.take_output(live.id, token(5))
    for _ in range(3):
        engine.restart()
    assert await live.next() == TokensOut((TokenPiece(5), TokenPiece(5)))
    with pytest.raises(EngineError, match="was killed by SIGKILL, 3 times in a row"):
        await live.next()


async def test_suspects_are_tried_one_at_a_time_so_the_culprit_fails_alone(engine: Engine) -> None:
    innocent, culprit, third = stream(engine, 1), stream(engine, 666), stream(engine, 3)
    engine.restart()
    engine.taken()
    engine.restart()
    assert engine.taken() == [innocent.id]
    fresh = stream(engine, 4)
    assert engine.taken() == [fresh.id]
    engine.works.take_output(innocent.id, token(1))
    assert engine.taken() == [culprit.id]
    engine.restart()
    with pytest.raises(EngineError):
        while True:
            await culprit.next()
    assert engine.taken() == [innocent.id, third.id, fresh.id]
    assert (innocent.deaths, third.deaths, fresh.deaths) == (1, 2, 1)


async def test_a_suspect_that_is_given_up_lets_the_next_go(engine: Engine) -> None:
    first, second = stream(engine, 1), stream(engine, 2)
    engine.restart()
    engine.restart()
    engine.taken()
    engine.works.drop(first)
    assert engine.taken() == [second.id]


async def test_work_that_cannot_be_encoded_fails_alone_and_is_gone(engine: Engine) -> None:
    engine.loaded.clear()
    before, huge, after = stream(engine, 1), stream(engine, 2**64), stream(engine, 3)
    engine.loaded.add("m")
    engine.works.dispatch()
    assert engine.taken() == [before.id, after.id]
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        await huge.next()
    assert engine.works.of("m") == [before, after]
    engine.restart()
    assert engine.taken() == [before.id, after.id]


async def test_a_suspect_that_cannot_be_encoded_any_more_lets_the_next_go(engine: Engine) -> None:
    first, second = stream(engine, 1), stream(engine, 2)
    engine.restart()
    first.generated_ids.append(2**64)
    engine.loaded.clear()
    engine.works.engine_died("was killed by SIGKILL")
    engine.taken()
    engine.loaded.add("m")
    engine.works.dispatch()
    assert engine.taken() == [second.id]
    assert (first.state, second.state) == ("ended", "sent")


async def test_what_comes_while_the_reader_is_elsewhere_is_one_output(engine: Engine) -> None:
    live = stream(engine, 1)
    prompt = (TokenPiece(7, -1.0),)
    engine.works.take_output(live.id, TokensOut(prompt=prompt, num_cached=3))
    for number in (5, 6):
        engine.works.take_output(live.id, token(number))
    engine.works.fail(live.id, EngineError("gone"))
    pieces = (TokenPiece(5), TokenPiece(6))
    assert await live.next() == TokensOut(pieces, None, prompt, 3)
    with pytest.raises(EngineError, match="gone"):
        await live.next()


async def test_a_deadline_ends_a_work_wherever_it_is(engine: Engine) -> None:
    sent = engine.works.add("m", GenerateWork((1,), SamplingParams()), deadline_at=engine.now)
    waiting = engine.works.add("n", GenerateWork((1,), SamplingParams()), deadline_at=engine.now)
    for live in (sent, waiting):
        with pytest.raises(DeadlineExceededError):
            await live.next()
    assert engine.sent[1:] == [Cancel(sent.id)]
    assert engine.works.of("m") == engine.works.of("n") == []


async def test_an_engine_is_told_what_is_left_of_the_deadline(engine: Engine) -> None:
    live = engine.works.add("m", GenerateWork((1,), SamplingParams()), deadline_at=1000.0)
    engine.now = 400.0
    engine.restart()
    left = [m.work.deadline_s for m in engine.sent if isinstance(m, Submit)]
    assert left == [1000.0, 600.0]
    engine.works.drop(live)


async def test_the_oldest_work_in_the_engine_says_since_when_it_has_any(engine: Engine) -> None:
    assert engine.works.oldest_sent_at() is None
    engine.now = 3.0
    first = stream(engine, 1)
    engine.now = 5.0
    stream(engine, 2)
    assert engine.works.oldest_sent_at() == 3.0
    engine.works.drop(first)
    assert engine.works.oldest_sent_at() == 5.0


async def test_what_is_wanted_whole_comes_at_its_end_all_at_once(engine: Engine) -> None:
    live = engine.works.add("m", GenerateWork((1,), SamplingParams(), is_whole=True))
    waiting = asyncio.ensure_future(live.next())
    for number in (7, 8):
        engine.works.take_output(live.id, token(number))
        await asyncio.sleep(0)
        assert not waiting.done()
    engine.works.take_output(live.id, TokensOut((TokenPiece(9),), "stop"))
    out = await waiting
    assert isinstance(out, TokensOut)
    assert ([piece.token_id for piece in out.pieces], out.finish_reason) == ([7, 8, 9], "stop")


async def test_what_is_wanted_whole_and_fails_says_so_after_what_came(engine: Engine) -> None:
    live = engine.works.add("m", GenerateWork((1,), SamplingParams(), is_whole=True))
    waiting = asyncio.ensure_future(live.next())
    engine.works.take_output(live.id, token(7))
    engine.works.fail(live.id, EngineError("broken"))
    assert isinstance(await waiting, TokensOut)
    with pytest.raises(EngineError, match="broken"):
        await live.next()


def of_class(engine: Engine, key: str, priority: Priority) -> LiveWork:
    return engine.works.add(key, GenerateWork((1,), SamplingParams(), priority=priority))


async def test_lower_classes_wait_for_urgent_works_of_other_models(engine: Engine) -> None:
    engine.loaded |= {"n"}
    urgent = of_class(engine, "m", Priority.STANDARD)
    beside = of_class(engine, "m", Priority.BATCH)
    deferred = of_class(engine, "n", Priority.BACKGROUND)
    also_urgent = of_class(engine, "n", Priority.INTERACTIVE)
    assert engine.taken() == [urgent.id, beside.id, also_urgent.id]
    engine.works.take_output(also_urgent.id, TokensOut(finish_reason="stop"))
    assert engine.taken() == [], "the other model still has an urgent one"
    engine.works.take_output(urgent.id, TokensOut(finish_reason="stop"))
    assert engine.taken() == [deferred.id]
    engine.works.drop(beside)
    engine.works.drop(deferred)


async def test_a_work_is_not_deferred_for_ever(engine: Engine) -> None:
    engine.loaded |= {"n"}
    of_class(engine, "m", Priority.INTERACTIVE)
    deferred = of_class(engine, "n", Priority.BATCH)
    engine.taken()
    assert deferred.defer_timer is not None, "it goes of itself"
    due_s = deferred.defer_timer.when() - asyncio.get_running_loop().time()
    assert DEFER_S - 1 < due_s <= DEFER_S
    engine.now = DEFER_S
    engine.works.dispatch()
    assert engine.taken() == [deferred.id]
    engine.works.drop(deferred)
    assert deferred.defer_timer.cancelled()


async def test_deferred_works_are_accounted_for_when_the_engine_dies(engine: Engine) -> None:
    engine.loaded |= {"n"}
    urgent = of_class(engine, "m", Priority.STANDARD)
    deferred = of_class(engine, "n", Priority.BATCH)
    for _ in range(3):
        engine.loaded.add("n")
        engine.works.engine_died("was killed")
        engine.works.dispatch()
    with pytest.raises(EngineError):
        await urgent.next()
    engine.works.dispatch()
    assert engine.taken()[-1] == deferred.id


async def test_a_model_that_is_to_be_evicted_ends_its_works_first(engine: Engine) -> None:
    leaving: set[str] = set()
    works = Works(engine.send, lambda live: True, lambda: 0.0, leaving.__contains__)
    urgent = works.add("m", GenerateWork((1,), SamplingParams()))
    deferred = works.add("n", GenerateWork((1,), SamplingParams(), priority=Priority.BATCH))
    assert engine.taken() == [urgent.id]
    leaving.add("n")
    works.dispatch()
    assert engine.taken() == [deferred.id]
    works.drop(deferred)
