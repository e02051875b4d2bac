"""LoRA adapters as a user has them: imported, listed, asked, exported, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from harness import Llmos, kill, running, until
from tests.unit.engines.families import VOCAB, generate, load_oracle, make_model
from tests.unit.engines.lora import LLAMA, load_adapted, save_adapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PROMPT = [5, 11, 2, 60, 33, 8]
LONG = 50


@dataclass(frozen=True)
class World:
    """A running llmos with a tiny base and two adapters, and the networks in peft."""

    llmos: Llmos
    folder: Path
    networks: dict[str, Any]

    def ask(self, model: str, max_tokens: int = 12) -> list[int]:
        """What the server answers greedily, as token ids."""
        client = openai.OpenAI(base_url=f"{self.llmos.url}/v1", api_key=self.llmos.key)
        done = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=max_tokens, temperature=0
        )
        return [int(word.removeprefix("w")) for word in done.choices[0].text.split()]

    def expected(self, name: str, max_tokens: int = 12) -> list[int]:
        return generate(self.networks[name], PROMPT, max_tokens)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("adapters")
    directory = make_model(folder / "tiny-base", "llama")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    base = load_oracle(directory)
    networks = {"tiny-base": base}
    for seed, name in enumerate(("poet", "clerk"), 1):
        path = save_adapter(folder / name, base, seed, target_modules=LLAMA)
        networks[name] = load_adapted(base, path)
    with running(folder / "llmos") as llmos:
        llmos.ok("import", directory, "--name", "tiny-base")
        yield World(llmos, folder, networks)


def test_adapters_are_imported_and_found_beside_the_models(world: World) -> None:
    llmos = world.llmos
    said = llmos.ok("import", world.folder / "poet", "--name", "poet")
    assert "poet:1 is ready: `llmos show poet:1`, `llmos run poet:1`" in said
    llmos.ok("import", world.folder / "clerk", "--name", "clerk", "--base", "tiny-base:1")
    listed = llmos.ok("list")
    assert "imported, adapter of tiny-base:1" in listed
    client = openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key)
    assert {"tiny-base", "poet", "clerk"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny-base+poet").id == "tiny-base+poet"
    assert llmos.json("show", "poet")["inputs"] == ["tiny-base:1"]
    assert "| adapter of | tiny-base:1 |" in llmos.ok("show", "poet")


def test_each_request_gets_its_own_adapter_in_one_batch(world: World) -> None:
    names = ["tiny-base", "poet", "clerk", "tiny-base+poet", "tiny-base:1+clerk@latest"] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(world.ask, names))
    for name, tokens in zip(names, answers, strict=True):
        plain = name.rpartition("+")[2].partition("@")[0]
        assert tokens == world.expected(plain), name
    with world.llmos.client() as client:
        (model,) = [one for one in client.ps()["models"] if one["name"] == "tiny-base:1"]
        assert {one["name"] for one in model["adapters"]} == {"poet:1", "clerk:1"}
        told = client.generate("tiny-base+poet", "w1 w2", max_tokens=1)
        assert told["model"] == "poet:1"


def test_the_python_and_command_line_ask_it_too(world: World) -> None:
    expected = [f"w{token}" for token in world.expected("poet", 4)]
    prompt = " ".join(f"w{token}" for token in PROMPT)
    for name in ("poet", "tiny-base+poet"):
        flags = ("--max-tokens", "4", "--temperature", "0")
        assert world.llmos.ok("run", name, prompt, *flags).split()[-4:] == expected
        with world.llmos.client() as client:
            assert client.model(name)["ref"] in ("poet:1", "tiny-base:1+poet:1")


def test_a_killed_engine_costs_no_stream(world: World) -> None:
    client = openai.OpenAI(base_url=f"{world.llmos.url}/v1", api_key=world.llmos.key)
    for name in ("poet", "tiny-base"):
        stream = client.completions.create(
            model=name, prompt=PROMPT, max_tokens=LONG, temperature=0, stream=True
        )
        text = next(iter(stream)).choices[0].text
        engine = until(world.llmos.engine, "the engine")
        assert engine is not None
        kill(engine)
        text += "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        tokens = [int(word.removeprefix("w")) for word in text.split()]
        assert tokens == world.expected(name, LONG)


def test_what_does_not_fit_is_refused_by_name(world: World, tmp_path: Path) -> None:
    llmos = world.llmos
    assert "did you mean" in llmos.refused("run", "tiny-base+poem", "w1")
    assert "'poet' is of kind adapter, where a name of kind model is wanted" in llmos.refused(
        "run", "poet+tiny-base", "w1"
    )
    assert "only models that generate text" in llmos.refused(
        "import", world.folder / "poet", "--name", "x", "--base", "starter-sentiment"
    )
    wide = load_oracle(make_model(tmp_path / "wide", "llama", intermediate_size=64))
    path = save_adapter(tmp_path / "a", wide, target_modules=["down_proj"])
    refused = llmos.refused("import", path, "--name", "x", "--base", "tiny-base")
    assert "does not fit tiny-base:1: model.layers.0.mlp.down_proj is [32, 48]" in refused
    refused = llmos.refused("run", "starter-chat+poet", "w1")
    assert "does not fit" in refused or "no linear module" in refused
    assert "has this name already" in llmos.refused(
        "import", world.folder / "poet", "--name", "tiny-base", "--base", "tiny-base"
    )


def test_an_exported_adapter_is_what_was_imported(world: World, tmp_path: Path) -> None:
    llmos = world.llmos
    llmos.ok("export", "poet", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    adapted = load_adapted(world.networks["tiny-base"], tmp_path / "out")
    assert generate(adapted, PROMPT, 6) == world.expected("poet", 6)
    llmos.ok("import", tmp_path / "out", "--name", "again")
    assert llmos.json("show", "again")["manifest"]["base"] == "tiny-base:1"
    assert world.ask("again", 6) == world.expected("poet", 6)
    llmos.ok("alias", "again", "good")
    assert world.ask("again@good", 6) == world.expected("poet", 6)
    llmos.ok("rm", "again")
    assert "was removed" in llmos.refused("run", "again", "w1")
    llmos.ok("gc", "--grace-s", "0")
    assert world.ask("poet", 6) == world.expected("poet", 6)
