"""Networks whose embeddings begin with word vectors of a library model or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe
from tokenizers import Tokenizer

from llmos.data.word_vectors import WordVectors, read_model, write_text
from llmos.errors import CancelledError, DataError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobLog
from llmos.training import handler
from llmos.types import NewVersion

SIZE = 8
WORDS = {"kind": "word", "min_count": 2, "split_cjk": True, "lowercase": True}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "convolutional": {"hidden_size": SIZE, "num_filters": 4},
    "recurrent": {"hidden_size": SIZE, "num_hidden_layers": 1, "cell": "lstm"},
    "bert": {
        "hidden_size": SIZE,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
EMBEDDINGS = {
    "convolutional": "embed_tokens.weight",
    "recurrent": "embed_tokens.weight",
    "bert": "bert.embeddings.word_embeddings.weight",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], WordVectors]:
    """A home, what the server tells of a model of word vectors in it, and what it holds."""
    home = tmp_path_factory.mktemp("vectors")
    recipe = {
        "name": "words",
        "task": "word_vectors",
        "model": {"architecture": "word_vectors", "config": {"hidden_size": SIZE}},
        "tokenizer": WORDS,
        "data": {"path": "starter:sentiment", "rows": 400, "validation_rows": 40},
        "vectors": {"epochs": 1},
    }
    context, _ = make_job(home, recipe)
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    directory = context.blobs.materialize(dict(version.files), home / "laid-out")
    return home, {"ref": "words:1", "digest": "sha256:words", "files": files}, read_model(directory)


def job(
    given: tuple[Path, dict[str, Any], WordVectors],
    directory: Path,
    architecture: str = "convolutional",
    **changes: Any,
) -> tuple[JobContext, list[Any]]:
    model = {"architecture": architecture, "config": ARCHITECTURES.get(architecture, {})}
    model |= {"vectors": "words", **changes.pop("model", {})}
    quick = {"tokenizer": WORDS, "steps": 8, "checkpoint_every": 8, "eval_every": 4}
    recipe = make_recipe(changes.pop("task", "classify"), model=model, **quick | changes)
    context, sent = make_job(given[0], recipe, vectors=given[1])
    context.checkpoint_dir = directory
    return context, sent


def leave_in_step_4(context: JobContext) -> None:
    num_batches, wait = 0, context.wait_while_paused

    def leave() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 4:
            context.leave()
        wait()

    context.wait_while_paused = leave  # type: ignore[method-assign]


def embeddings(context: JobContext, version: NewVersion, architecture: str) -> torch.Tensor:
    ref = version.files["model.safetensors"]
    return load_file(context.blobs.path(ref.digest))[EMBEDDINGS[architecture]]


def tokens(context: JobContext, version: NewVersion) -> Tokenizer:
    return Tokenizer.from_file(str(context.blobs.path(version.files["tokenizer.json"].digest)))


@pytest.mark.parametrize("freezes", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_begins_with_vectors_and_goes_on_to_the_very_weights(
    given: tuple[Path, dict[str, Any], WordVectors],
    architecture: str,
    freezes: bool,
    tmp_path: Path,
) -> None:
    model = {"freeze_vectors": freezes}
    whole, sent = job(given, tmp_path / "whole", architecture, model=model)
    (version,) = handler.run(whole).artifacts
    left, _ = job(given, tmp_path / "left", architecture, model=model)
    leave_in_step_4(left)
    with pytest.raises(CancelledError):
        handler.run(left)
    handler.run(job(given, tmp_path / "left", architecture, model=model)[0])
    for name in ("weights", "optimizer"):
        path = Path("checkpoints", "step-00000008", f"{name}.safetensors")
        ours, theirs = (tmp_path / run / path for run in ("whole", "left"))
        assert ours.read_bytes() == theirs.read_bytes()
    table = given[2]
    ids = tokens(whole, version).get_vocab()
    shared = [(ids[word], row) for row, word in enumerate(table.words) if word in ids]
    assert any("\u4e00" <= table.words[row] <= "\u9fff" for _, row in shared)
    now = embeddings(whole, version, architecture)
    moved = max(float((now[a] - torch.from_numpy(table.matrix[b])).abs().max()) for a, b in shared)
    assert moved == 0 if freezes else 0 < moved < 0.1
    source = version.manifest["source"]
    assert source["vectors"] == "words:1" and 0.2 < source["vectors_found"] < 1
    assert version.inputs == ("starter:sentiment", "words:1")
    said = [message.line for message in sent if isinstance(message, JobLog)]
    assert any("of the words begin with their vectors of words:1" in line for line in said)


def test_a_tokenizer_of_the_vectors_has_all_of_their_words(
    given: tuple[Path, dict[str, Any], WordVectors], tmp_path: Path
) -> None:
    tokenizer = {"kind": "vectors", "split_cjk": True, "lowercase": True}
    context, _ = job(given, tmp_path, tokenizer=tokenizer)
    (version,) = handler.run(context).artifacts
    words = [word for word in given[2].words if word not in ("<pad>", "<unk>")]
    assert set(tokens(context, version).get_vocab()) == {*words, "[PAD]", "[CLS]", "[SEP]", "<unk>"}
    assert version.manifest["source"]["vectors_found"] == 1.0


@pytest.mark.parametrize("task", ["fill_mask", "entities", "embed", "rate", "answer"])
def test_encoders_of_other_tasks_begin_with_them_too(
    task: str, given: tuple[Path, dict[str, Any], WordVectors], tmp_path: Path
) -> None:
    context, _ = job(given, tmp_path, "bert", task=task, steps=1)
    (version,) = handler.run(context).artifacts
    assert version.manifest["source"]["vectors"] == "words:1"


def test_embeddings_that_are_projected_may_be_narrower_than_the_network(
    given: tuple[Path, dict[str, Any], WordVectors], tmp_path: Path
) -> None:
    config = {**ARCHITECTURES["bert"], "hidden_size": 2 * SIZE, "embedding_size": SIZE}
    context, _ = job(given, tmp_path, "electra", model={"config": config}, steps=1)
    (version,) = handler.run(context).artifacts
    ref = version.files["model.safetensors"]
    saved = load_file(context.blobs.path(ref.digest))
    assert saved["electra.embeddings.word_embeddings.weight"].shape[1] == SIZE


def from_file(home: Path, text: bytes, **changes: Any) -> JobContext:
    model = {"architecture": "convolutional", "config": ARCHITECTURES["convolutional"]}
    model |= {"vectors": "my/words.txt", **changes.pop("model", {})}
    recipe = make_recipe("classify", model=model, **{"tokenizer": WORDS, "steps": 1} | changes)
    context, _ = make_job(home, recipe)
    digest = context.blobs.put_bytes(text).digest
    return make_job(home, recipe, data={"my/words.txt": digest})[0]


def test_vectors_of_a_file_are_named_by_its_digest(tmp_path: Path) -> None:
    matrix = np.full((3, SIZE), 0.5, dtype=np.float32)
    write_text(tmp_path / "v.txt", WordVectors(["the", "好", "unheard-of"], matrix), header=False)
    written = (tmp_path / "v.txt").read_bytes()
    context = from_file(tmp_path, written, model={"freeze_vectors": True})
    (version,) = handler.run(context).artifacts
    assert version.inputs == ("starter:sentiment", context.params["data"]["my/words.txt"])
    assert version.manifest["source"]["vectors"] == "my/words.txt"
    ids = tokens(context, version)
    now = embeddings(context, version, "convolutional")
    same = {i for i, row in enumerate(now) if bool((row == 0.5).all())}
    assert same == {ids.token_to_id("the"), ids.token_to_id("好")}


@pytest.mark.parametrize(
    ("text", "changes", "error", "says"),
    [
        (b"the 1 2 3\n", {}, RecipeError, r"has 3 numbers.*embeddings 8: .*hidden_size=3$"),
        (b"zzz 1 2 3 4 5 6 7 8\n", {}, RecipeError, "none of the words of the data"),
        (b"the 1\nthe 2\n", {}, DataError, r"my/words\.txt, line 2: 'the' is there already"),
        (b"", {}, DataError, r"my/words\.txt has no vectors"),
        (
            b"the 1 2 3\n",
            {"model": {"architecture": "electra", "config": {"num_hidden_layers": 1}}},
            RecipeError,
            r"embeddings 128: .*embedding_size=3$",
        ),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    text: bytes, changes: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        handler.run(from_file(tmp_path, text, **changes))
