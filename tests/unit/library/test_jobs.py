"""The params of import and pull: completed when good, refused with one sentence when not."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.errors import InvalidModelError, InvalidRequestError, UnsafeFileError
from llmos.library.jobs import check_import, check_pull, llmos_job_kinds

DIGEST = "sha256:" + "a" * 64
FILES = {"config.json": DIGEST, "model.safetensors": DIGEST}


def test_good_params_come_back_complete() -> None:
    assert check_import({"name": "team/a", "files": FILES}) == {"name": "team/a", "files": FILES}
    assert check_pull({"repo": "org/Name-1.5"}) == {
        "repo": "org/Name-1.5",
        "name": "Name-1.5",
        "revision": "main",
    }
    assert check_pull({"repo": "a/b", "name": "c", "revision": "refs/pr/3"}) == {
        "repo": "a/b",
        "name": "c",
        "revision": "refs/pr/3",
    }
    assert check_pull({"repo": "a/b", "name": None, "revision": None})["revision"] == "main"


def test_a_catalog_name_stands_for_its_repository() -> None:
    assert check_pull({"repo": "qwen2.5-0.5b"}) == {
        "repo": "Qwen/Qwen2.5-0.5B-Instruct",
        "name": "qwen2.5-0.5b",
        "revision": "main",
    }


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"name": "a"},
        {"files": FILES},
        {"name": "a", "files": {}},
        {"name": "a", "files": []},
        {"name": "a", "files": "x"},
        {"name": 1, "files": FILES},
        {"name": "a b", "files": FILES},
        {"name": "../a", "files": FILES},
        {"name": "a:1", "files": FILES},
        {"name": "a", "files": FILES, "extra": 1},
        {"name": "a", "files": FILES | {"x.txt": "md5:1"}},
        {"name": "a", "files": FILES | {"x.txt": 1}},
        {"name": "a", "files": FILES | {"x.txt": DIGEST.upper()}},
        {"name": "a", "files": {f"f{n}": DIGEST for n in range(1001)}},
    ],
)
def test_bad_import_params_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_import(params)
    assert "\n" not in caught.value.message


def test_an_import_that_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(InvalidModelError, match=r"no config\.json"):
        check_import({"name": "a", "files": {"model.safetensors": DIGEST}})
    with pytest.raises(UnsafeFileError, match="safetensors"):
        check_import({"name": "a", "files": {"config.json": DIGEST, "model.ckpt": DIGEST}})


REPOS = [
    "",
    "a",
    "a/b/c",
    "/a",
    "a/",
    "../b",
    "a/..",
    "a/b..c",
    "a b/c",
    "http://x/a",
    "a/b:1",
    "a--b/c",
]
REPOS += [
    "a/b@c",
    "a/\n",
    "-a/b",
    "a/-b",
    "é/b",
    "a/b?x",
    "a/b#x",
    "x" * 97 + "/a",
    "datasets/a/b",
    "a\\b",
]


@pytest.mark.parametrize("repo", REPOS)
def test_bad_repositories_are_refused(repo: str) -> None:
    with pytest.raises(InvalidRequestError, match="neither ORG/NAME"):
        check_pull({"repo": repo})


@pytest.mark.parametrize(
    "params",
    [
        {"repo": 1},
        {"repo": "a/b", "name": "x y"},
        {"repo": "a/b", "name": 3},
        {"repo": "a/_b"},
        {"repo": "a/b", "revision": "../x"},
        {"repo": "a/b", "revision": "-x"},
        {"repo": "a/b", "revision": 1},
        {"repo": "a/b", "token": "hf_x"},
    ],
)
def test_bad_pull_params_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_pull(params)
    assert "\n" not in caught.value.message


def test_the_kinds_name_their_handlers() -> None:
    kinds = {kind.name: kind for kind in llmos_job_kinds()}
    assert set(kinds) == {"import", "pull"}
    assert kinds["import"].handler == "llmos.compression.importing:run_import"
    assert kinds["pull"].handler == "llmos.compression.importing:run_pull"
    whole = {"files": FILES | {"tokenizer.json": DIGEST}}
    converting = kinds["import"].estimate({"files": FILES})
    assert 0 < kinds["import"].estimate(whole) < converting
    assert kinds["pull"].estimate({"repo": "a/b"}) == converting
