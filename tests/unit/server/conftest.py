"""The application over in-memory storage and the echo engine, asked without a network."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from llmos.apps.annotating import Annotation
from llmos.apps.batch_store import Batches
from llmos.apps.runs import Runs
from llmos.apps.submitting import Submitter
from llmos.apps.tuning_store import Tunings
from llmos.kernel.jobs import JobKind
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.kernel.schedules import Schedule, Schedules
from llmos.kernel.webhooks import Webhooks
from llmos.library.answers import Answers
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.feedback import FeedbackStore
from llmos.security import audit
from llmos.security.outbound import Outbound
from llmos.security.tokens import Keys
from llmos.server.app import create_app
from llmos.server.lifetime import Lifetime
from llmos.settings import Settings
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.tasks.canaries import Canaries
from llmos.tasks.choosing import open_choosing
from llmos.tasks.context import TaskContext
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizers
from llmos.types import NewVersion

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ你好世界"
ALPHABET = LETTERS + ' .,!?:\n<>|/_{}[]()0123456789-"'
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
LABELS = ["O", "B-PERSON", "I-PERSON"]


def tokenizer_json() -> bytes:
    """One token a character; "~" is the end."""
    vocabulary = {"~": 0} | {char: i + 1 for i, char in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["~"])
    return tokenizer.to_str().encode()


def manifest(task: str, **extra: Any) -> dict[str, Any]:
    base = {"task": task, "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    sizes = {"context_tokens": 200, "vocab_size": len(ALPHABET) + 1, "eos_ids": [0]}
    return {**base, **sizes, **extra}


MODELS: dict[str, dict[str, Any]] = {
    "talker": manifest("chat", chat_template=TEMPLATE),
    "caller": manifest(
        "chat",
        chat_template="{% if tools %}{% endif %}{{ messages[-1].content }}",
        reasoning_format="think",
    ),
    "writer": manifest("generate"),
    "slow": manifest("chat", chat_template=TEMPLATE, step_s=0.05),
    "translator": manifest(
        "translate", translation={"prefix": "", "pairs": [["en", "zh"], ["zh", "en"]]}
    ),
    "judge": manifest("classify", labels=["negative", "positive"]),
    "finder": manifest("entities", labels=LABELS),
    "filler": manifest("fill_mask", special_tokens={"mask": "~"}),
    "reader": manifest("answer"),
    "rater": manifest("rate"),
    "parser": manifest("parse", labels=["root"]),
}


def add_model(library: Library, blobs: Any, name: str, values: dict[str, Any]) -> str:
    files = {
        "config.json": blobs.put_bytes(json.dumps({"name": name}).encode()),
        "tokenizer.json": blobs.put_bytes(tokenizer_json()),
    }
    return library.add(NewVersion("model", name, files, values), "admin").ref


def _refuse(params: dict[str, Any]) -> dict[str, Any]:
    return params


KINDS = {
    name: JobKind(name, "nowhere:run", _refuse, lambda _: 0)
    for name in ("train", "import", "pull", "evaluate")
}


async def resolve(host: str, port: int) -> list[str]:
    """Every name is one of the public internet; what is an address stays that."""
    return ["93.184.216.34"] if host.endswith(".example") else [host]


async def start_nothing(schedule: Schedule) -> int:
    """Nothing is started here: schedules are only kept."""
    raise AssertionError(schedule)


@asynccontextmanager
async def open_in_memory(home: Path, **kernel_settings: Any) -> AsyncIterator[Any]:
    """A System in memory whose kernel runs models but no jobs."""
    limits: dict[str, Any] = {"max_body_bytes": 100_000, "max_upload_bytes": 3_000_000}
    settings = Settings(home=home, **limits, **kernel_settings)
    settings.logs_path.mkdir()
    database, blobs = MemoryDatabase(), MemoryBlobStore()
    keys = Keys(database, time.time)
    library = Library(database, blobs, time.time, home / "models")
    for name, values in MODELS.items():
        add_model(library, blobs, name, values)
    webhooks = Webhooks(database, time.time, Outbound(resolve=resolve).check, audit=audit.record)
    kernel = Kernel(
        database,
        Ledger(2**30),
        KINDS,
        Settings(home=home, max_workers=0, **kernel_settings),
        time.time,
        lambda conn, job, result: [],
        rng=random.Random(0),
        audit=audit.record,
        outbox=webhooks,
    )
    answers = Answers(database, time.time)
    tasks = TaskContext(
        library, kernel.residency, Tokenizers(blobs), Templates(), settings, answers=answers
    )
    telemetry = kernel.residency.telemetry
    deployments = Deployments(database, time.time)
    canaries = Canaries(deployments)
    choosing = open_choosing(
        database, tasks, telemetry, time.time, random.Random(0), trials=canaries
    )
    feedback = FeedbackStore(database, time.time)
    submitter = Submitter(kernel.jobs, library, blobs, deployments, feedback)
    runs = Runs(database, kernel.jobs, submitter, time.time, keys.actor_of)
    await kernel.start()
    await runs.open()
    await choosing.start()
    yield SimpleNamespace(
        lifetime=Lifetime(),
        app=None,
        settings=settings,
        database=database,
        blobs=blobs,
        keys=keys,
        library=library,
        deployments=deployments,
        canaries=canaries,
        answers=answers,
        feedback=feedback,
        annotation=Annotation(database, time.time),
        kernel=kernel,
        submitter=submitter,
        runs=runs,
        batches=Batches(database, kernel.jobs, time.time),
        tunings=Tunings(database, kernel.jobs, submitter, time.time),
        tasks=tasks,
        choosing=choosing,
        webhooks=webhooks,
        schedules=Schedules(database, time.time, start_nothing, audit=audit.record),
    )
    await runs.close()
    await kernel.stop()
    await choosing.stop()
    await canaries.close()
    await tasks.close()
    database.close()


@pytest.fixture(scope="session")
def make_system() -> Callable[[Path], AbstractAsyncContextManager[Any]]:
    """For modules whose tests share one system."""
    return open_in_memory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A system, and the application over it, for all tests of a module: each is another user."""
    async with open_in_memory(tmp_path_factory.mktemp("home")) as opened:
        yield SimpleNamespace(system=opened, app=create_app(opened))


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[Any]:
    async with open_in_memory(tmp_path) as opened:
        yield opened


@pytest.fixture
def lifetime(system: Any) -> Lifetime:
    """Of the server that the application believes to run in."""
    made: Lifetime = system.lifetime
    return made


@pytest.fixture
def app(system: Any, lifetime: Lifetime) -> Any:
    """The application, which takes a fifth of a second to make: one for all who share a system."""
    if system.app is None:
        system.app = create_app(system, lifetime)
    return system.app


@pytest.fixture
async def new_client(system: Any, app: Any) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """Return a function that makes a client with a key of these limits (None: no key)."""
    clients: list[httpx.AsyncClient] = []

    def make(role: str | None = "admin", **limits: Any) -> httpx.AsyncClient:
        headers = {}
        if role is not None:
            name = limits.pop("name", role)
            _, key = system.keys.create(name, role=role, **limits)
            headers["Authorization"] = f"Bearer {key}"
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8642", headers=headers
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(new_client: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    return new_client("admin")
