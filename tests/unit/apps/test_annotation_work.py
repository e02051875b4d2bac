"""The jobs of annotation in this process: what is drawn, suggested, exported; what is done is not
done again, and whatever number of shards gives the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.unit.data.data_jobs import Home, only

from llmos.apps import annotation_exporting as exporting
from llmos.apps import annotation_filling as filling
from llmos.apps import annotation_jobs as jobs
from llmos.apps import annotation_reading as reading
from llmos.apps import annotation_suggesting as suggesting
from llmos.apps.annotating import Annotation
from llmos.apps.annotation_rows import Item, NewTask, Said, find_run
from llmos.apps.annotation_suggesting import asks_of, suggestion
from llmos.data.annotation.scheme import scheme_of
from llmos.data.datasets import adding
from llmos.errors import CancelledError, DataError, InvalidRequestError, JobFailedError
from llmos.kernel.protocol import Answer
from llmos.library.manifest import version_digest
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryDatabase
from llmos.types import NewVersion

ALICE = Actor("k1", "alice", "user")
SCHEME = scheme_of({"kind": "classification", "fields": ["text"], "labels": ["even", "odd"]})


class Server:
    """Answers what the jobs ask, from a store in memory.

    Attributes:
        asked: the paths, without their queries.
    """

    def __init__(self, order: str = "random") -> None:
        self.db = MemoryDatabase()
        self.store = Annotation(self.db, lambda: 1000.0)
        self.task = asyncio.run(
            self.store.create(ALICE, NewTask("n", "raw:1", SCHEME, order=order))
        )
        self.asked: list[str] = []
        self.dies_after: int | None = None

    def ask(self, path: str, body: bytes | None = None) -> Future[Answer]:
        url = urlsplit(path)
        self.asked.append(url.path)
        if self.dies_after is not None and len(self.asked) > self.dies_after:
            raise CancelledError
        given = {name: int(one) for name, (one,) in parse_qs(url.query).items()}
        told = self.answer(url.path.removeprefix(jobs.TASKS), given, json.loads(body or b"null"))
        future: Future[Answer] = Future()
        status = 400 if "error" in told else 200
        future.set_result(Answer(status, json.dumps(told).encode()))
        return future

    def answer(self, path: str, given: dict[str, int], body: Any) -> dict[str, Any]:
        number = self.task.id
        match path.removeprefix(f"/{number}"):
            case "/api/v1/models/m:1":
                return {"manifest": {"task": "classify", "labels": ["even", "left"]}}
            case "/api/v1/classify":
                if "4" in body["text"]:
                    return {"error": {"message": "too long"}}
                return {"label": "even", "score": len(body["text"]) / 100}
            case "/items" if body is not None:
                rows = [(Item(i["place"], i["row"], i["shown"]), i["rank"]) for i in body["items"]]
                if rows:
                    asyncio.run(self.store.add_items(ALICE, number, rows))
                if body.get("done"):
                    asyncio.run(self.store.open(ALICE, number, body["left_out"]))
                return {}
            case "/items":
                return {"data": self.read(reading.items_from, given["after"], given["limit"])}
            case "/suggestions":
                asyncio.run(self.store.suggest(ALICE, number, body["model"], body["suggestions"]))
                return {}
            case "/labelled":
                named = (given["after"], given["limit"], given["upto"])
                return {"data": self.read(reading.labelled, *named)}
            case "":
                task = asyncio.run(self.store.get(ALICE, number))
                told = {name: getattr(task, name) for name in ("id", "name", "state", "overlap")}
                told |= {
                    "order": task.order,
                    "dataset": task.dataset,
                    "instructions": "",
                    "scheme": SCHEME.to_dict(),
                }
                return told | {"progress": self.read(reading.progress)}
        raise AssertionError(path)

    def read(self, function: Callable[..., Any], *given: Any) -> Any:
        return self.db.read_sync(
            lambda conn: function(conn, find_run(conn, ALICE, self.task.id), *given)
        )

    def label(self, place: int, value: str | None = None) -> None:
        said = Said(skip=True) if value is None else Said(value)
        asyncio.run(self.store.label(ALICE, self.task.id, place, said))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.db.close()


def raw(home: Home, rows: int = 25, shard: int = 7) -> NewVersion:
    """A dataset of texts, one of them empty, in shards of so many rows."""
    lines = [json.dumps({"text": f"第 {n}" if n != 3 else ""}) for n in range(rows)]
    parts = [lines[start : start + shard] for start in range(0, rows, shard)]
    with mock.patch.object(adding, "GROUP_BYTES", 1):
        files = {f"{place:03d}.jsonl": "\n".join(part) for place, part in enumerate(parts)}
        return only(home.add(files, "raw"))


def context(home: Home, server: Server, params: dict[str, Any], checkpoint: str = "") -> Any:
    made = home.context(params, checkpoint)
    made.ask = server.ask  # type: ignore[method-assign]
    return made


def fill(home: Home, server: Server, version: NewVersion, **more: Any) -> dict[str, Any]:
    given = {"annotation": server.task.id, "dataset": "raw:1", **more}
    params = jobs.check_fill(given | {"datasets": {"input": home.told(version)}})
    return filling.run(context(home, server, params)).summary


def export(
    home: Home, server: Server, version: NewVersion, checkpoint: str = "", **more: Any
) -> Any:
    given = {"annotation": server.task.id, "dataset": "raw:1", "name": "made", **more}
    given |= {"upto": server.read(reading.newest_label), **more}
    params = jobs.check_export(given | {"datasets": {"input": home.told(version)}})
    return exporting.run(context(home, server, params, checkpoint))


def places(server: Server) -> list[int]:
    return [item["place"] for item in server.read(reading.items_from, -1, 100)]


def label_all(server: Server) -> list[int]:
    given = []
    while (turn := asyncio.run(server.store.next(ALICE, server.task.id))) is not None:
        given.append(turn.item.place)
        number = int(turn.item.shown["text"].split()[1])
        server.label(turn.item.place, "odd" if number % 2 else "even")
    return given


def test_rows_become_items_the_same_on_every_attempt(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    version = raw(home)
    with mock.patch.object(filling, "CHUNK_ITEMS", 4):
        server.dies_after = 3
        with pytest.raises(CancelledError):
            fill(home, server, version)
        assert len(places(server)) == 8
        server.dies_after = None
        told = fill(home, server, version)
    assert places(server) == [place for place in range(25) if place != 3]
    assert (told["items"], told["left_out"]) == (24, {"no text": 1})
    items = server.read(reading.items_from, -1, 100)
    assert items[0]["row"] == "000.jsonl:1" and items[-1]["shown"] == {"text": "第 24"}
    count = len(server.asked)
    assert fill(home, server, version)["items"] == 24, "a job that is done once more"
    assert len(server.asked) == count + 1
    order = label_all(server)
    assert sorted(order) == places(server) != order, "not in the order of the dataset"


def test_rows_are_drawn_by_their_ids_alone(tmp_path: Path) -> None:
    drawn = []
    for number, (shard, seed) in enumerate([(7, 0), (25, 0), (7, 1)]):
        home, server = Home(tmp_path / str(number)), Server()
        version = raw(home, shard=25)
        with mock.patch.object(adding, "GROUP_BYTES", shard):
            fill(home, server, version, rows=5, seed=seed)
        drawn.append(places(server))
        assert len(drawn[-1]) == 5
        server.db.close()
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_shown_at_all_fails_the_job(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    version = only(home.add({"a.jsonl": '{"other": 1}\n{"other": 2}'}, "raw"))
    with pytest.raises(DataError, match=r"none of the 2 rows can be shown: no text \(2\)"):
        fill(home, server, version)
    with (
        mock.patch.object(filling, "MAX_TASK_BYTES", 100),
        pytest.raises(DataError, match="show fewer fields, or take fewer rows"),
    ):
        fill(home, server, raw(home))


def test_an_export_is_the_same_whatever_was_done_before_a_kill(
    tmp_path: Path, server: Server
) -> None:
    home = Home(tmp_path)
    version = raw(home)
    fill(home, server, version)
    with pytest.raises(DataError, match="nothing of annotation task 1 is decided yet"):
        export(home, server, version)
    label_all(server)
    whole = only(export(home, server, version))
    rows = home.rows(whole)
    assert [row["label"] for row in rows[:4]] == ["even", "odd", "even", "even"]
    assert len(rows) == 24 and all(row["meta"]["annotation"]["task"] == 1 for row in rows)
    server.dies_after = len(server.asked) + 3
    with (
        mock.patch.object(exporting, "PAGE_ITEMS", 4),
        pytest.raises(CancelledError),
    ):
        export(home, server, version, "killed")
    done = sorted(path.name for path in (tmp_path / "killed" / "shards").iterdir())
    assert done == ["00000"], "one shard was done"
    server.dies_after, server.asked = None, []
    with mock.patch.object(exporting, "PAGE_ITEMS", 4):
        again = only(export(home, server, version, "killed"))
    assert version_digest(again.files, again.manifest) == version_digest(
        whole.files, whole.manifest
    )
    table = home.table(again, "annotations.parquet")
    assert len(table) == 24 and table[0]["value"] == '"even"' and table[0]["annotator"] == "alice"
    assert table[0]["order"] == "text"


def test_an_export_is_of_the_moment_when_it_was_asked_for(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    version = raw(home)
    fill(home, server, version)
    label_all(server)
    upto = server.read(reading.newest_label)
    server.label(0, "odd")
    server.label(1)
    asyncio.run(server.store.decide(ALICE, server.task.id, 2, "odd"))
    before = home.rows(only(export(home, server, version, upto=upto)))
    after = home.rows(only(export(home, server, version)))
    assert [row["label"] for row in before[:3]] == ["even", "odd", "even"]
    assert [row["label"] for row in after[:2]] == ["odd", "odd"], "the second was skipped after all"
    assert after[1]["meta"]["annotation"] == {"task": 1, "labels": 1, "decided_by": "reviewer"}
    assert len(after) == len(before) - 1


def test_an_export_of_another_dataset_is_refused(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    with pytest.raises(JobFailedError, match="annotation task 1 is of raw:1"):
        export(home, server, raw(home), dataset="other:1")


def test_a_row_that_is_another_now_is_left_out(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    version = raw(home)
    fill(home, server, version)
    label_all(server)
    other = only(home.add({"b.jsonl": "\n".join(['{"text": "第 1"}'] * 25)}, "raw"))
    with pytest.raises(DataError, match="other_row 24"):
        export(home, server, other)


def test_a_model_suggests_what_it_can_and_once(tmp_path: Path) -> None:
    home, server = Home(tmp_path), Server("uncertain")
    version = raw(home)
    fill(home, server, version)
    params = jobs.check_suggest({"annotation": server.task.id, "model": "m:1"})
    told = suggesting.run(context(home, server, params)).summary
    assert (told["suggested"], told["items"]) == (24 - 3, 24), "4, 14 and 24 were too long for it"
    assert suggesting.run(context(home, server, params)).summary["suggested"] == 0
    order = label_all(server)
    assert order[:9] == [0, 1, 2, 5, 6, 7, 8, 9, 10], "short texts first: it was less sure"
    assert set(order[-3:]) == {4, 14, 24}, "what it says nothing of comes last"
    server.db.close()


def test_a_model_that_is_for_something_else_is_refused(tmp_path: Path, server: Server) -> None:
    home = Home(tmp_path)
    spans = scheme_of({"kind": "spans", "fields": ["text"], "labels": ["A"]})
    with (
        mock.patch.object(suggesting, "scheme_of", lambda _: spans),
        pytest.raises(JobFailedError, match="spans are suggested by a model for 'entities'"),
    ):
        params = {"annotation": server.task.id, "model": "m:1"}
        suggesting.run(context(home, server, params))
    others = scheme_of({"kind": "classification", "fields": ["text"], "labels": ["good", "坏"]})
    with (
        mock.patch.object(suggesting, "scheme_of", lambda _: others),
        pytest.raises(JobFailedError, match="m:1 says even, left, and none of that is a label"),
    ):
        suggesting.run(context(home, server, params))


@pytest.mark.parametrize(
    ("values", "answers", "came"),
    [
        ({"kind": "classification", "labels": ["a", "b"]}, [{"label": "c", "score": 1}], None),
        (
            {"kind": "classification", "labels": ["a", "b"], "several": True},
            [{"label": "b", "score": 0.7}],
            (["b"], 0.7),
        ),
        (
            {"kind": "spans", "labels": ["A"]},
            [
                {
                    "entities": [
                        {"start": 0, "end": 1, "label": "A", "score": 0.9, "text": "x"},
                        {"start": 2, "end": 3, "label": "A", "score": 0.6, "text": "x"},
                        {"start": 4, "end": 5, "label": "B", "score": 0.1, "text": "x"},
                    ]
                }
            ],
            (
                [{"start": 0, "end": 1, "label": "A"}, {"start": 2, "end": 3, "label": "A"}],
                0.6,
            ),
        ),
        ({"kind": "spans", "labels": ["A"]}, [{"entities": []}], ([], None)),
        ({"kind": "rating"}, [{"score": 9.7}], (5, None)),
        ({"kind": "text"}, [{"choices": [{"message": {"content": " "}}]}], None),
        ({"kind": "text"}, [{"choices": [{"message": {"content": "好"}}]}], ("好", None)),
    ],
)
def test_answers_of_models_are_labels_where_they_can_be(
    values: dict[str, Any], answers: list[Any], came: Any
) -> None:
    assert suggestion(scheme_of({"fields": ["text"], **values}), answers) == came


def test_the_better_of_two_answers_is_as_likely_as_bradley_and_terry_say() -> None:
    pairs = scheme_of({"kind": "pairs", "fields": ["a", "b"], "prompt": "q"})
    assert suggestion(pairs, [{"score": 1.0}, {"score": 3.0}]) == (
        "second",
        pytest.approx(0.880797),
    )
    assert suggestion(pairs, [{"score": 2.0}, {"score": 2.0}]) == ("tie", 0.5)
    assert len(asks_of(pairs, "m:1", "rate", {"q": "?", "a": "x", "b": "y"})) == 2


@pytest.mark.parametrize(
    ("check", "params", "said"),
    [
        (jobs.check_fill, {"annotation": 1, "wrong": 1}, "unknown parameter wrong"),
        (jobs.check_fill, {"annotation": "1"}, "annotation must be a whole number"),
        (jobs.check_fill, {"annotation": 1, "dataset": "x"}, "the server's to fill in"),
        (jobs.check_suggest, {"annotation": 1}, "model must be the name"),
        (jobs.check_export, {"annotation": 1, "name": 3}, "name must be the name"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    check: Callable[[dict[str, Any]], Any], params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        check(params)
