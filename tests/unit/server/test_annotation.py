"""Labelling over HTTP: who may do what, what is told to whom, and what no body may be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.apps.annotation_rows import Item, NewTask
from llmos.data.annotation.scheme import scheme_of
from llmos.security.actors import Actor

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
TASKS = "/api/v1/annotation/tasks"
ALICE = Actor("k1", "alice", "user")
SCHEME = scheme_of({"kind": "classification", "fields": ["text"], "labels": ["good", "坏"]})
BODY: dict[str, Any] = {
    "name": "x", "dataset": "news", "kind": "classification", "fields": ["text"],
    "labels": ["a", "b"],
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def task(system: Any) -> int:
    """A task of Alice's with three items, two to label each."""
    new = NewTask("reviews", "news:1", SCHEME, overlap=2, annotators=("bob", "eve"))
    made = await system.annotation.create(ALICE, new)
    rows = [(Item(n, f"news.csv:{n}", {"text": f"第 {n}"}), float(n)) for n in range(3)]
    await system.annotation.add_items(ALICE, made.id, rows)
    await system.annotation.open(ALICE, made.id, {})
    return int(made.id)


@pytest.fixture
def people(new_client: NewClient) -> dict[str, httpx.AsyncClient]:
    return {name: new_client("user", name=name) for name in ("alice", "bob", "eve", "mallory")}


async def test_items_are_given_out_and_labelled_by_who_is_named(
    task: int, people: dict[str, httpx.AsyncClient]
) -> None:
    bob, alice = people["bob"], people["alice"]
    given = (await bob.post(f"{TASKS}/{task}/next")).json()
    item = given["item"]
    assert (item["place"], item["shown"], item["suggestion"]) == (0, {"text": "第 0"}, None)
    assert "row" not in item
    said = {"place": 0, "value": "坏", "flag": "short"}
    label = (await bob.post(f"{TASKS}/{task}/labels", json=said)).json()
    assert (label["value"], label["annotator"], label["flag"]) == ("坏", "bob", "short")
    assert not {"owner", "task_id"} & set(label)
    told = (await bob.get(f"{TASKS}/{task}")).json()
    assert told["own"]["labelled"] == 1 and "progress" not in told and "dataset" not in told
    ours = (await alice.get(f"{TASKS}/{task}")).json()
    assert ours["progress"]["annotators"] == [
        {"annotator": "bob", "labelled": 1, "skipped": 0, "flagged": 1}
    ]
    assert "own" not in ours, "she is none of its annotators"
    page = (await alice.get(f"{TASKS}/{task}/review")).json()
    assert [one["place"] for one in page["data"]] == [0] and page["next"] is None
    labelled = (await alice.get(f"{TASKS}/{task}/labelled?limit=1")).json()["data"]
    assert labelled[0]["row"] == "news.csv:0"
    items = (await alice.get(f"{TASKS}/{task}/items?after=0")).json()["data"]
    assert [one["place"] for one in items] == [1, 2]
    final = await alice.post(f"{TASKS}/{task}/final", json={"place": 0, "value": "good"})
    assert final.json()["role"] == "final"
    assert (await alice.get(f"{TASKS}/{task}/agreement")).json()["items"] == 0
    changed = await alice.patch(f"{TASKS}/{task}", json={"closed": True, "instructions": "停"})
    assert (changed.json()["state"], changed.json()["instructions"]) == ("closed", "停")
    assert (await bob.post(f"{TASKS}/{task}/next")).status_code == 409
    assert (await alice.delete(f"{TASKS}/{task}")).status_code == 200
    assert (await alice.get(f"{TASKS}/{task}")).status_code == 404


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {"closed": True}),
    ("DELETE", "", None),
    ("POST", "/consent", {"agree": True}),
    ("POST", "/next", None),
    ("POST", "/labels", {"place": 0, "value": "good"}),
    ("GET", "/labels", None),
    ("GET", "/items", None),
    ("GET", "/labelled", None),
    ("GET", "/review", None),
    ("POST", "/final", {"place": 0, "value": "good"}),
    ("GET", "/agreement", None),
    ("POST", "/suggest", {"model": "judge"}),
    ("POST", "/export", {"name": "x"}),
]


async def test_to_strangers_it_is_as_if_there_were_none(
    task: int, people: dict[str, httpx.AsyncClient], app: Any
) -> None:
    known = {
        route.path.partition("{number}")[2] for route in app.state.routes if TASKS in route.path
    }
    assert known - {"/items", "/suggestions"} <= {path for _, path, _ in REQUESTS}
    for method, path, body in REQUESTS:
        answers = []
        for number in (task, task + 1):
            url = f"{TASKS}/{number}{path}"
            answer = await people["mallory"].request(method, url, json=body)
            error = answer.json()["error"]
            said = error["message"].replace(str(number), "N")
            answers.append((answer.status_code, error["code"], said))
        assert answers[0] == answers[1], path
        assert answers[0][:2] == (404, "annotation_not_found"), path
    assert (await people["mallory"].get(TASKS)).json()["data"] == []


async def test_annotators_may_label_and_no_more(
    task: int, people: dict[str, httpx.AsyncClient]
) -> None:
    for method, path, body in REQUESTS:
        answer = await people["bob"].request(method, f"{TASKS}/{task}{path}", json=body)
        own = path in ("", "/labels") and method == "GET"
        if own or path == "/next":
            assert answer.status_code == 200, path
        elif path == "/consent":
            assert answer.status_code == 409, "it asks for none"
        elif path == "/labels":
            assert answer.status_code == 200, "the item was given"
        else:
            assert answer.status_code == 403, path
    for path in ("/items", "/suggestions"):
        body = {"items": []} if path == "/items" else {"model": "m:1", "suggestions": []}
        for who in ("bob", "alice"):
            answer = await people[who].post(f"{TASKS}/{task}{path}", json=body)
            assert answer.status_code == 403, "only the task's own job"


async def test_a_key_needs_the_action(task: int, new_client: NewClient) -> None:
    reader = new_client("user", name="r", owner="alice", actions=["annotation.read"])
    assert (await reader.get(f"{TASKS}/{task}")).status_code == 200
    assert (await reader.delete(f"{TASKS}/{task}")).status_code == 403
    other = new_client("user", name="o", owner="alice", actions=["datasets.read"])
    assert (await other.get(TASKS)).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "drawing"},
        {"fields": []},
        {"fields": ["x"] * 21},
        {"labels": ["a"] * 257},
        {"labels": ["a" * 201, "b"]},
        {"overlap": 0},
        {"overlap": 11},
        {"annotators": ["x"] * 101},
        {"instructions": "x" * 10_001},
        {"lease_s": 0.5},
        {"rows": 0},
        {"order": "best"},
        {"several": "yes"},
        {"unknown": 1},
    ],
)
async def test_a_task_that_cannot_be_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    refused = await client.post(TASKS, json=BODY | change)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(next(iter(change)))


@pytest.mark.parametrize(
    "said",
    [
        {"place": 0},
        {"place": 0, "value": "good", "skip": True},
        {"place": -1, "value": "good"},
        {"place": True, "value": "good"},
        {"place": 0, "value": "good", "flag": ""},
        {"place": 0, "value": "good", "flag": "x" * 4001},
        {"place": 0, "value": "x" * 10_000},
        {"value": "good"},
    ],
)
async def test_a_label_that_cannot_be_is_refused(
    task: int, people: dict[str, httpx.AsyncClient], said: dict[str, Any]
) -> None:
    await people["bob"].post(f"{TASKS}/{task}/next")
    refused = await people["bob"].post(f"{TASKS}/{task}/labels", json=said)
    assert refused.status_code == 400
    assert len(refused.json()["error"]["message"]) < 500


async def test_a_dataset_that_is_not_there_or_not_ones_own_is_no_task(
    client: httpx.AsyncClient,
) -> None:
    before = (await client.get(TASKS)).json()["data"]
    missing = await client.post(TASKS, json=BODY)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "dataset_not_found")
    assert (await client.get(TASKS)).json()["data"] == before
