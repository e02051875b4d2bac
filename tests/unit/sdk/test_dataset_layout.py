"""Which files of a dataset are chosen, by its README.md and by where they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.errors import DataError
from llmos.sdk.dataset_layout import choose
from llmos.sdk.datasets import _hub_folder, is_elsewhere

PLAIN = [
    ".gitattributes", "README.md", "script.py", "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet", "data/test.csv",
    "_cache/train.parquet",
]  # fmt: skip
CONVERTED = ["en/train/0000.parquet", "en/test/0000.parquet", "zh/train/0000.parquet"]
README = """---
license: cc0-1.0
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train-*.jsonl
  - split: test
    path: ["en/test.jsonl", "extra/**/test*.jsonl"]
- config_name: zh
  data_files: "zh/*"
- config_name: all
  default: true
  data_files:
  - {split: train, path: "**/train*"}
- config_name: folder
  data_dir: zh
---
# A dataset
"""
DECLARED = [
    "README.md", "en/train-1.jsonl", "en/train-2.jsonl", "en/test.jsonl", "zh/train.jsonl",
    "zh/dev.jsonl", "extra/a/b/test-2.jsonl", "en/deep/train-3.jsonl",
]  # fmt: skip


def is_readable(name: str) -> bool:
    return Path(name).suffix in (".parquet", ".jsonl", ".csv", ".txt", ".md", ".gz")


def paths(files: list[str], parts: list[str], readme: str = "") -> list[str]:
    return list(choose(files, readme, parts, is_readable).paths)


@pytest.mark.parametrize(
    ("files", "parts", "found"),
    [
        (PLAIN, [], [PLAIN[5], PLAIN[3], PLAIN[4]]),
        (PLAIN, ["train"], PLAIN[3:5]),
        (PLAIN, ["test"], [PLAIN[5]]),
        (PLAIN, ["data", "test"], [PLAIN[5]]),
        (CONVERTED, ["en"], ["en/test/0000.parquet", "en/train/0000.parquet"]),
        (CONVERTED, ["zh", "train"], ["zh/train/0000.parquet"]),
        (CONVERTED, ["train"], ["en/train/0000.parquet", "zh/train/0000.parquet"]),
        (["a/valid.jsonl", "a/x.jsonl"], ["validation"], ["a/valid.jsonl"]),
        (["rows.jsonl.gz"], [], ["rows.jsonl.gz"]),
        (["a_gold.csv", "golden.csv"], ["gold"], ["a_gold.csv"]),
    ],
)
def test_without_a_declaration_folders_and_words_tell(
    files: list[str], parts: list[str], found: list[str]
) -> None:
    assert paths(files, parts) == found


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (["en"], ["en/test.jsonl", *DECLARED[1:3], "extra/a/b/test-2.jsonl"]),
        (["en", "train"], ["en/train-1.jsonl", "en/train-2.jsonl"]),
        (["zh"], ["zh/dev.jsonl", "zh/train.jsonl"]),
        ([], ["en/deep/train-3.jsonl", "en/train-1.jsonl", "en/train-2.jsonl", "zh/train.jsonl"]),
        (["folder", "validation"], ["zh/dev.jsonl"]),
    ],
)  # fmt: skip
def test_what_a_readme_declares_is_followed(parts: list[str], found: list[str]) -> None:
    assert paths(DECLARED, parts, README) == found


def test_what_was_chosen_is_told() -> None:
    told = choose(DECLARED, README, ["en", "test"], is_readable)
    assert (told.configuration, told.split) == ("en", "test")
    told = choose(PLAIN, "", [], is_readable)
    assert (told.configuration, told.split) == ("", "")


@pytest.mark.parametrize(
    ("files", "parts", "readme", "said"),
    [
        (["README.md", "load.py", "data.bin"], [], "", "refs/convert/parquet"),
        (PLAIN, ["en"], "", "no split 'en'"),
        (PLAIN, ["en", "train"], "", "no configuration 'en': name one of default, data"),
        (DECLARED, ["en", "dev"], README, "no split 'dev' of en: it has train, test"),
        (DECLARED, [], README.replace("  default: true\n", ""), "several configurations: name one"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    files: list[str], parts: list[str], readme: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        paths(files, parts, readme)


@pytest.mark.parametrize(
    "readme",
    ["---\nconfigs: 3\n---\n", "---\n{broken\n---\n", "---\n- a\n---\n", "---\nconfigs:\n- x\n---",
     "---\nconfigs:\n- {config_name: [1], data_files: [{path: 3}]}\n---\n", "no matter"],
)  # fmt: skip
def test_a_readme_that_declares_nothing_is_passed_over(readme: str) -> None:
    assert paths(PLAIN, ["train"], readme) == PLAIN[3:5]


def test_a_folder_of_this_machine_is_laid_out_alike(tmp_path: Path) -> None:
    for name in ("README.md", "en/train.jsonl", "en/test.jsonl", "zh/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert list(_hub_folder(f"hf://{tmp_path}")) == [
        "en/test.jsonl", "en/train.jsonl", "zh/train.jsonl",
    ]  # fmt: skip
    assert list(_hub_folder(f"hf://{tmp_path}/test")) == ["en/test.jsonl"]
    assert _hub_folder(f"hf://{tmp_path}/zh") == {"train.jsonl": tmp_path / "zh/train.jsonl"}
    with pytest.raises(DataError, match="There is no folder"):
        _hub_folder("hf://./nothing/of/this/is/there")


@pytest.mark.parametrize(
    ("path", "elsewhere"),
    [
        ("https://x.example/a", True),
        ("hf://owner/name", True),
        ("s3://bucket/key", True),
        ("feedback:helper", True),
        ("hf://./folder", False),
        ("hf:///folder", False),
        ("folder/https", False),
        ("feedback.csv", False),
    ],
)
def test_what_the_server_fetches_is_told_by_its_beginning(path: str, elsewhere: bool) -> None:
    assert is_elsewhere(path) is elsewhere
