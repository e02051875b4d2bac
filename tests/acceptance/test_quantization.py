"""Quantised models as a user has them: made, run in their base's place, exported, removed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from harness import Llmos, running, stop
from tests.unit.engines.decoders import (
    EXPERTS,
    OTHERS,
    VOCAB,
    make_decoder,
    needed_extension,
    random_ids,
)
from tests.unit.engines.families import greedy, run_works
from tests.unit.engines.lora import save_adapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.mapped import open_mapped

KINDS = ("llama", "qwen2", "gemma3")
NUM_TOKENS = 12
TINY_MEMORY_BYTES = 17_000_000
"""Room for one of the models with its cache and workspace, not for two."""


def add_tokenizer(directory: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@dataclass(frozen=True)
class World:
    """A running llmos with three models, each quantised."""

    llmos: Llmos
    folder: Path

    def ask(self, model: str, seed: int = 0) -> list[int]:
        """What the server answers greedily, as token ids."""
        with openai.OpenAI(base_url=f"{self.llmos.url}/v1", api_key=self.llmos.key) as client:
            done = client.completions.create(
                model=model, prompt=random_ids(9, seed), max_tokens=NUM_TOKENS, temperature=0
            )
        assert done.model == f"{model}:1"
        return [int(word.removeprefix("w")) for word in done.choices[0].text.split()]

    def expected(self, directory: Path, seed: int = 0) -> list[int]:
        """What the engine makes of a directory, in this process and alone."""
        manifest: dict[str, Any] = {"engine": "native", "context_tokens": 128, "dtype": "int8"}
        engine = NativeEngine()
        engine.load(directory, manifest | {"kv_bytes_per_token": 768}, "cpu", 1)
        return run_works(engine, {"": greedy(random_ids(9, seed), NUM_TOKENS)})[""]

    def names_in_memory(self) -> set[str]:
        return {model["name"] for model in self.llmos.json("ps")["models"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needed_extension()
    folder = tmp_path_factory.mktemp("quantization")
    for kind in KINDS:
        add_tokenizer(make_decoder(folder / kind, kind, torch.bfloat16))
    with running(folder / "llmos") as llmos:
        for kind in KINDS:
            llmos.ok("import", folder / kind, "--name", kind)
        said = llmos.ok("quantize", "llama")
        assert "llama-int8:1 is ready" in said and "llama:1 now runs as it" in said
        llmos.ok("quantize", "qwen2", "--to", "int4", "--name", "small")
        llmos.ok("quantize", "gemma3")
        for name in ("llama-int8", "small", "gemma3-int8"):
            llmos.ok("export", name, folder / "exported" / name)
        yield World(llmos, folder)


@contextmanager
def restarted(llmos: Llmos, **environment: str) -> Iterator[None]:
    """The server with other settings, then as it was."""
    before = dict(llmos.environment)

    def restart(wanted: dict[str, str]) -> None:
        stop(llmos)
        llmos.environment.clear()
        llmos.environment.update(wanted)
        llmos.up()

    restart(before | environment)
    try:
        yield
    finally:
        restart(before)


RUNS_AS = {"llama": "llama-int8", "small": "small", "gemma3": "gemma3-int8"}
"""What is asked for, and what runs: the int4 model is too rough to stand in for its base."""


def test_it_runs_in_its_bases_place_with_the_same_tokens_alone_and_among_others(
    world: World,
) -> None:
    wanted = {
        (kind, seed): world.expected(world.folder / "exported" / RUNS_AS[kind], seed)
        for kind in RUNS_AS
        for seed in range(4)
    }
    for (kind, seed), tokens in list(wanted.items())[::4]:
        assert world.ask(kind, seed) == tokens
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = dict(zip(wanted, pool.map(lambda asked: world.ask(*asked), wanted), strict=True))
    assert answers == wanted
    assert world.names_in_memory() == {f"{name}:1" for name in RUNS_AS.values()}
    assert world.ask("llama-int8") == wanted["llama", 0]
    assert len(world.names_in_memory()) == 3


def test_the_card_says_what_it_is_made_of_and_what_runs(world: World) -> None:
    card = world.llmos.ok("show", "llama-int8")
    assert "| dtype | int8 |" in card and "| quantised from | llama:1; " in card
    assert "the same likeliest token at" in card
    assert "| runs as | llama-int8:1 (int8) |" in world.llmos.ok("show", "llama")
    shown = world.llmos.json("show", "small")
    assert shown["manifest"]["dtype"] == "int4" and "qwen2:1" in shown["inputs"]
    assert shown["manifest"]["metrics"]["quantization"]["relative_error"] < 0.6


def test_an_adapter_of_the_base_runs_over_it(world: World) -> None:
    base = open_mapped(world.folder / "llama")
    path = save_adapter(world.folder / "poet", base, 1, target_modules=["v_proj", "up_proj"])
    world.llmos.ok("import", path, "--name", "poet", "--base", "llama")
    plain = world.ask("llama")
    assert world.ask("poet") != plain
    (model,) = [one for one in world.llmos.json("ps")["models"] if one["name"] == "llama-int8:1"]
    assert [one["name"] for one in model["adapters"]] == ["poet:1"]
    world.llmos.ok("rm", "poet")


def test_an_exported_one_can_be_imported_again_and_a_damaged_one_cannot(
    world: World, tmp_path: Path
) -> None:
    llmos, exported = world.llmos, world.folder / "exported" / "llama-int8"
    done = llmos.run("export", "llama-int8", tmp_path / "out")
    assert "llmos' own format" in done.stderr
    llmos.ok("import", tmp_path / "out", "--name", "again")
    assert world.ask("again") == world.expected(exported)
    shown = llmos.json("show", "again")
    assert shown["manifest"]["dtype"] == "int8" and shown["runs_as"] == "again:1"
    weights = tmp_path / "out" / "quantized.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    refused = llmos.refused("import", tmp_path / "out", "--name", "broken")
    assert "quantized.safetensors is not a valid safetensors file" in refused
    assert not any(row["name"] == "broken" for row in llmos.json("list"))
    llmos.ok("rm", "again")


def test_an_import_can_be_quantised_in_the_same_command(world: World) -> None:
    add_tokenizer(make_decoder(world.folder / "qwen3", "qwen3", torch.bfloat16))
    said = world.llmos.ok("import", world.folder / "qwen3", "--name", "both", "--dtype", "int8")
    assert "both:1 is ready" in said and "both-int8:1 is ready" in said
    assert world.llmos.json("show", "both")["runs_as"] == "both-int8:1"
    quantizing, importing = world.llmos.json("jobs")[:2]
    assert (quantizing["kind"], importing["kind"]) == ("quantize", "import")
    assert quantizing["compute_s"] > 0, "computing is a job's of its own"
    world.llmos.ok("import", world.folder / "llama", "--name", "plain")
    # The same content as ``llama``, and so the same quantised version.
    assert world.llmos.json("show", "plain")["runs_as"] == "llama-int8:1"


def test_a_model_that_is_not_llama_like_is_quantised_and_run_by_torch(
    world: World, tmp_path: Path
) -> None:
    llmos = world.llmos
    add_tokenizer(make_decoder(world.folder / "gpt2", "gpt2"))
    llmos.ok("import", world.folder / "gpt2", "--name", "gpt2")
    assert "quantise it to int8" in llmos.refused("quantize", "gpt2", "--to", "int4")
    assert "gpt2:1 now runs as it" in llmos.ok("quantize", "gpt2")
    llmos.ok("export", "gpt2-int8", tmp_path / "out")
    expected = world.expected(tmp_path / "out")
    assert world.ask("gpt2") == expected
    assert "gpt2-int8:1" in world.names_in_memory()
    llmos.ok("import", tmp_path / "out", "--name", "gpt2-again")
    assert world.ask("gpt2-again") == expected
    for name in ("gpt2-again", "gpt2-int8", "gpt2"):
        llmos.ok("rm", name)


def test_without_the_extension_torch_runs_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmos.engines.native.served.extension", lambda: None)
    exported = world.folder / "exported"
    expected = {name: world.expected(exported / name) for name in ("llama-int8", "small")}
    with restarted(world.llmos, LLMOS_EXTENSION="0"):
        assert {name: world.ask(name) for name in expected} == expected
        found = {one["check"]: one for one in world.llmos.json("doctor")}
        assert found["extension"]["status"] == "warn"


def test_what_cannot_be_quantised_is_refused_in_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    llmos = world.llmos
    monkeypatch.setitem(OTHERS, "mixtral", EXPERTS)
    add_tokenizer(make_decoder(world.folder / "mixtral", "mixtral"))
    llmos.ok("import", world.folder / "mixtral", "--name", "mixtral")
    assert "too few of its weights" in llmos.refused("quantize", "mixtral")
    assert "too few of its weights" in llmos.refused(
        "import", world.folder / "mixtral", "--name", "gpt3", "--dtype", "int8"
    )
    assert "quantised already" in llmos.refused("quantize", "llama-int8")
    assert "only models that generate text" in llmos.refused("quantize", "starter-sentiment")
    assert "did you mean" in llmos.refused("quantize", "lama")
    assert "int8 or int4" in llmos.refused("quantize", "llama", "--to", "int2")
    made = [row["name"] for row in llmos.json("list") if row["name"].startswith("gpt3")]
    assert made == ["gpt3"], "the model itself is there all the same"
    assert llmos.json("show", "mixtral")["runs_as"] == "mixtral:1"


def test_models_take_turns_in_a_memory_that_holds_one(world: World) -> None:
    expected = {
        kind: world.expected(world.folder / "exported" / runs) for kind, runs in RUNS_AS.items()
    }
    with restarted(world.llmos, LLMOS_MEMORY_BYTES=str(TINY_MEMORY_BYTES)):
        for kind in [*RUNS_AS] * 2:
            assert world.ask(kind) == expected[kind]
            assert world.names_in_memory() == {f"{RUNS_AS[kind]}:1"}


def test_the_stored_weights_run_where_the_setting_says_so(world: World) -> None:
    with restarted(world.llmos, LLMOS_DTYPE="stored"):
        assert world.llmos.json("show", "qwen2")["runs_as"] == "qwen2:1"
        world.ask("qwen2")
        assert world.names_in_memory() == {"qwen2:1"}


def test_a_removed_one_gives_its_place_back(world: World) -> None:
    llmos = world.llmos
    llmos.ok("rm", "gemma3-int8")
    llmos.ok("gc", "--grace-s", "0")
    assert llmos.json("show", "gemma3")["runs_as"] == "gemma3:1"
    world.ask("gemma3")
    assert "gemma3:1" in world.names_in_memory()
    llmos.ok("quantize", "gemma3")
    with llmos.client() as client:
        assert client.model("gemma3")["runs_as"] == "gemma3-int8:2"
        assert client.wait(client.quantize("gemma3", "int4", "tiny")["id"])["result"]["artifacts"]
