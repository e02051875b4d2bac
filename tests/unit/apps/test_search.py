"""The handler of searches against a server that trains as it is told to."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

import pytest
from tests.unit.training.tiny import make_recipe

from llmos.apps.search import search
from llmos.apps.search_jobs import check_search, trial_rows
from llmos.errors import CancelledError, InvalidRequestError, JobFailedError, RecipeError
from llmos.kernel.protocol import Answer

RATE = "optimizer.learning_rate"
GRID: dict[str, Any] = {"parameters": {RATE: [0.1, 0.2, 0.3]}}
HALVING: dict[str, Any] = {
    "method": "halving",
    "trials": 4,
    "eta": 2,
    "parameters": {RATE: {"low": 0.1, "high": 1.0}},
}


class Server:
    """Trains at once: the loss is the learning rate. Stands in for the search's context too.

    Args:
        worst: rates from here on fail. room: jobs under way at most.
    """

    job_id = 7

    def __init__(
        self, section: dict[str, Any], worst: float = 9.0, room: int = 99, **more: Any
    ) -> None:
        recipe = make_recipe("generate", steps=40)
        params = {"recipe": recipe, "name": "tuned", "search": section}
        self.params = check_search(params | more)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.open: list[dict[str, Any]] = []
        self.aliases: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.worst, self.room = worst, room
        self.is_leaving = self.is_cancelled = False
        self.full = "quota_exceeded"
        self.first: list[Answer] = []

    def ask(self, path: str, body: bytes | None = None) -> Future[Answer]:
        done: Future[Answer] = Future()
        if self.first:
            done.set_result(self.first.pop(0))
            return done
        status, content = self.answer(path, None if body is None else json.loads(body))
        done.set_result(Answer(status, json.dumps(content).encode()))
        return done

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/api/v1/jobs":
            assert (body["kind"], body["priority"]) == ("train", "background")
            if body["idempotency_key"] not in self.jobs and len(self.open) >= self.room:
                return 429, {"error": {"message": "full", "code": self.full}}
            return 202, self.jobs.setdefault(body["idempotency_key"], self.begun(body))
        if path.endswith("/aliases"):
            self.aliases.append((path, body["alias"]))
            return 200, {}
        number = int(path.split("/")[4])
        job = next(job for job in self.jobs.values() if job["id"] == number)
        if path.endswith("/retry"):
            job["state"] = "queued"
            self.open.append(job)
        return 200, job

    def begun(self, body: Any) -> dict[str, Any]:
        job = {"id": 100 + len(self.jobs), "state": "queued", "params": body["params"]}
        job |= {"result": None, "error": None, "idempotency_key": body["idempotency_key"]}
        self.open.append(job)
        return job

    def sleep(self, seconds: float) -> None:
        """Let the trials end."""
        for job in self.open:
            rate = job["params"]["recipe"]["optimizer"]["learning_rate"]
            if rate >= self.worst:
                job |= {"state": "failed", "error": {"message": "the loss became nan"}}
            else:
                made = [f"tuned:{job['id']}"]
                metrics = {"validation_loss": rate}
                job |= {"state": "succeeded", "result": {"artifacts": made, "metrics": metrics}}
        self.open = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, step: int, total: int, message: str = "") -> None:
        self.at = step, total

    def wait_while_paused(self) -> None:
        pass

    def raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            raise CancelledError


def ran(server: Server) -> dict[str, Any]:
    return search(server, server.sleep).summary  # type: ignore[arg-type]


def test_all_of_a_grid_is_trained_and_the_best_named() -> None:
    server = Server(GRID, alias="best")
    summary = ran(server)
    assert [row["value"] for row in summary["trials"]] == [0.1, 0.2, 0.3]
    assert summary["best"]["settings"] == {RATE: 0.1}
    assert server.aliases == [("/api/v1/models/tuned:100/aliases", "best")]
    assert server.at == (3, 3)
    recipe = server.jobs["search:7:0:2"]["params"]["recipe"]
    assert recipe["steps"] == 40 and recipe["optimizer"]["learning_rate"] == 0.3
    assert ran(Server(GRID | {"goal": "max"}))["best"]["settings"] == {RATE: 0.3}


def test_no_alias_is_set_unless_asked() -> None:
    server = Server(GRID)
    ran(server)
    assert server.aliases == []


def test_the_better_half_goes_on_with_twice_the_steps() -> None:
    server = Server(HALVING)
    rows = ran(server)["trials"]
    assert [(row["rung"], row["steps"]) for row in rows] == [(0, 10)] * 4 + [(1, 20)] * 2 + [
        (2, 40)
    ]
    values = sorted(row["value"] for row in rows if row["rung"] == 0)
    assert sorted(row["value"] for row in rows if row["rung"] == 1) == values[:2]
    assert [row["value"] for row in rows if row["rung"] == 2] == values[:1]
    shown = trial_rows({"id": 7, "params": server.params}, [*server.jobs.values()])
    assert [row["rung"] for row in shown] == [2, 1, 1, 0, 0, 0, 0]
    assert shown[1]["value"] <= shown[2]["value"], "the best first"


def test_trials_that_failed_are_told_and_never_go_on() -> None:
    rows = ran(Server(GRID, worst=0.2))["trials"]
    assert [row["state"] for row in rows] == ["succeeded", "failed", "failed"]
    assert rows[2]["error"] == "the loss became nan"
    with pytest.raises(JobFailedError, match=r"no trial of 3 came to an end: the loss became nan"):
        ran(Server(GRID, worst=0.0))
    with pytest.raises(JobFailedError, match="none has the metric 'accuracy'"):
        ran(Server(GRID | {"metric": "accuracy"}))


def test_a_full_queue_is_waited_for() -> None:
    assert len(ran(Server(GRID, room=1))["trials"]) == 3


def refusal(status: int, code: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": "no", "code": code}}).encode())


def test_a_quota_that_no_trial_of_its_own_can_free_ends_it() -> None:
    server = Server(GRID, room=0)
    with pytest.raises(InvalidRequestError, match="full"):
        ran(server)


@pytest.mark.parametrize("code", ["out_of_memory", "quota_exceeded"])
def test_a_trial_that_can_never_be_queued_ends_it(code: str) -> None:
    server = Server(GRID)
    server.first = [refusal(503 if code == "out_of_memory" else 429, code)]
    with pytest.raises(InvalidRequestError, match="no"):
        ran(server)


PASSING = [
    refusal(429, "overloaded"),
    refusal(429, "rate_limit_exceeded"),
    refusal(503, "model_loading"),
    Answer(503, b"", retry_after_s=0.5),
    Answer(429, b"", retry_after_s=1.0),
]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_busy_server_is_asked_again(is_first: bool) -> None:
    """For a trial's job, and for how one stands."""
    server = Server(GRID)
    busy = list(PASSING)

    def sleep(seconds: float) -> None:
        server.first = [busy.pop()] if busy else []
        if not busy:
            server.sleep(seconds)

    if is_first:
        server.first = [busy.pop()]
    summary = search(server, sleep).summary  # type: ignore[arg-type]
    assert [row["state"] for row in summary["trials"]] == ["succeeded"] * 3
    assert not busy and len(server.jobs) == 3


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_failed_is_told_of(status: int) -> None:
    server = Server(GRID)
    server.first = [Answer(status, b"")]
    with pytest.raises(JobFailedError, match=f"answered {status} to /api/v1/jobs"):
        ran(server)


def test_one_that_is_taken_up_again_finds_its_trials() -> None:
    whole, broken = Server(HALVING), Server(HALVING)

    def dies(seconds: float) -> None:
        broken.sleep(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(broken, dies)  # type: ignore[arg-type]
    assert ran(broken) == ran(whole)
    assert len(broken.jobs) == 7, "none was trained twice"


def test_trials_that_ended_with_a_search_that_is_retried_are_too() -> None:
    server = Server(GRID)
    server.ask(
        "/api/v1/jobs",
        json.dumps(
            {
                "kind": "train",
                "priority": "background",
                "idempotency_key": "search:7:0:0",
                "params": {
                    "recipe": server.params["recipe"] | {"optimizer": {"learning_rate": 0.1}}
                },
            }
        ).encode(),
    )
    server.jobs["search:7:0:0"]["state"] = "cancelled"
    server.open = []
    assert [row["state"] for row in ran(server)["trials"]] == ["succeeded"] * 3


def test_it_ends_when_told() -> None:
    for name in ("is_leaving", "is_cancelled"):
        server = Server(GRID)
        setattr(server, name, True)
        with pytest.raises(CancelledError):
            ran(server)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"search": {"parameters": {"optimizer.rate": [1]}}}, "optimizer.rate"),
        ({"search": {"parameters": {"seed": [-1]}}}, "seed"),
        ({"search": None}, "search must be a mapping"),
        ({"alias": "no alias"}, "alias must be a name"),
        ({"base": {}}, "unknown parameter base"),
        ({"name": "a:1"}, "must not have a version"),
        ({"recipe": {"task": "x" * 20_000}}, "the recipe of a search has 20"),
    ],
)
def test_a_search_that_could_not_run_is_refused(change: dict[str, Any], says: str) -> None:
    params = {"recipe": make_recipe("generate"), "name": "tuned", "search": GRID}
    with pytest.raises((InvalidRequestError, RecipeError), match=says):
        check_search(params | change)


def test_values_are_refused_however_deep_they_are_nested() -> None:
    """Whatever the depth at which the interpreter gives up."""
    for depth in (100, 400, *range(900, 1000, 3), 5000):
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        section = {"parameters": {"model.config.a.b.c.d.e.f": [value]}}
        params = {"recipe": make_recipe("generate"), "name": "tuned", "search": section}
        if depth > 100:
            with pytest.raises(RecipeError):
                check_search(params)
        else:
            assert check_search(params)["search"]["parameters"]
