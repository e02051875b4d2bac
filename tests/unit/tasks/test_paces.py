"""How long a model is expected to take: by its size first, by what was measured after."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from llmos.kernel.models import ModelSpec
from llmos.kernel.telemetry import Telemetry
from llmos.tasks.candidates import Candidate
from llmos.tasks.paces import CPU, GPU, MAX_TOKENS_PER_S, Paces
from llmos.types import Priority


def candidate(**facts: Any) -> Candidate:
    spec = ModelSpec("sha256:m", "native", "", {}, 10**9, "m:1")
    values: dict[str, Any] = {
        "ref": "m:1",
        "names": ("m",),
        "owner": "admin",
        "id": 1,
        "task": "chat",
        "spec": spec,
        "digest": "sha256:m",
        "base_digest": None,
        "parameters": 1_000_000_000,
        "weights_bytes": 2_000_000_000,
        "context_tokens": 2048,
        "labels": frozenset(),
        "languages": frozenset(),
        "pairs": frozenset(),
        "chat_template": "",
        "metrics": {},
        "data": (),
        "losses": {},
    }
    return Candidate(**{**values, **facts})


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def paces(telemetry: Telemetry) -> Paces:
    return Paces(telemetry, CPU)


def test_before_anything_was_measured_the_size_tells(telemetry: Telemetry, paces: Paces) -> None:
    pace = paces.of(candidate())
    assert pace.decode_tokens_per_s == pytest.approx(5.0)  # 10 GB/s over 2 GB
    assert pace.prefill_tokens_per_s == pytest.approx(25.0)  # 50 GFLOP/s over 2 GFLOP
    assert pace.load_s == pytest.approx(4.2)
    assert pace.service_s(50, 10) == pytest.approx(2.0 + 2.0)
    assert Paces(telemetry, GPU).of(candidate()).decode_tokens_per_s > 100
    unknown = paces.of(candidate(parameters=0, weights_bytes=0))
    assert unknown.decode_tokens_per_s == MAX_TOKENS_PER_S


def test_streams_tell_how_quickly_tokens_follow_each_other(
    telemetry: Telemetry, paces: Paces
) -> None:
    telemetry.of("m:1").classes[Priority.STANDARD].itl_s.observe(0.02, 300)
    telemetry.of("m:1").classes[Priority.BATCH].itl_s.observe(0.04, 100)
    assert paces.of(candidate()).decode_tokens_per_s == pytest.approx(400 / 10.0)


def test_first_tokens_tell_the_fixed_part_whatever_waited_for_a_load(
    telemetry: Telemetry, paces: Paces
) -> None:
    tally = telemetry.of("m:1").classes[Priority.STANDARD]
    tally.prompt_tokens = 5 * 10
    for seconds in (1.0, 1.0, 1.0, 1.0, 60.0):
        tally.ttft_s.observe(seconds)
    pace = paces.of(candidate())
    assert pace.prefill_tokens_per_s == pytest.approx(25.0)
    assert pace.base_s == pytest.approx(1.0 - 10 / 25.0)


def test_first_tokens_that_came_sooner_tell_a_quicker_machine(
    telemetry: Telemetry, paces: Paces
) -> None:
    tally = telemetry.of("m:1").classes[Priority.STANDARD]
    tally.prompt_tokens = 5000
    tally.ttft_s.observe(0.5, 5)
    pace = paces.of(candidate())
    assert (pace.base_s, pace.prefill_tokens_per_s) == (0.0, pytest.approx(2000.0))


def test_whole_answers_tell_where_nothing_streams(paces: Paces) -> None:
    one = candidate(task="translate")
    before = paces.of(one).service_s(10, 10)
    paces.took(one, 10, 10, before + 1.0)
    assert paces.of(one).base_s == pytest.approx(1.0)
    assert paces.of(one).service_s(10, 10) == pytest.approx(before + 1.0)
    quick = candidate(spec=dataclasses.replace(one.spec, key="sha256:q"))
    paces.took(quick, 10, 10, before / 4)
    assert paces.of(quick).service_s(10, 10) == pytest.approx(before / 4)
    assert paces.of(quick).service_s(20, 20) == pytest.approx(before / 2)


def test_later_answers_move_what_is_expected(paces: Paces) -> None:
    one = candidate()
    for _ in range(40):
        paces.took(one, 10, 10, 8.0)
    assert paces.of(one).service_s(10, 10) == pytest.approx(8.0)
    for _ in range(40):
        paces.took(one, 10, 10, 4.0)
    assert paces.of(one).service_s(10, 10) == pytest.approx(4.0, rel=0.01)


def test_a_load_is_expected_to_take_what_it_took(paces: Paces) -> None:
    paces.loaded("sha256:m", 7.5)
    assert paces.of(candidate()).load_s == 7.5


def test_answers_are_as_long_as_they_have_been(telemetry: Telemetry, paces: Paces) -> None:
    assert paces.answer_tokens([candidate()]) is None
    for at, num_tokens in ((Priority.STANDARD, 90), (Priority.BATCH, 30)):
        tally = telemetry.of("m:1").classes[at]
        tally.generated_tokens = num_tokens
        tally.outcomes["ok"] = 3
    tally.outcomes["cancelled"] = 5
    assert paces.answer_tokens([candidate()]) == 20.0


def test_a_first_token_that_waited_for_a_load_frightens_nobody_off(
    telemetry: Telemetry, paces: Paces
) -> None:
    before = paces.of(candidate())
    tally = telemetry.of("m:1").classes[Priority.STANDARD]
    tally.prompt_tokens = 10
    tally.ttft_s.observe(60.0)
    assert paces.of(candidate()) == before
