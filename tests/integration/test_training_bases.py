"""Bases whose tokenizers leave something out: a stated choice, or an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import BPE, make_job, make_recipe

from llmos.errors import RecipeError
from llmos.kernel.protocol import JobLog
from llmos.training import handler
from llmos.types import NewVersion

SAID = "tiny:1 names no token to pad with: what fills rows up is masked by its place"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[NewVersion, Path]:
    """A language model of texts, in English and Chinese."""
    home = tmp_path_factory.mktemp("plain")
    context, _ = make_job(home, make_recipe("generate", tokenizer=BPE))
    (version,) = handler.run(context).artifacts
    return version, home


def job(
    plain: tuple[NewVersion, Path], directory: Path, task: str, without: set[str], **config: Any
) -> tuple[Any, list[Any]]:
    """A job over a base whose tokenizer's config and config name fewer tokens.

    Args:
        config: the recipe's `model.config`.
    """
    version, home = plain
    context, _ = make_job(home, make_recipe(task))
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    for name in ("tokenizer_config.json", "config.json"):
        told = json.loads(context.blobs.path(files[name]["digest"]).read_text())
        kept = {key: value for key, value in told.items() if key not in without}
        ref = context.blobs.put_bytes(json.dumps(kept).encode())
        files[name] = {"digest": ref.digest, "size": ref.size}
    model = {"base": "tiny", "config": config}
    recipe = make_recipe(task, model=model, tokenizer={"kind": "base"})
    recipe["max_tokens"] = 16
    recipe.pop("chat_template", None)
    given = {"ref": "tiny:1", "digest": "sha256:tiny", "files": files}
    context, sent = make_job(home, recipe, base=given)
    context.checkpoint_dir = directory
    return context, sent


@pytest.mark.parametrize("task", ["generate", "classify", "rate"])
def test_a_base_that_names_nothing_to_pad_with_learns_all_the_same(
    task: str, plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    context, sent = job(plain, tmp_path, task, {"pad_token", "pad_token_id"})
    (version,) = handler.run(context).artifacts
    assert version.manifest["task"] == task
    lines = [message.line for message in sent if isinstance(message, JobLog)]
    assert len([line for line in lines if line.startswith(SAID)]) == 1


def test_one_that_names_no_end_either_cannot_become_a_classifier(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    without = {"pad_token", "pad_token_id", "eos_token", "eos_token_id"}
    context, _ = job(plain, tmp_path, "classify", without)
    with pytest.raises(RecipeError, match="names no token to pad with and none that ends a text"):
        handler.run(context)


def test_a_chat_needs_a_template_of_the_base_or_of_the_recipe(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    context, _ = job(plain, tmp_path, "chat", set())
    with pytest.raises(RecipeError, match="tiny:1 has no chat template: give one as chat_template"):
        handler.run(context)


def test_a_base_is_tuned_with_the_dropout_of_the_recipe(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    digests = {}
    for share in (0.0, 0.5):
        context, _ = job(plain, tmp_path / str(share), "generate", set(), resid_pdrop=share)
        (version,) = handler.run(context).artifacts
        told = json.loads(context.blobs.path(version.files["config.json"].digest).read_text())
        assert told["resid_pdrop"] == share
        digests[version.files["model.safetensors"].digest] = share
    assert len(digests) == 2, "it learned otherwise"
    context, _ = job(plain, tmp_path / "other", "generate", set(), resid_drop=0.5)
    with pytest.raises(RecipeError, match="did you mean resid_pdrop"):
        handler.run(context)


def test_a_base_that_cannot_do_what_is_wanted_is_refused_by_its_kind(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    context, _ = job(plain, tmp_path, "fill_mask", set())
    with pytest.raises(RecipeError, match="tiny is a gpt2, which has no network for objective"):
        handler.run(context)


def test_what_is_counted_cannot_be_gone_on_from(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    _, home = plain
    counted = {"architecture": "ngram", "config": {"order": 2}}
    its = {"task": "generate", "name": "counts", "model": counted, "max_tokens": 16}
    its |= {"tokenizer": {"kind": "character"}, "data": {"path": "starter:tales"}}
    context, _ = make_job(home, its)
    context.checkpoint_dir = tmp_path / "counts"
    (version,) = handler.run(context).artifacts
    context, _ = job((version, home), tmp_path / "on", "generate", set())
    with pytest.raises(RecipeError, match="tiny is counted, and cannot be counted on"):
        handler.run(context)


def test_a_network_without_linear_layers_takes_no_adapter(
    plain: tuple[NewVersion, Path], tmp_path: Path
) -> None:
    _, home = plain
    model = {"architecture": "recurrent", "config": {"hidden_size": 8, "num_hidden_layers": 1}}
    context, _ = make_job(home, make_recipe("generate", model=model))
    context.checkpoint_dir = tmp_path / "states"
    (version,) = handler.run(context).artifacts
    context, _ = job((version, home), tmp_path / "on", "generate", set())
    context.params["recipe"]["adapter"] = {"rank": 2}
    with pytest.raises(RecipeError, match="this network has no linear layers"):
        handler.run(context)
