"""The handler of batches against a server that answers as it is told to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmos.apps import batch
from llmos.apps.batch_jobs import BatchParams, Counts, check_batch
from llmos.errors import CancelledError, DataError, DiskFullError, InvalidRequestError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import Answer, FromWorker, JobAnswer, JobAsk, JobProgress, StartJob
from llmos.storage.blobs import BlobStore
from llmos.types import JobResult

Reply = Callable[[str, int], Answer | None]
"""From a row's custom_id, and how often it was asked, to its answer; None: it never comes."""
ENDPOINT = "/v1/completions"


def good(custom_id: str, times: int) -> Answer:
    return Answer(200, json.dumps({"echo": custom_id}).encode(), f"req-{custom_id}")


class Server:
    """Answers a worker's asks when the worker looks at its clock: then it has asked all it will."""

    def __init__(self, home: Path, num_rows: int, reply: Reply = good) -> None:
        self.home = home
        self.reply = reply
        self.asked: dict[str, int] = {}
        self.answered: list[str] = []
        self.max_open = 0
        self.held: list[JobAsk] = []
        self.batch: dict[str, Any] = {"job_id": 1, "cancelling_at": None}
        self.batch_status = 200
        self.progress: list[JobProgress] = []
        self.now = 0.0
        self.on_answer: Callable[[], None] = lambda: None
        rows = b"".join(self._row(i) for i in range(1, num_rows + 1))
        digest = BlobStore(home / "blobs").put_bytes(rows).digest
        self.params = BatchParams("batch_x", ENDPOINT, "m", digest, num_rows, 1000.0, 60.0)
        self.attempt = 0

    @staticmethod
    def _row(number: int) -> bytes:
        body = {"model": "m", "prompt": str(number)}
        row = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(row).encode() + b"\n"

    def send(self, message: FromWorker) -> None:
        if isinstance(message, JobAsk):
            self.held.append(message)
        elif isinstance(message, JobProgress):
            self.progress.append(message)

    def monotonic(self) -> float:
        held, self.held = self.held, []
        self.max_open = max(self.max_open, sum(ask.body is not None for ask in held))
        for ask in held:
            if (answer := self._answer(ask)) is not None:
                self.context.answered(JobAnswer(ask.id, answer))
                self.on_answer()
        self.now += 1.0
        return self.now

    def _answer(self, ask: JobAsk) -> Answer | None:
        if ask.body is None:
            assert ask.path == "/v1/batches/batch_x"
            return Answer(self.batch_status, json.dumps(self.batch).encode())
        assert ask.path == ENDPOINT
        custom_id = json.loads(ask.body)["prompt"]
        self.asked[custom_id] = self.asked.get(custom_id, 0) + 1
        answer = self.reply(custom_id, self.asked[custom_id])
        if answer is not None and answer.status == 200:
            self.answered.append(custom_id)
        return answer

    def run(self, clock: Callable[[], float] = lambda: 0.0) -> JobResult:
        """Run one more attempt."""
        self.attempt += 1
        self.held = []
        start = StartJob(
            job_id=1,
            fence=self.attempt,
            attempt=self.attempt,
            handler="",
            name="n",
            params=msgspec.to_builtins(self.params),
            owner="o",
            home=str(self.home),
            checkpoint_dir=str(self.home / "jobs" / "1"),
            threads=1,
            heartbeat_s=10.0,
        )
        self.context = JobContext(start, self.send, monotonic=lambda: 0.0)
        return batch.run_batch(self.context, clock, self.monotonic)

    def lines(self, result: JobResult, kind: str) -> list[dict[str, Any]]:
        """Return what was written to the output or the errors."""
        stored = result.summary[kind]
        if stored is None:
            return []
        data = BlobStore(self.home / "blobs").read_bytes(stored["digest"])
        assert len(data) == stored["size"]
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "WAIT_S", 0.001)
    monkeypatch.setattr(batch, "WINDOW_ROWS", 4)
    monkeypatch.setattr(batch, "FLUSH_ROWS", 3)


def ids(lines: list[dict[str, Any]]) -> list[str]:
    return sorted((line["custom_id"] for line in lines), key=int)


def all_ids(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def test_every_row_is_asked_once_and_its_answer_written(tmp_path: Path) -> None:
    server = Server(tmp_path, 10)
    result = server.run()
    lines = server.lines(result, "output")
    assert ids(lines) == all_ids(10)
    for line in lines:
        assert line["response"]["body"] == {"echo": line["custom_id"]}
        assert line["response"]["request_id"] == f"req-{line['custom_id']}"
        assert line["id"].startswith("batch_req_x_")
    assert set(server.asked.values()) == {1}
    counts = {name: result.summary[name] for name in ("ended_as", "completed", "failed", "errors")}
    assert counts == {"ended_as": "completed", "completed": 10, "failed": 0, "errors": None}
    assert server.progress[-1] == JobProgress(10, 10, "finalizing: 10 completed, 0 failed")


def test_no_more_rows_are_under_way_than_the_window_has_places(tmp_path: Path) -> None:
    server = Server(tmp_path, 20)
    server.run()
    assert server.max_open == 4


def test_large_rows_are_under_way_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "WINDOW_BYTES", 10)
    server = Server(tmp_path, 5)
    assert server.run().summary["completed"] == 5
    assert server.max_open == 1


def test_a_row_that_fails_fails_alone(tmp_path: Path) -> None:
    def reply(custom_id: str, times: int) -> Answer:
        return (
            Answer(400, b'{"error": {"code": "bad"}}') if custom_id == "2" else good(custom_id, 1)
        )

    server = Server(tmp_path, 3, reply)
    result = server.run()
    assert ids(server.lines(result, "output")) == ["1", "3"]
    [line] = server.lines(result, "errors")
    assert (line["custom_id"], line["error"]) == ("2", None)
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"] == {"error": {"code": "bad"}}
    assert (result.summary["completed"], result.summary["failed"]) == (2, 1)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, status: int) -> None:
    def reply(custom_id: str, times: int) -> Answer:
        if times < 5:
            return Answer(status, b"{}", retry_after_s=3.0)
        return good(custom_id, times)

    server = Server(tmp_path, 9, reply)
    result = server.run()
    assert (result.summary["completed"], result.summary["failed"]) == (9, 0)
    assert set(server.asked.values()) == {5}
    assert server.max_open <= 4, "rows that wait take up their places"


def test_a_server_that_fails_for_no_known_time_is_tried_a_few_times(tmp_path: Path) -> None:
    server = Server(tmp_path, 1, lambda custom_id, times: Answer(503, b'{"error": {}}'))
    result = server.run()
    assert server.asked == {"1": batch.MAX_TRIES}
    assert result.summary["failed"] == 1


def test_an_answer_that_is_no_json_is_a_failure(tmp_path: Path) -> None:
    server = Server(tmp_path, 1, lambda custom_id, times: Answer(200, b"data: x\n\n"))
    result = server.run()
    assert (result.summary["completed"], result.summary["failed"]) == (0, 1)
    assert server.lines(result, "errors")[0]["error"]["code"] == "no_answer"


def test_at_its_expiry_what_is_done_stays_and_the_rest_is_told(tmp_path: Path) -> None:
    server = Server(
        tmp_path, 9, lambda custom_id, times: good(custom_id, 1) if int(custom_id) <= 3 else None
    )
    result = server.run(lambda: 1000.0 if len(server.answered) == 3 else 999.0)
    assert result.summary["ended_as"] == "expired"
    assert ids(server.lines(result, "output")) == ["1", "2", "3"]
    rest = server.lines(result, "errors")
    assert ids(rest) == all_ids(9)[3:]
    assert {line["error"]["code"] for line in rest} == {"batch_expired"}
    assert {line["response"] is None for line in rest} == {True}
    assert (result.summary["completed"], result.summary["failed"]) == (3, 0)


def test_a_cancelled_batch_ends_with_what_is_done(tmp_path: Path) -> None:
    server = Server(
        tmp_path, 9, lambda custom_id, times: good(custom_id, 1) if int(custom_id) <= 2 else None
    )

    def cancel_after_two() -> None:
        if len(server.answered) == 2:
            server.batch["cancelling_at"] = 5

    server.on_answer = cancel_after_two
    result = server.run()
    assert result.summary["ended_as"] == "cancelled"
    assert ids(server.lines(result, "output")) == ["1", "2"]
    rest = server.lines(result, "errors")
    assert {line["error"]["code"] for line in rest} == {"batch_cancelled"}
    assert ids(rest) == all_ids(9)[2:]


def test_who_cancels_the_job_gets_what_is_done_too(tmp_path: Path) -> None:
    server = Server(
        tmp_path, 9, lambda custom_id, times: good(custom_id, 1) if int(custom_id) <= 2 else None
    )
    server.on_answer = lambda: server.context.cancel() if len(server.answered) == 2 else None
    result = server.run()
    assert result.summary["ended_as"] == "cancelled"
    assert result.summary["completed"] == 2


def test_a_batch_whose_key_was_revoked_ends_with_what_is_done(tmp_path: Path) -> None:
    gone = Answer(401, b'{"error": {"code": "invalid_api_key", "message": "it was revoked"}}')
    server = Server(
        tmp_path, 6, lambda custom_id, times: good(custom_id, 1) if int(custom_id) <= 2 else gone
    )
    result = server.run()
    assert result.summary["ended_as"] == "cancelled"
    assert (result.summary["completed"], result.summary["failed"]) == (2, 0)
    rest = server.lines(result, "errors")
    assert ids(rest) == all_ids(6)[2:]
    for line in rest:
        assert line["error"] == {"code": "invalid_api_key", "message": "it was revoked"}
        assert line["response"] is None


def test_a_batch_whose_key_was_revoked_before_it_began_asks_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, 2)
    server.batch_status = 401
    server.batch = {"error": {"code": "invalid_api_key", "message": "it was revoked"}}
    result = server.run()
    assert (result.summary["ended_as"], server.asked) == ("cancelled", {})


def test_an_attempt_that_is_to_leave_keeps_what_is_done_for_the_next(tmp_path: Path) -> None:
    server = Server(
        tmp_path, 9, lambda custom_id, times: good(custom_id, 1) if int(custom_id) <= 2 else None
    )
    server.on_answer = lambda: server.context.leave() if len(server.answered) == 2 else None
    with pytest.raises(CancelledError):
        server.run()
    server.reply, server.on_answer, server.asked = good, lambda: None, {}
    result = server.run()
    assert (result.summary["ended_as"], result.summary["completed"]) == ("completed", 9)
    assert sorted(server.asked) == all_ids(9)[2:]


def test_a_batch_that_was_cancelled_after_its_last_row_is_complete(tmp_path: Path) -> None:
    server = Server(tmp_path, 2)
    server.batch["cancelling_at"] = 5
    server.params = msgspec.structs.replace(server.params, num_rows=2)
    first = server.run()
    assert first.summary["ended_as"] == "cancelled", "it was before the first row was asked"
    assert server.run().summary == {**first.summary, "finalizing_at": 0.0}


def test_a_job_that_belongs_to_no_batch_asks_nothing(tmp_path: Path) -> None:
    for changes in ({"batch_status": 404}, {"batch_status": 403}, {"batch": {"job_id": 2}}):
        server = Server(tmp_path, 2)
        for name, value in changes.items():
            setattr(server, name, value)
        server.batch.setdefault("cancelling_at", None)
        server.attempt = 100 * len(changes) + server.batch_status
        with pytest.raises(DataError, match="belongs to no batch"):
            server.run()
        assert server.asked == {}


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(context: JobContext, clock: object, monotonic: object) -> JobResult:
        raise DiskFullError

    monkeypatch.setattr(batch, "run_batch", full)
    with pytest.raises(DiskFullError) as caught:
        batch.run(Server(tmp_path, 1))  # type: ignore[arg-type]
    assert caught.value.retryable


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_write_each_row_is_in_the_output_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over every write, fsync, rename and link of an attempt."""
    real = {name: getattr(os, name) for name in ("write", "fsync", "rename", "link")}
    left = 0

    def deadly(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write":
                    real[name](args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            return None if name == "fsync" else real[name](*args, **kwargs)

        return call

    for name in real:
        monkeypatch.setattr(os, name, deadly(name))
    deaths = 0
    for moment in range(1, 1000):
        home = tmp_path / str(moment)
        left = 10**9
        server = Server(home, 10, _second_fails)
        left = moment
        try:
            server.run()
        except Killed:
            deaths += 1
            left = 10**9
            result = server.run()
        else:
            break
        lines = [*server.lines(result, "output"), *server.lines(result, "errors")]
        assert ids(lines) == all_ids(10), f"killed at call {moment}"
        assert ids(server.lines(result, "errors")) == ["2"]
        assert (result.summary["completed"], result.summary["failed"]) == (9, 1)
    assert deaths > 20


def _second_fails(custom_id: str, times: int) -> Answer:
    return Answer(400, b"{}") if custom_id == "2" else good(custom_id, times)


def test_answers_that_were_kept_are_not_asked_for_again(tmp_path: Path) -> None:
    def dies(custom_id: str, times: int) -> Answer:
        if custom_id == "10" and server.attempt == 1:
            raise Killed
        return good(custom_id, times)

    server = Server(tmp_path, 12, dies)
    with pytest.raises(Killed):
        server.run()
    kept = set(server.answered)
    asked_before, server.asked = server.asked, {}
    assert len(kept) >= 3
    result = server.run()
    assert ids(server.lines(result, "output")) == all_ids(12)
    assert len(server.asked) < 12
    assert set(server.asked) | set(asked_before) == set(all_ids(12))


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(3, 1), "3 completed, 1 failed"),
        (Counts(3, 0, is_finalizing=True), "finalizing: 3 completed, 0 failed"),
    ],
)
def test_counts_are_read_back_from_what_a_job_says(counts: Counts, text: str) -> None:
    assert str(counts) == text
    assert Counts.of({"step": 4, "total": 9, "message": text}) == counts


def test_a_job_that_has_said_nothing_has_done_nothing() -> None:
    assert Counts.of(None) == Counts.of({"message": "?"}) == Counts(0, 0)


@pytest.mark.parametrize("change", [{"endpoint": "/v1/keys"}, {"digest": 1}, {"more": 1}])
def test_params_of_no_batch_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    params = msgspec.to_builtins(Server(tmp_path, 1).params)
    assert check_batch(params) == params
    with pytest.raises(InvalidRequestError):
        check_batch(params | change)
