"""Pull and import through a whole system: queue, worker process, commit, library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from safetensors.numpy import save_file
from tests.hubserver import Hub, running_hub
from tests.unit.library.conftest import tokenizer_json, write_json

from llmos.kernel.events import topic
from llmos.kernel.jobs import Job, JobState
from llmos.security.actors import SYSTEM
from llmos.security.audit import list_events, verify
from llmos.settings import Settings
from llmos.system import System, open_system

REPO = "tiny/llama"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8}
    write_json(directory / "config.json", config)
    (directory / "tokenizer.json").write_text(tokenizer_json())
    weights = {"model.embed_tokens.weight": np.ones((8, 64), np.float32)}
    save_file(weights, directory / "model.safetensors")
    return directory


@pytest.fixture
def server(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that worker processes find through their environment."""
    with running_hub() as running:
        running.add(REPO, model_dir)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        yield running


@pytest_asyncio.fixture
async def system(server: Hub, tmp_path: Path) -> AsyncIterator[System]:
    opened = open_system(Settings(home=tmp_path / "home", threads=1))
    await opened.start()
    yield opened
    await opened.close()


async def run(system: System, kind: str, params: dict[str, Any]) -> Job:
    """Submit a job and return it when it has ended."""
    submitted = await system.kernel.jobs.submit(kind, params, owner="alice")
    with system.kernel.events.subscribe(topic(submitted.id)) as events:
        while not (job := await system.kernel.jobs.get(submitted.id)).state.is_final:
            await anext(events)
    return job


async def test_a_pull_ends_as_a_version(system: System, tmp_path: Path) -> None:
    job = await run(system, "pull", {"repo": REPO})
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    version = system.library.resolve("llama")
    assert (version.ref, version.job_id, version.owner) == ("llama:1", job.id, "alice")
    assert job.result is not None
    assert job.result["artifacts"] == ["llama:1"]
    directory = system.library.directory(version)
    original = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert (directory / "model.safetensors").read_bytes() == original
    assert not (tmp_path / "hf-home").exists()
    assert any(event.object == "llama:1" for event in list_events(system.database))
    assert verify(system.database) > 0


async def test_a_pull_survives_breaks_and_a_busy_hub(system: System, server: Hub) -> None:
    server.statuses = [503]
    server.break_after["model.safetensors"] = [100, 0, 0, 0]
    job = await run(system, "pull", {"repo": REPO})
    assert job.state is JobState.SUCCEEDED
    assert job.attempt == 3
    ranges = [request.range for request in server.downloads("model.safetensors")]
    assert ranges == [None, *["bytes=100-"] * 4]


async def test_a_refused_pull_fails_at_once_with_its_sentence(system: System, server: Hub) -> None:
    server.repositories[REPO].gated = True
    job = await run(system, "pull", {"repo": REPO})
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert job.error["message"].startswith("tiny/llama is gated: accept its terms at")
    assert system.library.versions("llama") == []


async def test_an_import_ends_as_a_version_and_a_bad_one_leaves_nothing(
    system: System, model_dir: Path
) -> None:
    files = {path.name: system.blobs.put_file(path).digest for path in model_dir.iterdir()}
    job = await run(system, "import", {"name": "mine", "files": files})
    assert job.state is JobState.SUCCEEDED
    assert system.library.resolve("mine").manifest["source"]["kind"] == "imported"
    weights = system.blobs.put_bytes(b"\x80\x04 a pickle")
    bad = files | {"model.safetensors": weights.digest}
    job = await run(system, "import", {"name": "mine", "files": bad})
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "not a valid safetensors file" in job.error["message"]
    assert [version.number for version in system.library.versions("mine")] == [1]
    system.library.remove("mine", SYSTEM)
