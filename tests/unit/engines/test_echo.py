"""The fake engine gives back what it is given, one token a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.engines.echo import EchoEngine
from llmos.errors import ContextLengthError
from llmos.types import GenerateWork, PipelineOut, PipelineWork, SamplingParams, TokensOut


def run(work: GenerateWork | PipelineWork, **manifest: Any) -> list[Any]:
    engine = EchoEngine()
    engine.load(Path("nowhere"), manifest, "cpu", 1)
    engine.submit("a", work)
    outs = []
    while engine.has_work:
        outs += [out for _, out in engine.step()]
    return outs


def tokens(outs: list[TokensOut]) -> list[int]:
    return [piece.token_id for out in outs for piece in out.pieces]


def test_the_prompt_comes_back_one_token_a_step() -> None:
    outs = run(GenerateWork((5, 6, 7), SamplingParams()))
    assert tokens(outs) == [5, 6, 7]
    assert [out.finish_reason for out in outs] == [None, None, None, "stop"]


def test_max_tokens_end_it_with_length() -> None:
    outs = run(GenerateWork((5, 6, 7), SamplingParams(max_tokens=2)))
    assert (tokens(outs), outs[-1].finish_reason) == ([5, 6], "length")


def test_with_ignore_eos_it_starts_over() -> None:
    sampling = SamplingParams(max_tokens=5, ignore_eos=True)
    assert tokens(run(GenerateWork((5, 6), sampling, eos_ids=(6,)))) == [5, 6, 5, 6, 5]


def test_it_resumes_where_it_was() -> None:
    outs = run(GenerateWork((5, 6, 7), SamplingParams(), generated_ids=(5, 6)))
    assert (tokens(outs), outs[-1].finish_reason) == ([7], "stop")


def test_an_end_token_stops_it() -> None:
    outs = run(GenerateWork((5, 6, 7), SamplingParams(), eos_ids=(6,)))
    assert (tokens(outs), outs[-1].finish_reason) == ([5], "stop")


def test_its_context_is_bounded() -> None:
    outs = run(GenerateWork((5, 6), SamplingParams(ignore_eos=True)), context_tokens=5)
    assert (tokens(outs), outs[-1].finish_reason) == ([5, 6, 5], "length")
    with pytest.raises(ContextLengthError):
        run(GenerateWork((5,) * 5, SamplingParams()), context_tokens=5)


def test_logprobs_are_certain() -> None:
    (piece, *_), *_ = (out.pieces for out in run(GenerateWork((5,), SamplingParams(logprobs=1))))
    assert (piece.logprob, piece.top) == (0.0, ((5, 0.0),))


def test_pipeline_works_have_a_result_of_the_right_shape() -> None:
    labels = ["a", "b", "c"]
    assert run(PipelineWork("seq2seq", (4, 5))) == [PipelineOut(token_ids=(4, 5))]
    assert run(PipelineWork("classify", (4, 5)), labels=labels) == [
        PipelineOut(scores=((0.0, 0.0, 1.0),))
    ]
    assert run(PipelineWork("token_classify", (4, 5)), labels=labels) == [
        PipelineOut(scores=((0.0, 0.0, 1.0),) * 2)
    ]


def test_nothing_more_comes_from_a_cancelled_work() -> None:
    engine = EchoEngine()
    for name in ("a", "b"):
        engine.submit(name, GenerateWork((5, 6), SamplingParams()))
    engine.step()
    engine.cancel("a")
    engine.cancel("unknown")
    assert {name for name, _ in engine.step()} == {"b"}


def test_a_step_takes_as_long_as_the_manifest_says(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("llmos.engines.echo.time.sleep", naps.append)
    run(GenerateWork((5, 6), SamplingParams()), step_s=0.1)
    assert naps == [0.1, 0.1, 0.1]
