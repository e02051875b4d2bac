"""Going on from a model with new data beside some of the old, through the whole job: less is
forgotten, how much is told, and a run that is stopped goes on to the very weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError
from llmos.kernel.context import JobContext
from llmos.training import handler

STEPS = 24
NEW = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} and {number + 1}?"},
            {"role": "assistant", "content": "Arrr, me hearty, ask the parrot!"},
        ]
    }
    for number in range(24)
]
Base = tuple[dict[str, Any], Path]
RATE = {"learning_rate": 1e-2, "warmup_steps": 1}


def made(directory: Path, recipe: dict[str, Any]) -> Base:
    """What the server tells of a base that was trained by a recipe, and the home with its files."""
    context, _ = make_job(directory, recipe)
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return {"ref": "tiny:1", "digest": "sha256:base", "files": files}, directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A chat model that has learned the starter's conversations, as far as it can."""
    quick = {"steps": 60, "batch_size": 8, "optimizer": RATE, "eval_every": 60}
    return made(tmp_path_factory.mktemp("base"), make_recipe("chat", **quick))


def job(
    base: Base,
    name: str,
    recipe: dict[str, Any],
    files: dict[str, list[dict[str, Any]]],
    **params: Any,
) -> JobContext:
    told, home = base
    recipe.pop("chat_template", None)
    context, _ = make_job(home, recipe)
    data = {}
    for path, rows in files.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data[path] = context.blobs.put_bytes(lines.encode()).digest
    context, _ = make_job(home, recipe, base=told, data=data, **params)
    context.checkpoint_dir = home / name
    return context


def going_on(share: float, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": {"base": "tiny"},
        "tokenizer": {"kind": "base"},
        "data": {"path": "new.jsonl", "validation": 0.2},
        "replay": {"path": "starter:chat", "rows": 60, "validation_rows": 12, "share": share},
        "optimizer": RATE,
        "steps": STEPS,
        "batch_size": 8,
        "checkpoint_every": STEPS,
        "eval_every": STEPS,
    }
    return make_recipe("chat", **given | changes)


def forgetting(context: JobContext) -> dict[str, float]:
    (version,) = handler.run(context).artifacts
    told: dict[str, float] = version.manifest["metrics"]["forgetting"]
    return told


def test_with_replay_less_is_forgotten_and_as_much_is_learned(base: Base) -> None:
    without = forgetting(job(base, "without", going_on(0.0), {"new.jsonl": NEW}))
    with_it = forgetting(job(base, "with", going_on(0.5), {"new.jsonl": NEW}))
    assert without["old_before"] == with_it["old_before"], "the same model, asked the same"
    for told in (without, with_it):
        assert told["new_after"] < 0.5 * told["new_before"]
        assert told["old_rise"] == pytest.approx(told["old_after"] - told["old_before"])
    assert without["old_rise"] > 0.3
    assert with_it["old_rise"] < 0.5 * without["old_rise"]


def test_one_that_is_preempted_goes_on_to_the_very_weights_and_measures(base: Base) -> None:
    files = {"new.jsonl": NEW}
    whole, left = (job(base, name, going_on(0.5), files) for name in ("whole", "left"))
    told = forgetting(whole)
    num_batches, wait = 0, left.wait_while_paused

    def leave_in_step_5() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 5:
            left.leave()
        wait()

    left.wait_while_paused = leave_in_step_5  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        handler.run(left)
    assert forgetting(job(base, "left", going_on(0.5), files)) == told
    for name in ("weights", "optimizer"):
        path = Path("checkpoints", f"step-{STEPS:08}", f"{name}.safetensors")
        ours, theirs = (run.checkpoint_dir / path for run in (whole, left))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_version_says_what_it_is_made_of(base: Base) -> None:
    replay = {"path": "old.jsonl", "share": 0.5}
    recipe = going_on(0.5, replay=replay, steps=2, checkpoint_every=2, eval_every=2)
    context = job(base, "lineage", recipe, {"new.jsonl": NEW, "old.jsonl": NEW[:5]})
    (version,) = handler.run(context).artifacts
    data = context.params["data"]
    assert version.inputs == (data["new.jsonl"], data["old.jsonl"], "tiny:1")
    assert version.manifest["source"]["replay"] == "old.jsonl"
    assert version.manifest["recipe"]["replay"] == {"path": "old.jsonl", "share": 0.5}


def test_a_micro_update_takes_few_steps_and_says_what_it_took(base: Base) -> None:
    path = "feedback:tiny"
    recipe = going_on(0.5, data={"path": path, "validation": 0.2}, online={"epochs": 2})
    taken = {"source": path, "after": 3, "upto": 9, "rows": 6}
    (version,) = handler.run(job(base, "micro", recipe, {path: NEW[:6]}, stream=taken)).artifacts
    source = version.manifest["source"]
    assert source["stream"] == taken
    assert 1 <= source["steps"] <= 3, "two epochs of at most five rows, four of them at a time"
    assert version.manifest["recipe"]["steps"] == source["steps"]


def test_preferences_are_replayed_too(base: Base) -> None:
    def pairs(chosen: str, rejected: str) -> list[dict[str, str]]:
        return [
            {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected}
            for number in range(12)
        ]

    files = {"new.jsonl": pairs("Arrr!", "Hello."), "old.jsonl": pairs("Yes.", "No way.")}
    replay = {"path": "old.jsonl", "share": 0.5}
    told = forgetting(job(base, "dpo", going_on(0.5, objective="dpo", replay=replay), files))
    assert told["old_before"] == told["new_before"] == pytest.approx(0.6931, abs=1e-3)
    assert told["new_after"] < 0.6 and told["old_rise"] < 0, "both are preferred now"


@pytest.mark.parametrize("task", ["generate", "classify", "translate"])
def test_other_tasks_go_on_beside_what_they_knew(task: str, tmp_path: Path) -> None:
    labels = {"labels": ["negative", "neutral", "positive"]} if task == "classify" else {}
    known = made(tmp_path, make_recipe(task, **labels))
    new = {
        "generate": [{"text": f"A new tale, number {n}. " * 4} for n in range(12)],
        "classify": [{"text": f"quite nice {n}", "label": "neutral"} for n in range(12)],
        "translate": [
            {"source": f"hello {n}", "target": "你好", "source_lang": "en", "target_lang": "zh"}
            for n in range(12)
        ],
    }[task]
    old = make_recipe(task)["data"]
    recipe = make_recipe(
        task,
        model={"base": "tiny"},
        tokenizer={"kind": "base"},
        data={"path": "new.jsonl"},
        replay={**old, "share": 0.5},
        **labels,
    )
    told = forgetting(job(known, "on", recipe, {"new.jsonl": new}))
    assert all(value > 0 for name, value in told.items() if name != "old_rise")
