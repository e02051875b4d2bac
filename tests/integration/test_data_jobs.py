"""Jobs of datasets with processes of their own: the same whatever their number, also after kill -9;
nothing lost, nothing done twice; too much that is bad stops them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.data_jobs import Home, only

from llmos.data.datasets import adding, jobs
from llmos.data.pipeline import comparing, keyfiles, shard
from llmos.data.pipeline.operator import Comparer
from llmos.data.pipeline.pool import ChildLostError
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import find_operator, make_operator
from llmos.data.pipeline.steps import apply
from llmos.errors import CancelledError, DataError, InvalidRequestError, PipelineError
from llmos.library.manifest import version_digest
from llmos.storage.blobs import BlobStore
from llmos.types import NewVersion

STEPS: list[Any] = [
    {"unicode": {"form": "NFKC"}},
    "whitespace",
    {"length": {"least": 5}},
    {"exact_dedup": {"loose": True}},
    {"line_dedup": {"unit": "sentence", "least": 2, "least_left": 3}},
    {"regex_filter": {"pattern": "spam"}},
    "exact_dedup",
    {"sample": {"share": 0.9}},
]
RUN = """
import json, os, signal, sys
from llmos.data.pipeline import handler
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobProgress, StartJob

params, die_at, reports = json.loads(sys.argv[1]), int(sys.argv[4]), 0

def send(message):
    global reports
    if isinstance(message, JobProgress):
        reports += 1
        if reports == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="x", params=params, owner="admin",
                 home=sys.argv[2], checkpoint_dir=sys.argv[3], threads=2, heartbeat_s=10.0)
done = handler.run(JobContext(start, send, monotonic=lambda: reports))
(version,) = done.artifacts
print(json.dumps({name: file.digest for name, file in version.files.items()}))
"""


def corpus(rows: int, seed: int = 0) -> str:
    """JSON lines, some the same, some short, some spam; English and Chinese."""
    draw = random.Random(seed)
    words = ["data", "model", "text", "数据", "模型", "文本", "learns", "reads", "writes"]
    lines = []
    for number in range(rows):
        text = draw.choice(words)
        for _ in range(draw.randint(0, 5)):
            text += draw.choice("  \n") + draw.choice(words)
        text = "spam " + text if number % 17 == 0 else text
        lines.append(json.dumps({"text": text, "label": draw.choice("ab")}, ensure_ascii=False))
    return "\n".join(lines)


def added(home: Home, rows: int, name: str = "raw") -> NewVersion:
    """A dataset of shards of 40 rows."""
    lines = corpus(rows).splitlines()
    with mock.patch.object(adding, "GROUP_BYTES", 1):
        parts = [lines[start : start + 40] for start in range(0, rows, 40)]
        files = {f"{place:03d}.jsonl": "\n".join(part) for place, part in enumerate(parts)}
        return only(home.add(files, name))


def test_files_become_a_dataset_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    files = {
        "b/two.csv": "text,label\nhello,good\n你好,good\n",
        "a.jsonl": '{"text": "first", "n": 1}\n{broken\n{"text": "third", "n": 2.5}',
        "c.txt": "A paragraph.\n\n另一段。".encode("gb18030") * 30,
    }
    done = home.add(files, license="CC0-1.0", source="https://x.example", max_bad=0.2)
    version, manifest = only(done), only(done).manifest
    rows = home.rows(version)
    assert [row["id"] for row in rows[:4]] == [
        "a.jsonl:1",
        "a.jsonl:3",
        "b/two.csv:2",
        "b/two.csv:3",
    ]
    assert rows[0] == {"id": "a.jsonl:1", "text": "first", "n": 1.0}
    assert rows[-1]["text"] == "另一段。"
    assert manifest["rows"] == len(rows) == manifest["stats"]["rows"]
    assert manifest["schema"] == {
        "id": "string",
        "text": "string",
        "n": "number",
        "label": "string",
    }
    assert manifest["license"] == "CC0-1.0" and manifest["rejected"] == 1
    told = {one["name"]: one for one in manifest["source"]["files"]}
    assert told["c.txt"]["encoding"] == "gb18030" and told["a.jsonl"]["bad"] == 1
    (bad,) = home.table(version, "rejected.parquet")
    assert (
        bad["id"] == "a.jsonl:2" and "not JSON" in bad["reason"] and bad["excerpt"] == "{broken\n"
    )
    head = [json.loads(line) for line in blob(home, version, "head.jsonl").splitlines()]
    assert head == rows[:100]
    assert manifest["stats"]["duplicates"] == len(rows) - len({str(r | {"id": 0}) for r in rows})
    assert set(version.inputs) == {one["digest"] for one in told.values()}


def blob(home: Home, version: NewVersion, filename: str) -> bytes:
    return home.context({}).blobs.read_bytes(version.files[filename].digest)


def test_the_digest_is_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    digests = set()
    for threads in (1, 2, 3):
        home = Home(tmp_path / str(threads), threads=threads)
        raw = added(home, 400)
        clean = only(home.run(raw, STEPS))
        digests.add((digest_of(raw), digest_of(clean), json.dumps(clean.manifest, sort_keys=True)))
    assert len(digests) == 1


def test_a_large_file_is_read_in_parts_whatever_the_number_of_workers(tmp_path: Path) -> None:
    """Nothing but which rows share a shard tells it from a file that is read as a whole."""
    lines = corpus(300).splitlines()
    lines[100] = "{broken"
    text = "\n".join(lines)
    found = []
    for threads, part_bytes in ((1, 3000), (2, 3000), (1, 2**20)):
        home = Home(tmp_path / str(len(found)), threads=threads)
        with mock.patch.object(adding, "PART_BYTES", part_bytes):
            version = only(home.add({"a.jsonl": text, "b.jsonl": lines[0]}, max_bad=0.1))
        files = [(one["name"], one["rows"]) for one in version.manifest["source"]["files"]]
        assert files == [("a.jsonl", 299), ("b.jsonl", 1)]
        (rejected,) = home.table(version, "rejected.parquet")
        assert rejected["id"] == "a.jsonl:101"
        found.append((digest_of(version), home.rows(version), len(version.manifest["shards"])))
    assert found[0] == found[1] and found[0][1] == found[2][1]
    assert found[0][2] > 5 and found[2][2] == 1


def digest_of(version: NewVersion) -> str:
    return version_digest(version.files, version.manifest)


def test_a_job_does_what_the_operators_do_in_memory(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    raw = added(home, 300)
    done = home.run(raw, STEPS)
    clean = only(done)
    operators = [
        make_operator(*((step, {}) if isinstance(step, str) else next(iter(step.items()))), 0)
        for step in STEPS
    ]
    expected = apply(operators, map(Record.of_row, home.rows(raw)))
    assert home.rows(clean) == [record.to_row() for record in expected.records]
    dropped = {(row["id"], row["step"], row["reason"]) for row in expected.outcome.dropped}
    table = home.table(clean, "dropped.parquet")
    assert {(row["id"], row["step"], row["reason"]) for row in table} == dropped
    assert len(table) + len(expected.records) == 300, "every row is somewhere, once"
    for told, tally in zip(clean.manifest["operators"], expected.tallies, strict=True):
        assert told["read"] == tally.read and told["kept"] == tally.kept, told
        assert told["dropped"] == dict(sorted(tally.dropped.items()))
    assert clean.inputs == ("dataset:raw:1",)
    assert clean.manifest["pipeline"]["steps"][2] == {
        "length": {"field": "text", "least": 5, "most": None, "unit": "characters"}
    }
    trimmed = clean.manifest["operators"][4]
    assert trimmed["pieces"] > trimmed["repeated"] > trimmed["changed"] > 0
    assert done.summary["rows"] == len(expected.records)


def test_kill_9_and_restart_repeats_no_finished_shard_and_loses_no_row(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = added(home, 400)
    pipeline = {"name": "clean", "input": "raw", "steps": STEPS}
    given = {"pipeline": pipeline, "datasets": {"input": home.told(raw)}}
    params = json.dumps(jobs.check_run(given))

    def run(name: str, die_at: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, params, str(tmp_path / "home"), str(tmp_path / name)]
        return subprocess.run([*command, str(die_at)], capture_output=True, text=True)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    made: dict[str, int] = {}
    for die_at in (3, 9, 16):
        assert run("killed", die_at).returncode == -signal.SIGKILL
        now = finished(tmp_path / "killed")
        assert made.items() <= now.items(), "what was done is as it was"
        made = now
    assert made, "some shards were done before the end"
    last = run("killed")
    assert last.returncode == 0, last.stderr
    assert made.items() <= finished(tmp_path / "killed").items()
    assert json.loads(last.stdout) == json.loads(whole.stdout)


def finished(directory: Path) -> dict[str, int]:
    """When each finished shard was made: nanoseconds, by its place."""
    return {
        str(path.parent): path.stat().st_mtime_ns
        for path in directory.glob("stages/*/*/done.json")
        if not path.parent.name.startswith(".")
    }


def test_a_job_finds_and_blanks_rows_of_too_small_groups_as_is_done_in_memory(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"fields": ["label", "text"], "k": 3}
    step = {"k_anonymity": {**options, "action": "suppress"}}
    home = Home(tmp_path, threads=2)
    raw = added(home, 200)
    made = only(home.run(raw, ["lower_case", step]))
    operators = [make_operator("lower_case", {}, 0), make_operator(*next(iter(step.items())), 0)]
    expected = apply(operators, map(Record.of_row, home.rows(raw))).records
    blank = [record.id for record in expected if record.fields["label"] is None]
    rows = [{name: value for name, value in one.to_row().items() if value} for one in expected]
    assert home.rows(made) == rows and 3 <= len(blank) < len(rows)
    counts = made.manifest["operators"][1]
    assert counts["changed"] == counts["small_rows"] == len(blank)
    assert home.table(made, "dropped.parquet") == []
    found = home.check_k_anonymity(raw, **options)
    assert not found["is_k_anonymous"] and found["rows"] == 200 and found["smallest"] == 1
    least = found["samples"][0]
    assert least["rows"] == 1 and found["small_groups"] >= len(found["samples"]) == 20
    alike = [
        row for row in home.rows(raw)
        if all(row.get(name) == value for name, value in least["fields"].items())
    ]  # fmt: skip
    assert len(alike) == 1
    again = home.check_k_anonymity(made, **options)
    assert again["is_k_anonymous"] and again["samples"] == [] and again["small_rows"] == 0
    with pytest.raises(InvalidRequestError, match="no row of raw:1 has a field 'zip'"):
        home.check_k_anonymity(raw, fields=["zip"])
    with pytest.raises(InvalidRequestError, match="k: Input should be greater"):
        home.check_k_anonymity(raw, fields=["text"], k=1)


def test_a_process_that_is_lost_fails_the_attempt_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, threads=1)
    raw = added(home, 200)
    context = home.context({}, "shared")
    from llmos.data.pipeline import pool

    started = pool._started

    def dies() -> Any:
        child = started()
        os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(pool, "_started", dies)
    with pytest.raises(ChildLostError, match="was killed by SIGKILL"):
        home.run(raw, STEPS, checkpoint="shared")
    assert ChildLostError.retryable
    monkeypatch.setattr(pool, "_started", started)
    assert only(home.run(raw, STEPS, checkpoint="shared")).manifest["rows"] > 0
    assert context.checkpoint_dir.exists()


def test_too_many_rejected_records_stop_a_job_and_a_few_do_not(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    rows = [json.dumps({"text": "fine"} if n % 10 else {"body": "no text"}) for n in range(100)]
    raw = only(home.add({"a.jsonl": "\n".join(rows)}))
    with pytest.raises(
        DataError, match=r"more than 5 of 100 records were rejected.*a.jsonl:1, .*: there is"
    ):
        home.run(raw, ["whitespace"], max_rejected=0.05)
    done = home.run(raw, ["whitespace"], max_rejected=0.1)
    assert done.summary["rejected"] == 10 and done.summary["rows"] == 90
    table = home.table(only(done), "rejected.parquet")
    assert len(table) == 10 and "there is no text in 'text'" in table[0]["reason"]


def test_a_pipeline_that_leaves_nothing_says_which_step_did(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "One.\n\nTwo."}))
    with pytest.raises(DataError, match=r"nothing is left of made:1; .*length 2"):
        home.run(raw, [{"length": {"least": 100}}])


def test_bad_rows_stop_or_are_borne(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lines = '{"text": "a"}\n{broken\n{"text": "b"}'
    with pytest.raises(DataError, match=r"1 of 3 rows cannot be read, over the 1.00% .*a.jsonl:2"):
        home.add({"a.jsonl": lines})
    with pytest.raises(DataError, match=r"a.jsonl:2: it is not JSON"):
        home.add({"a.jsonl": lines}, on_bad="stop")
    assert only(home.add({"a.jsonl": lines}, max_bad=0.5)).manifest["rows"] == 2
    with pytest.raises(DataError, match="hold no rows"):
        home.add({"a.txt": "\n \n"})
    with pytest.raises(DataError, match=r"picture.txt is a picture"):
        home.add({"good.txt": "text", "picture.txt": b"\x89PNG\r\n\x1a\n"})


def test_a_small_file_that_holds_too_much_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    huge = pa.array(["x" * 2**25], pa.large_string())
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), huge)  # kept once
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 2**20
    home = Home(tmp_path)
    with pytest.raises(DataError, match="rows take more than the 2 GB"):
        home.add({"bomb.parquet": path.read_bytes()})
    assert only(home.add({"a.txt": "One."})).manifest["rows"] == 1


def test_names_that_are_values_are_refused(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({f"key {number}": 1}) for number in range(2100))
    with pytest.raises(DataError, match="2,101 different fields"):
        Home(tmp_path).add({"a.jsonl": lines})


def test_a_damaged_shard_stops_a_pipeline(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "One."}))
    path = BlobStore(tmp_path / "home" / "blobs").path(raw.files["data-00000.parquet"].digest)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    with pytest.raises(Exception, match="no longer matches its digest"):
        home.run(raw, ["whitespace"])


def test_diff_tells_what_a_pipeline_changed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "One  one\n\nTwo\n\nTwo\n\n三"}, "raw"))
    clean = only(home.run(raw, ["whitespace", "exact_dedup"]))
    found = home.diff(raw, clean)
    counts = {kind: found[kind] for kind in ("same", "changed", "added", "removed")}
    assert counts == {"same": 2, "changed": 1, "added": 0, "removed": 1}
    assert found["samples"]["changed"] == [
        {"id": "a.txt:1", "before": {"text": "One  one"}, "after": {"text": "One one"}}
    ]
    assert found["samples"]["removed"] == [{"id": "a.txt:5", "text": "Two"}]
    back = home.diff(clean, raw)
    assert back["added"] == 1 and back["samples"]["added"][0]["id"] == "a.txt:5"


def test_more_keys_than_are_compared_at_once_take_more_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [str(number % 70) for number in range(200)]
    work = tmp_path / "work"
    spec = shard.StepSpec(1, "exact_dedup", {"fields": ["text"], "loose": False})
    operator = make_operator("exact_dedup", {}, 0)
    assert isinstance(operator, Comparer)
    shards = []
    for start, end in ((0, 120), (120, 120), (120, 200)):
        rows = [{"id": str(number), "text": texts[number]} for number in range(start, end)]
        shards.append(work / str(len(shards)))
        shards[-1].mkdir(parents=True)
        shard.write_rows(shards[-1] / shard.ROWS, rows, {"id": "string", "text": "string"})
        keys = [operator.keys(Record.of_row(row)) for row in rows]
        comparing.write_keys(shards[-1], keys, [0] * len(keys))
    verdicts = []
    for keys_a_pass in (1000, 30):
        monkeypatch.setattr(keyfiles, "KEYS_A_PASS", keys_a_pass)
        out = work / f"out-{keys_a_pass}"
        task = comparing.CompareTask([str(path) for path in shards], spec, 0, str(out))
        comparing.run_compare(task)
        found = {
            (place, row["row"], row["reason"])
            for place in range(len(shards))
            if (path := keyfiles.drops_file(out, place)).exists()
            for row in shard.read_rows(path)
        }
        assert comparing.read_compared(out) == {"clusters": 70, "largest": 3}
        verdicts.append(found)
    assert verdicts[0] == verdicts[1] and len(verdicts[0]) == 130
    assert (2, 0, "duplicate: of 50") in verdicts[0]


def test_a_cancelled_job_ends_with_its_processes(tmp_path: Path) -> None:
    home = Home(tmp_path, threads=2)
    raw = added(home, 200)
    given = {"pipeline": {"name": "c", "input": "raw", "steps": STEPS}}
    params = jobs.check_run(given | {"datasets": {"input": home.told(raw)}})
    context = home.context(params)
    context.cancel()
    from llmos.data.pipeline import handler

    with pytest.raises(CancelledError):
        handler.run(context)


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ({"name": "x", "steps": ["length"]}, "has no 'input'"),
        ({"name": "x", "input": "y", "steps": []}, "steps: List should have at least 1"),
        ({"name": "x", "input": "y", "steps": ["length"], "setps": 1}, "no key 'setps'"),
        ({"name": "x", "input": "y", "steps": ["lenght"]}, "step 1: there is no operator"),
        ({"name": "x", "input": "y", "steps": ["length", {"a": {}, "b": {}}]}, "step 2 must be"),
        ({"name": "x:1", "input": "y", "steps": ["length"]}, "leave out the version"),
        ("text", "must be a mapping"),
    ],
)
def test_a_wrong_pipeline_is_refused_before_it_is_queued(pipeline: Any, said: str) -> None:
    with pytest.raises((PipelineError, InvalidRequestError), match=said):
        jobs.check_run({"pipeline": pipeline})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": {}}, "1 to 20000"),
        ({"files": {"../a.txt": f"sha256:{'0' * 64}"}}, "no name of a file"),
        ({"files": {"a.weird": f"sha256:{'0' * 64}"}}, "what it holds is not known"),
        ({"files": {"a.txt": "sha256:no"}}, "64 hex digits"),
        ({"unit": "word"}, "unit must be one of paragraph, line, document"),
        ({"encoding": "utf-9"}, "no encoding"),
        ({"max_bad": 2}, "share from 0 to 1"),
        ({"colour": "red"}, "unknown parameter colour"),
    ],
)
def test_a_wrong_request_to_add_is_refused(changes: dict[str, Any], said: str) -> None:
    good = {"name": "x", "files": {"a.txt": f"sha256:{'0' * 64}"}}
    assert jobs.check_add(good)["on_bad"] == "skip"
    with pytest.raises(InvalidRequestError, match=said):
        jobs.check_add(good | changes)


def test_diff_tells_rows_of_the_same_id_apart(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def of(*texts: str) -> NewVersion:
        lines = (json.dumps({"id": "x", "text": text}) for text in texts)
        return only(home.add({"a.jsonl": "\n".join(lines)}))

    found = home.diff(of("a", "b", "b", "c"), of("b", "c", "d"))
    counts = {kind: found[kind] for kind in ("same", "changed", "added", "removed")}
    assert counts == {"same": 2, "changed": 1, "added": 0, "removed": 1}
    (changed,) = found["samples"]["changed"]
    assert changed == {"id": "x", "before": {"text": "a"}, "after": {"text": "d"}}
    assert found["samples"]["removed"] == [{"id": "x", "text": "b"}]
    assert home.diff(of("a"), of("a", "a"))["added"] == 1


def test_what_is_made_anonymous_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    raw = only(home.add({"a.txt": "Alice  is here\n\nAlice\n\nsomebody  else"}))
    steps: list[Any] = [{"length": {"least": 8}}, "whitespace", "lower_case"]
    shown = only(home.run(raw, steps))
    assert shown.manifest["operators"][1]["samples"][0]["before"] == "Alice  is here"
    assert home.table(shown, "dropped.parquet")[0]["excerpt"] == "Alice"
    monkeypatch.setattr(find_operator("lower_case"), "group", "anonymise")
    hidden = only(home.run(raw, steps))
    assert home.rows(hidden) == home.rows(shown)
    assert [one["samples"] for one in hidden.manifest["operators"]] == [[], [], []]
    assert home.table(hidden, "dropped.parquet")[0]["excerpt"] == ""
