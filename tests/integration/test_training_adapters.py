"""A LoRA is trained over a frozen base, goes on after a stop, and runs where it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.engines.native.engine import NativeEngine
from llmos.errors import CancelledError, RecipeError
from llmos.kernel.context import JobContext
from llmos.library.manifest import build_manifest
from llmos.training import adapters, handler, publish, versions
from llmos.types import GenerateWork, JobResult, Priority, SamplingParams

pytestmark = pytest.mark.filterwarnings(  # of peft as the oracle
    "ignore:.*is_gradient_checkpointing", "ignore:fan_in_fan_out"
)
TASKS = ("generate", "chat")


@pytest.fixture(scope="module", params=TASKS)
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], Path]:
    """A base's task, what the server tells of it, and the home with its files."""
    home = tmp_path_factory.mktemp("base")
    context, _ = make_job(home, make_recipe(request.param))
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return request.param, {"ref": "tiny:1", "digest": "sha256:base", "files": files}, home


def recipe(task: str, **changes: Any) -> dict[str, Any]:
    quick: dict[str, Any] = {
        "model": {"base": "tiny"},
        "tokenizer": {"kind": "base"},
        "adapter": {"rank": 2, "alpha": 8},
        "optimizer": {"learning_rate": 2e-2, "warmup_steps": 1},
        "steps": 8,
    }
    made = make_recipe(task, **quick | changes)
    made.pop("chat_template", None)
    return made


def job(base: tuple[str, dict[str, Any], Path], name: str, **changes: Any) -> JobContext:
    task, told, home = base
    context, _ = make_job(home, recipe(task, **changes), base=told)
    context.checkpoint_dir = home / name
    return context


def laid_out(context: JobContext, result: JobResult, directory: Path) -> Path:
    return context.blobs.materialize(dict(result.artifacts[0].files), directory)


def test_an_adapter_is_trained_and_its_base_is_not(
    base: tuple[str, dict[str, Any], Path], tmp_path: Path
) -> None:
    context = job(base, "first")
    result = handler.run(context)
    (version,) = result.artifacts
    directory = laid_out(context, result, tmp_path / "adapter")
    manifest = version.manifest
    assert (version.kind, version.inputs[1]) == ("adapter", "tiny:1")
    assert (manifest["base"], manifest["base_digest"]) == ("tiny:1", "sha256:base")
    assert manifest["rank"] == 2 and manifest["metrics"]["validation_loss"] > 0
    assert (manifest["chat_template"] is not None) == (base[0] == "chat")
    assert "model.safetensors" not in version.files
    assert str(tmp_path.parent) not in (directory / "adapter_config.json").read_text()
    kept = context.checkpoint_dir / "checkpoints" / "step-00000008" / "weights.safetensors"
    assert all(".lora_" in name for name in load_file(kept)), "checkpoints hold no base"

    plain = AutoModelForCausalLM.from_pretrained(context.checkpoint_dir / "base")
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        before = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, directory).eval()
        after = adapted(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(merged, after, atol=1e-4)


def test_the_engine_runs_it_over_its_base(
    base: tuple[str, dict[str, Any], Path], tmp_path: Path
) -> None:
    context = job(base, "served")
    result = handler.run(context)
    directory = laid_out(context, result, tmp_path / "adapter")
    base_directory = context.checkpoint_dir / "base"
    plain = AutoModelForCausalLM.from_pretrained(base_directory)
    merged = adapters.merged(adapters.load_adapted(plain, directory))
    prompt = AutoTokenizer.from_pretrained(base_directory)("The ")["input_ids"]
    ids = torch.tensor([prompt])
    for _ in range(6):
        ids = torch.cat([ids, merged(ids).logits[:, -1:].argmax(-1)], 1)
    engine = NativeEngine()
    engine.load(base_directory, build_manifest(base_directory).to_dict(), "cpu", 1)
    engine.load_adapter("mine", directory)
    sampling = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    engine.submit(
        "a",
        GenerateWork(
            prompt_ids=tuple(prompt),
            sampling=sampling,
            priority=Priority.STANDARD,
            tenant="x",
            adapter="mine",
        ),
    )
    written = []
    while engine.has_work:
        for _, out in engine.step():
            written += [piece.token_id for piece in out.pieces]
    assert written == ids[0, len(prompt) :].tolist()


def test_one_that_is_preempted_goes_on_to_the_very_matrices(
    base: tuple[str, dict[str, Any], Path],
) -> None:
    changes: dict[str, Any] = {"publish": "best", "adapter": {"rank": 2, "dropout": 0.2}}
    whole = job(base, "whole", **changes)
    handler.run(whole)
    left = job(base, "left", **changes)
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
    handler.run(job(base, "left", **changes))
    for name in ("weights", "optimizer", "best"):
        path = Path("checkpoints", "step-00000008", f"{name}.safetensors")
        ours, theirs = (run.checkpoint_dir / path for run in (whole, left))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_adapter_that_does_otherwise_when_merged_is_not_published(
    base: tuple[str, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def twisted(model: Any) -> Any:
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "base_layer" in name).mul_(1.5)
        return model

    monkeypatch.setattr(versions, "merged", twisted)
    with pytest.raises(publish.PublishingError, match="merged into it differs"):
        handler.run(job(base, "twisted"))


def test_layers_that_there_are_not_are_refused(base: tuple[str, dict[str, Any], Path]) -> None:
    with pytest.raises(RecipeError, match=r"adapter\.targets do not fit the model"):
        handler.run(job(base, "none", adapter={"targets": ["no_such_layer"]}))
    linear = "c_fc" if base[0] == "generate" else "q_proj"
    with pytest.raises(RecipeError, match="the model has no linear layer q_porj"):
        handler.run(job(base, "typo", adapter={"targets": [linear, "q_porj"]}))
    embedding = "wte" if base[0] == "generate" else "embed_tokens"
    with pytest.raises(RecipeError, match=f"{embedding} is no linear layer"):
        handler.run(job(base, "words", adapter={"targets": [linear, embedding]}))
