"""Jobs that compare all records of a dataset, or look things up in others: near duplicates with
their clusters, decontamination; the same whatever the number of processes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.unit.data.data_jobs import Home, only

from llmos.data.datasets import adding
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply
from llmos.errors import DataError, InvalidRequestError
from llmos.library.manifest import version_digest
from llmos.types import NewVersion

STEPS: list[Any] = [
    {"length": {"least": 5}},
    {"minhash_dedup": {"keep": "longest"}},
    {"regex_filter": {"pattern": "spam"}},
    "exact_dedup",
]


def planted(home: Home, name: str = "raw") -> NewVersion:
    """A dataset of shards of 40 rows, in which every fifth text is that of another but for its
    end, and some are too short, or spam."""
    draw = random.Random(5)
    words = [*"雪山河田船", "snow", "hill", "river", "rises", "falls", "waits", "carries", "opens"]
    texts: list[str] = []
    for number in range(200):
        text = " ".join(draw.choice(words) for _ in range(60))
        if number % 5 == 4:
            text = draw.choice([one for one in texts if len(one) > 5]) + f" {number}"
        elif number % 17 == 0:
            text = f"spam {text}"
        texts.append("..." if number % 29 == 0 else text)
    parts = [texts[start : start + 40] for start in range(0, len(texts), 40)]
    files = {
        f"{place:03d}.jsonl": "\n".join(json.dumps({"text": text}) for text in part)
        for place, part in enumerate(parts)
    }
    with mock.patch.object(adding, "GROUP_BYTES", 1):
        return only(home.add(files, name))


def test_near_duplicates_go_whatever_the_number_of_processes(tmp_path: Path) -> None:
    digests = set()
    for threads in (1, 3):
        home = Home(tmp_path / str(threads), threads=threads)
        raw = planted(home)
        done = home.run(raw, STEPS)
        clean = only(done)
        digests.add(version_digest(clean.files, clean.manifest))
    assert len(digests) == 1
    operators = [
        make_operator(*((step, {}) if isinstance(step, str) else next(iter(step.items()))), 0)
        for step in STEPS
    ]
    expected = apply(operators, map(Record.of_row, home.rows(raw)))
    assert home.rows(clean) == [record.to_row() for record in expected.records]
    dropped = {(row["id"], row["step"], row["reason"]) for row in expected.outcome.dropped}
    table = home.table(clean, "dropped.parquet")
    assert {(row["id"], row["step"], row["reason"]) for row in table} == dropped

    near = {row["id"]: row["reason"] for row in table if row["step"] == 2}
    assert len(near) >= 30
    members = home.table(clean, "clusters.parquet")
    assert {row["id"] for row in members if not row["kept"]} == set(near)
    for row in members:
        assert row["step"] == 2 and row["kept"] == (row["cluster"] == row["id"])
        assert row["kept"] or near[row["id"]] == f"near duplicate: of {row['cluster']}"
    sizes = [row["cluster"] for row in members]
    told = clean.manifest["operators"][1]
    assert told["clusters"] == len(set(sizes))
    assert told["largest"] == max(map(sizes.count, sizes))
    assert done.summary["operators"][1]["clusters"] == told["clusters"]


def test_records_that_are_all_gone_before_are_compared_with_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "One.\n\nTwo."}))
    with pytest.raises(DataError, match="length 2, minhash_dedup 0"):
        home.run(raw, [{"length": {"least": 100}}, "minhash_dedup"])


def test_what_models_are_evaluated_on_goes_and_is_in_the_lineage(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    raw = planted(home)
    rows = home.rows(raw)
    chosen = [row for row in rows if len(row["text"]) > 5][10]
    words = chosen["text"].split()
    lines = [{"question": " ".join(words[5:25]), "n": 1}, {"question": "not there at all"}]
    quiz = only(home.add({"q.jsonl": "\n".join(map(json.dumps, lines))}, "quiz"))
    step = {"decontaminate": {"datasets": ["quiz"], "fields": ["question"]}}
    role = "steps.2.datasets.0"
    clean = only(home.run(raw, ["whitespace", step], others={role: quiz}))
    expected = {row["id"] for row in rows if " ".join(words[5:18]) in row["text"]}
    table = home.table(clean, "dropped.parquet")
    assert {row["id"] for row in table} == expected and chosen["id"] in expected
    assert all(row["reason"].startswith("contaminated: by quiz:1: ") for row in table)
    assert clean.inputs == ("dataset:raw:1", "dataset:quiz:1")
    (named,) = clean.manifest["pipeline"]["steps"][1].values()
    assert named["datasets"] == ["quiz:1"], "the version that was read"


def test_the_datasets_of_steps_are_the_servers_to_fill_in(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "One."}))
    with pytest.raises(InvalidRequestError, match="the server's to fill in"):
        home.run(raw, [{"decontaminate": {"datasets": ["quiz"]}}])
