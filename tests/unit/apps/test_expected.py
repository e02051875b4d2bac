"""What is known of a pipeline's jobs before it runs: their params, and what will be measured."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.apps.expected import check_gates, expected, will_be_measured
from llmos.apps.pipelines import Pipeline, Step, parse, run_budget
from llmos.errors import InvalidRequestError

DIGEST = "sha256:" + "0" * 64


def pipeline(**steps: dict[str, Any]) -> Pipeline:
    """Train, evaluate on "news", deploy; with some steps changed, or more."""
    recipe = {"task": "classify", "evaluate": {"splits": ["held_out"]}}
    all_steps: dict[str, Any] = {
        "train": {"kind": "train", "params": {"recipe": recipe}},
        "evaluate": {
            "kind": "evaluate",
            "params": {"model": "${train.model}", "data": {"a/news.jsonl": DIGEST}},
        },
        "deploy": {"kind": "deploy", "after": "evaluate", "params": {"model": "${train.model}"}},
    }
    return parse({"name": "p", "steps": all_steps | steps})


def step(whole: Pipeline, name: str) -> Step:
    return next(one for one in whole.steps if one.name == name)


def check(whole: Pipeline, *gates: str) -> None:
    check_gates(whole, step(whole, "deploy"), {"gates": list(gates)})


def test_a_list_that_is_not_made_yet_is_expected_to_have_one_value() -> None:
    one = Step("s", "make", {"m": "${each.m}", "n": "${each.n}"}, (), {"n": [1, 2]})
    one.each["m"] = "${sweep.models}"
    assert expected(one, run_budget()) == [{"m": "sweep", "n": 1}, {"m": "sweep", "n": 2}]


def test_gates_on_what_will_have_been_measured_pass() -> None:
    check(
        pipeline(),
        "news/f1 >= current - 0.01",
        "news/f1_by_class/good >= 0.5",
        "held_out/accuracy >= 0.9",
        "held_out/rows >= 5",
        "validation_loss <= 2",
    )
    named = {
        "kind": "evaluate",
        "params": {"model": "${train.model}", "data": {"x": DIGEST}, "dataset": "sports"},
    }
    check(pipeline(evaluate=named), "sports/f1 >= 0.9")


def test_what_was_forgotten_is_measured_where_old_data_is_replayed() -> None:
    recipe = {"task": "chat", "replay": {"path": "old.jsonl"}}
    check(
        pipeline(train={"kind": "train", "params": {"recipe": recipe}}),
        "forgetting/old_rise <= 0.05",
    )
    with pytest.raises(InvalidRequestError, match="will not have been measured"):
        check(pipeline(), "forgetting/old_rise <= 0.05")


@pytest.mark.parametrize(
    "gate", ["no/such >= 1", "news/bleu >= 1", "held_out/bleu >= 1", "loss <= 1", "newz/f1 >= 0.9"]
)
def test_a_gate_on_what_nothing_measures_is_refused(gate: str) -> None:
    with pytest.raises(InvalidRequestError, match="will not have been measured") as caught:
        check(pipeline(), "news/f1 >= 0.5", gate)
    assert caught.value.param == "gates"
    assert gate.split()[0] in str(caught.value)


def test_only_what_the_step_waits_for_counts_and_only_of_the_same_model() -> None:
    early = {"kind": "deploy", "params": {"model": "${train.model}"}}
    with pytest.raises(InvalidRequestError, match="dataset 'news'"):
        check(pipeline(deploy=early), "news/f1 >= 0.9")
    small = {"kind": "quantize", "params": {"model": "${train.model}"}}
    other = {"kind": "deploy", "after": "evaluate", "params": {"model": "${small.model}"}}
    whole = pipeline(small=small, deploy=other)
    with pytest.raises(InvalidRequestError, match=r"measured of \$\{small.model\}"):
        check(whole, "news/f1 >= 0.9")
    check(whole, "quantization/logit_error <= 1")
    between = {"kind": "wait", "after": "evaluate"}
    late = {"kind": "deploy", "after": "between", "params": {"model": "${train.model}"}}
    check(pipeline(between=between, deploy=late), "news/f1 >= 0.9")


def test_what_cannot_be_known_is_let_pass() -> None:
    unknown = {"kind": "distill"}
    deploy = {"kind": "deploy", "params": {"model": "${train.model}"}}
    check(pipeline(train=unknown, deploy=deploy), "no/such >= 1")
    named = {"kind": "deploy", "params": {"model": "${train.result.name}"}}
    check(pipeline(deploy=named), "no/such >= 1")
    on_any = {
        "kind": "evaluate",
        "params": {"model": "${train.model}", "data": "${train.result.data}"},
    }
    check(pipeline(evaluate=on_any), "no/f1 >= 1")


def test_a_fan_out_is_measured_on_each_of_its_datasets() -> None:
    evaluate = {
        "kind": "evaluate",
        "each": {"name": ["news", "sports"]},
        "params": {
            "model": "${train.model}",
            "data": {"x": DIGEST},
            "dataset": "${each.name}-test",
        },
    }
    whole = pipeline(evaluate=evaluate)
    check(whole, "news-test/f1 >= 0.9", "sports-test/f1 >= 0.9")
    with pytest.raises(InvalidRequestError, match="'news'"):
        check(whole, "news/f1 >= 0.9")


def test_the_further_tasks_of_a_model_are_measured_under_their_names() -> None:
    recipe = {"task": "classify", "also": {"entities": {}}, "evaluate": {"splits": ["held_out"]}}
    train = {"kind": "train", "params": {"recipe": recipe}}

    def measured_for(task: str, **more: Any) -> Pipeline:
        params = {"model": "${train.model}", "data": {"news.jsonl": DIGEST}, "task": task}
        return pipeline(train=train, evaluate={"kind": "evaluate", "params": params, **more})

    for whole in (measured_for("entities"), measured_for("${each.t}", each={"t": ["entities"]})):
        check(whole, "entities/news/precision >= 0.5", "entities/held_out/f1 >= 0.5")
        check(whole, "classify/validation/loss <= 1", "validation_loss <= 2")
    check(measured_for("classify"), "news/accuracy >= 0.5")
    for metric in ("news/f1", "entities/news/accuracy", "entities/newz/f1", "rate/validation/loss"):
        with pytest.raises(InvalidRequestError, match="will not have been measured"):
            check(measured_for("entities"), f"{metric} >= 0.5")


def test_of_a_model_that_is_there_an_evaluation_may_be_promised() -> None:
    evaluate = {"kind": "evaluate", "params": {"model": "m:3", "data": {"news.tsv": DIGEST}}}
    deploy = {"kind": "deploy", "after": "evaluate", "params": {"model": "m"}}
    whole = pipeline(evaluate=evaluate, deploy=deploy)
    assert will_be_measured(whole, step(whole, "deploy"), "news/f1")
    assert not will_be_measured(whole, step(whole, "deploy"), "newz/f1")
    assert not will_be_measured(whole, step(whole, "deploy"), "f1")
