"""Every objective trains, publishes and loads with transformers; what goes wrong stops cleanly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.unit.training.tiny import make_job, make_recipe
from transformers import AutoTokenizer

from llmos.errors import CancelledError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric, JobProgress
from llmos.training import handler, publish
from llmos.training.networks import CLASSES
from llmos.training.recipe import HEADS, OBJECTIVES
from llmos.training.trainer import DivergedError, Trainer
from llmos.types import JobResult

TASKS = sorted(set(OBJECTIVES) - {"word_vectors"})  # they have a network of their own, and tests


def laid_out(context: JobContext, result: JobResult, directory: Path) -> Path:
    return context.blobs.materialize(dict(result.artifacts[0].files), directory)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_trains_and_its_model_loads_with_auto_classes(task: str, tmp_path: Path) -> None:
    splits = ["validation"] if task == "generate" else ["test_combinations", "test_templates"]
    evaluate = {"splits": [] if task == "generate" else splits, "rows": 8}
    recipe = make_recipe(task, evaluate=evaluate, save_dtype="bfloat16")
    context, sent = make_job(tmp_path, recipe)
    result = handler.run(context)
    (version,) = result.artifacts
    directory = laid_out(context, result, tmp_path / "model")
    objective = OBJECTIVES[task]
    model = CLASSES[HEADS.get(objective, objective)].from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.dtype == torch.bfloat16
    ids = tokenizer("Hello", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids, **decoder(model, ids))[0]).all()
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert expected | {"recipe.yaml", "loss.json", "loss.png"} <= set(version.files)
    assert ("chat_template.jinja" in version.files) == (task == "chat")
    assert version.manifest["task"] == task and version.manifest["recipe"]["steps"] == 4
    assert version.inputs == (recipe["data"]["path"],)
    assert set(evaluate["splits"]) <= set(version.manifest["metrics"])
    assert [m.step for m in sent if isinstance(m, JobMetric)] == [1, 2, 3, 4]
    progress = [m for m in sent if isinstance(m, JobProgress)]
    assert (progress[-1].step, progress[-1].total) == (4, 4)
    assert any("tokens/s" in message.message for message in progress)
    values = [m for m in sent if isinstance(m, JobMetric)][-1].values
    assert {"loss", "validation_loss", "learning_rate", "tokens_per_s"} <= set(values)
    points = json.loads((directory / "loss.json").read_text())["points"]
    assert [p["step"] for p in points] == [1, 2, 3, 4]
    with Image.open(directory / "loss.png") as picture:
        assert picture.width > 500


def decoder(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}


def test_a_user_s_file_is_learned_from(tmp_path: Path) -> None:
    recipe = make_recipe("generate", data={"path": "mine.txt"})
    context, _ = make_job(tmp_path, recipe)
    digest = context.blobs.put_bytes(b"abcd efgh. " * 40).digest
    context, _ = make_job(tmp_path, recipe, data={"mine.txt": digest})
    result = handler.run(context)
    assert result.artifacts[0].inputs == (digest,)
    directory = laid_out(context, result, tmp_path / "model")
    vocabulary = AutoTokenizer.from_pretrained(directory).get_vocab()
    assert set(vocabulary) == {"<|endoftext|>", "<unk>", *"abcdefgh. "}


def test_a_trained_model_can_be_trained_further(tmp_path: Path) -> None:
    context, _ = make_job(tmp_path, make_recipe("chat"))
    first = handler.run(context)
    files = {
        name: {"digest": ref.digest, "size": ref.size}
        for name, ref in first.artifacts[0].files.items()
    }
    recipe = make_recipe("chat", model={"base": "tiny"}, tokenizer={"kind": "base"}, steps=2)
    del recipe["chat_template"]
    context, _ = make_job(tmp_path, recipe, base={"ref": "tiny:1", "files": files})
    context.checkpoint_dir = tmp_path / "second"
    second = handler.run(context)
    assert second.artifacts[0].inputs == ("starter:chat", "tiny:1")
    assert second.artifacts[0].files["tokenizer.json"] == first.artifacts[0].files["tokenizer.json"]
    manifests = [result.artifacts[0].manifest for result in (first, second)]
    assert manifests[0]["chat_template"] == manifests[1]["chat_template"] is not None
    assert second.artifacts[0].files["model.safetensors"] != files["model.safetensors"]


def test_the_best_weights_are_published_when_asked_for(tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 4}
    recipe = make_recipe("generate", steps=8, eval_every=1, publish="best", optimizer=optimizer)
    context, sent = make_job(tmp_path, recipe)
    result = handler.run(context)
    losses = [m.values["validation_loss"] for m in sent if isinstance(m, JobMetric)]
    source = result.artifacts[0].manifest["source"]
    assert source["published_step"] == losses.index(min(losses)) + 1


def test_a_loss_that_is_no_number_stops_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Trainer._step

    def poisoned(self: Trainer, *args: Any) -> None:
        if self.progress.step == 2:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        rate(self, *args)

    monkeypatch.setattr(Trainer, "_step", poisoned)
    context, _ = make_job(tmp_path, make_recipe("generate"))
    with pytest.raises(DivergedError, match="the loss became nan at step 3"):
        handler.run(context)
    kept = sorted(p.name for p in (context.checkpoint_dir / "checkpoints").iterdir())
    assert kept == ["step-00000002"]


def test_a_cancelled_job_ends_at_the_next_batch(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, make_recipe("generate"))
    context.cancel()
    with pytest.raises(CancelledError):
        handler.run(context)
    assert not [m for m in sent if isinstance(m, JobMetric)]


def test_a_saved_model_that_answers_otherwise_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = publish.save

    def damaged(*args: Any) -> None:
        save(*args)
        weights = load_file(args[4] / "model.safetensors")
        weights["transformer.wte.weight"][5] += 1
        save_file(weights, args[4] / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(publish, "save", damaged)
    context, _ = make_job(tmp_path, make_recipe("generate"))
    with pytest.raises(publish.PublishingError, match="logits differ"):
        handler.run(context)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    losses = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        recipe = make_recipe("generate", batch_size=batch_size, accumulate=accumulate)
        recipe["model"]["config"] |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        context, sent = make_job(tmp_path, recipe)
        context.checkpoint_dir = tmp_path / str(accumulate)
        handler.run(context)
        losses.append([m.values["loss"] for m in sent if isinstance(m, JobMetric)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
