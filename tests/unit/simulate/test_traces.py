"""Traces: read with care, scaled up without chance but by the seed."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from llmos.errors import DataError
from llmos.simulate.clock import picoseconds, seconds
from llmos.simulate.traces import Arrival, Mix, Trace, read_trace, requests, synthetic_trace
from llmos.types import Priority

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE = Path(__file__).parents[4] / "shared" / "data" / "traces"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read_with_its_gaps(tmp_path: Path) -> None:
    text = HEADER + "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.4799600,3180,8\n"
    trace = read_trace(written(tmp_path, text))
    assert trace.arrivals[1] == Arrival(pytest.approx(0.5), 3180, 8)
    assert trace.rate_per_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        ("a,b\n1,2\n", "line 1: the columns"),
        (HEADER, "has 0 requests"),
        (HEADER + "2023-11-16 18:17:03,1,1\nyesterday,1,1\n", "line 3"),
        (HEADER + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:04,many,1\n", "line 3"),
        (HEADER + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:04,1\n", "line 3"),
        (HEADER + "2023-11-16 18:17:03,0,1\n2023-11-16 18:17:04,1,1\n", "line 2: tokens"),
        (HEADER + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:02,1,1\n", "line 3: it came before"),
        (HEADER + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:03,1,1\n", "the same time"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_trace(written(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV"):
        read_trace(path)


@pytest.mark.skipif(not AZURE.is_dir(), reason="the Azure traces are not on this machine")
def test_the_azure_traces_are_read() -> None:
    trace = read_trace(AZURE / "azure_llm_2023_code.csv")
    assert len(trace.arrivals) == 8819
    assert trace.rate_per_s == pytest.approx(2.57, abs=0.01)


def test_a_trace_is_gone_through_once_however_many_requests_there_are() -> None:
    """Ten quick requests, then ten slow ones: in a tenth of the time comes half of them."""
    quick, slow = Arrival(0.1, 10, 1), Arrival(0.9, 20, 2)
    trace = Trace("waves", (*[quick] * 10, *[slow] * 10))
    for count in (200, 3000):
        found = list(requests(trace, Mix(), count, rate_per_s=50.0, seed=1))
        assert [one.number for one in found] == list(range(count))
        assert found[-1].at_ps == pytest.approx(picoseconds(count / 50.0), rel=0.3)
        share = sum(one.prompt_tokens == 10 for one in found) / count
        assert share == pytest.approx(0.5, abs=0.1)
        gaps = [seconds(b.at_ps - a.at_ps) for a, b in itertools.pairwise(found)]
        rest = [gap for gap, one in zip(gaps, found[1:], strict=True) if one.prompt_tokens == 20]
        assert sum(rest) / sum(gaps) == pytest.approx(0.9, abs=0.1)


def test_the_same_seed_gives_the_same_requests_and_another_does_not() -> None:
    trace, mix = synthetic_trace(), Mix()
    first, again = (list(requests(trace, mix, 50, 10.0, seed=3)) for _ in range(2))
    assert first == again
    assert first != list(requests(trace, mix, 50, 10.0, seed=4))


def test_classes_tenants_and_models_have_their_shares() -> None:
    mix = Mix(num_models=4, burst_share=0.0)
    found = list(requests(synthetic_trace(), mix, 4000, 100.0))
    for counts, shares in (
        (Counter(one.priority for one in found), dict(zip(Priority, mix.classes, strict=True))),
        (Counter(one.model for one in found), mix.popularity()),
    ):
        for key, share in shares.items():
            assert counts[key] / 4000 == pytest.approx(share, abs=0.03)
    assert Counter(one.tenant for one in found).most_common(1)[0][0] == "tenant-0"


def test_a_burst_gives_one_model_its_share_and_then_another() -> None:
    mix = Mix(num_models=20, zipf=0.0, burst_s=10.0, burst_share=0.5)
    found = list(requests(synthetic_trace(), mix, 4000, 100.0))
    hot = []
    for _, group in itertools.groupby(found, key=lambda one: int(seconds(one.at_ps) // 10)):
        models = Counter(one.model for one in group)
        model, count = models.most_common(1)[0]
        if models.total() > 300:
            assert count / models.total() == pytest.approx(0.5 + 0.5 / 20, abs=0.1)
            hot.append(model)
    assert len(set(hot)) > 1


def test_popularity_adds_up_to_one() -> None:
    assert sum(Mix().popularity().values()) == pytest.approx(1.0)
