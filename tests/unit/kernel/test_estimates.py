from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.estimates import (
    MODEL,
    MOST_RATIO,
    OF_JOBS,
    OF_MODELS,
    Caution,
    Measurement,
    predict_bytes,
    predict_s,
    qualities,
    relative_error,
)

EXACT = Caution(quantile=0.9, margin=0.0, num_rows=5)


def took(measured_bytes: int, declared_bytes: int = 100, **changes: object) -> Measurement:
    made = Measurement(
        "train", "", declared_bytes, declared_bytes, measured_bytes, None, 1.0, 0.0, "o"
    )
    return dataclasses.replace(made, **changes)


def test_without_history_the_declaration_counts() -> None:
    assert predict_bytes(100, (), OF_JOBS) == 100
    unusable = (took(0), took(50, declared_bytes=0))
    assert predict_bytes(100, unusable, OF_JOBS) == 100
    assert predict_bytes(0, (took(50),), OF_JOBS) == 0


def test_what_turned_out_larger_counts_at_once_and_in_full() -> None:
    assert predict_bytes(100, (took(150),), EXACT) == 150
    assert predict_bytes(100, (took(150),), OF_JOBS) == 158  # and 5% more


def test_what_turned_out_smaller_is_believed_bit_by_bit() -> None:
    predicted = [predict_bytes(100, [took(50)] * n, EXACT) for n in (0, 1, 2, 5, 30)]
    assert predicted == [100, 90, 80, 50, 50]


def test_a_models_bytes_are_believed_after_one_load() -> None:
    assert predict_bytes(100, (took(50, kind=MODEL),), OF_MODELS) == 50


def test_predictions_scale_with_what_is_declared() -> None:
    assert predict_bytes(3000, (took(150), took(300, declared_bytes=200)), EXACT) == 4500


def test_a_few_that_took_most_do_not_decide_once_there_are_many() -> None:
    usual = [took(100)] * 28
    assert predict_bytes(100, [*usual, took(700), took(800)], EXACT) == 100
    assert predict_bytes(100, [*usual[:8], took(700), took(800)], EXACT) == 700


def test_no_history_is_believed_without_limit() -> None:
    assert predict_bytes(100, (took(10**9),), OF_JOBS) == 100 * MOST_RATIO
    assert predict_bytes(800, [took(1)] * 5, OF_JOBS) == 100


@given(
    st.integers(1, 10**12),
    st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)), max_size=32),
)
def test_a_prediction_lies_between_the_declaration_and_the_clamped_history(
    declared: int, history: list[tuple[int, int]]
) -> None:
    rows = [took(measured, declared_bytes=by) for measured, by in history]
    predicted = predict_bytes(declared, rows, OF_JOBS)
    assert declared / 8 - 1 <= predicted <= 8 * declared
    ratios = [one.measured_bytes / one.declared_bytes for one in rows]
    if ratios and min(ratios) >= 1:
        assert predicted >= declared * min(min(ratios), 8) * (1 - 1e-9) - 1
    if not ratios or max(ratios) <= 0.95:
        assert predicted <= declared


def test_the_time_predicted_is_the_median_of_whole_runs() -> None:
    assert predict_s(()) is None
    rows = [took(1, measured_s=seconds) for seconds in (9.0, None, 1.0, 2.0)]
    assert predict_s(rows) == 2.0


@pytest.mark.parametrize(
    ("predicted", "measured", "error"),
    [(150, 100, 0.5), (50, 100, -0.5), (100, 100, 0.0), (0, 100, None), (100, 0, None)],
)
def test_an_error_is_a_share_of_the_truth(
    predicted: int, measured: int, error: float | None
) -> None:
    assert relative_error(predicted, measured) == error


def test_the_quality_of_predictions_is_told_by_kind() -> None:
    rows = [
        took(100, predicted_bytes=110),
        took(100, predicted_bytes=80),
        took(100, predicted_bytes=130, predicted_s=3.0, measured_s=2.0),
        took(0, declared_bytes=0, kind="import"),
    ]
    of_imports, of_training = qualities(rows)
    assert (of_imports.kind, of_imports.num_rows) == ("import", 1)
    assert (of_imports.median_error, of_imports.worst_error) == (None, None)
    assert (of_training.kind, of_training.num_rows, of_training.num_short) == ("train", 3, 1)
    assert of_training.median_error == pytest.approx(0.2)
    assert of_training.worst_error == pytest.approx(0.3)
    assert of_training.median_error_s == pytest.approx(0.5)
