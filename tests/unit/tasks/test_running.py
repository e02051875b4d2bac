"""What is loaded for the model that was asked for: on a CPU, its quantised version."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import CorruptBlobError, NotFoundError, UnsupportedTaskError
from llmos.library.versions import Version
from llmos.settings import Settings
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
        self.others: dict[str, Version] = {}
        self.base = version(1, "m", MANIFEST)
        self.quantized = version(2, "m-int8", QUANTIZED)
        self.num_searches = self.num_resolved = 0

    def resolve(self, ref: str, kind: str | None = None) -> Version:
        self.num_resolved += 1
        other = self.others.get(ref, self.base)
        return self.quantized if ref.startswith("m-int8") else other

    def made_from(self, source: str) -> list[Version]:
        self.num_searches += 1
        return [self.quantized] if source == self.base.digest else []

    def directory(self, version: Version) -> Path:
        return Path("/models") / version.name

    def status(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def serving(
    tokenizer_of: Callable[[str], Tokenizer],
) -> Callable[..., tuple[TaskContext, Home]]:
    """Return a function: settings -> a context on a machine without a GPU, and its home."""

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


async def test_models_of_other_engines_are_not_looked_up(serving: Any) -> None:
    context, home = serving()
    home.base = dataclasses.replace(home.base, manifest=MANIFEST | {"engine": "pipelines"})
    await context.serve("m", {"generate"})
    assert home.num_searches == 0


@pytest.mark.parametrize(
    ("capacity_bytes", "budget_bytes"), [(2**30, 2**30), (64 * 2**30, 8 * 2**30)]
)
async def test_the_cache_grows_with_the_memory_and_all_but_one_context_can_be_spared(
    serving: Any, capacity_bytes: int, budget_bytes: int
) -> None:
    context, home = serving(dtype="stored")
    context = dataclasses.replace(context, capacity_bytes=capacity_bytes)
    cached = {"kv_bytes_per_token": 2**20, "context_tokens": 1024}
    home.base = dataclasses.replace(home.base, manifest=MANIFEST | cached)
    spec = (await context.serve("m", {"generate"})).spec
    assert spec.estimate_bytes == 4000 + budget_bytes  # in float32
    assert spec.spare_bytes == max(budget_bytes - 2 * 1024 * 2**20, 0)
    own = {"kv_cache_bytes": 2**22}
    home.base = dataclasses.replace(home.base, manifest=MANIFEST | cached | own)
    assert (await context.serve("m", {"generate"})).spec.estimate_bytes == 4000 + 2**22


async def test_a_name_is_looked_up_again_once_anything_has_changed_and_not_before(
    serving: Any,
) -> None:
    context, home = serving()
    changes = 0
    context = dataclasses.replace(context, changes=lambda: changes)
    for _ in range(3):
        assert (await context.serve("m", {"generate"})).spec.name == "m-int8:1"
    assert (home.num_resolved, home.num_searches) == (1, 1)
    home.base, changes = version(3, "other", MANIFEST), 1
    served = await context.serve("m", {"generate"})
    assert (served.ref, served.spec.path) == ("other:1", "/models/other")


async def test_a_name_that_many_ask_for_at_once_is_looked_up_once(serving: Any) -> None:
    context, home = serving()
    context = dataclasses.replace(context, changes=lambda: 0)
    asked = (context.serve("m", {"generate"}) for _ in range(10))
    served = await asyncio.gather(*asked)
    assert {one.spec.name for one in served} == {"m-int8:1"}
    assert home.num_resolved == 1


async def test_what_changes_while_a_name_is_looked_up_is_not_missed(serving: Any) -> None:
    context, home = serving()
    changes = 0
    context = dataclasses.replace(context, changes=lambda: changes)
    found = home.made_from

    def changed_meanwhile(source: str) -> list[Version]:
        nonlocal changes
        changes, home.made_from = 1, found
        old = found(source)
        home.base = version(3, "other", MANIFEST)
        return old

    home.made_from = changed_meanwhile
    assert (await context.serve("m", {"generate"})).ref == "m:1"
    assert (await context.serve("m", {"generate"})).ref == "other:1"


async def test_where_nothing_tells_of_changes_nothing_is_remembered(serving: Any) -> None:
    context, home = serving()
    for _ in range(2):
        await context.serve("m", {"generate"})
    assert home.num_resolved == 2


async def test_a_refusal_is_not_remembered(serving: Any) -> None:
    context, _ = serving()
    context = dataclasses.replace(context, changes=lambda: 0)
    with pytest.raises(UnsupportedTaskError):
        await context.serve("m", {"embed"})
    assert (await context.serve("m", {"generate"})).ref == "m:1"


async def test_a_draft_is_loaded_with_the_model_it_guesses_for(serving: Any) -> None:
    context, home = serving()
    small = version(3, "small", MANIFEST | {"parameters": 10})
    home.others = {"small": small}
    context = dataclasses.replace(context, drafts={"m": "small"})
    spec = (await context.serve("m", {"generate"})).spec
    assert spec.manifest["draft"]["path"] == "/models/small"
    assert spec.manifest["draft"]["parameters"] == 10
    alone = dataclasses.replace(context, drafts={})
    without = (await alone.serve("m", {"generate"})).spec
    assert spec.key == without.key  # it changes no answer
    assert spec.estimate_bytes == without.estimate_bytes + 40


async def test_a_file_that_is_gone_is_the_models_fault_and_not_the_askers(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, home = serving()

    def directory(version: Version) -> Path:
        raise NotFoundError("There is no stored file sha256:0.")

    monkeypatch.setattr(home, "directory", directory)
    with pytest.raises(CorruptBlobError, match="A stored file of m@production is gone: import or"):
        await context.serve("m@production", {"generate"})
