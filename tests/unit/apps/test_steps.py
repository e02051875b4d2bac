"""What a run does next, as a pure function of its pipeline and its jobs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from llmos.apps.pipelines import MAX_JOBS, Pipeline, parse
from llmos.apps.steps import RunState, look, statuses
from llmos.kernel.jobs import Job

MakeJob = Callable[..., Job]
STEPS: dict[str, Any] = {
    "train": {"kind": "k", "params": {"name": "mine"}},
    "sweep": {"kind": "k", "each": {"seed": [1, 2]}, "params": {"seed": "${each.seed}"}},
    "judge": {
        "kind": "k",
        "each": {"model": "${sweep.models}"},
        "params": {"model": "${each.model}", "limit": "${train.result.loss}"},
    },
    "ship": {"kind": "k", "after": ["judge"], "params": {"losses": "${sweep.results.loss}"}},
}


@pytest.fixture
def pipeline() -> Pipeline:
    return parse({"name": "p", "steps": STEPS})


def wanted(pipeline: Pipeline, jobs: Any) -> list[tuple[str, dict[str, Any]]]:
    outlook = look(pipeline, jobs)
    assert outlook.problem is None
    return [(one.label, one.params) for one in outlook.wanted]


def test_steps_that_wait_for_nothing_are_wanted_first_and_none_twice(
    pipeline: Pipeline, make_job: MakeJob
) -> None:
    assert wanted(pipeline, {}) == [
        ("train", {"name": "mine"}),
        ("sweep[0]", {"seed": 1}),
        ("sweep[1]", {"seed": 2}),
    ]
    jobs = {"train": {0: make_job(1, "running")}, "sweep": {0: make_job(2, "queued")}}
    assert wanted(pipeline, jobs) == [("sweep[1]", {"seed": 2})]


def test_a_step_is_wanted_once_all_it_waits_for_has_succeeded(
    pipeline: Pipeline, make_job: MakeJob
) -> None:
    train = make_job(1, result={"loss": 0.5, "artifacts": ["mine:1"]})
    sweep = [make_job(2 + n, result={"loss": n, "artifacts": [f"s:{n}"]}) for n in range(2)]
    jobs: dict[str, dict[int, Job]] = {"train": {0: train}, "sweep": {0: sweep[0]}}
    jobs["sweep"][1] = make_job(3, "running")
    assert wanted(pipeline, jobs) == []
    jobs["sweep"][1] = sweep[1]
    assert wanted(pipeline, jobs) == [
        ("judge[0]", {"model": "s:0", "limit": 0.5}),
        ("judge[1]", {"model": "s:1", "limit": 0.5}),
    ]
    jobs["judge"] = {0: make_job(4), 1: make_job(5)}
    assert wanted(pipeline, jobs) == [("ship", {"losses": [0, 1]})]
    assert not look(pipeline, jobs).is_done
    jobs["ship"] = {0: make_job(6)}
    assert look(pipeline, jobs).is_done


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_after_a_failure_nothing_more_is_wanted_and_what_runs_is_waited_for(
    pipeline: Pipeline, make_job: MakeJob, state: str
) -> None:
    error = {"code": "data", "message": "it is empty"} if state == "failed" else None
    jobs = {
        "train": {0: make_job(1, "running")},
        "sweep": {0: make_job(2), 1: make_job(3, state, error=error)},
    }
    outlook = look(pipeline, jobs)
    assert (outlook.wanted, outlook.is_active, outlook.is_done) == ((), True, False)
    said = "failed: it is empty" if state == "failed" else "was cancelled"
    assert outlook.problem == {"code": "job_failed", "message": f"step sweep[1]: job 3 {said}"}
    jobs["train"] = {0: make_job(1)}
    assert not look(pipeline, jobs).is_active


def test_of_several_versions_the_last_is_the_step_s_model(make_job: MakeJob) -> None:
    steps = {"train": {"kind": "k"}, "next": {"kind": "k", "params": {"p": "${train.model}"}}}
    done = make_job(1, result={"artifacts": ["mine:1", "mine:2"]})
    pipeline = parse({"name": "p", "steps": steps})
    assert wanted(pipeline, {"train": {0: done}}) == [("next", {"p": "mine:2"})]


@pytest.mark.parametrize(
    ("params", "result", "says"),
    [
        ("${train.model}", {"artifacts": []}, "step train (job 1) made no artifact"),
        ("${train.result.a.b}", {"a": {"c": 1}}, "has no 'b' there: it has c"),
        ("${train.result.a.b}", {"a": 1}, "has no 'b' there: it has no keys"),
        ("x-${train.result.a}", {"a": [1]}, "cannot be part of a longer text"),
    ],
)
def test_a_reference_to_what_was_not_made_is_a_problem(
    make_job: MakeJob, params: str, result: dict[str, Any], says: str
) -> None:
    steps = {"train": {"kind": "k"}, "next": {"kind": "k", "params": {"p": params}}}
    pipeline = parse({"name": "p", "steps": steps})
    outlook = look(pipeline, {"train": {0: make_job(1, result=result)}})
    assert outlook.problem is not None and outlook.problem["code"] == "invalid_pipeline"
    assert says in outlook.problem["message"]


def test_more_jobs_than_a_run_may_have_are_a_problem_once_they_are_known(
    make_job: MakeJob,
) -> None:
    steps = {
        "split": {"kind": "k"},
        "work": {"kind": "k", "each": {"part": "${split.result.parts}"}},
    }
    pipeline = parse({"name": "p", "steps": steps})
    parts = list(range(MAX_JOBS))
    outlook = look(pipeline, {"split": {0: make_job(1, result={"parts": parts})}})
    assert outlook.problem is not None
    assert f"{MAX_JOBS + 1} jobs, over the limit" in outlook.problem["message"]


def test_the_state_of_each_step_follows_from_its_jobs(
    pipeline: Pipeline, make_job: MakeJob
) -> None:
    def states(jobs: Any, run: str = "running") -> list[str]:
        return [str(one.state) for one in statuses(pipeline, jobs, RunState(run))]

    assert states({}) == ["waiting"] * 4
    jobs: dict[str, dict[int, Job]] = {
        "train": {0: make_job(1, "queued")},
        "sweep": {0: make_job(2), 1: make_job(3, "queued")},
    }
    assert states(jobs) == ["queued", "running", "waiting", "waiting"]
    jobs["train"] = {0: make_job(1, "failed")}
    jobs["sweep"][1] = make_job(3, "cancelled")
    assert states(jobs, "failed") == ["failed", "cancelled", "skipped", "skipped"]
    jobs["train"], jobs["sweep"] = {0: make_job(1)}, {0: make_job(2)}
    assert states(jobs, "failed") == ["succeeded", "skipped", "skipped", "skipped"]


@pytest.mark.parametrize("seed", range(50))
def test_every_run_ends_and_makes_each_job_once_whatever_becomes_of_them(
    make_job: MakeJob, seed: int
) -> None:
    rng = random.Random(seed)
    names = [f"s{n}" for n in range(rng.randint(1, 8))]
    steps: dict[str, Any] = {}
    for n, name in enumerate(names):
        steps[name] = {"kind": "k", "after": rng.sample(names[:n], rng.randint(0, min(n, 3)))}
        if rng.random() < 0.4:
            steps[name]["each"] = {"x": list(range(rng.randint(1, 4)))}
    pipeline = parse({"name": "p", "steps": steps})
    may_fail = rng.random() < 0.5
    jobs: dict[str, dict[int, Job]] = {}
    ended: set[str] = set()
    while (outlook := look(pipeline, jobs)).wanted or outlook.is_active:
        for one in outlook.wanted:
            assert one.number not in jobs.get(one.step.name, {})
            assert ended >= set(one.step.after)
            assert outlook.problem is None
            jobs.setdefault(one.step.name, {})[one.number] = make_job(1, "queued")
        left = [(name, n) for name in jobs for n, job in jobs[name].items() if job.id == 1]
        name, number = rng.choice(left)
        state = "failed" if may_fail and rng.random() < 0.2 else "succeeded"
        jobs[name][number] = make_job(2, state)
        done = len(jobs[name]) == len(steps[name].get("each", {"x": [0]})["x"])
        if done and all(str(job.state) == "succeeded" for job in jobs[name].values()):
            ended.add(name)
    assert outlook.is_done == (ended == set(names)) == (outlook.problem is None)


def test_how_many_jobs_a_step_will_have_is_known_as_soon_as_can_be(
    pipeline: Pipeline, make_job: MakeJob
) -> None:
    def totals(jobs: Any) -> list[int | None]:
        return [one.total for one in statuses(pipeline, jobs, RunState.RUNNING)]

    assert totals({}) == [1, 2, None, 1]
    done = [make_job(n, result={"loss": n, "artifacts": ["a:1", "b:1"]}) for n in (1, 2, 3)]
    assert totals({"train": {0: done[0]}, "sweep": {0: done[1], 1: done[2]}}) == [1, 2, 4, 1]
