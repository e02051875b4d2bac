"""Labelling on a real server, as clients do it: rows become items, people label them, what they
decide becomes a dataset that a recipe trains on; nobody else's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.echoserver import EchoServer
from tests.unit.training.tiny import make_recipe

from llmos.apps.annotation_rows import AnnotationNotFoundError
from llmos.errors import (
    ConflictError,
    DatasetNotFoundError,
    InvalidRequestError,
    JobFailedError,
    PermissionDeniedError,
)
from llmos.sdk.client import Client

TEXTS = [{"text": f"{'很好看' if n % 2 else 'a fine film'} {n}", "by": "x"} for n in range(8)] + [
    {"text": "", "by": "nobody"}
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    running = EchoServer(tmp_path_factory.mktemp("home"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: EchoServer) -> Iterator[Client]:
    with Client(server.url, server.key) as made:
        yield made


@pytest.fixture(scope="module")
def people(server: EchoServer, client: Client) -> Iterator[dict[str, Client]]:
    """Clients of other owners, by name."""
    made = {
        name: Client(server.url, client.create_key(name, role="user")["key"])
        for name in ("bob", "eve", "mallory")
    }
    yield made
    for one in made.values():
        one.close()


@pytest.fixture(scope="module")
def reviews(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    return added(client, tmp_path_factory.mktemp("files"), "reviews", TEXTS)


def added(client: Client, folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return made(client, client.add_dataset(path, name, license="CC0-1.0"))


def made(client: Client, job: dict[str, Any]) -> str:
    (ref,) = client.wait(job["id"])["result"]["artifacts"]
    return str(ref)


def rows_of(client: Client, ref: str) -> list[dict[str, Any]]:
    return client.dataset_head(ref, 100)


def begun(client: Client, *given: Any, **options: Any) -> int:
    """The number of a task that has all its items."""
    task = client.annotate(*given, **options)
    client.wait(task["job"]["id"])
    return int(task["id"])


def work(client: Client, task: int, answer: Any) -> int:
    """Label all that one is given; ``answer`` says what, by what is shown."""
    count = 0
    while (item := client.next_item(task)) is not None:
        assert item["order"] == list(item["shown"])[-len(item["order"]) :]
        value = answer(item["shown"])
        said = {"skip": True} if value is None else {"value": value}
        client.label_item(task, item["place"], **said)
        count += 1
    return count


def test_rows_are_labelled_reviewed_and_trained_on(
    client: Client, people: dict[str, Client], reviews: str
) -> None:
    bob, eve, mallory = (people[name] for name in ("bob", "eve", "mallory"))
    number = begun(
        client,
        "which language",
        "reviews",
        "classification",
        ["text"],
        labels=["en", "zh"],
        overlap=2,
        annotators=["bob", "eve"],
        instructions="看文字。",
    )
    task = client.annotation(number)
    assert (task["state"], task["dataset"], task["progress"]["items"]) == ("open", reviews, 8)
    assert task["left_out"] == {"no text": 1}
    (theirs,) = bob.annotations()
    assert theirs["instructions"] == "看文字。"
    assert not {"dataset", "annotators", "progress", "job_id"} & set(bob.annotation(number))
    assert mallory.annotations() == []
    for ask in (mallory.annotation, mallory.next_item, mallory.agreement, mallory.labels):
        with pytest.raises(AnnotationNotFoundError):
            ask(number)
    with pytest.raises(PermissionDeniedError):
        bob.export_labels(number, "stolen")

    assert work(bob, number, lambda shown: "en" if shown["text"].isascii() else "zh") == 8
    with pytest.raises(JobFailedError, match=r"unfinished.*label more, or decide as a reviewer"):
        client.wait(client.export_labels(number, "languages")["id"])
    assert work(eve, number, lambda shown: "zh" if " 0" in shown["text"] else "en") == 8
    told = client.agreement(number)
    assert (told["items"], told["annotators"], told["same"]) == (8, 2, 0.375)
    (cohen,) = told["cohen"]
    assert cohen["annotators"] == ["bob", "eve"]

    found = list(client.items_to_review(number, undecided=True))
    assert [item["place"] for item in found] == [0, 1, 3, 5, 7]
    client.decide_item(number, 1, "zh")
    client.decide_item(number, 3, "zh")
    with pytest.raises(InvalidRequestError, match="none of the labels: en, zh"):
        client.decide_item(number, 5, "de")
    job = client.wait(client.export_labels(number, "languages", description="By hand.")["id"])
    (ref,) = job["result"]["artifacts"]
    assert job["result"]["items"] == {"annotators": 3, "reviewer": 2, "undecided": 3}
    rows = rows_of(client, ref)
    assert [row["label"] for row in rows] == ["zh", "en", "zh", "en", "en"]
    assert rows[0] == {
        "id": "reviews.jsonl:2",
        "text": "很好看 1",
        "by": "x",
        "label": "zh",
        "meta": {"annotation": {"task": number, "labels": 2, "decided_by": "reviewer"}},
    }
    version = client.dataset(ref)
    assert sorted(version["inputs"]) == [f"annotation task {number}", f"dataset:{reviews}"]
    assert version["manifest"]["license"] == "CC0-1.0"
    assert version["manifest"]["annotation"]["labels"] == 18
    again = client.dataset(made(client, client.export_labels(number, "languages")))
    assert again["number"] == 2 and again["rows"] == version["rows"]
    model = client.wait(
        client.train(
            make_recipe("classify", data={"path": f"dataset:{ref}"}, evaluate={"splits": []}),
            "tells-languages",
        )["id"]
    )
    assert client.model("tells-languages")["manifest"]["labels"] == ["en", "zh"]
    assert model["state"] == "succeeded"
    events = {(one["action"], one["object"]) for one in client.audit(500)}
    of_task = {action for action, subject in events if subject == f"annotation:{number}"}
    assert {"annotation.create", "annotation.label", "annotation.decide"} <= of_task


def test_all_labels_come_with_the_dataset_as_a_table(
    client: Client, reviews: str, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    number = begun(client, "length", "reviews", "rating", ["text"], rows=3, order="dataset")
    assert work(client, number, lambda shown: len(shown["text"]) % 5 + 1) == 3
    client.label_item(number, client.labels(number)[0]["place"], 2)
    ref = made(client, client.export_labels(number, "lengths"))
    rows = rows_of(client, ref)
    assert len(rows) == 3 and rows[-1]["score"] == 2.0
    folder = client.export_dataset(ref, tmp_path / "lengths")
    table = pq.read_table(folder / "annotations.parquet").to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert table[-1]["value"] == "2" and table[0]["annotator"] == "admin"
    assert len(client.labels(number)) == 4, "the history has what was changed, too"


def test_pairs_and_texts_become_rows_for_dpo_and_sft(client: Client, tmp_path: Path) -> None:
    asked = [
        {"q": "Who are you?", "a": "I am Lin.", "b": "Nobody."},
        {"q": "你是谁？", "a": "不知道。", "b": "我是小林。"},
        {"q": "Same?", "a": "x", "b": "x"},
        {"q": "Tie?", "a": "1", "b": "2"},
    ]
    added(client, tmp_path, "answers", asked)
    number = begun(client, "better", "answers", "pairs", ["a", "b"], prompt="q")
    assert client.annotation(number)["left_out"] == {"the two answers are the same": 1}
    better = {"Who are you?": "first", "你是谁？": "second", "Tie?": "tie"}
    assert work(client, number, lambda shown: better[shown["q"]]) == 3
    job = client.wait(client.export_labels(number, "preferred")["id"])
    assert job["result"]["items"] == {"annotators": 2, "tie": 1}
    first, second = rows_of(client, job["result"]["artifacts"][0])
    assert (first["chosen"], first["rejected"]) == ("I am Lin.", "Nobody.")
    assert second["messages"] == [{"role": "user", "content": "你是谁？"}]
    assert second["chosen"] == "我是小林。"

    number = begun(client, "right", "answers", "text", ["a"], prompt="q", rows=1, order="dataset")
    assert work(client, number, lambda shown: f"better than {shown['a']}") == 1
    (row,) = rows_of(client, made(client, client.export_labels(number, "corrected")))
    assert row["messages"][-1]["role"] == "assistant"
    assert row["messages"][-1]["content"].startswith("better than ")


def test_a_model_suggests_and_what_it_is_sure_of_comes_last(client: Client, reviews: str) -> None:
    number = begun(
        client, "fast", "reviews", "classification", ["text"], labels=["a", "b"], order="uncertain"
    )
    job = client.wait(client.suggest_labels(number, "vectors")["id"])
    assert job["result"] == {
        "annotation": number,
        "model": "vectors:1",
        "suggested": 8,
        "items": 8,
        "artifacts": [],
    }
    sure = []
    while (item := client.next_item(number)) is not None:
        suggestion = item["suggestion"]
        assert suggestion["model"] == "vectors:1" and suggestion["value"] in ("a", "b")
        sure.append(suggestion["confidence"])
        client.label_item(number, item["place"], "a")
    assert len(sure) == 8 and sure == sorted(sure)
    assert {one["suggested_by"] for one in client.labels(number)} == {"vectors:1"}
    again = client.wait(client.suggest_labels(number, "vectors")["id"])
    assert again["result"]["suggested"] == 0, "it has said so already"
    spans = begun(client, "names", "reviews", "spans", ["text"], labels=["PERSON"], rows=1)
    with pytest.raises(JobFailedError, match="spans are suggested by a model for 'entities'"):
        client.wait(client.suggest_labels(spans, "talker")["id"])
    texts = begun(client, "say", "reviews", "text", ["text"], rows=2)
    client.wait(client.suggest_labels(texts, "talker")["id"])
    item = client.next_item(texts)
    assert item is not None and item["suggestion"]["value"] == item["shown"]["text"]


def test_what_cannot_be_is_refused_and_leaves_no_task(
    client: Client, people: dict[str, Client], reviews: str, tmp_path: Path
) -> None:
    before = len(client.annotations())
    kinds: Any = ("x", "reviews", "classification", ["text"])
    with pytest.raises(DatasetNotFoundError):
        client.annotate("x", "nothing", "classification", ["text"], labels=["a", "b"])
    with pytest.raises(InvalidRequestError, match="needs 2 different labels"):
        client.annotate(*kinds, labels=["a", "a"])
    with pytest.raises(InvalidRequestError, match="rows must be from 1"):
        client.annotate(*kinds, labels=["a", "b"], rows=10**6)
    with pytest.raises(PermissionDeniedError):
        people["bob"].annotate(*kinds, labels=["a", "b"])
    with pytest.raises(InvalidRequestError, match="reviews:1 has no field 'nothing', only text, "):
        client.annotate("x", "reviews", "spans", ["nothing"], labels=["A"])
    assert len(client.annotations()) == before
    (tmp_path / "long.txt").write_text("长" * 70_000, "utf-8")
    client.wait(client.add_dataset(tmp_path / "long.txt", "long")["id"])
    task = client.annotate("x", "long", "spans", ["text"], labels=["A"])
    with pytest.raises(JobFailedError, match="none of the 1 rows can be shown"):
        client.wait(task["job"]["id"])
    with pytest.raises(ConflictError, match="has not all its items yet"):
        client.next_item(task["id"])
    path = f"/api/v1/annotation/tasks/{task['id']}/items"
    item = {"place": 0, "row": "x", "shown": {"text": "x"}, "rank": 0.0}
    with pytest.raises(PermissionDeniedError, match="only a job"):
        client.transport.json("POST", path, json={"items": [item]})
    client.remove_annotation(task["id"])
