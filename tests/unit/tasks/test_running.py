"""What is loaded for the model that was asked for: on a CPU, its quantised version."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos.library.versions import Version
from llmos.settings import Settings
from llmos.tasks import context as module
from llmos.tasks.context import TaskContext
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizer
from llmos.types import FileRef

MANIFEST: dict[str, Any] = {
    "task": "generate",
    "engine": "native",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "dtype": "bfloat16",
    "parameters": 1000,
}
QUANTIZED = MANIFEST | {
    "dtype": "int8",
    "weights_bytes": 1000,
    "quantization": {"base_digest": "sha256:m"},
}
FILES = {"tokenizer.json": FileRef("sha256:" + "0" * 64, 1)}


def version(number: int, name: str, manifest: dict[str, Any]) -> Version:
    digest = f"sha256:{name}"
    return Version(
        number, "model", "", name, 1, digest, manifest, FILES, "admin", 0.0, None, (), ()
    )


class Home:
    """A library of a model and what was quantised of it, and a residency that holds nothing."""

    def __init__(self) -> None:
        self.base = version(1, "m", MANIFEST)
        self.quantized = version(2, "m-int8", QUANTIZED)
        self.num_searches = 0

    def resolve(self, ref: str, kind: str | None = None) -> Version:
        return self.quantized if ref.startswith("m-int8") else self.base

    def made_from(self, source: str) -> list[Version]:
        self.num_searches += 1
        return [self.quantized] if source == self.base.digest else []

    def directory(self, version: Version) -> Path:
        return Path("/models") / version.name

    def status(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def serving(
    monkeypatch: pytest.MonkeyPatch, tokenizer_of: Callable[[str], Tokenizer]
) -> Callable[..., tuple[TaskContext, Home]]:
    """Return a function: settings -> a context on a machine with the extension, and its home."""
    monkeypatch.setattr(module, "is_likely", lambda: True)

    class Known:
        async def get(self, files: Any) -> Tokenizer:
            return tokenizer_of("byte_level")

    def make(**settings: Any) -> tuple[TaskContext, Home]:
        home = Home()
        wanted = Settings(**{"device": "cpu", **settings})
        return TaskContext(home, home, Known(), Templates(), wanted), home  # type: ignore[arg-type]

    return make


async def test_the_quantised_version_is_loaded_under_the_name_that_was_asked_for(
    serving: Any,
) -> None:
    context, _ = serving()
    served = await context.serve("m", {"generate"})
    assert (served.ref, served.names, served.version.name) == ("m:1", ["m"], "m")
    assert (served.spec.name, served.spec.key) == ("m-int8:1", "sha256:m-int8")
    assert served.spec.path == "/models/m-int8"
    assert served.spec.manifest["dtype"] == "int8" and served.spec.estimate_bytes >= 1000
    assert served.digest == "sha256:m-int8"  # the answers may be others


async def test_asked_for_by_its_own_name_it_is_itself(serving: Any) -> None:
    context, home = serving()
    served = await context.serve("m-int8", {"generate"})
    assert (served.ref, served.spec.key) == ("m-int8:1", "sha256:m-int8")
    assert home.num_searches == 0


@pytest.mark.parametrize("settings", [{"dtype": "stored"}, {"device": "cuda:0"}])
async def test_a_gpu_and_whoever_says_so_get_the_stored_weights(
    serving: Any, settings: dict[str, str]
) -> None:
    context, home = serving(**settings)
    served = await context.serve("m", {"generate"})
    assert (served.spec.name, served.spec.key) == ("m:1", served.version.digest)
    assert home.num_searches == 0


async def test_a_cpu_that_cannot_compute_with_it_gets_the_stored_weights(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_likely", lambda: False)
    context, _ = serving()
    assert (await context.serve("m", {"generate"})).spec.name == "m:1"


async def test_models_of_other_engines_are_not_looked_up(serving: Any) -> None:
    context, home = serving()
    home.base = dataclasses.replace(home.base, manifest=MANIFEST | {"engine": "pipelines"})
    await context.serve("m", {"generate"})
    assert home.num_searches == 0
