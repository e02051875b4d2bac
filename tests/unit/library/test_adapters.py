"""Importing a LoRA adapter: whose it is, whether it is whole, every bad one in a sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmos.errors import (
    ConflictError,
    InvalidModelError,
    InvalidRequestError,
    LlmosError,
    ModelNotFoundError,
    UnsafeFileError,
)
from llmos.library import cards, importers
from llmos.library.adapters import LoraConfig, read_config, read_layout
from llmos.library.artifacts import Library
from llmos.library.bases import base_params, find_base, resolve_pair
from llmos.library.files import select
from llmos.library.jobs import check_import, check_pull
from llmos.library.refs import ModelRef
from llmos.library.versions import Version
from llmos.security.actors import SYSTEM
from llmos.storage.blobs import BlobStore
from llmos.types import NewVersion

Q = "model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "/somewhere/my-base",
    "task_type": "CAUSAL_LM",
}


def edit(directory: Path, **values: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save(directory: Path, **shapes: tuple[int, ...]) -> None:
    names = {"A": f"base_model.model.{Q}.lora_A.weight", "B": f"base_model.model.{Q}.lora_B.weight"}
    tensors = {names.get(n, n): np.ones(shape, np.float32) for n, shape in shapes.items()}
    save_file(tensors, directory / "adapter_model.safetensors")


@pytest.fixture
def adapter_dir(tmp_path: Path) -> Path:
    """As peft saves a LoRA of ``model_dir``'s only layer."""
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    (directory / "README.md").write_text("---\nlicense: mit\nlanguage: [fr]\n---\n")
    save(directory, A=(2, 4), B=(4, 2))
    return directory


@pytest.fixture
def base(library: Library, context: Any, store: Any, model_dir: Path) -> Version:
    context.params = {"name": "my-base", "files": store(model_dir)}
    (new,) = importers.run(context).artifacts
    return library.add(new, "alice")


@pytest.fixture
def run(
    library: Library, blobs: BlobStore, context: Any, store: Any, base: Version
) -> Callable[..., Any]:
    """Do what `llmos import DIR --base BASE` does up to the commit."""

    def go(directory: Path, name: str | None = None) -> Any:
        files = store(directory)
        params = {"name": "mine", "files": files}
        found = find_base(library, blobs, files, name)
        context.params = check_import(params | {"base": base_params(found)})
        return importers.run(context)

    return go


Run = Callable[..., Any]


def test_an_adapter_becomes_a_version_with_its_base_in_manifest_and_lineage(
    run: Run, adapter_dir: Path, base: Version, context: Any
) -> None:
    (adapter_dir / "training_args.bin").write_bytes(b"never opened")
    (new,) = run(adapter_dir).artifacts
    assert (new.kind, new.name, new.inputs) == ("adapter", "mine", ("my-base:1",))
    assert set(new.files) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    said = {key: new.manifest[key] for key in ("task", "base", "base_digest", "rank", "parameters")}
    assert said == {
        "task": "generate",
        "base": "my-base:1",
        "base_digest": base.digest,
        "rank": 2,
        "parameters": 16,
    }
    assert (new.manifest["license"], new.manifest["languages"]) == ("mit", ["fr"])
    assert new.manifest["target_modules"] == ["q_proj"]
    assert context.reports[-1] == (3, 3, "done")
    assert list(context.checkpoint_dir.iterdir()) == []


def test_a_chat_template_of_its_own_makes_it_a_chat_adapter(run: Run, adapter_dir: Path) -> None:
    (adapter_dir / "chat_template.jinja").write_text("{{ messages }}")
    (new,) = run(adapter_dir).artifacts
    assert (new.manifest["task"], new.manifest["chat_template"]) == ("chat", "{{ messages }}")


def test_the_card_says_what_it_changes(run: Run, adapter_dir: Path, library: Library) -> None:
    version = library.add(run(adapter_dir).artifacts[0], "alice")
    card = cards.render(version)
    assert "| adapter of | my-base:1 |" in card
    assert "| method | LoRA, rank 2 |" in card
    assert "llmos run mine" in card


# -- bad adapters ----------------------------------------------------------------------------------


def dora(directory: Path) -> None:
    edit(directory, use_dora=True)


def whole_modules(directory: Path) -> None:
    edit(directory, modules_to_save=["lm_head"])


def biases(directory: Path) -> None:
    edit(directory, bias="all")


def own_bias(directory: Path) -> None:
    edit(directory, lora_bias=True)


def other_method(directory: Path) -> None:
    edit(directory, peft_type="IA3")


def changed_base(directory: Path) -> None:
    edit(directory, init_lora_weights="pissa_niter_4")


def bad_rank(directory: Path) -> None:
    edit(directory, r=0)


def bad_type(directory: Path) -> None:
    edit(directory, rank_pattern=[1])


def embeddings(directory: Path) -> None:
    name = "base_model.model.model.embed_tokens.lora_embedding_A"
    save(directory, A=(2, 4), B=(4, 2), **{name: (2, 8)})


def foreign(directory: Path) -> None:
    save(directory, A=(2, 4), B=(4, 2), **{"base_model.model.score.weight": (2, 8)})


def no_b(directory: Path) -> None:
    save(directory, A=(2, 4))


def bent(directory: Path) -> None:
    save(directory, A=(2, 4), B=(4, 3))


def other_rank(directory: Path) -> None:
    save(directory, A=(3, 4), B=(4, 3))


def flat(directory: Path) -> None:
    save(directory, A=(8,), B=(4, 2))


def empty(directory: Path) -> None:
    save(directory)


def wide(directory: Path) -> None:
    save(directory, A=(2, 6), B=(4, 2))


def elsewhere(directory: Path) -> None:
    names = [f"base_model.model.transformer.h.0.attn.c_attn.lora_{side}.weight" for side in "AB"]
    save(directory, **{names[0]: (2, 4), names[1]: (4, 2)})


def incomplete(directory: Path) -> None:
    edit(directory, target_modules=["q_proj", "lm_head"])


def bomb(directory: Path) -> None:
    edit(directory, target_modules=r"(((.|..|...|\w)+)+(.|..)+)+[xq]")


def bad_pattern(directory: Path) -> None:
    edit(directory, target_modules="(q_proj")


def cut(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def only_bin(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


BAD: list[tuple[Callable[[Path], None], type[LlmosError], str]] = [
    (dora, InvalidModelError, r"uses DoRA \(use_dora\), which llmos does not run: merge it"),
    (whole_modules, InvalidModelError, r"modules saved whole \(modules_to_save\)"),
    (biases, InvalidModelError, r"trained biases \(bias='all'\)"),
    (own_bias, InvalidModelError, r"a bias of its own \(lora_bias\)"),
    (other_method, InvalidModelError, "peft_type is 'IA3' and llmos runs LORA only"),
    (changed_base, InvalidModelError, "init_lora_weights='pissa_niter_4'"),
    (bad_rank, InvalidModelError, "rank below 1"),
    (bad_type, InvalidModelError, r"adapter_config.json is not valid .*rank_pattern"),
    (embeddings, InvalidModelError, "LoRA on embeddings"),
    (foreign, InvalidModelError, "'base_model.model.score.weight', which is no matrix of LoRA"),
    (no_b, InvalidModelError, f"lora_B of {Q} is missing"),
    (bent, InvalidModelError, r"A F32 \[2, 4\] and B F32 \[4, 3\], where rank 2 wants"),
    (other_rank, InvalidModelError, "rank 2 wants"),
    (flat, InvalidModelError, "rank 2 wants"),
    (empty, InvalidModelError, "holds no tensors"),
    (wide, InvalidModelError, rf"does not fit my-base:1: {Q} is \[4, 4\], not \[4, 6\]"),
    (elsewhere, InvalidModelError, "does not fit my-base:1: it has no transformer.h.0.attn"),
    (incomplete, InvalidModelError, "lm_head is one of its target_modules but has no matrices"),
    (bomb, InvalidModelError, "is too complex"),
    (bad_pattern, InvalidModelError, "is not a pattern"),
    (cut, InvalidModelError, "adapter_model.safetensors is not a valid safetensors file"),
    (only_bin, UnsafeFileError, "only in adapter_model.bin"),
]


@pytest.mark.parametrize(
    ("spoil", "error", "said"), BAD, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_bad_adapter_is_refused_in_one_sentence(
    spoil: Callable[[Path], Any], error: type[LlmosError], said: str, run: Run, adapter_dir: Path
) -> None:
    spoil(adapter_dir)
    begun = time.monotonic()
    with pytest.raises(error, match=said) as caught:
        run(adapter_dir)
    assert "\n" not in caught.value.message
    assert caught.value.status == 400
    assert time.monotonic() - begun < 5  # a bomb would take for ever


def test_only_the_server_fills_in_a_jobs_base() -> None:
    with pytest.raises(InvalidRequestError, match="base is the server's to fill in"):
        check_pull({"repo": "a/b", "base": "name"})


def test_a_pulled_adapter_asks_for_its_base(context: Any, store: Any, adapter_dir: Path) -> None:
    context.params = {"name": "mine", "files": store(adapter_dir)}
    with pytest.raises(InvalidModelError, match=r"adapter of '/somewhere/my-base': .*--base"):
        importers.run(context)


def test_whole_models_beside_an_adapter_are_models(model_dir: Path) -> None:
    names = [path.name for path in model_dir.iterdir()]
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert select([*names, *adapter]).kind == "model"
    assert select(["config.json", "tokenizer.json", *adapter]).kind == "adapter"


# -- what the config means -------------------------------------------------------------------------


def config(**values: Any) -> LoraConfig:
    return read_config(CONFIG | values)


def test_scaling_and_rank_follow_peft() -> None:
    patterned = config(rank_pattern={"q_proj": 8}, alpha_pattern={r"layers\.0\..*": 16})
    assert (patterned.rank_of(Q), patterned.scaling_of(Q)) == (8, 2.0)
    assert config(r=4, use_rslora=True).scaling_of(Q) == 2.0
    assert (config().rank_of(Q), config().scaling_of(Q)) == (2, 2.0)


@pytest.mark.parametrize(
    ("values", "is_target"),
    [
        ({}, True),
        ({"target_modules": ["k_proj"]}, False),
        ({"target_modules": ["proj"]}, False),
        ({"target_modules": [Q]}, True),
        ({"target_modules": r".*q_proj"}, True),
        ({"target_modules": "q_proj"}, False),
        ({"exclude_modules": ["q_proj"]}, False),
        ({"layers_to_transform": [1]}, False),
        ({"layers_to_transform": 0}, True),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, True),
        ({"layers_to_transform": [0], "layers_pattern": "blocks"}, False),
    ],
)
def test_target_modules_mean_what_peft_means(values: dict[str, Any], is_target: bool) -> None:
    assert config(**values).is_target(Q) is is_target


def test_a_checkpoint_saved_without_its_head_is_a_base_too(
    run: Run, adapter_dir: Path, model_dir: Path, library: Library, context: Any, store: Any
) -> None:
    tensors = load_file(model_dir / "model.safetensors")
    shorter = {name.removeprefix("model."): array for name, array in tensors.items()}
    save_file(shorter, model_dir / "model.safetensors")
    context.params = {"name": "headless", "files": store(model_dir)}
    library.add(importers.run(context).artifacts[0], "alice")
    assert run(adapter_dir, "headless").artifacts[0].manifest["base"] == "headless:1"


def test_the_head_that_peft_saves_along_is_passed_over(adapter_dir: Path) -> None:
    name = "base_model.model.lm_head.base_layer.weight"
    save(adapter_dir, A=(2, 4), B=(4, 2), **{name: (8, 4)})
    assert list(read_layout(adapter_dir).updates) == [Q]


def test_a_quantised_base_is_compared_by_its_engine(
    run: Run, adapter_dir: Path, library: Library, new_version: Any, context: Any
) -> None:
    new = new_version("small")
    files = {"quantized.safetensors": new.files["config.json"]}
    library.add(NewVersion("model", "small", files, new.manifest), "alice")
    wide(adapter_dir)
    assert run(adapter_dir, "small").artifacts[0].manifest["base"] == "small:1"
    assert any("small:1 is quantised" in line for line in context.logs)


# -- which base ------------------------------------------------------------------------------------


@pytest.fixture
def add(library: Library, new_version: Callable[..., Any]) -> Callable[..., Version]:
    return lambda name, **values: library.add(new_version(name, name, **values), "alice")


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("Org/Pulled", "local:1"),
        ("org/pulled", "local:1"),
        ("plain", "plain:1"),
        ("/home/me/plain/", "plain:1"),
        ("someone/plain", "plain:1"),
    ],
)
def test_the_base_is_found_by_what_peft_wrote_down(
    named: str, found: str, add: Any, library: Library, blobs: BlobStore
) -> None:
    add("local", source={"kind": "pulled", "repo": "Org/Pulled"})
    add("plain")
    digest = blobs.put_bytes(json.dumps({"base_model_name_or_path": named}).encode()).digest
    assert find_base(library, blobs, {"adapter_config.json": digest}, None).ref == found


def test_a_tasks_default_is_no_base_of_that_name(
    add: Any, library: Library, blobs: BlobStore
) -> None:
    add("plain")
    library.set_task_default("chat", "plain", SYSTEM)
    assert library.resolve("chat").ref == "plain:1"
    digest = blobs.put_bytes(b'{"base_model_name_or_path": "org/chat"}').digest
    with pytest.raises(ModelNotFoundError, match="trained on 'org/chat'"):
        find_base(library, blobs, {"adapter_config.json": digest}, None)


@pytest.mark.parametrize(
    "content", [b"{}", b"not json", b'{"base_model_name_or_path": "who/knows"}']
)
def test_a_base_that_is_not_there_is_asked_for(
    content: bytes, library: Library, blobs: BlobStore
) -> None:
    files = {"adapter_config.json": blobs.put_bytes(content).digest}
    with pytest.raises(ModelNotFoundError, match="--base"):
        find_base(library, blobs, files, None)


def test_an_exported_adapter_finds_the_base_it_had(
    add: Any, library: Library, blobs: BlobStore
) -> None:
    add("a")
    digest = add("b").digest
    exported = blobs.put_bytes(json.dumps({"base_digest": digest}).encode()).digest
    assert find_base(library, blobs, {"manifest.json": exported}, None).ref == "b:1"


def test_only_language_models_are_bases(add: Any, library: Library, blobs: BlobStore) -> None:
    add("judge", engine="pipelines", task="classify")
    with pytest.raises(InvalidModelError, match="judge:1 is no base"):
        find_base(library, blobs, {}, "judge")


# -- names -----------------------------------------------------------------------------------------


def test_an_adapter_is_asked_for_by_its_own_name_or_over_a_base(
    run: Run, adapter_dir: Path, library: Library, add: Any
) -> None:
    library.add(run(adapter_dir).artifacts[0], "alice")
    add("other")

    def refs(text: str) -> list[str | None]:
        return [version and version.ref for version in resolve_pair(library, text)]

    assert refs("mine") == ["my-base:1", "mine:1"]
    assert refs("mine@latest") == ["my-base:1", "mine:1"]
    assert refs("other:1+mine:1") == ["other:1", "mine:1"]
    assert refs("other") == ["other:1", None]
    assert library.resolve("mine").kind == "adapter"
    for wrong in ("mine+other", "other+", "other+other", "mine+mine", "other+mine:2"):
        with pytest.raises(LlmosError) as caught:
            resolve_pair(library, wrong)
        assert caught.value.status in (400, 404)
    library.remove(ModelRef.parse("my-base"), SYSTEM)
    with pytest.raises(ModelNotFoundError, match=r"base of mine:1 is gone .*BASE\+mine"):
        resolve_pair(library, "mine")


def test_models_and_adapters_share_their_names(
    run: Run, adapter_dir: Path, library: Library, add: Any
) -> None:
    new = run(adapter_dir).artifacts[0]
    library.add(new, "alice")
    with pytest.raises(ConflictError, match="the adapter 'mine' has this name already"):
        add("mine")
    with pytest.raises(ConflictError, match="the model 'my-base' has this name already"):
        library.check_name("my-base", "alice", "adapter")
    with pytest.raises(ModelNotFoundError, match="'mine' is of kind adapter"):
        library.resolve("mine", "model")
    library.remove("mine", SYSTEM, "adapter")
    with pytest.raises(ModelNotFoundError, match="mine was removed"):
        library.resolve("mine")
    assert add("mine").ref == "mine:1"
    with pytest.raises(ModelNotFoundError, match="did you mean 'my-base'"):
        library.resolve("my-bas")
