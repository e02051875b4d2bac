"""What goes wrong in a step: it is one row's failure where it can be, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from tests.unit.engines.native.test_engine import prompt_of, work
from tests.unit.engines.simulated import drain, expected_tokens, make_engine

from llmos.engines.base import DeviceLostError
from llmos.engines.native import execution
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.compiling import CompilingWorks
from llmos.engines.native.engine import NativeEngine
from llmos.errors import EngineError, GrammarError
from llmos.types import Grammar, Priority, TokensOut

JSON = Grammar("json_object")


class Panic(BaseException):
    """As pyo3's: not an Exception."""


class State:
    """A grammar that allows all, until it panics."""

    is_finished = False
    error = None

    def __init__(self, panics_in: str = "") -> None:
        self.panics_in = panics_in

    def mask(self, scores: Any) -> None:
        if self.panics_in == "mask":
            raise Panic("mask")

    def accept(self, token_id: int) -> None:
        if self.panics_in == "accept":
            raise Panic("accept")


class Grammars:
    """Compiles when the test says so."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def start(self, *args: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        pass


def with_grammars(**options: Any) -> tuple[NativeEngine, Grammars]:
    engine, _ = make_engine(**options)
    grammars = Grammars()
    engine._compiling = CompilingWorks(grammars, lambda: engine._wake())  # type: ignore[arg-type]
    return engine, grammars


def results(engine: NativeEngine) -> tuple[dict[str, list[int]], dict[str, Exception]]:
    """Step until there is no work; return the tokens and the errors of the rows."""
    tokens: dict[str, list[int]] = {}
    errors: dict[str, Exception] = {}
    for _ in range(200):
        if not engine.has_work:
            return tokens, errors
        for work_id, out in engine.step():
            if isinstance(out, TokensOut):
                tokens.setdefault(work_id, []).extend(p.token_id for p in out.pieces)
            else:
                assert isinstance(out, Exception)
                errors[work_id] = out
    raise AssertionError("the engine does not come to an end")


# -- sampling --------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_sampled_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = execution.sample

    def choosy(logits: torch.Tensor, rows: Sequence[Any]) -> Any:
        if any(row.choice == 7 and row.position == 2 for row in rows):
            raise IndexError("no such token")
        return sample(logits, rows)

    monkeypatch.setattr(execution, "sample", choosy)
    engine, _ = make_engine()
    works = {str(i): work(prompt_of(9, i), 6, choice=i) for i in (6, 7, 8)}
    for name, asked in works.items():
        engine.submit(name, asked)
    tokens, errors = results(engine)
    assert {name: type(error) for name, error in errors.items()} == {"7": EngineError}
    assert tokens["7"] == expected_tokens(works["7"])[:2]
    assert {name: tokens[name] for name in "68"} == {n: expected_tokens(works[n]) for n in "68"}
    assert engine.stats().kv_used_blocks == 0


def test_a_prompt_that_cannot_be_scored_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Any:
        raise IndexError("no such token")

    monkeypatch.setattr(execution, "prompt_logprobs", fails)
    engine, _ = make_engine()
    good = work(prompt_of(9), 6)
    engine.submit("scored", work(prompt_of(9, 1), 6, prompt_logprobs=2))
    engine.submit("good", good)
    tokens, errors = results(engine)
    assert (tokens, set(errors)) == ({"good": expected_tokens(good)}, {"scored"})


@pytest.mark.parametrize("where", ["mask", "accept"])
def test_a_grammar_that_panics_fails_its_row_alone(where: str) -> None:
    engine, grammars = with_grammars()
    good = work(prompt_of(9), 6)
    engine.submit("good", good)
    engine.submit("bad", work(prompt_of(9, 1), 6, grammar=JSON))
    grammars.futures[0].set_result(State(panics_in=where))
    tokens, errors = results(engine)
    assert (tokens, set(errors)) == ({"good": expected_tokens(good)}, {"bad"})
    assert isinstance(errors["bad"], EngineError)


# -- computing -------------------------------------------------------------------------------------


def test_what_a_failed_step_did_not_compute_is_found_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, runner = make_engine(max_step_tokens=12, speculates=False)
    asked = work(prompt_of(30), 3)
    engine.submit("a", asked)
    engine.step()

    def fails(chunks: Sequence[RowChunk]) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run", fails)
        with pytest.raises(RuntimeError):
            engine.step()
    engine.cancel("a")
    assert engine.stats().kv_used_blocks == 0
    engine.submit("b", asked)
    engine.step()
    assert runner.steps[-1][1][0].start == 12  # the first step's blocks are good
    assert drain(engine)["b"] == expected_tokens(asked)


def test_after_a_failed_step_the_rows_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, runner = make_engine(max_step_tokens=12)
    works = {str(i): work(prompt_of(20, i), 9) for i in range(3)}
    for name, asked in works.items():
        engine.submit(name, asked)
    run, numbers = runner.run, iter(range(1000))

    def fails_at_times(chunks: Sequence[RowChunk]) -> torch.Tensor:
        if next(numbers) % 3 == 1:
            raise RuntimeError("out of memory")
        return run(chunks)

    monkeypatch.setattr(runner, "run", fails_at_times)
    tokens: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(200):
        try:
            for name, out in engine.step() if engine.has_work else ():
                assert isinstance(out, TokensOut)
                tokens[name] += [piece.token_id for piece in out.pieces]
        except RuntimeError:
            continue
    assert tokens == {name: expected_tokens(asked) for name, asked in works.items()}


def test_a_lost_device_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, runner = make_engine()

    def fails(chunks: Sequence[RowChunk]) -> torch.Tensor:
        raise torch.AcceleratorError("gone")

    monkeypatch.setattr(runner, "run", fails)
    engine.submit("a", work(prompt_of(9)))
    with pytest.raises(DeviceLostError):
        engine.step()


def test_a_chunk_asks_for_no_logits_that_are_not_there() -> None:
    assert RowChunk("a", [1, 2], 0, [0], 2).num_logits == 2
    for num_logits in (-1, 3):
        with pytest.raises(AssertionError):
            RowChunk("a", [1, 2], 0, [0], num_logits)


def test_a_prompt_preempted_while_it_is_scored_is_scored_once() -> None:
    engine, _ = make_engine(max_rows=2, max_step_tokens=12, speculates=False)
    asked = work(prompt_of(40), 3, priority=Priority.BATCH, prompt_logprobs=1)
    other = work(prompt_of(5, 3), 12, priority=Priority.BATCH)
    engine.submit("other", other)
    engine.submit("scored", asked)
    outs = [out for _ in range(3) for out in engine.step()]
    engine.submit("now", work(prompt_of(4, 1), 1, priority=Priority.INTERACTIVE))
    outs += engine.step()
    assert engine.stats().preemptions[Priority.BATCH] == 1
    while engine.has_work:
        outs += engine.step()
    tokens: dict[str, list[int]] = {"other": [], "scored": [], "now": []}
    scored: list[int] = []
    for name, out in outs:
        assert isinstance(out, TokensOut)
        tokens[name] += [piece.token_id for piece in out.pieces]
        scored += [piece.token_id for piece in out.prompt]
    assert (tokens["scored"], tokens["other"]) == (expected_tokens(asked), expected_tokens(other))
    assert scored == list(asked.prompt_ids[1:])


# -- compiling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("id 999"), Panic("id 999"), GrammarError("id 999")])
def test_what_goes_wrong_in_compiling_fails_that_work_alone(error: BaseException) -> None:
    engine, grammars = with_grammars()
    good = work(prompt_of(9), 6)
    engine.submit("good", good)
    engine.submit("bad", work(prompt_of(9, 1), 6, grammar=JSON))
    grammars.futures[0].set_exception(error)
    tokens, errors = results(engine)
    assert (tokens, set(errors)) == ({"good": expected_tokens(good)}, {"bad"})
    assert isinstance(errors["bad"], EngineError | GrammarError)
    assert "id 999" in str(errors["bad"])


def test_a_work_that_is_only_compiling_is_none_for_a_step_and_wakes_the_host() -> None:
    engine, grammars = with_grammars()
    woken: list[bool] = []
    engine.set_waker(lambda: woken.append(True))
    asked = work(prompt_of(9), 3, grammar=JSON)
    engine.submit("a", asked)
    assert (engine.has_work, woken) == (False, [])
    grammars.futures[0].set_result(State())
    assert (engine.has_work, woken) == (True, [True])
    assert drain(engine)["a"] == expected_tokens(asked)


def test_a_step_that_computes_nothing_is_nobodys() -> None:
    engine, _ = with_grammars()
    engine.submit("a", work(prompt_of(9), 1, tenant="innocent"))
    engine.step()
    assert engine.last_shares() == {"innocent": 1.0}
    engine.submit("g", work(prompt_of(9), 5, grammar=JSON, tenant="compiler"))
    engine.step()
    assert engine.last_shares() == {}
