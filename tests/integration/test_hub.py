"""Pulling from a hub: a local server speaks its API, and breaks off, damages and refuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import close_session
from safetensors.torch import save_file
from tests.hubserver import Hub, PullRequest, Repository, running_hub
from tests.unit.library.conftest import RecordedContext
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llmos.errors import (
    CancelledError,
    DiskFullError,
    InvalidModelError,
    LlmosError,
    ModelNotFoundError,
    PermissionDeniedError,
    UnreachableError,
    UnsafeFileError,
)
from llmos.kernel.protocol import FromWorker, JobDone, JobProgress, StartJob, SyncChannel
from llmos.library import hub
from llmos.library.artifacts import Library
from llmos.library.jobs import check_pull
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryDatabase
from llmos.types import JobResult

REPO = "tiny/llama"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama with its tokenizer, as transformers saves it."""
    directory = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(["hello world, this is a tiny model"] * 3, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(directory)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    (directory / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# Tiny\n")
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(b"x" * 5000)
    (directory / "pytorch_model.bin").write_bytes(b"x" * 5000)
    (directory / "modeling_evil.py").write_text("raise SystemExit")
    return directory


@pytest.fixture
def server(model_dir: Path) -> Iterator[Hub]:
    with running_hub() as running:
        running.add(REPO, model_dir)
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf-cache"


@pytest.fixture(autouse=True)
def client(
    server: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Point huggingface_hub, which reads the environment at import, at the local server."""
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    close_session()
    yield
    close_session()


@pytest.fixture
def context(tmp_path: Path) -> RecordedContext:
    (tmp_path / "home").mkdir()
    return RecordedContext(tmp_path / "home")


Pull = Callable[..., JobResult]


@pytest.fixture
def pull(context: RecordedContext) -> Pull:
    def go(repo: str = REPO, **params: Any) -> JobResult:
        context.params = check_pull({"repo": repo, **params})
        return hub.run(context)

    return go


def size_of(model_dir: Path, name: str = WEIGHTS) -> int:
    return (model_dir / name).stat().st_size


def test_a_repository_becomes_a_version(
    pull: Pull, server: Hub, context: RecordedContext, model_dir: Path, cache: Path
) -> None:
    (new,) = pull().artifacts
    assert new.name == "llama"
    kept = {"README.md", "config.json", "generation_config.json", WEIGHTS}
    assert set(new.files) == kept | {"tokenizer.json", "tokenizer_config.json"}
    for name, ref in new.files.items():
        assert context.blobs.read_bytes(ref.digest) == (model_dir / name).read_bytes()
    assert (new.manifest["task"], new.manifest["license"]) == ("generate", "mit")
    assert new.manifest["source"] == {
        "kind": "pulled",
        "repo": REPO,
        "revision": "main",
        "commit": server.repositories[REPO].commit,
        "endpoint": server.url,
    }
    asked = {request.path.rsplit("/", 1)[1] for request in server.requests}
    assert not asked & {"pytorch_model.bin", "modeling_evil.py", "model.onnx"}
    assert list(context.checkpoint_dir.iterdir()) == []
    assert not cache.exists()


def test_what_was_pulled_is_what_transformers_loads(
    pull: Pull, context: RecordedContext, model_dir: Path, tmp_path: Path
) -> None:
    database = MemoryDatabase()
    library = Library(database, context.blobs, lambda: 1.0, tmp_path / "models")
    version = library.add(pull(name="mine").artifacts[0], "alice")
    directory = library.directory(library.resolve("mine"))
    loaded = transformers.LlamaForCausalLM.from_pretrained(directory)
    original = transformers.LlamaForCausalLM.from_pretrained(model_dir)
    state = loaded.state_dict()
    assert all(state[name].equal(value) for name, value in original.state_dict().items())
    assert version.manifest["parameters"] == loaded.num_parameters()
    database.close()


def test_progress_counts_the_bytes_of_all_files(
    pull: Pull, context: RecordedContext, server: Hub
) -> None:
    (new,) = pull().artifacts
    total = sum(ref.size for ref in new.files.values())
    downloading = [report for report in context.reports if report[1] == total]
    done = [step for step, _, _ in downloading]
    assert done == sorted(done)
    assert done[-1] == total
    assert {message for _, _, message in downloading} == set(new.files)
    assert len(downloading) > len(new.files) + 5


def test_a_broken_connection_goes_on_where_it_stopped(
    pull: Pull, server: Hub, model_dir: Path
) -> None:
    server.break_after[WEIGHTS] = [5000, 7000]
    pull()
    ranges = [request.range for request in server.downloads(WEIGHTS)]
    assert ranges == [None, "bytes=5000-", "bytes=12000-"]


def test_an_interrupted_job_goes_on_at_its_next_attempt(
    pull: Pull, server: Hub, context: RecordedContext, model_dir: Path
) -> None:
    server.break_after[WEIGHTS] = [5000, 0, 0, 0]
    with pytest.raises(UnreachableError) as caught:
        pull()
    assert caught.value.retryable
    before = len(server.requests)
    pull()
    later = server.requests[before:]
    assert [r.range for r in later if r.path.endswith(WEIGHTS)] == ["bytes=5000-"]
    assert list(context.checkpoint_dir.iterdir()) == []


def test_a_cancelled_pull_stops_between_chunks(
    pull: Pull, server: Hub, context: RecordedContext
) -> None:
    send = context.sent.append

    def cancel_midway(message: FromWorker) -> None:
        send(message)
        if isinstance(message, JobProgress) and message.message == WEIGHTS:
            context.cancel()

    context._send = cancel_midway
    with pytest.raises(CancelledError):
        pull()
    part = next(context.checkpoint_dir.glob("*.part"))
    assert 0 < part.stat().st_size < len(server.repositories[REPO].files[WEIGHTS])


def test_a_server_without_ranges_starts_over(pull: Pull, server: Hub) -> None:
    server.ignores_ranges = True
    server.break_after[WEIGHTS] = [5000]
    (new,) = pull().artifacts
    assert new.files[WEIGHTS].size == len(server.repositories[REPO].files[WEIGHTS])
    assert len(server.downloads(WEIGHTS)) == 2


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_damaged_on_the_way_is_fetched_again(
    pull: Pull, server: Hub, context: RecordedContext, name: str
) -> None:
    server.damage[name] = 1
    (new,) = pull().artifacts
    assert context.blobs.read_bytes(new.files[name].digest) == server.repositories[REPO].files[name]
    assert any(f"{name} came damaged" in line for line in context.logs)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_damaged_at_the_hub_is_refused(
    pull: Pull, server: Hub, context: RecordedContext, name: str
) -> None:
    server.damage[name] = 2
    with pytest.raises(InvalidModelError, match=f"{name} of tiny/llama does not match the hub's"):
        pull()
    assert list(context.checkpoint_dir.glob("*.part")) == []


def test_a_partial_file_of_rubbish_is_found_out(
    pull: Pull, server: Hub, context: RecordedContext, model_dir: Path
) -> None:
    server.break_after[WEIGHTS] = [5000, 0, 0, 0]
    with pytest.raises(UnreachableError):
        pull()
    part = next(context.checkpoint_dir.glob("*.part"))
    part.write_bytes(b"?" * 6000)
    (new,) = pull().artifacts
    assert context.blobs.read_bytes(new.files[WEIGHTS].digest) == (model_dir / WEIGHTS).read_bytes()
    server.break_after[WEIGHTS] = [10, 0, 0, 0]
    context.blobs.path(new.files[WEIGHTS].digest).unlink()
    with pytest.raises(UnreachableError):
        pull()
    next(context.checkpoint_dir.glob("*.part")).write_bytes(b"?" * 10**6)
    assert pull().artifacts[0].files == new.files


def test_a_second_pull_downloads_no_weights_again(pull: Pull, server: Hub) -> None:
    first = pull()
    server.requests.clear()
    assert pull().artifacts[0].files == first.artifacts[0].files
    assert server.downloads(WEIGHTS) == []


def fill_cache(cache: Path) -> Path:
    return Path(snapshot_download(REPO, cache_dir=cache))


def test_the_hugging_face_cache_is_linked_not_downloaded(
    pull: Pull, server: Hub, context: RecordedContext, cache: Path
) -> None:
    snapshot = fill_cache(cache)
    server.requests.clear()
    (new,) = pull().artifacts
    assert [request.path for request in server.requests] == [f"/api/models/{REPO}/revision/main"]
    stored = context.blobs.path(new.files[WEIGHTS].digest)
    assert stored.samefile(snapshot / WEIGHTS)


def test_a_damaged_cache_file_is_passed_over(
    pull: Pull, server: Hub, context: RecordedContext, cache: Path
) -> None:
    snapshot = fill_cache(cache)
    cached = (snapshot / WEIGHTS).resolve()
    cached.write_bytes(bytes(cached.stat().st_size))
    (new,) = pull().artifacts
    content = context.blobs.read_bytes(new.files[WEIGHTS].digest)
    assert content == server.repositories[REPO].files[WEIGHTS]


def test_offline_takes_the_cache_and_asks_no_one(
    pull: Pull, server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(cache)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (new,) = pull().artifacts
    assert WEIGHTS in new.files
    assert "commit" not in new.manifest["source"]
    assert server.requests == []


def test_a_partly_filled_cache_will_do_if_it_has_the_model(
    pull: Pull, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill_cache(cache)
    (snapshot / "README.md").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "README.md" not in pull().artifacts[0].files
    (snapshot / WEIGHTS).unlink()
    with pytest.raises(UnsafeFileError):
        pull()


def test_offline_without_the_cache_says_so(
    pull: Pull, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="not in the Hugging Face cache"):
        pull()
    assert server.requests == []


def private(hub_state: Hub) -> None:
    hub_state.repositories[REPO].private = True


def gated(hub_state: Hub) -> None:
    hub_state.repositories[REPO].gated = True


def unknown(hub_state: Hub) -> None:
    del hub_state.repositories[REPO]


def other_revision(hub_state: Hub) -> None:
    hub_state.repositories[REPO].revisions = ("v1",)


def failing(hub_state: Hub) -> None:
    hub_state.statuses = [503]


def limited(hub_state: Hub) -> None:
    hub_state.statuses = [429]


def teapot(hub_state: Hub) -> None:
    hub_state.statuses = [418]


def no_hub(hub_state: Hub) -> None:
    hub_state.is_no_hub = True


def only_bin(hub_state: Hub) -> None:
    files = hub_state.repositories[REPO].files
    hub_state.repositories[REPO] = Repository({k: v for k, v in files.items() if k != WEIGHTS})


def remote_code(hub_state: Hub) -> None:
    files = hub_state.repositories[REPO].files
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModel": "evil.Evil"}}
    hub_state.repositories[REPO] = Repository(files | {"config.json": json.dumps(config).encode()})


REFUSALS: list[tuple[Callable[[Hub], None], type[LlmosError], str]] = [
    (private, ModelNotFoundError, "no repository tiny/llama, or it is private.*HF_TOKEN"),
    (unknown, ModelNotFoundError, "no repository tiny/llama, or it is private: check the name"),
    (gated, PermissionDeniedError, "tiny/llama is gated: accept its terms at .* then set HF_TOKEN"),
    (other_revision, ModelNotFoundError, "has no revision 'main'"),
    (failing, UnreachableError, r"is busy or failing \(HTTP 503\)"),
    (limited, UnreachableError, r"is busy or failing \(HTTP 429\)"),
    (teapot, InvalidModelError, r"refuses the request for tiny/llama \(HTTP 418\)"),
    (no_hub, UnreachableError, "does not answer like a Hugging Face hub: check HF_ENDPOINT"),
    (only_bin, UnsafeFileError, "tiny/llama has no safetensors.*--revision refs/pr/N"),
    (remote_code, UnsafeFileError, "asks to run code"),
]


@pytest.mark.parametrize(
    ("fault", "error", "said"), REFUSALS, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_refusal_is_one_clear_sentence(
    fault: Callable[[Hub], None], error: type[LlmosError], said: str, pull: Pull, server: Hub
) -> None:
    fault(server)
    with pytest.raises(error, match=said) as caught:
        pull()
    assert "\n" not in caught.value.message
    assert caught.value.retryable == (error is UnreachableError)


CONVERSION = "Adding `safetensors` variant of this model"


@pytest.mark.parametrize(
    ("title", "author", "status", "taken"),
    [
        (CONVERSION, "SFconvertbot", "open", True),
        (CONVERSION, "mallory", "open", False),
        ("Other", "SFconvertbot", "open", False),
        (CONVERSION, "SFconvertbot", "closed", False),
    ],
)
def test_the_hubs_own_conversion_is_taken_where_main_has_none(
    pull: Pull, server: Hub, title: str, author: str, status: str, taken: bool
) -> None:
    files = server.repositories[REPO].files
    only_bin(server)
    request = PullRequest(7, title, author, files, status)
    server.repositories[REPO].pull_requests = [request]
    if not taken:
        with pytest.raises(UnsafeFileError, match="Community tab"):
            pull()
        return
    (new,) = pull().artifacts
    assert WEIGHTS in new.files
    assert new.manifest["source"]["revision"] == "refs/pr/7"


def test_what_the_name_and_the_catalog_know_is_recorded(pull: Pull, server: Hub) -> None:
    repository = server.repositories[REPO]
    server.repositories |= dict.fromkeys(
        ["Helsinki-NLP/opus-mt-en-zh", "some/opus-mt-fr-de", "google/madlad400-3b-mt"], repository
    )
    translations = [
        pull(repo).artifacts[0].manifest["translation"]
        for repo in ("opus-en-zh", "some/opus-mt-fr-de", "google/madlad400-3b-mt")
    ]
    assert translations == [
        {"prefix": ">>cmn_Hans<< ", "pairs": [["en", "zh"]]},
        {"prefix": "", "pairs": [["fr", "de"]]},
        {"prefix": "<2{target_lang}> ", "pairs": []},
    ]


def test_a_wrong_token_is_named(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PermissionDeniedError, match="the hub refuses HF_TOKEN") as caught:
        pull()
    assert "hf_wrong" not in caught.value.message


def test_the_right_token_opens_gated_and_private_repositories(
    pull: Pull, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", server.token)
    gated(server)
    private(server)
    assert pull().artifacts
    assert {request.authorization for request in server.requests} == {f"Bearer {server.token}"}


def test_another_revision_is_pulled_and_recorded(pull: Pull, server: Hub) -> None:
    server.repositories[REPO].revisions = ("main", "refs/pr/1")
    (new,) = pull(revision="refs/pr/1").artifacts
    assert new.manifest["source"]["revision"] == "refs/pr/1"


def test_no_network_is_retryable(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(UnreachableError, match="cannot be reached: check the network") as caught:
        pull()
    assert caught.value.retryable


def test_a_pull_that_does_not_fit_the_disk_is_refused_before_it_starts(
    pull: Pull, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match=r"tiny/llama needs .* the disk has 1\.0 KB"):
        pull()
    assert server.downloads(WEIGHTS) == []


def test_whole_weights_are_preferred_to_split_ones(pull: Pull, server: Hub) -> None:
    files = server.repositories[REPO].files
    split = {"model-00001-of-00001.safetensors": b"x", "model.safetensors.index.json": b"{}"}
    server.repositories[REPO] = Repository(files | split)
    (new,) = pull().artifacts
    assert not set(new.files) & set(split)


def test_a_worker_process_pulls_with_the_environment_it_is_given(
    server: Hub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "checkpoint").mkdir(parents=True)
    BlobStore(home / "blobs")
    start = StartJob(
        job_id=1,
        fence=1,
        attempt=1,
        handler="llmos.library.hub:run",
        name="pull",
        params=check_pull({"repo": REPO}),
        owner="alice",
        home=str(home),
        checkpoint_dir=str(home / "checkpoint"),
        threads=1,
        heartbeat_s=60.0,
    )
    ours, theirs = socket.socketpair()
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_TOKEN": server.token,
    }
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "llmos.kernel.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        channel = SyncChannel(ours, FromWorker)
        channel.send(start)
        messages = list(iter(channel.receive, None))
        assert child.wait(timeout=60) == 0
    done = messages[-1]
    assert isinstance(done, JobDone), done
    assert done.result.artifacts[0].name == "llama"
    assert not (tmp_path / "hf-home").exists()


# -- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [False, True])
def test_an_adapters_repository_becomes_an_adapter(
    offline: bool,
    pull: Pull,
    server: Hub,
    context: RecordedContext,
    model_dir: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = tmp_path / "lora"
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    paths = [f"base_model.model.model.layers.{i}.self_attn.q_proj" for i in range(2)]
    matrices = {f"{path}.lora_A.weight": torch.ones(2, 128) for path in paths}
    matrices |= {f"{path}.lora_B.weight": torch.ones(128, 2) for path in paths}
    save_file(matrices, directory / "adapter_model.safetensors")
    server.add("org/lora", directory)
    if offline:
        snapshot_download("org/lora", cache_dir=cache)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    names = ("config.json", WEIGHTS)
    files = {name: context.blobs.put_file(model_dir / name) for name in names}
    base = {"ref": "llama:1", "digest": "d", "task": "generate", "chat_template": None}
    base |= {"languages": ["en"], "files": msgspec.to_builtins(files)}
    (new,) = pull("org/lora", base=base).artifacts
    assert (new.kind, new.name, new.inputs) == ("adapter", "lora", ("llama:1",))
    assert set(new.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert new.manifest["source"]["repo"] == "org/lora"
    with pytest.raises(InvalidModelError, match="lora is an adapter of"):
        pull("org/lora")
