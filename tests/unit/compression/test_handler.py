"""The quantize job: a version of its own, or a clear error and nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engines import decoders

from llmos.compression import handler
from llmos.compression.comparison import Difference
from llmos.engines.native import served
from llmos.errors import CancelledError, CorruptBlobError, UnsupportedTaskError
from llmos.library.manifest import build_manifest

ModelOf = Callable[..., Path]


def prepared(context: Any, directory: Path, **manifest: Any) -> Any:
    files = {path.name: context.blobs.put_file(path) for path in directory.iterdir()}
    base = {
        "ref": "mine:1",
        "name": "mine",
        "digest": "sha256:base",
        "files": msgspec.to_builtins(files),
        "manifest": build_manifest(directory).to_dict() | manifest,
    }
    context.params = {"model": "mine:1", "dtype": "int8", "name": "mine-int8", "base": base}
    return context


def test_a_version_is_made_with_the_base_s_facts_and_its_own(
    context: Any, model_of: ModelOf
) -> None:
    chat = {"task": "chat", "chat_template": "{{ messages }}", "tool_format": "hermes"}
    told = {"description": "Says things.", "metrics": {"loss": 1.0}, "recipe": {"steps": 1}}
    result = handler.run(prepared(context, model_of("qwen2"), **chat, **told))
    (made,) = result.artifacts
    assert made.inputs == ("mine:1", "sha256:base")
    kept = {key: made.manifest[key] for key in (*chat, "description", "context_tokens")}
    assert kept == chat | {"description": "Says things.", "context_tokens": 512}
    assert made.manifest["recipe"] is None and set(made.manifest["metrics"]) == {"quantization"}
    assert made.manifest["source"] == {"kind": "quantized", "base": "mine:1"}
    assert {"quantized.safetensors", "config.json", "tokenizer.json"} <= set(made.files)
    assert "model.safetensors" not in made.files
    assert result.summary["weights_bytes"] == made.manifest["weights_bytes"]
    assert any("relative error" in line for line in context.logs)
    assert (1, 6, "part 1 of 4") in context.reports and (4, 6, "part 4 of 4") in context.reports


def test_a_network_with_something_of_its_own_is_kept_in_rows_for_torch(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders.needed_extension()
    granite = {**decoders.LLAMA_LIKE["qwen2"][1], "residual_multiplier": 0.3}
    monkeypatch.setitem(decoders.OTHERS, "granite", ("GraniteConfig", granite))
    prepared(context, model_of("granite"))
    (made,) = handler.run(context).artifacts
    assert made.manifest["quantization"]["format"] == "llmos-rows-1"
    assert made.manifest["metrics"]["quantization"]["relative_error"] < 0.1
    assert any("torch will run it" in line for line in context.logs)
    context.params["dtype"] = "int4"
    with pytest.raises(UnsupportedTaskError, match="something of their own"):
        handler.run(context)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_machine_without_the_extension_quantises_as_well(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for module in (handler, served):
        monkeypatch.setattr(module, "extension", lambda: None)
    (made,) = handler.run(prepared(context, model_of(kind))).artifacts
    assert made.manifest["metrics"]["quantization"]["relative_error"] < 0.1
    assert any("torch will run it" in line for line in context.logs)


def test_a_model_that_then_says_other_things_is_refused(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "compare", lambda *_: Difference(0.7, 0.1, 64))
    with pytest.raises(UnsupportedTaskError, match="logits would be 70% off"):
        handler.run(prepared(context, model_of("gpt2")))


def test_a_damaged_file_is_noticed(context: Any, model_of: ModelOf) -> None:
    prepared(context, model_of())
    weights = context.params["base"]["files"]["model.safetensors"]["digest"]
    path = context.blobs.path(weights)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptBlobError):
        handler.run(context)


def test_a_cancelled_job_ends_between_layers_and_leaves_no_weights(
    context: Any, model_of: ModelOf
) -> None:
    prepared(context, model_of())
    context.cancel()
    with pytest.raises(CancelledError):
        handler.run(context)
    assert not (context.checkpoint_dir / "quantized" / "quantized.safetensors").exists()
    (context.home / "other").mkdir()
    fresh = type(context)(context.home / "other")
    fresh.blobs, fresh.params = context.blobs, context.params
    assert handler.run(fresh).artifacts


def test_a_second_attempt_begins_anew(context: Any, model_of: ModelOf) -> None:
    prepared(context, model_of())
    (context.checkpoint_dir / "quantized").mkdir()
    (context.checkpoint_dir / "quantized" / "quantized.safetensors").write_bytes(b"half")
    assert handler.run(context).artifacts
