"""The import job's other half: from an adapter's files to a new adapter version.

Its base is in the library already; the server put what is needed of it into the job's params.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.errors import InvalidModelError
from llmos.library import describe
from llmos.library.adapters import AdapterManifest, Layout, check_fits, parse_adapter, read_layout
from llmos.library.files import ADAPTER_CONFIG_FILE, MANIFEST_FILE, QUANTIZED_FILE, read_json
from llmos.library.manifest import main_dtype, read_tensors
from llmos.types import FileRef, JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

_STEPS = 3
_DESCRIPTION = ("description", "languages", "license", "limits", "recommended")


def make_adapter(
    context: JobContext, name: str, files: Mapping[str, FileRef], source: Mapping[str, Any]
) -> JobResult:
    """Check the stored ``files`` against the base and return them as a version to commit.

    Raises:
        InvalidModelError: they are no adapter that llmos computes, or another base's, or the job
            was not told the base.
    """
    base = context.params.get("base")
    directory, base_directory = (context.checkpoint_dir / part for part in ("files", "base"))
    context.progress(1, _STEPS, "verifying the files")
    context.blobs.materialize(dict(files), directory)
    if base is None:
        trained_on = read_json(directory / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
        raise InvalidModelError(
            f"{name} is an adapter of {str(trained_on)[:200]!a}: have that model in the library "
            "and pass its name there as --base",
            param="base",
        )
    base_files = {filename: FileRef(**ref) for filename, ref in base["files"].items()}
    context.blobs.materialize(base_files, base_directory)
    context.raise_if_cancelled()
    context.progress(2, _STEPS, f"checking the adapter against {base['ref']}")
    layout = read_layout(directory)
    if QUANTIZED_FILE in base_files:
        context.log(f"{base['ref']} is quantised: its engine compares the shapes at the first load")
    else:
        check_fits(layout, read_tensors(base_directory), base["ref"])
    manifest = _manifest(directory, layout, base, source)
    shutil.rmtree(directory)
    shutil.rmtree(base_directory)
    context.progress(_STEPS, _STEPS, "done")
    summary: dict[str, Any] = {"name": name, "task": manifest.task, "base": manifest.base}
    summary["parameters"] = manifest.parameters
    kept = {filename: ref for filename, ref in files.items() if filename != MANIFEST_FILE}
    new = NewVersion("adapter", name, kept, manifest.to_dict(), inputs=(base["ref"],))
    return JobResult(summary=summary, artifacts=(new,))


def _manifest(
    directory: Path, layout: Layout, base: Mapping[str, Any], source: Mapping[str, Any]
) -> AdapterManifest:
    """Return the facts; what its files leave unsaid is as in the base."""
    tokenizer_config = read_json(directory / "tokenizer_config.json", missing_ok=True)
    template = describe.chat_template(directory, tokenizer_config)
    card = describe.read_card(directory / "README.md")
    tensors = layout.tensors.values()
    values: dict[str, Any] = {
        "task": "chat" if template else base["task"],
        "base": base["ref"],
        "base_digest": base["digest"],
        "rank": layout.rank,
        "target_modules": sorted({path.rpartition(".")[2] for path in layout.updates}),
        "parameters": sum(info.elements for info in tensors),
        "dtype": main_dtype(tensors),
        "weights_bytes": sum(info.end - info.begin for info in tensors),
        "chat_template": template or base["chat_template"],
        "languages": list(card.languages) or base["languages"] or [],
        "license": card.license,
        "source": dict(source),
    }
    exported = read_json(directory / MANIFEST_FILE, missing_ok=True)
    if "base_digest" in exported:  # ours; other programs have files of this name too
        values |= {key: exported[key] for key in _DESCRIPTION if key in exported}
    return parse_adapter(values)
