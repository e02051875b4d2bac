"""The quantize job: from a model version to a smaller one of its own. Runs inside a job worker."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from llmos.compression.choice import fitting_dtypes
from llmos.compression.comparison import Difference, compare
from llmos.compression.jobs import AUTO
from llmos.engines.loading import set_threads
from llmos.engines.native.extension import extension, is_likely
from llmos.engines.native.fused import check_layers
from llmos.engines.native.quantize import QuantizedDtype, open_quantized, quantize_directory
from llmos.errors import InvalidModelError, UnsupportedTaskError
from llmos.library.manifest import parse_manifest
from llmos.library.quantized import read_quantized
from llmos.library.variants import variant_name
from llmos.storage.files import disk_errors
from llmos.types import FileRef, JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

_STEPS_AFTER = 2
_MAX_ERROR = 0.3
"""Of the logits, relative: more comes of a network that computes with its weights in other ways."""
_BY_TORCH = "torch will run it, as small in memory as the C++ extension would but slower"


@dataclass(frozen=True, slots=True)
class Base:
    """The model to quantise: what it is called, its digest and manifest, where its files lie."""

    ref: str
    digest: str
    manifest: dict[str, Any]
    directory: Path


def run(context: JobContext) -> JobResult:
    """Quantise ``params["base"]`` to ``params["dtype"]`` as a version of ``params["name"]``; or to
    what fits, if it can be, where that is left to the job.

    Raises:
        UnsupportedTaskError: the model cannot be quantised, or not to this.
        InvalidModelError, CorruptBlobError: its stored files are not usable.
        DiskFullError: there is no room.
        CancelledError: the job was cancelled.
    """
    given = context.params["base"]
    directory = context.checkpoint_dir / "base"
    context.progress(0, 1, "verifying the files")
    with disk_errors():
        files = {name: FileRef(**ref) for name, ref in given["files"].items()}
        context.blobs.materialize(files, directory)
        base = Base(given["ref"], given["digest"], given["manifest"], directory)
        made: NewVersion | None
        if context.params["dtype"] == AUTO:
            made = _make_fitting(context, base, given["name"])
        else:
            made = make_variant(context, base, context.params["dtype"], context.params["name"])
    if made is None:
        return JobResult({"name": given["name"]})
    facts = {key: made.manifest[key] for key in ("task", "dtype", "parameters", "weights_bytes")}
    return JobResult({"name": made.name, **facts, **made.manifest["metrics"]}, (made,))


def _make_fitting(context: JobContext, base: Base, name: str) -> NewVersion | None:
    """Return the version that suits this machine; None where there can be none, which the log
    says."""
    free_bytes = psutil.virtual_memory().available
    why = ""
    for dtype in fitting_dtypes(base.manifest, free_bytes, has_extension=is_likely()):
        context.log(f"quantising to {dtype} as {variant_name(name, dtype)}")
        try:
            return make_variant(context, base, dtype, variant_name(name, dtype))
        except UnsupportedTaskError as error:
            why = error.message
    context.log(f"{base.ref} stays as it is. {why}")
    return None


def make_variant(context: JobContext, base: Base, dtype: QuantizedDtype, name: str) -> NewVersion:
    """Return the quantised version of a model, its files stored; raises as `run`."""
    set_threads(context.threads or 1)
    target = context.checkpoint_dir / "quantized"
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that did not end

    total = _write(context, base, target, dtype) + _STEPS_AFTER
    context.raise_if_cancelled()
    context.progress(total - 1, total, "comparing with the original")
    manifest = _manifest(base, target)
    difference = _compare(context, base, target, manifest)
    metrics = dataclasses.asdict(difference)
    context.metric(total, **{key: float(value) for key, value in metrics.items()})
    context.log(
        f"logits: relative error {difference.relative_error:.3g}, the same likeliest token at "
        f"{difference.top1_agreement:.0%} of {difference.tokens} positions"
    )
    files = {
        path.name: context.blobs.put_file(path, link=True) for path in sorted(target.iterdir())
    }
    context.progress(total, total, "done")
    manifest["metrics"] = {"quantization": metrics}
    return NewVersion("model", name, files, manifest, inputs=_inputs(base))


def _write(context: JobContext, base: Base, target: Path, dtype: QuantizedDtype) -> int:
    """Write the quantised model in the layout that suits it; return how many parts that took."""
    total = 0

    def on_progress(done: int, parts: int) -> None:
        nonlocal total
        total = parts
        context.wait_while_paused()
        context.raise_if_cancelled()
        context.progress(done, total + _STEPS_AFTER, f"part {done} of {total}")

    quantize_directory(base.directory, target, dtype, on_progress)
    if (why := _why_not_extension(target)) is not None:
        if dtype == "int4":
            raise UnsupportedTaskError(
                f"This model cannot be int4, its layers compute something of their own ({why}): "
                "quantise it to int8."
            )
        shutil.rmtree(target)
        quantize_directory(base.directory, target, dtype, on_progress, must_be_rows=True)
    if read_quantized(target).structure is None:
        context.log(f"its layers are not built like Llama's: {_BY_TORCH}")
    elif extension() is None:
        context.log(f"there is no C++ extension here (`llmos doctor` says why): {_BY_TORCH}")
    return total


def _why_not_extension(target: Path) -> str | None:
    """Return why tiles are not for the extension; None where it reproduces their layers, or where
    it cannot be tried."""
    library = extension()
    if library is None or read_quantized(target).structure is None:
        return None
    try:
        check_layers(library, open_quantized(target), target)
    except InvalidModelError as error:
        return error.message
    return None


def _compare(context: JobContext, base: Base, target: Path, manifest: dict[str, Any]) -> Difference:
    """Run the new model beside its base; raises UnsupportedTaskError where it says other things."""
    try:
        found = compare(base.directory, target, manifest, context.threads or 1)
    except InvalidModelError as error:
        raise UnsupportedTaskError(f"This model cannot be quantised: {error.message}") from error
    if read_quantized(target).structure is None and not found.relative_error <= _MAX_ERROR:
        raise UnsupportedTaskError(
            f"This model cannot be quantised: its logits would be {found.relative_error:.0%} off."
        )
    return found


def _manifest(base: Base, target: Path) -> dict[str, Any]:
    """Return the base's manifest with what is different: the weights, and where they came from."""
    sizes = read_quantized(target).manifest_keys()
    quantization = sizes["quantization"] | {
        "base": base.ref,
        "base_digest": base.digest,
        "base_weights_bytes": base.manifest.get("weights_bytes") or 0,
    }
    source = {"kind": "quantized", "base": base.ref}
    changed = {"source": source, "metrics": {}, "recipe": None, "quantization": quantization}
    merged = {**base.manifest, **sizes, **changed}
    return merged | parse_manifest(merged).to_dict()


def _inputs(base: Base) -> tuple[str, ...]:
    """The digest finds it (``library.variants``); the ref, if it has a number, is for people."""
    return (base.ref, base.digest) if ":" in base.ref else (base.digest,)
