"""A gate says what it means, holds a version against that, and is refused where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.library.gates import (
    Gate,
    GateFailedError,
    Measured,
    check_gates,
    numbers_of,
    parse_gate,
    parse_gates,
    require,
)


def measured(number: int = 1, **metrics: Any) -> Measured:
    return Measured(f"m:{number}", numbers_of(metrics))


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("test/accuracy >= 0.9", Gate("test/accuracy", ">=", 0.9)),
        ("validation_loss<=2", Gate("validation_loss", "<=", 2.0)),
        ("a >= -1e-3", Gate("a", ">=", -0.001)),
        ("a/b/c >= current", Gate("a/b/c", ">=")),
        ("test/f1 >= current - 0.01", Gate("test/f1", ">=", None, "-", 0.01)),
        ("loss <= current*1.02", Gate("loss", "<=", None, "*", 1.02)),
        ("loss <= current + 5", Gate("loss", "<=", None, "+", 5.0)),
    ],
)
def test_a_gate_is_read_as_written_and_written_as_read(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy > 0.9", ">= 0.9", "a >= b", "a >= current / 2", "a >= nan",
     "a >= 1 2", "a >= current -", "精度", "a" * 5000 + " >= 1"],
)  # fmt: skip
def test_what_is_no_gate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no gate: write one like") as caught:
        parse_gate(text)
    assert caught.value.param == "gates"


def test_too_many_gates_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="At most 64 gates, not 65"):
        parse_gates(["a >= 1"] * 65)


def test_metrics_are_named_by_their_dataset_and_only_numbers_are_metrics() -> None:
    given = {
        "validation_loss": 1.5,
        "nan": float("nan"),
        "test": {"f1": 0.5, "f1_by_class": {"a": 1}, "signature": "x"},
    }
    expected = {"validation_loss": 1.5, "test/f1": 0.5, "test/f1_by_class/a": 1.0}
    assert numbers_of(given) == expected
    assert numbers_of({"f1": 1}, "news/") == {"news/f1": 1.0}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("test/f1 >= 0.8", True),
        ("test/f1 >= 0.81", False),
        ("loss <= 1.0", False),
        ("test/f1 >= current", False),
        ("test/f1 >= current - 0.1", True),
        ("loss <= current * 1.2", True),
        ("loss <= current * 1.1", False),
        ("loss >= current + 0.1", True),
    ],
)
def test_a_version_is_held_against_numbers_and_against_the_current_one(
    text: str, passes: bool
) -> None:
    current, new = measured(loss=1.0, test={"f1": 0.85}), measured(2, loss=1.2, test={"f1": 0.8})
    (check,) = check_gates([parse_gate(text)], new, current)
    assert check.passed is passes
    if not passes:
        with pytest.raises(GateFailedError, match=r"m:2 does not pass the gate: .* against"):
            require([check], new.ref)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("entities/names/f1", "--task entities --dataset names` measures those of entities/names."),
        ("classify/test/f1", "--task classify --dataset test` measures those of test."),
        ("reviews/f1_by_class/bad", "--dataset reviews` measures those of reviews."),
        ("entities/f1", "it has: none."),
    ],
)
def test_of_a_model_of_several_tasks_it_is_said_how_each_is_measured(
    metric: str, told: str
) -> None:
    of_two = Measured("m:2", {}, tasks=("classify", "entities"))
    with pytest.raises(InvalidRequestError) as caught:
        check_gates([parse_gate(f"{metric} >= 1")], of_two, None)
    assert caught.value.message.endswith(told)


def test_where_nothing_is_current_what_is_relative_to_it_passes() -> None:
    version = measured(loss=1.0)
    gates = parse_gates(["loss <= current", "loss <= 2"])
    checks = check_gates(gates, version, None)
    assert [check.passed for check in checks] == [True, True]
    assert "no version to compare with" in str(checks[0])


def test_a_metric_that_does_not_exist_is_refused_with_those_that_do() -> None:
    current, new = measured(loss=1.0), measured(2, loss=1.0, test={"f1": 1.0})
    with pytest.raises(InvalidRequestError) as caught:
        check_gates([parse_gate("test/bleu >= 1")], new, None)
    assert caught.value.message == (
        "m:2 has no metric 'test/bleu'; it has: loss, test/f1. "
        "`llmos evaluate m:2 FILE --dataset test` measures those of test."
    )
    with pytest.raises(InvalidRequestError, match=r"m:2 has no metric 'bleu'; .*test/f1\.$"):
        check_gates([parse_gate("bleu >= 1")], new, None)
    with pytest.raises(InvalidRequestError, match=r"m:1 has no metric 'test/f1'"):
        check_gates([parse_gate("test/f1 >= current")], new, current)
