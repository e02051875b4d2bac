"""The import job: from a directory's uploaded files to a new model version.

The blobs are stored before the job starts; here they are chosen, checked and described. ``hub``
ends the same way through ``make_version``.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llmos.library import conversion
from llmos.library.adapter_importer import make_adapter
from llmos.library.architectures import MULTITASK, AskedTask
from llmos.library.checks import check_config, check_tokenizer, check_weights
from llmos.library.files import (
    ADAPTER_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    check_filename,
    read_json,
    select,
)
from llmos.library.manifest import build_manifest
from llmos.types import FileRef, JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

_STEPS = 5
_DESCRIPTION = ("description", "languages", "license", "limits", "recommended", "translation")


def run(context: JobContext) -> JobResult:
    """Import ``params["files"]`` (file name -> blob digest) as a version of ``params["name"]``.

    An adapter's come with ``params["base"]``, see ``bases.base_params``.

    Raises:
        InvalidModelError, UnsafeFileError: the files are not a model llmos can run safely.
        NotFoundError, CorruptBlobError: a blob is missing or damaged.
    """
    digests: dict[str, str] = context.params["files"]
    chosen = select(check_filename(name) for name in digests)
    for name in chosen.skipped:
        context.log(f"passed over {name}: it is not needed")
    files = {name: _file_ref(context, digests[name]) for name in chosen.kept}
    source = {"kind": "imported", "skipped": list(chosen.skipped)}
    return make_version(context, context.params["name"], files, source)


def make_version(
    context: JobContext,
    name: str,
    files: Mapping[str, FileRef],
    source: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> JobResult:
    """Check the stored ``files`` and return them as a version to commit.

    ``params["task"]``, if any, is what the model is to be used for.

    Args:
        name: of the model.
        files: file name -> blob, chosen by ``files.select``.
        source: for the manifest: where they came from.
        extra: manifest keys that replace what the files say.

    Raises:
        InvalidModelError, UnsafeFileError: the files are not a model llmos can run safely.
    """
    if ADAPTER_FILE in files:
        return make_adapter(context, name, files, source)
    complete = dict(files)
    directory = context.checkpoint_dir / "files"
    context.progress(1, _STEPS, "verifying the files")
    context.blobs.materialize(complete, directory)
    context.raise_if_cancelled()
    context.progress(2, _STEPS, "checking the weights")
    task = context.params.get("task") or _exported_task(directory)
    rows = check_weights(directory, check_config(directory, task))
    context.progress(3, _STEPS, "checking the tokenizer")
    if TOKENIZER_FILE not in complete:
        complete[TOKENIZER_FILE] = _convert_tokenizer(context, directory)
    check_tokenizer(directory, rows)
    context.raise_if_cancelled()
    context.progress(4, _STEPS, "reading the manifest")
    described = _description(directory) | dict(extra or {})
    manifest = build_manifest(directory, source=source, extra=described, task=task)
    complete.pop(MANIFEST_FILE, None)
    shutil.rmtree(directory)
    context.progress(_STEPS, _STEPS, "done")
    summary = {"name": name, "task": manifest.task, "parameters": manifest.parameters}
    new = NewVersion(kind="model", name=name, files=complete, manifest=manifest.to_dict())
    return JobResult(summary=summary, artifacts=(new,))


def _exported_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of an exported model; an empty one where there is none.

    Other programs have files of this name too: one that is not ours says nothing.
    """
    values = read_json(directory / MANIFEST_FILE, missing_ok=True)
    return values if {"task", "engine", "architecture"} <= values.keys() else {}


def _description(directory: Path) -> dict[str, Any]:
    """Return what an exported manifest says that the model's files do not."""
    values = _exported_manifest(directory)
    return {key: values[key] for key in _DESCRIPTION if key in values}


def _exported_task(directory: Path) -> AskedTask | None:
    """Return the task that an exported model was imported for, where its files do not say it."""
    values = _exported_manifest(directory)
    task = None if values.get("architecture") == MULTITASK else values.get("task")
    return next((asked for asked in get_args(AskedTask) if asked == task), None)


def _file_ref(context: JobContext, digest: str) -> FileRef:
    return FileRef(digest, context.blobs.path(digest).stat().st_size)


def _convert_tokenizer(context: JobContext, directory: Path) -> FileRef:
    context.log("there is no tokenizer.json: making one from the other tokenizer files")
    content = conversion.tokenizer_json(directory)
    (directory / TOKENIZER_FILE).write_bytes(content)
    return context.blobs.put_bytes(content)
