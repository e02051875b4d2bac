"""Rows are made of others: the same whatever the number of processes; by models that a real server
serves, and the dataset says by which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.echoserver import EchoServer
from tests.integration.test_data_jobs import added
from tests.unit.data.data_jobs import Home, only
from tests.unit.training.tiny import make_recipe

from llmos.library.manifest import version_digest
from llmos.sdk.client import Client

KINDS = (("b c 你好世界", "negative"), ("a film that I like", "positive"))
ROWS = "text,label\n" + "".join(
    f"{text} {number},{label}\n" for number in range(6) for text, label in KINDS
)
TRAINED = ("translate", "fill_mask", "classify")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = EchoServer(tmp_path_factory.mktemp("home"))
    try:
        with Client(server.url, server.key) as made:
            file = tmp_path_factory.mktemp("files") / "rows.csv"
            file.write_text(ROWS, "utf-8")
            made.wait(made.add_dataset(file, "rows")["id"])
            yield made
    finally:
        server.stop()


def run(client: Client, name: str, *steps: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a dataset that steps make, and the result of their job."""
    pipeline = {"name": name, "input": "rows", "steps": list(steps)}
    result = client.wait(client.run_operators(pipeline)["id"])["result"]
    return client.dataset_head(name, 100), result


def test_synonyms_are_the_nearest_words_of_a_served_model(client: Client) -> None:
    """Of the characters that the model knows, those are alike whose numbers are 8 apart."""
    eda = {"kinds": ["synonyms"], "model": "vectors", "share": 1.0, "least": 0.9}
    rows, result = run(client, "synonyms", {"eda": eda})
    assert result["operators"][0]["read"] == 12 < len(rows) == result["rows"]
    copies = [row for row in rows if "~aug" in row["id"]]
    assert all(row["meta"]["augment"]["by"] == "eda" for row in copies)
    for row in copies:
        (before,) = [one for one in rows if one["id"] == row["meta"]["augment"]["of"]]
        assert row["label"] == before["label"] and row["text"] != before["text"]
    assert client.dataset("synonyms")["inputs"] == ["dataset:rows:1", "vectors:1"]


def test_models_write_anew_and_are_checked(client: Client) -> None:
    for task in TRAINED:
        brief = {"generation": {"max_tokens": 8}} if task == "translate" else {}
        recipe = make_recipe(task, evaluate={"splits": []}, **brief)
        client.wait(client.train(recipe, f"tiny-{task.replace('_', '-')}")["id"])
    rows, result = run(
        client,
        "rewritten",
        {"back_translate": {"model": "tiny-translate", "language": "en", "pivot": "zh"}},
        {"masked_words": {"model": "tiny-fill-mask", "top_k": 50}},
        {"paraphrase": {"model": "talker", "template": "Anew: {text}"}},
        {"label_check": {"model": "tiny-classify"}},
    )
    assert [one["rejected"] for one in result["operators"]] == [0, 0, 0, 0]
    made = {row["meta"]["augment"].get("by") for row in rows}
    assert "paraphrase" in made or result["operators"][3]["dropped"]["label lost"] >= 6
    spoken = [row["text"] for row in rows if row["meta"]["augment"].get("by") == "paraphrase"]
    assert all(text.startswith("Anew: ") for text in spoken)
    models = [f"tiny-{task.replace('_', '-')}:1" for task in TRAINED]
    assert set(client.dataset("rewritten")["inputs"]) == {"dataset:rows:1", "talker:1", *models}


def test_a_model_writes_what_another_learns_from(client: Client) -> None:
    rows, _ = run(
        client,
        "questions",
        {"instruct": {"model": "talker", "question": "Q {text}", "answer": "A {question}"}},
        {"exact_dedup": {"fields": ["messages"]}},
    )
    assert len(rows) == 12
    for row in rows:
        assert [turn["content"] for turn in row["messages"]] == [
            f"Q {row['text']}",
            f"A Q {row['text']}",
        ]
    recipe = make_recipe("chat", data={"path": "dataset:questions"}, evaluate={"splits": []})
    assert client.wait(client.train(recipe, "learner")["id"])["state"] == "succeeded"


def test_the_same_rows_are_made_by_any_number_of_processes(tmp_path: Path) -> None:
    steps = [{"eda": {"copies": 2}}, {"noise": {}}, {"mix": {"copies": 2}}, "exact_dedup"]
    digests, rows = set(), []
    for threads in (1, 3):
        home = Home(tmp_path / str(threads), threads)
        version = only(home.run(added(home, 120), steps))
        digests.add(version_digest(version.files, version.manifest))
        rows = home.rows(version)
    assert len(digests) == 1
    assert len({row["id"] for row in rows}) == len(rows) > 300
