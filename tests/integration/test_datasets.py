"""Datasets on a real server, as clients use them: added, looked at, cleaned, compared, exported,
trained on, removed; and nobody else's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.echoserver import EchoServer
from tests.unit.data.formats.sample_files import pdf_of
from tests.unit.training.tiny import make_recipe

from llmos.apps.pipeline_file import load
from llmos.errors import (
    ConflictError,
    DataError,
    DatasetNotFoundError,
    InvalidRequestError,
    JobFailedError,
    ModelNotFoundError,
    PermissionDeniedError,
    PipelineError,
)
from llmos.sdk.client import Client

ROOT = Path(__file__).parents[2]
REVIEWS = "text,label\n" + "".join(
    f"{'好看的电影' if n % 2 else 'A  fine film'} {n % 40},{'zh' if n % 2 else 'en'}\n"
    for n in range(60)
)
CLEAN = {
    "name": "clean",
    "input": "reviews",
    "steps": ["whitespace", "exact_dedup", {"regex_filter": {"pattern": "39$"}}],
}


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
def reviews(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a dataset."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "reviews.csv").write_text(REVIEWS, "utf-8")
    (folder / "notes.odt").write_bytes(b"PK not data")
    job = client.add_dataset(folder, "reviews", license="CC0-1.0", source="made up")
    return made(client, job)


def made(client: Client, job: dict[str, Any]) -> str:
    (ref,) = client.wait(job["id"])["result"]["artifacts"]
    return str(ref)


def test_a_folder_becomes_a_dataset_that_can_be_looked_at(client: Client, reviews: str) -> None:
    assert reviews == "reviews:1"
    version = client.dataset("reviews@latest")
    assert version["ref"] == reviews and version["rows"] == 60
    assert version["schema"] == {"id": "string", "text": "string", "label": "string"}
    assert version["manifest"]["stats"]["fields"]["label"]["values"] == {"en": 30, "zh": 30}
    assert version["manifest"]["stats"]["duplicates"] == 20
    head = client.dataset_head("reviews", 2)
    assert head[0] == {"id": "reviews.csv:2", "text": "A  fine film 0", "label": "en"}
    assert len(head) == 2
    card = client.dataset_card("reviews")
    assert "# reviews:1" in card and "| licence | CC0-1.0 |" in card and "en (30)" in card
    listed = {one["ref"]: one for one in client.datasets()}
    assert listed[reviews]["rows"] == 60 and "manifest" not in listed[reviews]


def test_a_pipeline_makes_another_with_its_lineage(client: Client, reviews: str) -> None:
    job = client.wait(client.run_operators(CLEAN)["id"])
    (ref,) = job["result"]["artifacts"]
    version = client.dataset(ref)
    assert version["rows"] == 40 - 1 and version["inputs"] == [f"dataset:{reviews}"]
    assert version["manifest"]["license"] == "CC0-1.0"
    told = {one["operator"]: one for one in job["result"]["operators"]}
    assert told["whitespace"]["changed"] == 30
    assert told["exact_dedup"]["dropped"] == {"duplicate": 20}
    assert told["regex_filter"]["dropped"] == {"pattern found": 1}
    assert "duplicate 20 (clusters: 20, the largest of 2)" in client.dataset_card(ref)
    found = client.wait(client.diff_datasets("reviews", ref)["id"])["result"]
    assert (found["same"], found["changed"], found["removed"]) == (19, 20, 21)
    again = client.dataset(made(client, client.run_operators(CLEAN)))
    assert again["number"] == version["number"] + 1 and again["digest"] == version["digest"]
    lines = [e["data"]["line"] for e in client.job_events(job["id"]) if e["type"] == "log"]
    assert any(line.startswith("2. exact_dedup: 60 read") for line in lines)


def test_rows_that_too_few_are_like_are_counted(client: Client, reviews: str) -> None:
    job = client.check_k_anonymity("reviews", ["label"], sensitive="text", diversity=20)
    found = client.wait(job["id"])["result"]
    assert (found["dataset"], found["k"], found["groups"]) == (reviews, 5, 2)
    assert found["is_k_anonymous"] and found["smallest"] == 30 and found["least_values"] == 20
    found = client.wait(client.check_k_anonymity("reviews", ["text"], k=3)["id"])["result"]
    assert not found["is_k_anonymous"] and found["small_rows"] == 60
    assert found["samples"][0]["rows"] == 1
    with pytest.raises(InvalidRequestError, match="named twice"):
        client.check_k_anonymity("reviews", ["text", "text"])


def test_rows_are_exported_in_every_format(client: Client, reviews: str, tmp_path: Path) -> None:
    path = client.export_dataset(reviews, tmp_path / "reviews.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(rows) == 60 and rows[1]["text"] == "好看的电影 1"
    folder = client.export_dataset(reviews, tmp_path / "reviews")
    assert pq.read_table(folder / "data-00000.parquet").num_rows == 60
    assert (folder / "README.md").read_text("utf-8") == client.dataset_card(reviews)
    csv = client.export_dataset(reviews, tmp_path / "reviews.csv").read_text("utf-8")
    assert csv.splitlines()[:2] == ["id,text,label", "reviews.csv:2,A  fine film 0,en"]
    with pytest.raises(DataError, match=r"what to write into reviews\.json is not known"):
        client.export_dataset(reviews, tmp_path / "reviews.json")
    picture = client.dataset_plots(reviews, tmp_path / "reviews.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConflictError, match="is there already: choose another name"):
        client.dataset_plots(reviews, picture)
    txt = client.export_dataset(reviews, tmp_path / "reviews.txt").read_text("utf-8")
    assert txt.startswith("A  fine film 0\n\n好看的电影 1\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "reviews", "reviews.csv", "reviews.jsonl", "reviews.png", "reviews.txt",
    ]  # fmt: skip


def test_a_recipe_trains_on_a_dataset(client: Client, reviews: str) -> None:
    recipe = make_recipe("classify", data={"path": "dataset:reviews"}, evaluate={"splits": []})
    job = client.wait(client.train(recipe, "judge-of-reviews")["id"])
    model = client.model("judge-of-reviews")
    assert model["manifest"]["labels"] == ["en", "zh"]
    assert model["inputs"] == [f"dataset:{reviews}"]
    assert job["params"]["datasets"]["dataset:reviews"]["ref"] == reviews
    (lineage,) = client.lineage("judge-of-reviews")["versions"]
    assert lineage["inputs"][0]["ref"] == reviews and lineage["inputs"][0]["kind"] == "dataset"


def test_models_of_the_library_judge_rows(client: Client, reviews: str) -> None:
    """After the test before: `judge-of-reviews` tells English from Chinese."""
    recipe = make_recipe("generate", data={"path": "dataset:reviews"}, evaluate={"splits": []})
    client.wait(client.train(recipe, "reader-of-reviews")["id"])
    steps = [
        {"classifier_filter": {"model": "judge-of-reviews", "keep": ["zh"]}},
        {"perplexity_filter": {"model": "reader-of-reviews@latest", "most": 1e6}},
    ]
    job = client.wait(client.run_operators(CLEAN | {"name": "judged", "steps": steps})["id"])
    asked = [
        client.classify(row["text"], model="judge-of-reviews")["label"]
        for row in client.dataset_head("reviews", 60)
    ]
    assert client.dataset("judged")["rows"] == asked.count("zh")
    first, second = job["result"]["operators"]
    assert first["dropped"] == ({"en": asked.count("en")} if "en" in asked else {})
    assert second["rejected"] == 0 == sum(second["dropped"].values())
    version = client.dataset("judged")
    models = ["judge-of-reviews:1", "reader-of-reviews:1"]
    assert version["inputs"] == [f"dataset:{reviews}", *models]
    options = [next(iter(step.values())) for step in version["manifest"]["pipeline"]["steps"]]
    assert [one["model"] for one in options] == models
    with pytest.raises(ModelNotFoundError):
        bad = [{"classifier_filter": {"model": "nobody", "keep": ["x"]}}]
        client.run_operators(CLEAN | {"steps": bad})
    with pytest.raises(PipelineError, match="reader-of-reviews:1 is a model for generate, not"):
        bad = [{"classifier_filter": {"model": "reader-of-reviews", "keep": ["x"]}}]
        client.run_operators(CLEAN | {"name": "bad", "steps": bad})


def test_a_pipeline_of_jobs_cleans_and_trains(client: Client, reviews: str) -> None:
    recipe = make_recipe(
        "classify", data={"path": "dataset:${clean.model}"}, evaluate={"splits": []}
    )
    steps = {
        "clean": {"kind": "data_run", "params": {"pipeline": CLEAN | {"name": "cleaner"}}},
        "train": {"kind": "train", "params": {"recipe": recipe, "name": "of-clean"}},
    }
    run = client.run_pipeline({"name": "whole", "steps": steps})
    last = list(client.follow_pipeline(run["id"]))[-1]
    assert last["state"] == "succeeded", last
    assert client.model("of-clean")["inputs"] == ["dataset:cleaner:1"]
    (lineage,) = client.lineage("of-clean")["versions"]
    assert lineage["inputs"][0]["inputs"][0]["ref"] == reviews


def test_from_a_folder_to_a_model_in_one_file(client: Client, tmp_path: Path) -> None:
    story = "The river rose in the night, and by the morning all of the boats were gone."
    (tmp_path / "a.pdf").write_bytes(
        pdf_of("Write to lee.morgan@example.org before you come here.")
    )
    (tmp_path / "b.html").write_text(f"<html><body><article><p>{story}</p></article></body></html>")
    (tmp_path / "c.txt").write_text(
        f"{story.upper()}\n\n今天的天气非常好，我们去公园看花，然后回家吃晚饭。\n\nshort", "utf-8"
    )
    pipeline = load(ROOT / "recipes" / "pipelines" / "corpus.yaml", [
        f"steps.add.params.data={tmp_path}", "steps.train.params.set.steps=2",
        "steps.train.params.set.eval_every=2", "steps.train.params.set.checkpoint_every=2",
        "steps.train.params.set.optimizer.warmup_steps=1",
        "steps.train.params.set.evaluate.splits=[]", "steps.train.params.set.block_size=8",
    ])  # fmt: skip
    steps = pipeline["steps"]["clean"]["params"]["pipeline"]["steps"]
    steps[-1] = {"tokenize": {"tokenizer": "talker", "end": False}}
    run = client.run_pipeline(pipeline)
    last = list(client.follow_pipeline(run["id"]))[-1]
    assert last["state"] == "succeeded", last
    rows = client.dataset_head("corpus-clean")
    texts = {row["text"] for row in rows}
    assert story in texts and any("今天" in text for text in texts) and len(rows) == 3
    (letter,) = texts - {story} - {text for text in texts if "今天" in text}
    assert "[EMAIL]" in letter and "lee.morgan" not in letter
    assert all(len(row["input_ids"]) > 10 for row in rows)
    assert client.model("corpus-model")["inputs"] == ["dataset:corpus-clean:1"]
    assert client.dataset("corpus-clean")["inputs"] == ["dataset:corpus:1", "talker:1"]


def test_what_cannot_be_is_refused_at_once(client: Client, reviews: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="llmos data ls"):
        client.dataset("nothing")
    with pytest.raises(DatasetNotFoundError):
        client.run_operators(CLEAN | {"input": "nothing"})
    with pytest.raises(PipelineError, match="did you mean 'whitespace'"):
        client.run_operators(CLEAN | {"steps": ["whitspace"]})
    with pytest.raises(DatasetNotFoundError):
        client.train(make_recipe("classify", data={"path": "dataset:nothing"}), "x")
    with pytest.raises(InvalidRequestError, match="the server's to fill in"):
        client.submit_job("data_run", {"pipeline": CLEAN, "datasets": {"input": {}}}, "x")
    with pytest.raises(DataError, match="name a file or folder of this machine"):
        client.add_dataset(tmp_path / "nothing.txt", "x")
    with pytest.raises(DataError, match="has no data files"):
        client.add_dataset(tmp_path, "x")
    (tmp_path / "broken.jsonl").write_text("{broken")
    job = client.add_dataset(tmp_path / "broken.jsonl", "broken")
    with pytest.raises(JobFailedError, match=r"broken.jsonl:1: it is not JSON"):
        client.wait(job["id"])
    assert "broken" not in {one["name"] for one in client.datasets()}


def test_datasets_are_their_owners_alone(server: EchoServer, client: Client, reviews: str) -> None:
    key = client.create_key("bob", role="user")["key"]
    digest = client.dataset(reviews)["files"]["data-00000.parquet"]["digest"]
    with Client(server.url, key) as bob:
        assert bob.datasets() == [] and bob.models(kind="dataset") == []
        for ask in (
            lambda: bob.dataset(reviews),
            lambda: bob.dataset_head(reviews),
            lambda: bob.dataset_card(reviews),
            lambda: bob.remove_dataset(reviews),
            lambda: bob.run_operators(CLEAN | {"name": "mine"}),
            lambda: bob.diff_datasets(reviews, reviews),
            lambda: bob.check_k_anonymity(reviews, ["label"]),
            lambda: bob.train(make_recipe("classify", data={"path": "dataset:reviews"}), "mine"),
        ):
            with pytest.raises(PermissionDeniedError, match="another owner"):
                ask()
        known = bob.transport.request("HEAD", f"/api/v1/blobs/{digest}").status_code
        assert known == 404, "knowing a digest is not owning it"
    limited = client.create_key("reader", role="admin", actions=["models.read"])["key"]
    with Client(server.url, limited) as reader:
        for ask in (reader.datasets, reader.operators, lambda: reader.remove_dataset(reviews)):
            with pytest.raises(PermissionDeniedError, match="limited to other actions"):
                ask()


def test_every_change_is_in_the_audit_trail(client: Client, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("One.")
    ref = made(client, client.add_dataset(tmp_path / "one.txt", "short-lived"))
    client.remove_dataset(ref)
    with pytest.raises(DatasetNotFoundError, match="there is no dataset"):
        client.dataset("short-lived")
    events = {(one["action"], one["object"]) for one in client.audit(50)}
    assert {("datasets.create", ref), ("datasets.remove", ref)} <= events


def test_operators_tell_of_themselves(client: Client) -> None:
    told = {one["name"]: one for one in client.operators()}
    assert told["length"]["options"][1]["name"] == "least"
    assert ">>> tried(Length(" in told["length"]["example"]


def test_a_step_reads_another_dataset_that_its_user_may_read(
    server: EchoServer, client: Client, reviews: str, tmp_path: Path
) -> None:
    (tmp_path / "quiz.jsonl").write_text('{"text": "A fine film 4"}', "utf-8")
    quiz = made(client, client.add_dataset(tmp_path / "quiz.jsonl", "quiz"))
    step = {"decontaminate": {"datasets": ["quiz"], "ngram": 4}}
    pipeline = {"name": "unseen", "input": "reviews", "steps": ["whitespace", step]}
    job = client.wait(client.run_operators(pipeline)["id"])
    version = client.dataset(job["result"]["artifacts"][0])
    assert set(version["inputs"]) == {f"dataset:{reviews}", f"dataset:{quiz}"}
    assert version["manifest"]["operators"][1]["dropped"] == {"contaminated": 2}
    step["decontaminate"]["datasets"] = ["nothing-of-the-kind"]
    with pytest.raises(DatasetNotFoundError):
        client.run_operators(pipeline)
