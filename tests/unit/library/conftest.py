"""A library in memory, a job's context that records, and a model directory made by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, JobLog, JobProgress, StartJob
from llmos.library import evaluations
from llmos.library.artifacts import Library
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import jobs
from llmos.types import JobResult, NewVersion

VOCAB = ["<unk>", "<s>", "</s>", "a", "b", "c", "hello", "world"]
MANIFEST = {
    "task": "chat",
    "engine": "native",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
}


class Clock:
    """Seconds that a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def library(db: MemoryDatabase, blobs: BlobStore, clock: Clock, tmp_path: Path) -> Library:
    return Library(db, blobs, clock, tmp_path / "models")


@pytest.fixture
def new_version(blobs: BlobStore) -> Callable[..., NewVersion]:
    """Return a version whose one file holds ``content``."""

    def make(name: str, content: str = "x", **manifest: Any) -> NewVersion:
        ref = blobs.put_bytes(content.encode())
        return NewVersion("model", name, {"config.json": ref}, MANIFEST | manifest)

    return make


@pytest.fixture
def evaluate(db: MemoryDatabase, library: Library) -> Callable[..., None]:
    """Leave what an owner's evaluate job measured of a version."""
    numbers = itertools.count(1)

    def evaluate(
        ref: str, owner: str, metrics: dict[str, Any], data: str = "a", num_rows: int = 10
    ) -> None:
        params: dict[str, Any] = {"model": ref, "task": "classify", "dataset": "news"}
        params["data"] = {"news.tsv": f"sha256:{data * 64}"}
        values = {"id": next(numbers), "kind": "evaluate", "name": "", "params": params}
        values |= {"state": "running", "priority": 1, "owner": owner, "created_at": 0.0}
        result = JobResult({"rows": num_rows, "metrics": metrics})

        def write(conn: sa.Connection) -> None:
            conn.execute(jobs.insert().values(**values))
            job = SimpleNamespace(id=values["id"], params=params, owner=owner)
            evaluations.commit(conn, job, result, 0.0)  # type: ignore[arg-type]

        db.write_sync(write)

    return evaluate


class RecordedContext(JobContext):
    """The worker's own JobContext, what it reports kept in lists."""

    def __init__(self, home: Path) -> None:
        checkpoint_dir = home / "checkpoint"
        checkpoint_dir.mkdir()
        start = StartJob(
            job_id=1,
            fence=1,
            attempt=1,
            handler="",
            name="",
            params={},
            owner="alice",
            home=str(home),
            checkpoint_dir=str(checkpoint_dir),
            threads=1,
            heartbeat_s=1.0,
        )
        self.sent: list[FromWorker] = []
        super().__init__(start, self.sent.append, monotonic=itertools.count().__next__)

    @property
    def logs(self) -> list[str]:
        return [message.line for message in self.sent if isinstance(message, JobLog)]

    @property
    def reports(self) -> list[tuple[int, int, str]]:
        found = [message for message in self.sent if isinstance(message, JobProgress)]
        return [(message.step, message.total, message.message) for message in found]


@pytest.fixture
def context(blobs: BlobStore, tmp_path: Path) -> RecordedContext:
    """A job's context in a home whose blobs are those of ``blobs``."""
    return RecordedContext(tmp_path)


@pytest.fixture
def store(blobs: BlobStore) -> Callable[[Path], dict[str, str]]:
    """Upload a directory, as the SDK does: file name -> digest."""

    def upload(directory: Path) -> dict[str, str]:
        paths = [path for path in sorted(directory.iterdir()) if path.is_file()]
        return {path.name: blobs.put_file(path).digest for path in paths}

    return upload


def tokenizer_json() -> str:
    tokenizer = Tokenizer(
        models.WordLevel(dict(zip(VOCAB, range(len(VOCAB)), strict=True)), "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def llama_tensors(vocab: int = len(VOCAB)) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "model.embed_tokens.weight": np.zeros((vocab, 4), np.float32),
        "model.layers.0.self_attn.q_proj.weight": np.ones((4, 4), np.float32),
        "lm_head.weight": np.zeros((vocab, 4), np.float32),
    }


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A directory that has all a llama's needs, its weights too few to run."""
    directory = tmp_path / "model"
    directory.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(VOCAB),
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "eos_token_id": 2,
    }
    write_json(directory / "config.json", config)
    write_json(
        directory / "tokenizer_config.json", {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
    )
    (directory / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    save_file(llama_tensors(), directory / "model.safetensors")
    return directory
