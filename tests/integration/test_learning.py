"""The loop of a model that learns from what people say, on a real server: each piece is learned
once, whatever is killed, and only a version that has not forgotten is deployed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.echoserver import EchoServer
from tests.unit.training.tiny import make_recipe

from llmos.errors import NothingNewError
from llmos.sdk.client import Client

FINAL = {"succeeded", "failed", "cancelled"}


def until(look: Callable[[], Any], is_wanted: Callable[[Any], bool], within_s: float = 180) -> Any:
    """Look until something is as wanted; what crosses processes has no event to wait for."""
    deadline = time.monotonic() + within_s
    while not is_wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    started = EchoServer(tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(server: EchoServer) -> Iterator[Client]:
    """A client whose model, helper, is trained and deployed."""
    with Client(server.url, server.key) as made:
        job = made.train(make_recipe("chat"), "helper")
        until(lambda: made.job(job["id"]), lambda seen: seen["state"] in FINAL)
        made.deploy("helper:1", "production")
        yield made


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"问题 {number}?"},
                {"role": "assistant", "content": f"Answer {number}."},
            ]
        }
        for number in range(first, first + count)
    ]


def learning(gate: str = "forgetting/old_rise <= 5", **changes: Any) -> dict[str, Any]:
    """A pipeline of a micro-update, and the gate before it is deployed."""
    recipe = make_recipe("chat", model={"base": "helper@production"}, tokenizer={"kind": "base"})
    del recipe["chat_template"]
    recipe |= {
        "data": {"path": "feedback:helper", "validation": 0.2},
        "replay": {"path": "starter:chat", "rows": 60, "validation_rows": 12, "share": 0.5},
        "online": {"min_rows": 4},
        "steps": 6,
        **changes,
    }
    deploy = {"model": "${learn.model}", "gates": [gate]}
    return {
        "name": "learn",
        "steps": {
            "learn": {"kind": "train", "params": {"recipe": recipe, "name": "helper"}},
            "deploy": {"kind": "deploy", "after": ["learn"], "params": deploy},
        },
    }


def ended(client: Client, run: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = until(
        lambda: client.pipeline(run["id"]), lambda seen: seen["state"] in FINAL
    )
    return seen


def taken(client: Client, ref: str) -> dict[str, Any]:
    stream: dict[str, Any] = client.model(ref)["manifest"]["source"]["stream"]
    return stream


def test_what_comes_in_is_learned_again_and_again_and_each_piece_once(client: Client) -> None:
    assert client.teach("helper", rows(0, 3))["added"] == 3
    with pytest.raises(NothingNewError, match="3 of at least 4 new lessons"):
        client.run_pipeline(learning())
    assert client.teach("helper", rows(0, 5)) == {"model": "helper:1", "added": 2, "known": 3}
    run = ended(client, client.run_pipeline(learning()))
    assert run["state"] == "succeeded", run
    first = client.model("helper@production")
    assert first["ref"] == "helper:2"
    assert taken(client, "helper:2")["rows"] == 5
    assert {"old_before", "old_after", "old_rise"} <= first["manifest"]["metrics"][
        "forgetting"
    ].keys()

    client.teach("helper", rows(5, 4))
    assert ended(client, client.run_pipeline(learning()))["state"] == "succeeded"
    second = client.model("helper@production")
    assert (second["ref"], second["manifest"]["source"]["base"]) == ("helper:3", "helper:2")
    assert taken(client, "helper:3")["after"] == taken(client, "helper:2")["upto"]
    with pytest.raises(NothingNewError, match="0 of at least 4"):
        client.run_pipeline(learning())


def test_a_version_that_has_forgotten_too_much_is_not_deployed(client: Client) -> None:
    before = client.model("helper@production")["ref"]
    client.teach("helper", rows(20, 4))
    run = ended(client, client.run_pipeline(learning("forgetting/old_rise <= -9")))
    assert run["state"] == "failed"
    assert "does not pass the gate: forgetting/old_rise" in run["error"]["message"]
    assert client.model("helper@production")["ref"] == before
    with pytest.raises(NothingNewError, match="0 of at least 4"):
        client.run_pipeline(learning())  # they are set aside: what comes next is not held up


def test_answers_that_were_corrected_become_pairs_to_prefer(
    client: Client, server: EchoServer
) -> None:
    client.keep_answers(True)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key) as ai:
        for number in range(4):
            turns: Any = [{"role": "user", "content": f"你是谁 {number}?"}]
            answer = ai.chat.completions.create(
                model="helper@production", messages=turns, max_tokens=8, temperature=0
            )
            said = client.feedback(response_id=answer.id, correction="我是 llmos。", rating=1)
            assert said["id"] > 0
    given = client.feedback_given("helper", limit=4)
    assert {one["correction"] for one in given} == {"我是 llmos。"}
    recipe = make_recipe("chat", model={"base": "helper:1"}, tokenizer={"kind": "base"})
    del recipe["chat_template"]
    recipe |= {"objective": "dpo", "data": {"path": "feedback:helper", "validation": 0.3}}
    job = client.train(recipe, "polite")
    done = until(lambda: client.job(job["id"]), lambda seen: seen["state"] in FINAL)
    assert done["state"] == "succeeded", done["error"]
    digest = done["params"]["data"]["feedback:helper"]
    made = client.lineage("polite")["versions"][0]
    assert {digest, "helper:1"} <= {source["ref"] for source in made["inputs"]}
    assert made["made_by"]["data"] == {"feedback:helper": digest}
    for one in given:
        client.forget_feedback(one["id"])
    assert "我是 llmos。" not in {one["correction"] for one in client.feedback_given("helper")}


def test_kill_9_of_the_server_neither_loses_a_piece_nor_has_it_learned_twice(
    client: Client, server: EchoServer, tmp_path: Path
) -> None:
    client.teach("helper", rows(40, 6))
    long = {"steps": 1000, "checkpoint_every": 20, "eval_every": 1000}
    pipeline = learning(online={"min_rows": 4, "epochs": 1000}, **long)
    run = client.run_pipeline(pipeline)
    number = until(lambda: client.pipeline(run["id"])["steps"][0]["jobs"], len)[0]["id"]
    until(lambda: client.job(number)["progress"] or {}, lambda seen: (seen.get("step") or 0) > 50)
    server.process.kill()
    server.process.communicate()
    server.start()
    with Client(server.url, server.key) as again:
        assert ended(again, run)["state"] == "succeeded"
        last = again.model("helper@production")
        assert taken(again, last["ref"])["rows"] == 6
        assert again.job(number)["attempt"] == 2
        with pytest.raises(NothingNewError, match="0 of at least 4"):
            again.run_pipeline(learning())
