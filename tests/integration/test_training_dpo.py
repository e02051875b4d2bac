"""Direct preference optimisation through the whole job, of a model and of an adapter over one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, DataError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric
from llmos.training import handler

QUESTIONS = [f"Question {number}?" for number in range(24)]
ROWS: list[dict[str, Any]] = [
    {"prompt": question, "chosen": "Yes, please do.", "rejected": "No, not at all."}
    for question in QUESTIONS
]
STEPS = 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the server tells of a base, and the home with its files."""
    home = tmp_path_factory.mktemp("base")
    context, _ = make_job(home, make_recipe("chat"))
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return {"ref": "tiny:1", "digest": "sha256:base", "files": files}, home


def job(
    base: tuple[dict[str, Any], Path], name: str, rows: list[dict[str, Any]] = ROWS, **changes: Any
) -> tuple[JobContext, list[Any]]:
    told, home = base
    quick: dict[str, Any] = {
        "objective": "dpo",
        "model": {"base": "tiny"},
        "tokenizer": {"kind": "base"},
        "data": {"path": "pairs.jsonl", "validation": 0.25},
        "dpo": {"beta": 0.5},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
        "steps": STEPS,
        "checkpoint_every": STEPS,
    }
    recipe = make_recipe("chat", **quick | changes)
    recipe.pop("chat_template")
    context, _ = make_job(home, recipe)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    digest = context.blobs.put_bytes(lines.encode()).digest
    context, sent = make_job(home, recipe, base=told, data={"pairs.jsonl": digest})
    context.checkpoint_dir = home / name
    return context, sent


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["model", "adapter"])
def test_what_was_chosen_is_preferred_afterwards(
    base: tuple[dict[str, Any], Path], adapter: dict[str, Any] | None
) -> None:
    context, sent = job(base, f"first-{adapter is None}", adapter=adapter)
    (version,) = handler.run(context).artifacts
    assert version.kind == ("model" if adapter is None else "adapter")
    metrics = version.manifest["metrics"]
    assert metrics["accuracy"] == 1.0
    assert metrics["validation_loss"] < 0.5 < 0.6931, "that of a coin"
    losses = [message.values["loss"] for message in sent if isinstance(message, JobMetric)]
    assert losses[0] == pytest.approx(0.6931, abs=0.01) and losses[-1] < 0.5
    assert "perplexity" not in metrics


def test_one_that_is_preempted_goes_on_to_the_very_weights(
    base: tuple[dict[str, Any], Path],
) -> None:
    whole, _ = job(base, "whole")
    handler.run(whole)
    left, _ = job(base, "left")
    num_batches, wait = 0, left.wait_while_paused

    def leave_in_step_3() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 3:
            left.leave()
        wait()

    left.wait_while_paused = leave_in_step_3  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        handler.run(left)
    handler.run(job(base, "left")[0])
    for name in ("weights", "optimizer"):
        path = Path("checkpoints", "step-00000010", f"{name}.safetensors")
        ours, theirs = (run.checkpoint_dir / path for run in (whole, left))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "b"}, r"line 25 has no 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 25: the chosen and the rejected"),
        ({"chosen": "b", "rejected": "c"}, "line 25 has no 'prompt'"),
        (
            {"messages": [{"role": "assistant", "content": "x"}], "chosen": "b", "rejected": "c"},
            "line 25: 'messages' end with an answer",
        ),
        (
            {"prompt": "a", "chosen": {"role": "user", "content": "b"}, "rejected": "c"},
            "line 25: 'chosen' must be text, or a message of the assistant",
        ),
    ],
)
def test_a_pair_that_is_none_is_refused_with_its_line(
    base: tuple[dict[str, Any], Path], row: dict[str, Any], says: str
) -> None:
    context, _ = job(base, f"bad-{says[:12]}-{len(row)}", rows=[*ROWS, row])
    with pytest.raises(DataError, match=says):
        handler.run(context)
