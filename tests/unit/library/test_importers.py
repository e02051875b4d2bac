"""The import job: a good directory becomes a version, every bad one a single clear sentence."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from llmos.errors import (
    CancelledError,
    CorruptBlobError,
    InvalidModelError,
    LlmosError,
    NotFoundError,
    UnsafeFileError,
)
from llmos.library import importers
from llmos.library.files import check_filename, select
from llmos.library.jobs import check_import
from llmos.storage.blobs import BlobStore

Store = Callable[[Path], dict[str, str]]


@pytest.fixture
def run(context: Any, store: Store) -> Callable[[Path], Any]:
    """Do what `llmos import` does: upload the directory, check the params, run the handler."""

    def go(directory: Path) -> Any:
        context.params = check_import({"name": "mine", "files": store(directory)})
        return importers.run(context)

    return go


Run = Callable[[Path], Any]


def edit(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values))


def test_a_good_directory_becomes_a_version(run: Run, model_dir: Path, context: Any) -> None:
    (model_dir / "training_args.bin").write_bytes(b"never opened")
    (model_dir / "events.log").write_text("x")
    result = run(model_dir)
    (new,) = result.artifacts
    assert (new.kind, new.name) == ("model", "mine")
    assert set(new.files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert new.manifest["source"] == {
        "kind": "imported",
        "skipped": ["events.log", "training_args.bin"],
    }
    assert result.summary == {"name": "mine", "task": "generate", "parameters": 80}
    assert any("passed over training_args.bin" in line for line in context.logs)
    assert context.reports[-1] == (5, 5, "done")
    assert list(context.checkpoint_dir.iterdir()) == []


def test_a_sharded_model_imports(run: Run, model_dir: Path) -> None:
    shard(model_dir)
    (new,) = run(model_dir).artifacts
    assert sum(name.startswith("model-") for name in new.files) == 2
    assert new.manifest["parameters"] == 80


def shard(directory: Path) -> dict[str, str]:
    (directory / "model.safetensors").unlink()
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    save_file({"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}, directory / first)
    rest = {
        "model.layers.0.q.weight": np.zeros((4, 4), np.float32),
        "lm_head.weight": np.zeros((8, 4), np.float32),
    }
    save_file(rest, directory / second)
    weight_map = {"model.embed_tokens.weight": first} | dict.fromkeys(rest, second)
    edit(directory / "model.safetensors.index.json", weight_map=weight_map)
    return weight_map


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def only_bin(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def adapter(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(pickle.dumps({"a": print}))


def zipped(directory: Path) -> None:
    with zipfile.ZipFile(directory / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", "x")


def missing_shard(directory: Path) -> None:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def wrong_shard(directory: Path) -> None:
    weight_map = shard(directory)
    swapped = weight_map | {"lm_head.weight": "model-00001-of-00002.safetensors"}
    edit(directory / "model.safetensors.index.json", weight_map=swapped)


def shard_outside(directory: Path) -> None:
    weight_map = shard(directory)
    evil = weight_map | {"lm_head.weight": "../../etc/passwd"}
    edit(directory / "model.safetensors.index.json", weight_map=evil)


def empty_index(directory: Path) -> None:
    shard(directory)
    edit(directory / "model.safetensors.index.json", weight_map={})


def no_index(directory: Path) -> None:
    shard(directory)
    (directory / "model.safetensors.index.json").unlink()


def other_tokenizer(directory: Path) -> None:
    words = {f"w{index}": index for index in range(9)}
    (directory / "tokenizer.json").write_text(Tokenizer(models.WordLevel(words, "w0")).to_str())


def added_token(directory: Path) -> None:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens(["<extra>"])
    (directory / "tokenizer.json").write_text(tokenizer.to_str())


def bad_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text('{"model": 1}')


def no_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def remote_code(directory: Path) -> None:
    edit(directory / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})


def remote_tokenizer(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})


def unsupported(directory: Path) -> None:
    edit(
        directory / "config.json",
        architectures=["WhisperForConditionalGeneration"],
        model_type="whisper",
    )


def quantised(directory: Path) -> None:
    edit(directory / "config.json", quantization_config={"quant_method": "gptq"})


def wrong_vocab(directory: Path) -> None:
    edit(directory / "config.json", vocab_size=7)


def bad_json(directory: Path) -> None:
    (directory / "config.json").write_text('{"architectures": [')


def deep_json(directory: Path) -> None:
    (directory / "config.json").write_text('{"a":' + "[" * 100_000)


def json_list(directory: Path) -> None:
    (directory / "config.json").write_text("[]")


BAD: list[tuple[Callable[[Path], Any], type[LlmosError], str]] = [
    (
        no_config,
        InvalidModelError,
        "there is no config.json: choose a directory in Hugging Face format",
    ),
    (only_bin, UnsafeFileError, "only in pytorch_model.bin.*convert them to safetensors"),
    (no_weights, InvalidModelError, "there is no model.safetensors: save the model"),
    (adapter, InvalidModelError, "there is no adapter_config.json: save the adapter again"),
    (cut, InvalidModelError, "model.safetensors is not a valid safetensors file: .*download"),
    (pickled, InvalidModelError, "not a valid safetensors file"),
    (zipped, InvalidModelError, "not a valid safetensors file"),
    (missing_shard, InvalidModelError, "names model-00002-of-00002.safetensors, which is missing"),
    (wrong_shard, InvalidModelError, "places 'lm_head.weight' in model-00001"),
    (shard_outside, InvalidModelError, "'../../etc/passwd' is not a plain file name"),
    (empty_index, InvalidModelError, "has no weight_map"),
    (no_index, InvalidModelError, "model.safetensors.index.json is missing: add it"),
    (other_tokenizer, InvalidModelError, "ids up to 8, but the embeddings have 8 rows"),
    (added_token, InvalidModelError, "the tokenizer does not belong to this model"),
    (bad_tokenizer, InvalidModelError, "tokenizer.json is not a valid tokenizer"),
    (no_tokenizer, InvalidModelError, "no tokenizer.json, and none can be made"),
    (
        remote_code,
        UnsafeFileError,
        r"config.json asks to run code from the repository \(auto_map\)",
    ),
    (remote_tokenizer, UnsafeFileError, "tokenizer_config.json asks to run code"),
    (unsupported, InvalidModelError, "'WhisperForConditionalGeneration' .* is not supported"),
    (quantised, InvalidModelError, "quantised"),
    (wrong_vocab, InvalidModelError, "vocab_size 7 but the embeddings have 8 rows"),
    (bad_json, InvalidModelError, "config.json is not valid JSON"),
    (deep_json, InvalidModelError, "config.json is not valid JSON"),
    (json_list, InvalidModelError, "config.json is not a JSON object"),
]


@pytest.mark.parametrize(
    ("spoil", "error", "said"), BAD, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_bad_directory_is_refused_in_one_sentence(
    spoil: Callable[[Path], Any], error: type[LlmosError], said: str, run: Run, model_dir: Path
) -> None:
    spoil(model_dir)
    with pytest.raises(error, match=said) as caught:
        run(model_dir)
    assert "\n" not in caught.value.message
    assert not caught.value.retryable
    assert caught.value.status == 400


def test_a_missing_or_damaged_blob_is_said(
    run: Run, model_dir: Path, context: Any, blobs: BlobStore
) -> None:
    run(model_dir)
    path = blobs.path(context.params["files"]["config.json"])
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(CorruptBlobError):
        importers.run(context)
    with pytest.raises(NotFoundError):
        importers.run(context)


def test_a_cancelled_import_stops(run: Run, model_dir: Path, context: Any) -> None:
    context.cancel()
    with pytest.raises(CancelledError):
        run(model_dir)


def test_an_older_tokenizer_is_converted(run: Run, model_dir: Path, context: Any) -> None:
    (model_dir / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s"]
    (model_dir / "vocab.txt").write_text("\n".join(words))
    edit(
        model_dir / "config.json",
        architectures=["BertForSequenceClassification"],
        model_type="bert",
    )
    (model_dir / "tokenizer_config.json").unlink()
    edit(model_dir / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    (new,) = run(model_dir).artifacts
    content = context.blobs.read_bytes(new.files["tokenizer.json"].digest)
    encoding = Tokenizer.from_str(content.decode()).encode("Hello worlds")
    assert encoding.tokens == ["[CLS]", "hello", "world", "##s", "[SEP]"]


CANARY_NAMES = [
    f"{stem}{suffix}"
    for stem in ("pytorch_model", "optimizer", "scheduler", "training_args", "model")
    for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot", ".zip")
]


class Canary:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_canary_file_fires(run: Run, model_dir: Path, tmp_path: Path) -> None:
    mark = tmp_path / "fired"
    for name in [*CANARY_NAMES, "modeling_evil.py", "setup.sh", "tokenizer.pkl"]:
        (model_dir / name).write_bytes(pickle.dumps(Canary(mark)))
    assert len(list(model_dir.iterdir())) > 40
    (new,) = run(model_dir).artifacts
    assert set(new.files) & {*CANARY_NAMES, "modeling_evil.py"} == set()
    assert not mark.exists()


EVIL_FILES = ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a..b", ".env", "-rf", "a b"]
EVIL_FILES += ["a\n", "a\0b", "é.json", "x" * 201, "C:x", "~x", "a%2fb", "$(id)", "a;b", "a|b"]
EVIL_FILES += ["a*b", "a?b", "<a>", '"a"', "\u202ea"]


@pytest.mark.parametrize("name", EVIL_FILES)
def test_file_names_are_plain(name: str) -> None:
    with pytest.raises(InvalidModelError, match="not a plain file name"):
        check_filename(name)
    with pytest.raises(InvalidModelError):
        check_import({"name": "a", "files": {name: "sha256:" + "0" * 64}})


def test_whole_weights_and_known_files_are_chosen() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "consolidated.safetensors",
        "model.safetensors.bak",
        "x.py",
    ]
    chosen = select([*names, "README.md", "tokenizer.model"])
    assert chosen.kept == ("README.md", "config.json", "model.safetensors", "tokenizer.model")
    assert chosen.skipped == ("consolidated.safetensors", "model.safetensors.bak", "x.py")


def test_an_exported_manifest_describes_what_the_files_cannot(run: Run, model_dir: Path) -> None:
    says = {"task": "generate", "engine": "native", "architecture": "LlamaForCausalLM"}
    edit(model_dir / "manifest.json", **says, limits="It is tiny.", metrics={"bleu": 99})
    (new,) = run(model_dir).artifacts
    assert new.manifest["limits"] == "It is tiny."
    assert new.manifest["metrics"] == {}
    assert "manifest.json" not in new.files


def test_a_manifest_of_another_program_says_nothing(run: Run, model_dir: Path) -> None:
    edit(model_dir / "manifest.json", license={"not": "ours"})
    assert run(model_dir).artifacts[0].manifest["license"] == ""
