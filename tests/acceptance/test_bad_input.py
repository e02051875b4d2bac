"""Each mistake gives one clear sentence and the right exit code or status, and changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import SMALL, Llmos, running

from llmos.errors import ConflictError, InvalidRequestError, NotFoundError

USAGE = InvalidRequestError.exit_code


@pytest.fixture
def unchanged(llmos: Llmos, my_model: str) -> Iterator[None]:
    """After the test the library is what it was and no temporary file is left."""

    def state() -> tuple[Any, list[Path]]:
        leftovers = [path for path in llmos.temp.rglob("*") if path.is_file()]
        leftovers += list((llmos.home / "blobs").rglob("*.tmp*"))
        with llmos.client() as client:
            return client.models(), leftovers

    before = state()
    yield
    assert state() == before


@pytest.fixture(scope="module")
def good(llmos: Llmos, my_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model folder."""
    folder = tmp_path_factory.mktemp("good") / "model"
    llmos.ok("export", my_model, folder)
    return folder


@pytest.fixture
def exported(good: Path, tmp_path: Path) -> Path:
    """A good model folder to spoil."""
    return shutil.copytree(good, tmp_path / "model")


# -- training -------------------------------------------------------------------------------------

TEXTS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no file"),
    "empty": (b"", "empty"),
    "binary": (bytes(range(256)) * 50, "text"),
    "short": (b"ROMEO:", "short"),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.usefixtures("unchanged")
def test_unusable_training_text_is_refused(
    llmos: Llmos, recipe: Path, tmp_path: Path, case: str
) -> None:
    content, says = TEXTS[case]
    path = tmp_path / f"{case}.txt"
    if content is not None:
        path.write_bytes(content)
    sets = [part for change in (*SMALL, f"data.path={path}") for part in ("--set", change)]
    assert says in llmos.refused("train", recipe, *sets, "--name", "spoiled").lower()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("stepz=5", "steps"),
        ("optimizer.learning_rat=0.1", "learning_rate"),
        ("steps=many", "steps"),
        ("steps=-1", "steps"),
        ("batch_size=1.5", "batch_size"),
        ("steps", "key=value"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_a_wrong_recipe_key_or_type_is_named(
    llmos: Llmos, recipe: Path, play: Path, change: str, says: str
) -> None:
    sets = ("--set", f"data.path={play}", "--set", change)
    assert says in llmos.refused("train", recipe, *sets, "--name", "spoiled", exit_code=USAGE)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no recipe"), ("steps: [1", "YAML"), ("- a\n- b", "mapping"), ("", "mapping")],
)
def test_an_unreadable_recipe_is_refused(
    llmos: Llmos, tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    assert says in llmos.refused("train", path)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "a b", "a/../b", "/etc/passwd", "", "x" * 200])
@pytest.mark.usefixtures("unchanged")
def test_a_name_that_is_no_name_is_refused_everywhere(
    llmos: Llmos, recipe: Path, play: Path, exported: Path, name: str
) -> None:
    assert "name" in llmos.refused("import", exported, "--name", name).lower()
    assert llmos.refused("show", name)
    assert llmos.refused("run", name, "hello")
    data = ("--set", f"data.path={play}")
    assert "name" in llmos.refused("train", recipe, *data, "--name", name or "a b").lower()


@pytest.mark.parametrize("ref", ["no-such-model", "my-model:99", "my-model@nowhere"])
def test_an_unknown_model_or_version_says_what_there_is(
    llmos: Llmos, my_model: str, ref: str
) -> None:
    said = llmos.refused("run", ref, "hello", exit_code=NotFoundError.exit_code)
    assert ref.partition(":")[0].partition("@")[0] in said


def test_an_unknown_job_is_not_found(llmos: Llmos) -> None:
    for verb in ("show", "logs", "cancel"):
        said = llmos.refused("jobs", verb, "99999", exit_code=NotFoundError.exit_code)
        assert "99999" in said


def test_a_nearly_right_name_is_suggested(llmos: Llmos, my_model: str) -> None:
    assert my_model in llmos.refused("run", "my-modle", "hello")


# -- imports --------------------------------------------------------------------------------------


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.pt")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def bad_offsets(folder: Path) -> None:
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    header[first]["data_offsets"] = [0, 10**12]
    changed = json.dumps(header).encode()
    weights.write_bytes(len(changed).to_bytes(8, "little") + changed + raw[8 + size :])


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def wrong_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"<extra{n}>": len(vocabulary) + n for n in range(5000)}
    path.write_text(json.dumps(tokenizer), "utf-8")


SPOILERS: list[tuple[Callable[[Path], None], str]] = [
    (no_config, "config.json"),
    (config_is_no_json, "config.json"),
    (pickled, "safetensors"),
    (checkpoint, "safetensors"),
    (truncated, "safetensors"),
    (garbage, "safetensors"),
    (bad_offsets, "safetensors"),
    (no_tokenizer, "tokenizer"),
    (wrong_tokenizer, "tokenizer"),
]


@pytest.mark.parametrize(
    ("spoil", "says"), SPOILERS, ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.usefixtures("unchanged")
def test_a_spoiled_model_folder_is_refused(
    llmos: Llmos, exported: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(exported)
    assert says in llmos.refused("import", exported, "--name", "spoiled")


@pytest.mark.usefixtures("unchanged")
def test_importing_what_is_no_folder_is_refused(llmos: Llmos, play: Path, tmp_path: Path) -> None:
    assert llmos.refused("import", tmp_path / "nowhere", "--name", "spoiled")
    assert llmos.refused("import", play, "--name", "spoiled")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "config.json" in llmos.refused("import", empty, "--name", "spoiled")


def test_a_pull_without_network_says_so(tmp_path: Path) -> None:
    with running(tmp_path, HF_ENDPOINT="http://127.0.0.1:9") as offline:
        said = offline.refused("pull", "no-one/nothing", "--name", "nothing")
        assert "hub" in said.lower() or "127.0.0.1:9" in said
        assert "nothing" not in {model["name"] for model in offline.json("list")}


def test_a_pull_of_no_repository_name_is_refused(llmos: Llmos) -> None:
    for repo in ("../../etc", "just a name", "a/b/c"):
        assert llmos.refused("pull", repo)


# -- requests -------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused(llmos: Llmos, my_model: str) -> None:
    assert "context" in llmos.refused("run", my_model, "ROMEO:" * 500)
    assert "max_tokens" in llmos.refused("run", my_model, "ROMEO:", "--max-tokens", "-1")


BODIES: list[tuple[str, bytes, int]] = [
    ("/v1/completions", b"{not json", 400),
    ("/v1/completions", b"[]", 400),
    ("/v1/completions", b"{}", 400),
    ("/v1/chat/completions", b'{"model": "my-model", "messages": "hi"}', 400),
    ("/v1/completions", b'{"model": "my-model", "prompt": "a", "max_tokens": -1}', 400),
    ("/v1/completions", b'{"model": "nope", "prompt": "a"}', 404),
    ("/v1/completions", b'{"model": "../etc", "prompt": "a"}', 400),
    ("/api/v1/generate", b'{"model": "my-model"}', 400),
    ("/api/v1/generate", b'{"model": "my-model", "prompt": "a", "wat": 1}', 400),
    ("/api/v1/translate", b'{"text": 5}', 400),
    ("/api/v1/jobs", b'{"kind": "nope", "name": "x"}', 400),
    ("/api/v1/jobs", b'{"kind": "train", "name": "x", "params": {}}', 400),
    ("/api/v1/models/import", b'{"name": "x", "files": {"a": "sha256:zz"}}', 400),
]


@pytest.mark.parametrize(("path", "body", "status"), BODIES)
@pytest.mark.usefixtures("unchanged")
def test_a_bad_request_is_answered_in_openai_s_shape(
    llmos: Llmos, my_model: str, path: str, body: bytes, status: int
) -> None:
    response = httpx.post(
        llmos.url + path,
        content=body,
        headers={"Authorization": f"Bearer {llmos.key}", "Content-Type": "application/json"},
        trust_env=False,
    )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert len(error["message"]) > 10
    assert "Traceback" not in response.text


# -- starting -------------------------------------------------------------------------------------


def test_a_port_in_use_is_said(llmos: Llmos, tmp_path: Path) -> None:
    port = llmos.url.rpartition(":")[2]
    second = Llmos(tmp_path)
    for flags in ((), ("--foreground",)):
        done = second.run("up", "--port", port, *flags)
        assert done.returncode == ConflictError.exit_code
        assert port in done.stderr
        assert done.stderr.count("error: ") == 1
    assert "not running" in second.ok("down")


def test_a_second_server_on_the_same_home_is_refused(llmos: Llmos) -> None:
    done = llmos.run("up", "--foreground")
    assert done.returncode == ConflictError.exit_code
    assert "owns" in done.stderr
    with llmos.client() as client:
        assert client.health()["status"] == "ok"


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    wrong = Llmos(tmp_path)
    assert "port" in wrong.refused("list", LLMOS_PORT="many")
    wrong.home.mkdir()
    (wrong.home / "config.toml").write_text("colour = 3\n")
    assert "colour" in wrong.refused("list")


# -- disk full ------------------------------------------------------------------------------------

DISK_BYTES = 600 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_said_and_recovered_from(
    small_disk: Path, exported: Path, llmos: Llmos
) -> None:
    with running(small_disk) as cramped:
        free = shutil.disk_usage(small_disk).free
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            subprocess.run(["fallocate", "-l", str(free - 2**19), ballast], check=True)
            file.flush()
        assert "disk is full" in cramped.refused("import", exported, "--name", "copy")
        assert cramped.json("list") is not None
        ballast.unlink()
        assert "copy:1 is ready" in cramped.ok("import", exported, "--name", "copy")
        assert cramped.ok("run", "copy", "ROMEO:", "--max-tokens", "2")
