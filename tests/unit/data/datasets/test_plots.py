"""What a card tells of a sample, and its picture: the same of the same dataset, whatever its
letters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.data.datasets import plots
from llmos.data.datasets.plots import draw, label_field
from llmos.data.datasets.sampled import describe_sample, sampled_rows, text_field
from llmos.data.datasets.stats import Stats
from llmos.storage.parquet import write_rows

ENGLISH = "The model reads the text and the answer is found in it."
CHINESE = "模型读了这段文本，然后回答问题。"
PNG = b"\x89PNG\r\n"


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    texts = [ENGLISH, CHINESE, ENGLISH, "hm"] * 10
    return [
        {"id": str(number), "正文": text, "标签": "好" if number % 4 == 1 else "bad $x$"}
        for number, text in enumerate(texts)
    ]


def stats_of(rows: list[dict[str, Any]]) -> Stats:
    stats = Stats()
    for row in rows:
        stats.count(row)
    return stats


def test_a_sample_tells_languages_words_and_growth(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number in range(4):
        write_rows(tmp_path / f"{number}.parquet", rows[number * 10 : number * 10 + 10])
    shards = sorted(tmp_path.iterdir())
    assert text_field(stats_of(rows).fields) == "正文"
    told = describe_sample(shards, "正文")
    assert told["rows"] == 40
    assert told["languages"] == {"en": 20, "too short": 10, "zh": 10}
    assert told["words"][0] == ["the", 60]
    assert told["examples"] == [{"id": "0", "正文": ENGLISH}]
    assert told["growth"][0] == [0, 0] and told["growth"][-1][1] == len(
        {
            *["the", "model", "reads", "text", "and", "answer", "is", "found", "in", "it", "hm"],
            *"模型读了这段文本然后回答问题",
        }
    )
    assert text_field(stats_of([{"id": "1", "n": 3}]).fields) is None


def test_many_shards_are_sampled_here_and_there(tmp_path: Path) -> None:
    for number in range(120):
        write_rows(tmp_path / f"{number:03d}.parquet", [{"id": str(number), "text": "x"}] * 50)
    found = list(sampled_rows(sorted(tmp_path.iterdir())))
    assert {row["id"] for row in found} == {str(number) for number in range(0, 120, 3)}
    assert 1900 <= len(found) <= 2100


def test_the_picture_is_the_same_of_the_same_rows(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_rows(tmp_path / "0.parquet", rows)
    sample = describe_sample([tmp_path / "0.parquet"], "正文")
    outcomes = {"different": 4, "duplicates": 36, "dropped": 0, "rejected": 0}
    drawn = [draw(stats_of(rows), sample, outcomes) for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0].startswith(PNG)
    assert draw(stats_of(rows[:20]), sample, outcomes) != drawn[0]
    bare = stats_of([{"id": "1", "n": 3}])
    assert draw(bare, None, outcomes).startswith(PNG)


def test_what_has_no_letters_in_the_font_is_numbered() -> None:
    assert plots._written("好", "no. 1") == "no. 1"
    assert plots._written("naïve", "no. 1") == "naïve"
    assert plots._written("a" * 40, "no. 1") == "a" * 17 + "…"
    assert plots._written(" ", "no. 1") == "no. 1"


def test_labels_are_values_of_several_rows_each(rows: list[dict[str, Any]]) -> None:
    assert label_field(stats_of(rows), but="正文") == "标签"
    both = [row | {"label": number % 2, "a": "x"} for number, row in enumerate(rows)]
    assert label_field(stats_of(both)) == "label"
    assert label_field(stats_of([{"id": str(n), "n": n} for n in range(9)])) is None
