"""Import makes a quantised version beside the model's own where asked or where it pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engines import decoders

from llmos.compression import choice, importing
from llmos.compression.importing import run_import
from llmos.errors import InvalidRequestError, OutOfMemoryError, UnsupportedTaskError
from llmos.library.jobs import check_import
from llmos.library.manifest import version_digest
from llmos.types import NewVersion

ModelOf = Callable[..., Path]


def imported(context: Any, directory: Path, **params: Any) -> tuple[NewVersion, ...]:
    files = {path.name: context.blobs.put_file(path).digest for path in directory.iterdir()}
    context.params = check_import({"name": "mine", "files": files, **params})
    return run_import(context).artifacts


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_version_is_made_beside_it_in_the_same_job(
    context: Any, model_of: ModelOf, dtype: str
) -> None:
    base, made = imported(context, model_of(), dtype=dtype)
    assert (base.name, made.name) == ("mine", f"mine-{dtype}")
    assert made.inputs == (version_digest(base.files, base.manifest),)
    told = made.manifest["quantization"]
    assert (told["base"], told["base_digest"]) == ("mine", made.inputs[0])
    assert made.manifest["dtype"] == dtype and made.manifest["task"] == base.manifest["task"]
    assert made.manifest["parameters"] == base.manifest["parameters"]
    assert made.manifest["weights_bytes"] < base.manifest["weights_bytes"]
    metrics = made.manifest["metrics"]["quantization"]
    assert 0 < metrics["relative_error"] < (0.1 if dtype == "int8" else 0.6)
    assert metrics["tokens"] == 64 and metrics["top1_agreement"] > 0.3
    assert context.reports[-1][:2] == (6, 6)


def test_a_small_model_stays_as_it_is_unless_asked(context: Any, model_of: ModelOf) -> None:
    (base,) = imported(context, model_of())
    assert base.manifest["quantization"] is None


def test_a_large_one_is_quantised_unasked_and_not_where_stored_was_asked(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    directory = model_of()
    assert [new.name for new in imported(context, directory)] == ["mine", "mine-int8"]
    assert [new.name for new in imported(context, directory, dtype="stored")] == ["mine"]
    monkeypatch.setenv("LLMOS_DEVICE", "cuda:0")
    assert [new.name for new in imported(context, directory)] == ["mine"]


@pytest.mark.parametrize(("kind", "has_extension"), [("gpt2", True), ("llama", False)])
def test_int8_stands_in_where_int4_would_fit_but_cannot_be(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, kind: str, has_extension: bool
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    monkeypatch.setattr(importing, "fitting_dtype", lambda manifest, free_bytes: "int4")
    monkeypatch.setattr(importing, "is_likely", lambda: has_extension)
    assert [new.name for new in imported(context, model_of(kind))] == ["mine", "mine-int8"]


@pytest.mark.parametrize("kind", ["gpt2", "stablelm"])
def test_a_network_that_the_extension_does_not_run_is_quantised_for_torch(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    base, made = imported(context, model_of(kind))
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
    assert [new.name for new in imported(context, directory)] == ["mine"]
    assert "too few of its weights" in context.logs[-1]
    with pytest.raises(UnsupportedTaskError, match="too few of its weights"):
        imported(context, directory, dtype="int8")


def test_a_model_in_rows_is_exported_and_imported_again(
    context: Any, model_of: ModelOf, tmp_path: Path
) -> None:
    _, made = imported(context, model_of("gpt2"), dtype="int8")
    exported = context.blobs.materialize(dict(made.files), tmp_path / "exported")
    (again,) = imported(context, exported)
    for key in ("dtype", "parameters", "weights_bytes", "kv_bytes_per_token", "vocab_size"):
        assert again.manifest[key] == made.manifest[key]
    with pytest.raises(InvalidRequestError, match="quantised already"):
        imported(context, exported, dtype="int8")


def test_without_room_it_stays_as_it_is_and_says_so(
    context: Any, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MIN_PARAMETERS", 1000)
    monkeypatch.setattr(importing, "working_bytes", lambda manifest: 2**60)
    assert [new.name for new in imported(context, model_of())] == ["mine"]
    assert "`llmos quantize` does it later" in context.logs[-1]
    with pytest.raises(OutOfMemoryError):
        imported(context, model_of(), dtype="int8")


def test_what_is_quantised_already_is_not_quantised_again(
    context: Any, model_of: ModelOf, tmp_path: Path
) -> None:
    _, made = imported(context, model_of(), dtype="int8")
    exported = context.blobs.materialize(dict(made.files), tmp_path / "exported")
    (again,) = imported(context, exported)
    assert again.manifest["dtype"] == "int8" and again.inputs == ()
    assert "base" not in again.manifest["quantization"]
    with pytest.raises(InvalidRequestError, match="quantised already"):
        imported(context, exported, dtype="int4")
