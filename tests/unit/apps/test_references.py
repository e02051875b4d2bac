from __future__ import annotations

from typing import Any

import pytest

from llmos.apps.references import VALUE_CHARS, Budget, Reference, find, resolve, whole
from llmos.errors import PipelineError

VALUES = {
    "${train.model}": "mine:3",
    "${sweep.models}": ["a:1", "b:1"],
    "${train.result.metrics.loss}": 0.25,
    "${each.seed}": 7,
    "${each.on}": True,
    "${each.point}": {"x": 1},
}


def lookup(reference: Reference) -> Any:
    return VALUES[str(reference)]


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ("${each.seed}", 7),
        ("${ each.seed }", 7),
        ("${each.point}", {"x": 1}),
        ("${sweep.models}", ["a:1", "b:1"]),
        ("m-${each.seed}-${each.on}", "m-7-true"),
        ("loss ${train.result.metrics.loss}", "loss 0.25"),
        ("$${train.model} costs $5", "${train.model} costs $5"),
        ("no reference", "no reference"),
        ({"a": ["${train.model}", 1, None]}, {"a": ["mine:3", 1, None]}),
    ],
)
def test_a_text_that_is_a_reference_becomes_its_value_and_within_text_it_is_written_out(
    value: Any, becomes: Any
) -> None:
    assert resolve(value, lookup, Budget(100, "it")) == becomes


@pytest.mark.parametrize("text", ["all: ${sweep.models}", "at ${each.point}"])
def test_what_is_no_text_or_number_cannot_be_written_into_a_text(text: str) -> None:
    with pytest.raises(PipelineError, match="cannot be part of a longer text"):
        resolve(text, lookup, Budget(100, "it"))


@pytest.mark.parametrize(
    ("value", "num_chars"),
    [
        ("12345", 5 + VALUE_CHARS),
        ({"key": [1, None]}, 3 + 3 * VALUE_CHARS),
        ("${sweep.models}", 6 + 3 * VALUE_CHARS),
        ("a ${train.model}", 16 + 6 + 2 * VALUE_CHARS),
        (["${each.point}"] * 2, 2 * (1 + 3 * VALUE_CHARS)),
    ],
)
def test_what_references_stand_for_is_counted_wherever_it_is_written(
    value: Any, num_chars: int
) -> None:
    resolve(value, lookup, Budget(num_chars, "it"))
    for budget in (
        Budget(num_chars - 1, "all of it"),
        Budget(10**6, "a part", Budget(num_chars - 1, "all of it")),
    ):
        with pytest.raises(PipelineError, match=f"all of it, .* more than {num_chars - 1} "):
            resolve(value, lookup, budget)


def test_references_that_multiply_are_refused_before_they_are_written() -> None:
    asked: list[Reference] = []

    def long(reference: Reference) -> str:
        asked.append(reference)
        return "y" * 1000

    for bomb in ("${each.v}" * 10_000, ["${each.v}"] * 10_000):
        asked.clear()
        with pytest.raises(PipelineError, match="upload what is long"):
            resolve(bomb, long, Budget(100_000, "it"))
        assert len(asked) <= 100


def test_references_are_found_with_the_place_they_stand_at() -> None:
    value = {"recipe": {"seed": "${each.seed}"}, "models": ["x", "${a.model} ${b.model}"]}
    assert [(place, str(one)) for place, one in find(value, "params")] == [
        ("params.recipe.seed", "${each.seed}"),
        ("params.models.1", "${a.model}"),
        ("params.models.1", "${b.model}"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${train}", "is no reference: use ${STEP.model}"),
        ("${train.weights}", "is no reference"),
        ("${train.result}", "is no reference"),
        ("${train.model.name}", "is no reference"),
        ("${each.a.b}", "is no reference"),
        ("${a b.model}", "is no reference"),
        ("${}", "is no reference"),
        ("${train.model", "not closed"),
        ("a ${${train.model}}", "not closed"),
    ],
)
def test_what_is_no_reference_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        list(find({"name": [text]}, "params"))
    assert says in caught.value.message
    assert caught.value.param == "params.name.0"


def test_only_a_text_that_is_all_reference_is_one() -> None:
    assert whole("${a.models}") == Reference("a", "models")
    assert [whole(value) for value in ("x${a.models}", "$${a.models}", 5, None, "")] == [None] * 5
