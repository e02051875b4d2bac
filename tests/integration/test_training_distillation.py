"""A student learns from a teacher that stays as it is, and goes on to the very weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric
from llmos.training import handler

SMALL = {
    "generate": {"architecture": "gpt2", "config": {"n_layer": 1, "n_head": 2, "n_embd": 8}},
    "classify": {"architecture": "bert", "config": {"hidden_size": 8, "num_attention_heads": 2}},
}
SMALL["classify"]["config"] |= {"num_hidden_layers": 1, "intermediate_size": 16}  # type: ignore[operator]
SMALL["chat"] = make_recipe("chat")["model"]
SMALL["translate"] = make_recipe("translate")["model"]


@pytest.fixture(scope="module", params=["generate", "classify"])
def teacher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], Path]:
    return made_teacher(request.param, tmp_path_factory.mktemp("teacher"))


def made_teacher(task: str, home: Path) -> tuple[str, dict[str, Any], Path]:
    """A teacher's task, what the server tells of it, and the home with its files."""
    optimizer = {"learning_rate": 2e-2, "warmup_steps": 1}
    context, _ = make_job(home, make_recipe(task, steps=20, optimizer=optimizer))
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return task, {"ref": "wise:3", "digest": "sha256:wise", "files": files}, home


def job(
    teacher: tuple[str, dict[str, Any], Path], name: str, section: Any = None, **changes: Any
) -> tuple[JobContext, list[Any]]:
    task, told, home = teacher
    quick: dict[str, Any] = {
        "model": SMALL[task],
        "tokenizer": {"kind": "teacher"},
        "distill": {"teacher": "wise", **(section or {})},
        "steps": 8,
        "publish": "best",
    }
    recipe = make_recipe(task, **quick | changes)
    recipe.pop("chat_template", None)
    context, sent = make_job(home, recipe, teacher=told)
    context.checkpoint_dir = home / name
    return context, sent


@pytest.mark.parametrize("hidden", [None, {"loss": "mse"}, {"loss": "cosine", "layers": [[1, 1]]}])
def test_a_student_that_is_preempted_goes_on_to_the_very_weights(
    teacher: tuple[str, dict[str, Any], Path], hidden: Any, tmp_path: Path
) -> None:
    section = {"hidden": hidden} if hidden else {}
    whole, sent = job(teacher, f"whole{hidden}", section)
    (version,) = handler.run(whole).artifacts
    left, _ = job(teacher, f"left{hidden}", section)
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
    handler.run(job(teacher, f"left{hidden}", section)[0])
    for name in ("weights", "optimizer", "best"):
        path = Path("checkpoints", "step-00000008", f"{name}.safetensors")
        ours, theirs = (run.checkpoint_dir / path for run in (whole, left))
        assert ours.read_bytes() == theirs.read_bytes()
    kept = load_file(whole.checkpoint_dir / "checkpoints" / "step-00000008" / "weights.safetensors")
    maps = [name for name in kept if "distillation_maps" in name]
    assert bool(maps) == bool(hidden)
    directory = whole.blobs.materialize(dict(version.files), tmp_path / "m")
    assert not any("distill" in name for name in load_file(directory / "model.safetensors"))
    assert version.inputs == (version.manifest["source"]["data"], "wise:3")
    assert version.manifest["source"]["teacher"] == "wise:3"
    assert version.files["tokenizer.json"].digest == teacher[1]["files"]["tokenizer.json"]["digest"]
    # Validation is of the labels alone, so that runs with and without a teacher can be compared.
    losses = [
        m.values["validation_loss"]
        for m in sent
        if isinstance(m, JobMetric) and "validation_loss" in m.values
    ]
    assert min(losses) == pytest.approx(version.manifest["metrics"]["validation_loss"], rel=0.05)


@pytest.mark.parametrize("task", ["chat", "translate"])
def test_other_tasks_are_learned_from_a_teacher_too(task: str, tmp_path: Path) -> None:
    context, _ = job(made_teacher(task, tmp_path), "student")
    (version,) = handler.run(context).artifacts
    assert version.manifest["parity"]["tokens"] > 0
    assert (version.manifest["chat_template"] is not None) == (task == "chat")


def test_a_student_comes_near_its_teacher(
    teacher: tuple[str, dict[str, Any], Path],
) -> None:
    """With the teacher's share of the loss alone, which is how far the two are apart."""
    quick = {"steps": 40, "eval_every": 40, "checkpoint_every": 40}
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 1}
    model = make_recipe(teacher[0])["model"]
    context, sent = job(teacher, "near", {"alpha": 1.0}, model=model, optimizer=optimizer, **quick)
    handler.run(context)
    losses = [m.values["loss"] for m in sent if isinstance(m, JobMetric)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_with_other_tokens_is_refused(
    teacher: tuple[str, dict[str, Any], Path],
) -> None:
    other = {"kind": "byte_bpe", "vocab_size": 280}
    context, _ = job(teacher, "other", tokenizer=other)
    with pytest.raises(RecipeError, match=r"has another tokenizer.*tokenizer\.kind=teacher"):
        handler.run(context)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    teacher = made_teacher("classify", tmp_path)
    labels = ["good", "negative", "neutral", "positive"]
    context, _ = job(teacher, "labels", labels=labels)
    with pytest.raises(RecipeError, match="has the labels negative, neutral, positive, not good"):
        handler.run(context)


def test_layers_that_there_are_not_are_refused(teacher: tuple[str, dict[str, Any], Path]) -> None:
    context, _ = job(teacher, "layers", {"hidden": {"layers": [[7, 1]]}})
    with pytest.raises(RecipeError, match="student's layers are 0 to 1 and the teacher's 0 to 1"):
        handler.run(context)


def test_a_network_without_hidden_states_learns_from_logits_alone(tmp_path: Path) -> None:
    teacher = made_teacher("classify", tmp_path)
    model = {"architecture": "convolutional", "config": {"hidden_size": 8, "num_filters": 4}}
    context, _ = job(teacher, "hidden", {"hidden": {}}, model=model)
    with pytest.raises(RecipeError, match="gives no hidden states"):
        handler.run(context)
    handler.run(job(teacher, "logits", model=model)[0])
