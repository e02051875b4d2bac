from __future__ import annotations

from typing import Any

import pytest

from llmos.apps.pipeline_file import read
from llmos.apps.pipelines import (
    MAX_JOB_CHARS,
    MAX_JOBS,
    MAX_RUN_CHARS,
    MAX_SOURCE_BYTES,
    MAX_VALUES,
    Pipeline,
    check_size,
    expanded,
    parse,
    run_budget,
    unresolved,
)
from llmos.errors import PipelineError

WHOLE = """
name: nightly
steps:
  quantize:
    kind: quantize
    params: {model: "${train.model}", dtype: int8}
  train:
    kind: train
    params: {name: mine}
  sweep:
    kind: train
    after: train
    each: {seed: [1, 2], size: [small, large]}
    params: {name: "m-${each.seed}-${each.size}"}
  judge:
    kind: judge
    each: {model: "${sweep.models}"}
    params: {model: "${each.model}", against: "${quantize.model}"}
"""


def made(text: str) -> Pipeline:
    values, lines = read(text, "file.yaml")
    return parse(values | {"lines": lines})


def refused(text: str) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        made(text)
    assert "\n" not in caught.value.message
    return caught.value


def test_every_step_stands_after_those_it_waits_for_said_or_implied() -> None:
    pipeline = made(WHOLE)
    assert [(step.name, step.after) for step in pipeline.steps] == [
        ("train", ()),
        ("quantize", ("train",)),
        ("sweep", ("train",)),
        ("judge", ("quantize", "sweep")),
    ]
    assert (pipeline.name, pipeline.priority) == ("nightly", "background")


def test_a_fan_out_makes_one_job_for_each_combination_in_order() -> None:
    sweep = made(WHOLE).steps[2]
    assert [params["name"] for params in expanded(sweep, lambda _: None, run_budget())] == [
        "m-1-small",
        "m-1-large",
        "m-2-small",
        "m-2-large",
    ]
    assert [sweep.label(number) for number in (0, 3)] == ["sweep[0]", "sweep[3]"]
    assert (sweep.num_jobs, made(WHOLE).steps[3].num_jobs) == (4, None)


def test_a_step_fans_out_over_what_another_made() -> None:
    judge = made(WHOLE).steps[3]
    values = {"${sweep.models}": ["a:1", "b:1"], "${quantize.model}": "q:1"}
    jobs = expanded(judge, lambda reference: values[str(reference)], run_budget())
    assert jobs == [{"model": "a:1", "against": "q:1"}, {"model": "b:1", "against": "q:1"}]
    for wrong in ("a:1", [], None):
        with pytest.raises(PipelineError, match=r"step judge: each\.model must be a list"):
            expanded(judge, lambda _, wrong=wrong: wrong, run_budget())
    with pytest.raises(PipelineError, match=f"over {MAX_JOBS} jobs"):
        expanded(judge, lambda _: ["x"] * (MAX_JOBS + 1), run_budget())


def test_the_params_of_a_job_and_of_all_jobs_have_a_limit() -> None:
    step = {"kind": "k", "each": {"v": ["y" * 1000]}, "params": {"p": "${each.v}" * 2000}}
    (bomb,) = parse({"name": "x", "steps": {"a": step}}).steps
    with pytest.raises(PipelineError, match=f"a job of step a, .* than {MAX_JOB_CHARS:,} char"):
        expanded(bomb, lambda _: None, run_budget())
    step = {
        "kind": "k",
        "each": {"v": [*range(30)]},
        "params": {"p": "y" * 10**6, "v": "${each.v}"},
    }
    (wide,) = parse({"name": "x", "steps": {"a": step}}).steps
    with pytest.raises(PipelineError, match=f"all jobs, .* than {MAX_RUN_CHARS:,} characters"):
        expanded(wide, lambda _: None, run_budget())
    step["each"] = {"v": [*range(15)]}
    (fits,) = parse({"name": "x", "steps": {"a": step}}).steps
    budget = run_budget()
    assert len(expanded(fits, lambda _: None, budget)) == 15
    with pytest.raises(PipelineError, match="all jobs"):
        expanded(fits, lambda _: None, budget)


def test_a_pipeline_has_a_limit_of_bytes_and_of_values() -> None:
    check_size({"name": "x", "steps": {"a": [1] * (MAX_VALUES - 3)}, "lines": {"steps": 2}})
    with pytest.raises(PipelineError, match=f"{MAX_VALUES + 1:,} values, over"):
        check_size({"name": "x", "steps": {"a": [1] * (MAX_VALUES - 2)}})
    for key in ("name", "lines"):
        with pytest.raises(PipelineError, match=f"over the limit of {MAX_SOURCE_BYTES:,}"):
            check_size({key: "\u00e9" * (MAX_SOURCE_BYTES // 2)})


def test_params_that_wait_for_other_steps_are_known() -> None:
    train, quantize, sweep, judge = made(WHOLE).steps
    assert unresolved(train) == unresolved(sweep) == frozenset()
    assert unresolved(quantize) == {"model"}
    assert unresolved(judge) == {"model", "against"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: x\nsteps:\n  a:\n    kind: k\n    paramz: {}", 5, "no key 'paramz': did you mean"),
        ("name: x\nstepz: {}\nsteps: {a: {kind: k}}", 2, "no key 'stepz': did you mean steps?"),
        ("name: x\nsteps:\n  a:\n    params: {}", 3, "step a needs the key 'kind'"),
        ("name: x\nsteps:\n  a: 5", 3, "steps.a must be a section"),
        ("name: x\nsteps:\n  a:\n    kind: 5", 4, "steps.a.kind must be text"),
        ("name: x\nsteps: {}", 2, "at least 1 item"),
        ("name: x\npriority: soon\nsteps: {a: {kind: k}}", 2, "priority: input should be"),
        ('name: " "\nsteps: {a: {kind: k}}', 1, "printable"),
        ("name: x\nsteps:\n  a b:\n    kind: k", 3, "cannot be a step's name"),
        ("name: x\nsteps:\n  each:\n    kind: k", 3, "cannot be a step's name"),
        (
            "name: x\nsteps:\n  train: {kind: k}\n  b:\n    kind: k\n    after: [trian]",
            6,
            "no step 'trian'; did you mean 'train'?",
        ),
        (
            "name: x\nsteps:\n  train: {kind: k}\n  b:\n    kind: k\n    params:\n"
            "      m: ${trian.model}",
            7,
            "${trian.model}: there is no step 'trian'; did you mean 'train'?",
        ),
        (
            "name: x\nsteps:\n  a:\n    kind: k\n    after: c\n  b: {kind: k, after: a}\n"
            "  c: {kind: k, after: b}",
            3,
            "wait for each other: a -> c -> b -> a",
        ),
        ("name: x\nsteps:\n  a: {kind: k, after: a}", 3, "wait for each other: a -> a"),
        ("name: x\nsteps:\n  a:\n    kind: k\n    params: {p: '${b'}", 5, "not closed"),
        ("name: x\nsteps:\n  a:\n    kind: k\n    params: {p: '${each.s}'}", 5, "it has none"),
        ("name: x\nsteps:\n  a:\n    kind: k\n    each:\n      s: 5", 6, "must be a list"),
        ("name: x\nsteps:\n  a:\n    kind: k\n    each:\n      s: []", 6, "at least one value"),
        ("name: x\nsteps:\n  a:\n    kind: k\n    each:\n      s: [1, 2, 1]", 6, "value 1 twice"),
        (
            "name: x\nsteps:\n  a:\n    kind: k\n    each:\n      s: [1]\n      t: ['${each.s}']",
            7,
            "names no value of this step's each",
        ),
        (
            "name: x\nsteps:\n  a: {kind: k, each: {s: [1, 2]}}\n  b:\n    kind: k\n"
            "    params: {m: '${a.model}'}",
            6,
            "step a makes several jobs. ${a.models} is the list of all",
        ),
        (
            f"name: x\nsteps:\n  a:\n    kind: k\n    each: {{s: {list(range(MAX_JOBS + 1))}}}",
            5,
            f"would have {MAX_JOBS + 1} jobs, over the limit of {MAX_JOBS}",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_begins_with_its_line(
    text: str, line: int, says: str
) -> None:
    error = refused(text)
    assert error.message.startswith(f"line {line}: "), error.message
    assert says in error.message


def test_a_fan_out_over_a_fan_out_counts_its_jobs_before_anything_runs() -> None:
    half = MAX_JOBS // 2 + 1
    text = f"""
name: x
steps:
  a: {{kind: k, each: {{s: {list(range(half))}}}}}
  b:
    kind: k
    each: {{m: "${{a.models}}"}}
"""
    assert f"with step b the run would have {2 * half} jobs" in refused(text).message


def test_values_without_lines_are_told_by_their_key() -> None:
    source: dict[str, Any] = {"name": "x", "steps": {"a": {"kind": "k", "after": ["b"]}}}
    with pytest.raises(PipelineError) as caught:
        parse(source)
    assert caught.value.param == "steps.a.after.0"
    assert caught.value.message.startswith("there is no step 'b'")
    for lines in (5, {"steps": "x"}, {"steps": True}, None):
        with pytest.raises(PipelineError):
            parse(source | {"lines": lines})
