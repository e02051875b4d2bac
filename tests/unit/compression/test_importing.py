"""Import says what its model is to be quantised to, where asked or where it pays; another job does
it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.engines import decoders

from llmos.compression import choice, handler
from llmos.compression.importing import run_import
from llmos.compression.jobs import next_job, validate
from llmos.errors import InvalidRequestError, UnsupportedTaskError
from llmos.library.jobs import check_import
from llmos.library.manifest import version_digest
from llmos.types import JobResult, NewVersion

ModelOf = Callable[..., Path]


def imported(context: Any, directory: Path, **params: Any) -> JobResult:
    files = {path.name: context.blobs.put_file(path).digest for path in directory.iterdir()}
    context.params = check_import({"name": "mine", "files": files, **params})
    return run_import(context)


def quantized(context: Any, result: JobResult) -> tuple[NewVersion, ...]:
    """Run the job that follows from an import."""
    job: Any = SimpleNamespace(kind="import")
    following = next_job(job, result, ["mine:1"])
    assert following is not None and following[0] == "quantize"
    context.params = validate(following[1])
    return handler.run(context).artifacts


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_what_was_asked_for_is_made_of_the_import_by_the_job_that_follows(
    context: Any, model_of: ModelOf, dtype: str
) -> None:
    result = imported(context, model_of(), dtype=dtype)
    (base,) = result.artifacts
    (made,) = quantized(context, result)
    assert (base.name, made.name) == ("mine", f"mine-{dtype}")
    assert made.inputs == ("mine:1", version_digest(base.files, base.manifest))
    told = made.manifest["quantization"]
    assert (told["base"], told["base_digest"]) == made.inputs
    assert made.manifest["dtype"] == dtype and made.manifest["task"] == base.manifest["task"]
    assert made.manifest["parameters"] == base.manifest["parameters"]
    assert made.manifest["weights_bytes"] < base.manifest["weights_bytes"]
    metrics = made.manifest["metrics"]["quantization"]
    assert 0 < metrics["relative_error"] < (0.1 if dtype == "int8" else 0.6)
    assert metrics["tokens"] == 64 and metrics["top1_agreement"] > 0.3
    assert context.reports[-1][:2] == (6, 6)


def test_a_small_model_stays_as_it_is_unless_asked(context: Any, model_of: ModelOf) -> None:
    result = imported(context, model_of())
    assert result.artifacts[0].manifest["quantization"] is None
    job: Any = SimpleNamespace(kind="import")
    assert next_job(job, result, ["mine:1"]) is None


def test_a_large_one_is_quantised_unasked_and_not_where_stored_was_asked(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    directory = model_of()
    result = imported(context, directory)
    assert result.summary["quantize"] == "auto"
    assert [new.name for new in quantized(context, result)] == ["mine-int8"]
    assert "quantize" not in imported(context, directory, dtype="stored").summary
    monkeypatch.setenv("LLMOS_DEVICE", "cuda:0")
    assert "quantize" not in imported(context, directory).summary


def test_only_imports_and_pulls_lead_to_quantising(context: Any, model_of: ModelOf) -> None:
    result = imported(context, model_of(), dtype="int8")
    job: Any = SimpleNamespace(kind="train")
    assert next_job(job, result, ["mine:1"]) is None


@pytest.mark.parametrize(("kind", "has_extension"), [("gpt2", True), ("llama", False)])
def test_int8_stands_in_where_int4_would_fit_but_cannot_be(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, kind: str, has_extension: bool
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    monkeypatch.setattr(choice, "int8_bytes", lambda manifest: 2**60)
    monkeypatch.setattr(handler, "is_likely", lambda: has_extension)
    (made,) = quantized(context, imported(context, model_of(kind)))
    assert made.name == "mine-int8"


@pytest.mark.parametrize("kind", ["gpt2", "stablelm"])
def test_a_network_that_the_extension_does_not_run_is_quantised_for_torch(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    result = imported(context, model_of(kind))
    (base,), (made,) = result.artifacts, quantized(context, result)
    assert made.manifest["quantization"]["format"] == "llmos-rows-1"
    assert made.manifest["parameters"] == base.manifest["parameters"]
    assert made.manifest["weights_bytes"] < 0.75 * base.manifest["weights_bytes"]
    assert 0 < made.manifest["metrics"]["quantization"]["relative_error"] < 0.1
    assert any("torch will run it" in line for line in context.logs)


def test_a_network_that_cannot_be_quantised_stays_as_it_is_and_says_so(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    monkeypatch.setitem(decoders.OTHERS, "mixtral", decoders.EXPERTS)
    directory = model_of("mixtral")
    assert quantized(context, imported(context, directory)) == ()
    assert "mine:1 stays as it is" in context.logs[-1]
    assert "too few of its weights" in context.logs[-1]
    with pytest.raises(UnsupportedTaskError, match="too few of its weights"):
        quantized(context, imported(context, directory, dtype="int8"))


def test_a_model_in_rows_is_exported_and_imported_again(
    context: Any, model_of: ModelOf, tmp_path: Path
) -> None:
    (made,) = quantized(context, imported(context, model_of("gpt2"), dtype="int8"))
    exported = context.blobs.materialize(dict(made.files), tmp_path / "exported")
    (again,) = imported(context, exported).artifacts
    for key in ("dtype", "parameters", "weights_bytes", "kv_bytes_per_token", "vocab_size"):
        assert again.manifest[key] == made.manifest[key]
    with pytest.raises(InvalidRequestError, match="quantised already"):
        imported(context, exported, dtype="int8")


def test_what_is_quantised_already_is_not_quantised_again(
    context: Any, model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = quantized(context, imported(context, model_of(), dtype="int8"))
    exported = context.blobs.materialize(dict(made.files), tmp_path / "exported")
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    result = imported(context, exported)
    (again,) = result.artifacts
    assert again.manifest["dtype"] == "int8" and again.inputs == ()
    assert "base" not in again.manifest["quantization"]
    assert "quantize" not in result.summary
    with pytest.raises(InvalidRequestError, match="quantised already"):
        imported(context, exported, dtype="int4")
