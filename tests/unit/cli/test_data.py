"""`llmos data`: what is sent, and how what comes back is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Self

import pytest

from llmos.cli import data, data_run, data_sources, main
from llmos.data.pipeline import registry

STATS: dict[str, Any] = {
    "rows": 2,
    "duplicates": 1,
    "fields": {
        "text": {
            "present": 2,
            "characters": 9,
            "words": 4,
            "han": 2,
            "latin": 6,
            "length": {"least": 2, "p5": 2, "p25": 2, "p50": 2, "p75": 7, "p95": 7, "most": 7},
        },
        "name": {"present": 2, "characters": 6, "words": 2, "han": 0, "latin": 6},
        "year": {"present": 2, "characters": 8, "words": 2, "han": 0, "latin": 0},
    },
}
DATASET: dict[str, Any] = {
    "ref": "news:1",
    "rows": 2,
    "schema": {"id": "string", "text": "string"},
    "size_bytes": 2_500,
    "license": "CC0-1.0",
    "created_at": 0.0,
    "manifest": {"stats": STATS, "schema": dict.fromkeys(("id", *STATS["fields"]), "string")},
}
STEP = {"step": 1, "operator": "length", "read": 3, "changed": 0, "kept": 2, "rejected": 0}
RESULT: dict[str, Any] = {
    "artifacts": ["clean:1"],
    "rows": 2,
    "rows_read": 3,
    "seconds": 0.5,
    "operators": [STEP | {"seconds": 0.01, "dropped": {"too short": 1}}],
}
DIFF: dict[str, Any] = {
    "before": "a:1",
    "after": "b:1",
    "same": 1,
    "changed": 1,
    "added": 0,
    "removed": 1,
    "samples": {
        "changed": [
            {
                "id": "x",
                "before": {"text": "a\x1b[2J  b", "messages": None},
                "after": {"text": "a b", "messages": "new"},
            }
        ],
        "removed": [{"id": "y", "label": "1", "text": "gone"}],
        "added": [],
    },
}


ALIKE: dict[str, Any] = {
    "dataset": "people:1",
    "rows": 1200,
    "fields": ["age", "town"],
    "k": 5,
    "sensitive": "ill",
    "diversity": 2,
    "is_k_anonymous": False,
    "groups": 40,
    "smallest": 1,
    "least_values": 1,
    "small_groups": 1,
    "small_rows": 1,
    "small_values": 1,
    "samples": [{"fields": {"age": 71, "town": None}, "rows": 1, "values": 1}],
}


class Stub:
    """Answers as the server would."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.result = RESULT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_dataset(self, path: str, name: str, on_progress: Any, **options: Any) -> Any:
        self.sent.append((path, name, options))
        return self.job(1)

    def add_query(self, sql: str, url: str, name: str, on_progress: Any, **options: Any) -> Any:
        self.sent.append((sql, url, name, options))
        return self.job(1)

    def crawl(self, url: str, name: str, **options: Any) -> Any:
        self.sent.append((url, name, options))
        return self.job(1)

    def run_operators(self, pipeline: Any) -> Any:
        self.sent.append(pipeline)
        return self.job(1)

    def diff_datasets(self, before: str, after: str) -> Any:
        self.result = DIFF
        return self.job(1)

    def check_k_anonymity(self, ref: str, fields: list[str], **options: Any) -> Any:
        self.sent.append((ref, fields, options))
        self.result = ALIKE
        return self.job(1)

    def job(self, number: int) -> Any:
        return {"id": number, "state": "succeeded", "result": self.result}

    def datasets(self) -> Any:
        return [DATASET]

    def dataset(self, ref: str) -> Any:
        return DATASET

    def dataset_card(self, ref: str) -> str:
        return f"# {ref}\n"

    def dataset_head(self, ref: str, rows: int) -> Any:
        return [{"id": "a:1", "text": "x " * 300, "label": 3}][:rows]

    def export_dataset(self, *given: Any) -> Any:
        self.sent.append(given[:3])

    def remove_dataset(self, ref: str) -> Any:
        return {"ref": ref}

    def operators(self) -> Any:
        return registry.described()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    for module in (data, data_run, data_sources):
        monkeypatch.setattr(module, "open_client", lambda server, home: made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.invoke(["data", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_adding_sends_what_was_said_and_nothing_else(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "add", "a.csv", "--name", "news", "--columns", "text,label", "--max-bad", "0")
    assert stub.sent == [("a.csv", "news", {"columns": ["text", "label"], "max_bad": 0.0})]
    assert "clean:1 is ready: 2 rows" in out


def test_what_lies_elsewhere_is_named_by_its_address(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "add", "https://x.example/a.csv", "--name", "a", "--license", "MIT")
    run(capsys, "add", "feedback:helper", "--name", "b", "--reads", "preferences")
    query = ("add", "--sql", "SELECT 1", "--url", "sqlite:///x.db", "--name", "c")
    run(capsys, *query)
    run(capsys, "crawl", "https://x.example/", "--name", "d", "--pages", "5", "--rate", "0.5")
    assert stub.sent == [
        ("https://x.example/a.csv", "a", {"license": "MIT"}),
        ("feedback:helper", "b", {"reads": "preferences"}),
        ("SELECT 1", "sqlite:///x.db", "c", {}),
        (
            "https://x.example/",
            "d",
            {"depth": 2, "pages": 5, "rate": 0.5, "license": None, "description": None},
        ),
    ]


@pytest.mark.parametrize("given", [[], ["a.csv", "--sql", "SELECT 1"], ["--sql", "SELECT 1"]])
def test_a_source_is_one_thing(
    stub: Stub, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    assert main.invoke(["data", "add", *given, "--name", "x"]) == 2
    assert "name a SOURCE, or --sql with --url" in capsys.readouterr().err
    assert stub.sent == []


def test_a_pipeline_file_is_read_and_its_names_may_be_changed(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clean.yaml"
    path.write_text("name: clean\ninput: news\nsteps:\n- length: {least: 3}\n- exact_dedup\n")
    out = run(capsys, "run", str(path), "--input", "news:3")
    steps = [{"length": {"least": 3}}, "exact_dedup"]
    assert stub.sent == [{"name": "clean", "input": "news:3", "steps": steps}]
    assert "too short 1" in out and "clean:1 is ready" in out
    path.write_text("name: clean\ninput: [\n")
    assert main.invoke(["data", "run", str(path)]) == 2
    assert "not valid YAML in line" in capsys.readouterr().err
    assert main.invoke(["data", "run", str(tmp_path / "none.yaml")]) == 2
    assert "there is no pipeline" in capsys.readouterr().err


def test_lists_stats_heads_and_differences_are_shown(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "news:1" in run(capsys, "ls")
    assert json.loads(run(capsys, "ls", "--json"))[0]["ref"] == "news:1"
    stats = run(capsys, "stats", "news")
    assert "2 rows, 1 duplicate among them" in stats and "25%" in stats
    shares = {line.split()[0]: line.split()[5] for line in stats.splitlines()[2:]}
    assert shares == {"text": "25%", "name": "0%", "year": "-"}
    assert json.loads(run(capsys, "stats", "news", "--json")) == STATS
    head = run(capsys, "head", "news")
    assert "a:1" in head and "label: 3" in head and "…" in head
    assert run(capsys, "show", "news") == "# news\n"
    diff = run(capsys, "diff", "a", "b")
    assert diff.startswith("a:1 -> b:1: 1 same, 1 changed, 0 added, 1 removed\n")
    assert "  - text: a\\x1b[2J b\n  + text: a b\n  + messages: new\n- y: gone\n" in diff
    assert json.loads(run(capsys, "diff", "a", "b", "--json")) == DIFF


def test_groups_that_are_too_small_are_shown_and_told_by_the_exit_code(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["data", "k-anonymity", "people", "--by", "age,town", "--sensitive", "ill"]
    assert main.invoke(given) == 1
    assert stub.sent == [("people", ["age", "town"], {"k": 5, "sensitive": "ill", "diversity": 2})]
    out = capsys.readouterr().out
    assert out.startswith(
        "people:1: 1,200 rows in 40 groups by age, town; at least 1 row and 1 value of ill in "
        "each\n1 row in 1 group that are too small (k = 5, l = 2 of ill)\nROWS  VALUES  AGE"
    )
    assert "71   -" in out
    assert main.invoke([*given, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == ALIKE


def test_operators_are_listed_and_one_is_shown_with_its_example(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = run(capsys, "operators")
    assert "exact_dedup" in listed and "fix_text" in listed
    one = run(capsys, "operators", "length")
    assert ">>> tried(Length(" in one and "shorter texts go" in one
    assert re.search(r"share +number +required", run(capsys, "operators", "sample"))
    assert main.invoke(["data", "operators", "lenght"]) == 4
    assert "did you mean 'length'?" in capsys.readouterr().err


def test_an_unknown_format_of_export_is_refused(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["data", "export", "news", "news.xml", "--format", "xml"]) == 2
    assert "--format must be one of" in capsys.readouterr().err
    run(capsys, "export", "news", "news.jsonl")
    assert stub.sent == [("news", Path("news.jsonl"), None)]
    assert json.loads(run(capsys, "export", "news", "a.csv", "--json")) == {"path": "a.csv"}
