"""Datasets of a hub: a local server speaks its API, breaks off, damages and refuses."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import close_session
from tests.hubserver import Hub, Repository, running_hub
from tests.unit.data.data_jobs import only
from tests.unit.data.fetching.conftest import Fetching

from llmos.errors import (
    DataError,
    DatasetNotFoundError,
    PermissionDeniedError,
    UnreachableError,
)

NAME = "datasets/owner/news"
URL = "hf://owner/news"
README = b"---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: train, path: 'en/*'}\n---\n"


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), out)
    return out.getvalue()


FILES = {
    "README.md": b"# News\n",
    "load.py": b"raise SystemExit",
    "data/train-00000-of-00002.parquet": parquet("one", "一"),
    "data/train-00001-of-00002.parquet": parquet("two", "二"),
    "data/test-00000-of-00001.parquet": parquet("three"),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a dataset, to which huggingface_hub, which reads the environment at import, is
    pointed."""
    with running_hub() as running:
        running.repositories[NAME] = Repository(dict(FILES))
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        close_session()
        yield running
        close_session()


def texts(home: Fetching, url: str = URL, checkpoint: str = "") -> list[str]:
    return [str(row["text"]) for row in home.rows(only(home.fetch(url, checkpoint)))]


def test_a_dataset_of_the_hub_becomes_one_of_ours(home: Fetching, hub: Hub) -> None:
    version = only(home.fetch(URL))
    assert [row["text"] for row in home.rows(version)] == ["three", "one", "一", "two", "二"]
    assert home.rows(version)[0]["id"] == "data/test-00000-of-00001.parquet:1"
    source = version.manifest["source"]
    commit = hub.repositories[NAME].commit
    told = {key: source[key] for key in ("repo", "revision", "commit", "endpoint", "from")}
    assert told == {
        "repo": "owner/news", "revision": "main", "commit": commit, "endpoint": hub.url,
        "from": URL,
    }  # fmt: skip
    assert not any(one.path.endswith(".py") for one in hub.requests), "no code is looked at"


def test_a_split_is_fetched_alone(home: Fetching, hub: Hub) -> None:
    version = only(home.fetch(f"{URL}/train"))
    assert [row["text"] for row in home.rows(version)] == ["one", "一", "two", "二"]
    assert version.manifest["source"]["split"] == "train"
    assert hub.downloads("data/test-00000-of-00001.parquet") == []


def test_a_configuration_is_what_the_readme_says(home: Fetching, hub: Hub) -> None:
    files = {"README.md": README, "en/a.jsonl": b'{"text": "a"}', "zh/b.jsonl": b'{"text": "b"}'}
    hub.repositories[NAME] = Repository(files, revisions=("main", "v1"))
    assert texts(home, f"{URL}@v1/en/train") == ["a"]
    assert texts(home) == ["a"]
    with pytest.raises(DataError, match="no split 'zh' of en"):
        home.fetch(f"{URL}/zh")


def test_a_download_that_breaks_off_goes_on_and_a_damaged_one_is_fetched_again(
    home: Fetching, hub: Hub
) -> None:
    large = b"".join(b'{"text": "row %d"}\n' % n for n in range(2000))
    hub.repositories[NAME] = Repository({"rows.jsonl": large})
    hub.break_after["rows.jsonl"] = [10_000]
    hub.damage["rows.jsonl"] = 2
    assert len(texts(home)) == 2000
    assert [one.range for one in hub.downloads("rows.jsonl")] == [None, "bytes=10000-", None]
    hub.damage["rows.jsonl"] = 2
    with pytest.raises(DataError, match="does not match the hub's digest"):
        Fetching(home.root / "other").fetch(URL)


def test_what_is_in_the_store_is_not_fetched_again(home: Fetching, hub: Hub) -> None:
    large = b"".join(b'{"text": "row %d"}\n' % n for n in range(2000))
    hub.repositories[NAME] = Repository({"rows.jsonl": large})
    assert texts(home) == texts(home)
    assert len(hub.downloads("rows.jsonl")) == 1


def test_a_dataset_of_scripts_is_taken_as_the_hub_converted_it(home: Fetching, hub: Hub) -> None:
    hub.repositories[NAME] = Repository({"load.py": b"raise SystemExit", "README.md": b"x"})
    with pytest.raises(DataError, match="llmos runs no scripts"):
        home.fetch(URL)
    files = {"default/train/0000.parquet": parquet("converted")}
    hub.repositories[NAME] = Converted({"load.py": b""}, converted=Repository(files))
    version = only(home.fetch(URL))
    assert [row["text"] for row in home.rows(version)] == ["converted"]
    assert version.manifest["source"]["revision"] == "refs/convert/parquet"


class Converted(Repository):
    """A repository that has other files on another branch."""

    def __init__(self, files: dict[str, bytes], converted: Repository) -> None:
        super().__init__(files)
        self._converted = converted

    def at(self, revision: str) -> Repository | None:
        """Return what it has at a revision."""
        wanted = {"refs/convert/parquet", self._converted.commit}
        return self._converted if revision in wanted else None


@pytest.mark.parametrize(
    ("url", "change", "error", "said"),
    [
        ("hf://owner/nothing", {}, DatasetNotFoundError, "no repository datasets/owner/nothing"),
        (f"{URL}@v9", {}, DatasetNotFoundError, "no revision 'v9'"),
        (URL, {"gated": True}, PermissionDeniedError, "/datasets/owner/news, then set HF_TOKEN"),
        (URL, {"private": True}, DatasetNotFoundError, "or it is private"),
    ],
)
def test_what_the_hub_refuses_is_told(
    home: Fetching,
    hub: Hub,
    url: str,
    change: dict[str, bool],
    error: type[Exception],
    said: str,
) -> None:
    hub.repositories[NAME] = Repository(dict(FILES), **change)  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        home.fetch(url)


def test_a_token_opens_what_is_private(
    home: Fetching, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME] = Repository(dict(FILES), private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert len(texts(home)) == 5


def test_a_hub_that_fails_is_worth_another_attempt(home: Fetching, hub: Hub) -> None:
    hub.statuses = [503]
    with pytest.raises(UnreachableError) as failed:
        home.fetch(URL)
    assert failed.value.retryable
    hub.is_no_hub = True
    with pytest.raises(UnreachableError, match="does not answer like"):
        home.fetch(URL)


def test_offline_it_comes_from_the_cache(
    home: Fetching, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetNotFoundError, match="not in the Hugging Face cache"):
        home.fetch(URL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cache = constants.HF_HUB_CACHE
    folder = Path(cache) / "datasets--owner--news"
    commit = hub.repositories[NAME].commit
    for name, data in FILES.items():
        path = folder / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Path(snapshot_download("owner/news", repo_type="dataset", local_files_only=True))
    version = only(home.fetch(f"{URL}/train"))
    assert [row["text"] for row in home.rows(version)] == ["one", "一", "two", "二"]
    assert version.manifest["source"]["commit"] == commit and len(hub.requests) == asked
