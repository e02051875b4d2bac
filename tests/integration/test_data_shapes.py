"""Jobs that split and mix datasets: exact shares, nothing parted, nothing lost, the same whatever
the number of processes.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.unit.data.data_jobs import Home, only

from llmos.data.datasets import adding, jobs, mixing, splitting
from llmos.errors import DataError
from llmos.library.manifest import version_digest
from llmos.types import JobResult, NewVersion

PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def added(home: Home, name: str, rows: list[dict[str, Any]]) -> NewVersion:
    """A dataset of shards of 50 rows."""
    with mock.patch.object(adding, "GROUP_BYTES", 1):
        files = {
            f"{start:04d}.jsonl": "\n".join(map(json.dumps, rows[start : start + 50]))
            for start in range(0, len(rows), 50)
        }
        return only(home.add(files, name, license="CC0-1.0"))


def talks(count: int = 400) -> list[dict[str, Any]]:
    return [
        {
            "text": f"Row {number} 行",
            "speaker": f"speaker {number * 7 % 43}",
            "label": "rare" if number % 20 == 0 else "often",
            "at": f"2026-01-{1 + number % 28:02d}T{number % 24:02d}:00:00Z",
        }
        for number in range(count)
    ]


def split(home: Home, version: NewVersion, **given: Any) -> dict[str, NewVersion]:
    params = {"input": version.name, "parts": PARTS, **given}
    params["datasets"] = {"input": home.told(version)}
    done = splitting.run(home.context(jobs.check_split(params)))
    return dict(zip(params["parts"], done.artifacts, strict=True))


def mix(home: Home, inputs: dict[str, tuple[NewVersion, float]], **given: Any) -> JobResult:
    params = {"name": "mixed", "inputs": {ref: weight for ref, (_, weight) in inputs.items()}}
    params["datasets"] = {ref: home.told(version) for ref, (version, _) in inputs.items()}
    return mixing.run(home.context(jobs.check_mix(params | given)))


def digest_of(version: NewVersion) -> str:
    return version_digest(version.files, version.manifest)


def test_a_random_split_is_exact_and_loses_no_row(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    whole = added(home, "talks", talks())
    parts = split(home, whole, seed=3)
    rows = {name: home.rows(version) for name, version in parts.items()}
    assert {name: len(own) for name, own in rows.items()} == {
        "train": 320, "validation": 40, "test": 40,
    }  # fmt: skip
    by_id = {row["id"]: row for own in rows.values() for row in own}
    assert by_id == {row["id"]: row for row in home.rows(whole)}
    names = [version.name for version in parts.values()]
    assert names == ["talks-train", "talks-validation", "talks-test"]
    manifest = parts["test"].manifest
    assert manifest["source"]["parts"] == PARTS and manifest["license"] == "CC0-1.0"
    assert parts["test"].inputs == ("dataset:talks:1",)
    other = split(home, whole, seed=4)
    assert home.rows(other["test"]) != rows["test"]


def test_no_group_is_in_two_parts(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    whole = added(home, "talks", talks())
    parts = split(home, whole, by="speaker")
    seen = [{row["speaker"] for row in home.rows(version)} for version in parts.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 43
    largest = max(Counter(row["speaker"] for row in talks()).values())
    for name, version in parts.items():
        assert abs(version.manifest["rows"] - PARTS[name] * 400) <= largest


def test_a_stratified_split_has_each_label_in_its_share(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    whole = added(home, "talks", talks())
    for name, version in split(home, whole, stratify="label").items():
        counts = Counter(row["label"] for row in home.rows(version))
        assert counts == {"rare": 20 * PARTS[name], "often": 380 * PARTS[name]}


def test_a_split_by_time_keeps_the_future_apart(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    whole = added(home, "talks", talks())
    times = [
        sorted(row["at"] for row in home.rows(version))
        for version in split(home, whole, time="at").values()
    ]
    assert times[0][-1] < times[1][0] and times[1][-1] < times[2][0]
    assert abs(len(times[0]) - 320) <= 15


def test_a_part_of_nothing_and_a_row_without_the_field_are_errors(tmp_path: Path) -> None:
    home = Home(tmp_path)
    whole = added(home, "talks", [{"text": str(n), "same": 1} for n in range(20)])
    with pytest.raises(DataError, match="nothing of talks:1 is left for"):
        split(home, whole, by="same")
    some = added(home, "some", [{"text": "x"}, {"text": "y", "speaker": "eve"}] * 10)
    with pytest.raises(DataError, match="has nothing in 'speaker', only text"):
        split(home, some, by="speaker")
    with pytest.raises(DataError, match="neither a number nor an ISO 8601 time"):
        split(home, added(home, "odd", [{"text": "x", "at": "soon"}] * 3), time="at")


def test_a_mix_has_each_dataset_in_its_share_everywhere(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    one = added(home, "one", talks(200))
    other = added(home, "other", [{"text": f"other {n}", "n": n} for n in range(150)])
    with mock.patch.object(mixing, "SHARD_ROWS", 40):
        done = mix(home, {"one": (one, 0.7), "other:1": (other, 0.3)}, rows=200, seed=5)
    mixed = only(done)
    rows = home.rows(mixed)
    assert done.summary["parts"] == {"one:1": 140, "other:1": 60}
    assert len({row["id"] for row in rows}) == len(rows) == 200
    own = {row["id"]: row for row in home.rows(one)}
    for row in rows:
        name, _, identifier = row["id"].partition("/")
        if name == "one":
            assert row == own[identifier] | {"id": row["id"]}
    for shard in mixed.manifest["shards"]:
        of = Counter(row["id"].partition("/")[0] for row in home.table(mixed, shard["file"]))
        assert of == {"one": 28, "other": 12}
    ids = [row["id"] for row in home.table(mixed, "data-00000.parquet")]
    assert ids != sorted(ids), "rows of both stand among one another"
    assert mixed.inputs == ("dataset:one:1", "dataset:other:1")
    assert mixed.manifest["license"] == "CC0-1.0"


def test_a_mix_may_have_rows_more_than_once(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    one = added(home, "one", talks(100))
    ids = (f"{n // 2}#2" if n % 2 else f"{n // 2}" for n in range(30))
    other = added(home, "other", [{"id": one, "text": f"other {one}"} for one in ids])
    with pytest.raises(DataError, match="ask for 60 rows"):
        mix(home, {"one": (one, 1), "other": (other, 1)}, rows=150)
    rows = home.rows(only(mix(home, {"one": (one, 1), "other": (other, 1)}, rows=150, repeat=True)))
    of_other = Counter(row["text"] for row in rows if row["id"].startswith("other"))
    assert sum(of_other.values()) == 75 and set(of_other.values()) == {2, 3}
    assert len({row["id"] for row in rows}) == 150


def test_both_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    digests = set()
    for threads in (1, 3):
        home = Home(tmp_path / str(threads), threads=threads)
        whole = added(home, "talks", talks(250))
        parts = split(home, whole, stratify="label")
        mixed = only(mix(home, {"a": (parts["train"], 2), "b": (parts["test"], 1)}))
        digests.add((*map(digest_of, parts.values()), digest_of(mixed)))
    assert len(digests) == 1


def test_a_job_that_goes_on_repeats_no_finished_shard(tmp_path: Path) -> None:
    home = Home(tmp_path)
    whole = added(home, "talks", talks(200))
    params = jobs.check_split(
        {"input": "talks", "parts": PARTS, "datasets": {"input": home.told(whole)}}
    )
    first = splitting.run(home.context(params, "kept"))
    made = sorted((tmp_path / "kept").glob("*/*/*/rows.parquet"))
    times = [path.stat().st_mtime_ns for path in made]
    again = splitting.run(home.context(params, "kept"))
    assert [path.stat().st_mtime_ns for path in made] == times and len(made) == 12
    assert list(map(digest_of, again.artifacts)) == list(map(digest_of, first.artifacts))
