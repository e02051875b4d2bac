"""The `train` job kind: what a request must look like and what it will need. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.lessons import STREAM
from llmos.library.refs import ModelRef
from llmos.plugins.hookspecs import hookimpl
from llmos.sdk.recipe_data import DATA_KEYS, data_sections
from llmos.training.counted import is_counted
from llmos.training.recipe import Recipe, parse
from llmos.training.recipe_sections import DATASET
from llmos.types import VECTOR_FILES

TRAIN = "train"
"""The job kind's name."""
RUNTIME_BYTES = 400 * 2**20
BYTES_PER_PARAMETER = 8
"""Float32 weights and gradients."""
WEIGHT_BYTES = 4
"""Of a float32 weight in the copy that a checkpoint is written from, beside the state's."""
STATE_BYTES = {"sgd": 0, "rmsprop": 4, "adam": 8, "adamw": 8, "adafactor": 0, "lion": 4, "muon": 8}
"""What an optimizer keeps for each parameter, momentum not counted; Muon may have AdamW for all."""
BYTES_PER_ADAPTED_PARAMETER = 9
"""Float32 weights that stay, twice when the adapter is checked, and something for what is trained
beside them."""
BYTES_PER_VECTOR_NUMBER = 24
"""Of word vectors: two tables, the sums of their squares (GloVe), and a checkpoint of these."""
BYTES_PER_STORED_PARAMETER = 2
"""At least, in a library model."""
ACTIVATIONS_PER_WIDTH = 40
COUNTED_ENTRIES = 16 * 2**20
"""Of an n-gram model, whose size only its text tells: a guess until one like it was measured."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ROLES = {
    "base": ("model", "base"),
    "teacher": ("distill", "teacher"),
    "vectors": ("model", "vectors"),
}
"""Parameters that hold the files of a library model, and the recipe's section and key that name it;
`vectors` may be a file instead."""


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """The kinds of job training adds."""
    handler = "llmos.training.handler:run"
    return [
        JobKind(
            TRAIN,
            handler,
            validate,
            estimate_bytes,
            resumes=True,
            offloads=True,
            subject=subject,
            devices=lambda params: parse(params["recipe"]).processes,
        )
    ]


def validate(params: dict[str, Any]) -> dict[str, Any]:
    """Check a train request: ``{"recipe", "name", "data": {path: digest}}``, `ROLES`, ``datasets``.

    ``base`` is ``{"ref", "digest", "files": {filename: {"digest", "size"}}}`` of the version that
    ``model.base`` names, and so are the other roles, ``datasets`` is ``{path: {"ref", "digest",
    "shards": [digest]}}`` of those that the recipe names; of a micro-update (`online`) ``stream``
    is ``{"source", "after", "upto", "rows"}``, what it takes of it. The server fills them in.

    Raises:
        InvalidRequestError: something is missing, unknown or of the wrong type.
    """
    known = {"recipe", "name", "data", "datasets", STREAM, *ROLES}
    unknown = sorted(set(params) - known)
    if unknown:
        raise InvalidRequestError(
            f"unknown parameter {unknown[0][:80]} of a train job", param=unknown[0]
        )
    recipe = parse(params.get("recipe"))
    ref = ModelRef.parse(_name(params.get("name"), recipe))
    if ref.version is not None or ref.alias is not None:
        raise InvalidRequestError(
            f"name {ref} must not have a version or alias: the new version gets the next number",
            param="name",
        )
    data = _digests(params.get("data") or {})
    for path in filter(None, (*recipe.data_paths, recipe.model.vectors_file)):
        if path not in data:
            raise InvalidRequestError(f"data has no uploaded file for {path}", param="data")
    return {
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "name": str(ref),
        "data": data,
        **{role: _model_files(wanted_model(params, role), role, params) for role in ROLES},
        **_datasets(recipe, params.get("datasets")),
        **_taken(recipe, params),
    }


def wanted_data(params: dict[str, Any]) -> dict[str, str]:
    """Return the datasets that the recipe of an unchecked request names, by its data paths."""
    recipe = params.get("recipe")
    sections = data_sections(recipe).values() if isinstance(recipe, dict) else ()
    named = [data.get(key) for data in sections for key in DATA_KEYS]
    paths = [path for path in named if isinstance(path, str) and path.startswith(DATASET)]
    return {path: path.removeprefix(DATASET) for path in paths}


def wanted_model(params: dict[str, Any], role: str) -> str | None:
    """Return the model that an unchecked request's recipe names in a role; None for nothing."""
    recipe = params.get("recipe")
    section, key = ROLES[role]
    values = recipe.get(section) if isinstance(recipe, dict) else None
    name = values.get(key) if isinstance(values, dict) else None
    is_file = role == "vectors" and isinstance(name, str) and name.endswith(VECTOR_FILES)
    return name if isinstance(name, str) and not is_file else None


def makes_adapter(params: Mapping[str, Any]) -> bool:
    """Whether an unchecked request is for an adapter and not for a model."""
    recipe = params.get("recipe")
    return isinstance(recipe, dict) and recipe.get("adapter") is not None


def estimate_bytes(params: dict[str, Any]) -> int:
    """Memory the job may take: parameters with optimizer state, activations of what is computed at
    a time, runtime. With `micro_batch_size: auto` of the least that may be: one row."""
    recipe = parse(params["recipe"])
    wanted = recipe.micro_batch_size
    rows = 1 if wanted == "auto" else min(wanted or recipe.batch_size, recipe.batch_size)
    return estimate_rows_bytes(params, rows)


def estimate_rows_bytes(params: dict[str, Any], rows: int) -> int:
    """As `estimate_bytes`, with so many rows of a batch at a time."""
    recipe = parse(params["recipe"])
    config = recipe.model.config
    width = _width(config)
    layers = _layers(config)
    vocab = recipe.tokenizer.vocab_size if recipe.tokenizer.kind != "character" else 1024
    if recipe.task == "word_vectors":
        return RUNTIME_BYTES + BYTES_PER_VECTOR_NUMBER * vocab * width
    words = _num_parameters(params["vectors"]) // width if params.get("vectors") else 0
    if recipe.tokenizer.kind == "vectors" and recipe.objective == "masked_lm":
        vocab = max(vocab, words)
    parameters = 12 * layers * width**2 + max(vocab, words) * width
    if is_counted(recipe.model.architecture):
        layers, parameters = 0, COUNTED_ENTRIES
    if params.get("base"):
        parameters = _num_parameters(params["base"])
    teacher = 4 * _num_parameters(params["teacher"]) if params.get("teacher") else 0
    tokens = rows * recipe.max_length * _passes(recipe)
    kept = ACTIVATIONS_PER_WIDTH * layers
    if recipe.activation_checkpointing:  # of one layer at a time, and what went into each
        kept = ACTIVATIONS_PER_WIDTH + layers
    activations = 4 * tokens * (kept * width + 3 * vocab)
    weights = _bytes_per_parameter(recipe) * parameters
    if recipe.processes > 1 and recipe.parallel == "ddp":
        weights, teacher = weights * recipe.processes, teacher * recipe.processes
    return recipe.processes * RUNTIME_BYTES + weights + teacher + activations


def subject(params: dict[str, Any]) -> str:
    """Return what is trained, by its sizes: what a job took says what the next such one will."""
    recipe = parse(params["recipe"])
    if params.get("base"):
        return f"{recipe.objective} {params['base']['ref']}"
    width, layers = _width(recipe.model.config), _layers(recipe.model.config)
    what = recipe.objective if recipe.also is None else recipe.head
    return f"{what} {str(recipe.model.architecture)[:80]} {layers}x{width}"


def _passes(recipe: Recipe) -> int:
    """Return how many forward passes of a batch are in memory at a time."""
    is_twice = recipe.robust is not None and recipe.robust.r_drop > 0
    return 2 if is_twice or recipe.objective == "dpo" or recipe.distill is not None else 1


def _bytes_per_parameter(recipe: Recipe) -> int:
    if recipe.adapter is not None:
        return BYTES_PER_ADAPTED_PARAMETER
    kind, momentum = recipe.optimizer.kind, recipe.optimizer.momentum
    state_bytes = STATE_BYTES[kind] + (4 if momentum and kind in ("sgd", "rmsprop") else 0)
    state_bytes += 4 if recipe.ema is not None else 0
    is_copied = recipe.keep_at or recipe.checkpoint_every < recipe.steps
    copied = WEIGHT_BYTES + state_bytes if is_copied else 0
    return BYTES_PER_PARAMETER + state_bytes + copied


def _name(given: Any, recipe: Recipe) -> str:
    if given is None or given == "":
        return recipe.name
    if not isinstance(given, str):
        raise InvalidRequestError("name must be text", param="name")
    return given


def _digests(data: Any) -> dict[str, str]:
    if not isinstance(data, dict):
        raise InvalidRequestError("data must map paths to digests", param="data")
    for path, digest in data.items():
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise InvalidRequestError(f"{path} must be sha256:<64 hex digits>", param="data")
    return data


def _datasets(recipe: Recipe, given: Any) -> dict[str, Any]:
    """Return the datasets that the recipe names, as the server filled them in; nothing for none."""
    paths = [path for path in recipe.read_paths if path.startswith(DATASET)]
    try:
        found = {path: dict(given[path]) for path in paths}
        for path, one in found.items():
            _digests({f"{path}, {place}": digest for place, digest in enumerate(one["shards"])})
    except (KeyError, TypeError, ValueError):
        raise InvalidRequestError(
            "datasets is the server's to fill in: name a dataset in the recipe's data",
            param="datasets",
        ) from None
    return {"datasets": found} if found else {}


def _model_files(name: str | None, role: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the files of a model that the recipe names, as the server filled them in."""
    if name is None:
        return None
    given: Any = params.get(role)
    try:
        files = {name: (ref["digest"], int(ref["size"])) for name, ref in given["files"].items()}
        ref, version_digest = str(given["ref"]), str(given["digest"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidRequestError(f"{role} must hold the files of {name}", param=role) from None
    _digests({name: digest for name, (digest, _) in files.items()})
    return {
        "ref": ref,
        "digest": version_digest,
        "files": {name: {"digest": digest, "size": size} for name, (digest, size) in files.items()},
    }


def _taken(recipe: Recipe, params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"stream": …}`` as the server filled it in; empty for no micro-update."""
    taken = params.get(STREAM)
    if (taken is None) != (recipe.online is None):
        raise InvalidRequestError("stream is the server's to fill in", param=STREAM)
    return {} if taken is None else {STREAM: taken}


def _num_parameters(model: dict[str, Any]) -> int:
    """Return how many parameters a library model has at most."""
    files = model["files"].items()
    weights = sum(ref["size"] for name, ref in files if name.endswith(".safetensors"))
    return int(weights // BYTES_PER_STORED_PARAMETER)


def _width(config: dict[str, Any]) -> int:
    return _first(config, "hidden_size", "n_embd", "d_model", default=768)


def _layers(config: dict[str, Any]) -> int:
    encoder_decoder = _first(config, "encoder_layers") + _first(config, "decoder_layers")
    named = _first(config, "num_hidden_layers", "n_layer", "num_layers", default=12)
    return encoder_decoder or named + _first(config, "num_decoder_layers")


def _first(config: dict[str, Any], *names: str, default: int = 0) -> int:
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), default)
