"""Datasets given a shape on a real server: made into tokens and trained on, split, mixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.echoserver import EchoServer
from tests.unit.training.tiny import make_recipe

from llmos.errors import InvalidRequestError, ModelNotFoundError, PermissionDeniedError
from llmos.sdk.client import Client

LINES = [f"Tale {number}: a cat sat, 一只猫坐着。" for number in range(60)]
TOKENS: dict[str, Any] = {
    "name": "ids",
    "input": "tales",
    "steps": [{"tokenize": {"tokenizer": "letters", "keep_text": False}}, {"pack": {"length": 64}}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    running = EchoServer(tmp_path_factory.mktemp("home"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server with the dataset `tales` and the model `letters`."""
    file = tmp_path_factory.mktemp("files") / "tales.txt"
    file.write_text("\n".join(LINES), "utf-8")
    with Client(server.url, server.key) as made:
        made.wait(made.add_dataset(file, "tales", unit="line", license="CC0-1.0")["id"])
        made.wait(made.train(make_recipe("generate"), "letters")["id"])
        yield made


def made(client: Client, job: dict[str, Any]) -> list[str]:
    return list(client.wait(job["id"])["result"]["artifacts"])


def test_a_recipe_trains_on_the_token_ids_of_a_dataset(client: Client) -> None:
    (ref,) = made(client, client.run_operators(TOKENS))
    version = client.dataset(ref)
    assert version["inputs"] == ["dataset:tales:1", "letters:1"]
    (tokenize, _) = version["manifest"]["pipeline"]["steps"]
    assert tokenize["tokenize"]["tokenizer"] == "letters:1"
    kept = version["files"]["tokenizer.json"]["digest"]
    assert kept == client.model("letters")["files"]["tokenizer.json"]["digest"]
    sample = {"name": "fewer", "input": "ids", "steps": [{"sample": {"share": 0.8}}]}
    (fewer,) = made(client, client.run_operators(sample))
    assert client.dataset(fewer)["files"]["tokenizer.json"]["digest"] == kept
    data = {"path": "dataset:fewer"}
    recipe = make_recipe("generate", data=data, tokenizer={"kind": "data"}, evaluate={"splits": []})
    client.wait(client.train(recipe, "of-ids")["id"])
    trained, letters = client.model("of-ids"), client.model("letters")
    assert trained["inputs"] == [f"dataset:{fewer}"]
    assert trained["manifest"]["vocab_size"] == letters["manifest"]["vocab_size"]
    going_on = {"model": {"base": "letters"}, "tokenizer": {"kind": "base"}}
    recipe = make_recipe("generate", data=data, evaluate={"splits": []}, **going_on)
    client.wait(client.train(recipe, "further")["id"])


def test_a_tokenizer_is_looked_up_when_the_job_is_queued(
    server: EchoServer, client: Client
) -> None:
    def asked(tokenizer: str) -> dict[str, Any]:
        return TOKENS | {"steps": [{"tokenize": {"tokenizer": tokenizer}}]}

    with pytest.raises(ModelNotFoundError):
        client.run_operators(asked("nobody"))
    with pytest.raises(InvalidRequestError, match="the server's to fill in"):
        client.submit_job("data_run", {"pipeline": asked("letters"), "models": {}}, "x")
    recipe = make_recipe("generate", data={"path": "dataset:tales"}, tokenizer={"kind": "data"})
    with pytest.raises(InvalidRequestError, match="has no token ids"):
        client.train(recipe | {"evaluate": {"splits": []}}, "x")
    limited = client.create_key("eve", role="admin", models=["tales", "ids"])["key"]
    with (
        Client(server.url, limited) as eve,
        pytest.raises(PermissionDeniedError, match="other models"),
    ):
        eve.run_operators(asked("letters"))


def test_a_dataset_is_split_and_mixed_and_its_parts_are_trained_on(client: Client) -> None:
    job = client.split_dataset("tales", {"train": 0.75, "validation": 0.25}, seed=1)
    parts = made(client, job)
    assert parts == ["tales-train:1", "tales-validation:1"]
    assert [client.dataset(ref)["rows"] for ref in parts] == [45, 15]
    assert client.dataset(parts[0])["inputs"] == ["dataset:tales:1"]
    data = {"path": "dataset:tales-train", "validation_path": "dataset:tales-validation"}
    recipe = make_recipe("generate", data=data, evaluate={"splits": []})
    client.wait(client.train(recipe, "of-parts")["id"])
    assert client.model("of-parts")["inputs"] == [f"dataset:{ref}" for ref in parts]
    job = client.mix_datasets("mixed", {"tales-train": 2, "tales-validation:1": 1}, rows=30)
    (mixed,) = made(client, job)
    version = client.dataset(mixed)
    assert version["rows"] == 30 and version["inputs"] == [f"dataset:{ref}" for ref in parts]
    events = {(one["action"], one["object"]) for one in client.audit(50)}
    assert {("datasets.create", ref) for ref in (*parts, mixed)} <= events


def test_parts_and_mixes_are_for_who_owns_them(server: EchoServer, client: Client) -> None:
    key = client.create_key("bob", role="user")["key"]
    halves = {"one": 0.5, "two": 0.5}
    with Client(server.url, key) as bob:
        for ask in (
            lambda: bob.split_dataset("tales", halves, name="mine"),
            lambda: bob.mix_datasets("mine", {"tales": 1}),
        ):
            with pytest.raises(PermissionDeniedError, match="another owner"):
                ask()
    with pytest.raises(InvalidRequestError, match="1 together"):
        client.split_dataset("tales", {"one": 0.5, "two": 0.4})
    with pytest.raises(InvalidRequestError, match="the server's to fill in"):
        params = {"input": "tales", "parts": halves, "datasets": {"input": {}}}
        client.submit_job("data_split", params, "x")
