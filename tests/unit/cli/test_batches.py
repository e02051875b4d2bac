"""`llmos batch` against a stub of the SDK's client: what it asks for, writes and prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import batches, main
from llmos.errors import InvalidRequestError

ROW = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"model": "m"}}


def made(status: str, **changes: Any) -> dict[str, Any]:
    ends = {f"{end}_at": None for end in ("completed", "failed", "expired", "cancelled")}
    batch = {
        "id": "batch_1",
        "model": "m",
        "endpoint": "/v1/completions",
        "status": status,
        "created_at": 0,
        "in_progress_at": 10,
        **ends,
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "input_file_id": "file-1",
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "job_id": 7,
    }
    return batch | changes


class Stub:
    """Stands in for `sdk.Client`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.states = [made("in_progress"), made("completed", output_file_id="o", completed_at=70)]
        self.refusal: Exception | None = None

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def upload_batch_file(self, path: Path, on_progress: Any) -> dict[str, Any]:
        self.asked.append(("upload", path.name))
        return {"id": "file-1"}

    def create_batch(self, file_id: str, endpoint: str) -> dict[str, Any]:
        self.asked.append(("create", file_id, endpoint))
        if self.refusal:
            raise self.refusal
        return self.states[0]

    def follow_batch(self, batch_id: str) -> Iterator[dict[str, Any]]:
        yield from self.states

    def download_file(self, file_id: str, path: Path) -> Path:
        path.write_text(file_id)
        return path

    def batches(self, limit: int) -> list[dict[str, Any]]:
        self.asked.append(("list", limit))
        return [self.states[-1]]

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self.states[-1]

    def cancel_batch(self, batch_id: str) -> dict[str, Any]:
        self.asked.append(("cancel", batch_id))
        return made("cancelling")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(batches, "open_client", lambda server, home: stub)
    return stub


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n" + json.dumps(ROW) + "\n")
    return path


def run(*arguments: Any) -> int:
    return main.invoke(["batch", *map(str, arguments)])


def test_run_writes_the_answers_beside_the_requests(
    stub: Stub, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", requests) == 0
    assert stub.asked == [("upload", "requests.jsonl"), ("create", "file-1", "/v1/completions")]
    output = requests.with_name("requests.output.jsonl")
    assert output.read_text() == "o"
    assert capsys.readouterr().out == f"{output}: 2 of 3 rows\n"


def test_rows_that_failed_go_to_a_file_of_their_own(stub: Stub, requests: Path) -> None:
    stub.states[-1] |= {"error_file_id": "e"}
    target = requests.with_name("answers.jsonl")
    assert run("run", requests, "--output", target, "--endpoint", "/v1/embeddings") == 0
    assert stub.asked[-1] == ("create", "file-1", "/v1/embeddings")
    assert (target.read_text(), requests.with_name("answers.errors.jsonl").read_text()) == (
        "o",
        "e",
    )


def test_run_overwrites_nothing(
    stub: Stub, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests.with_name("requests.output.jsonl").write_text("mine")
    assert run("run", requests) == 5
    assert "exists already" in capsys.readouterr().err
    assert stub.asked == []


def test_detached_it_prints_the_id_alone(
    stub: Stub, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", requests, "-d") == 0
    assert capsys.readouterr().out == "batch_1\n"
    assert not requests.with_name("requests.output.jsonl").exists()


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (made("cancelled", output_file_id="o"), 1, "was cancelled before"),
        (made("expired"), 1, "was expired before"),
        (made("failed", errors={"data": [{"message": "no disk"}]}), 1, "failed: no disk"),
    ],
)
def test_the_exit_code_tells_a_batch_that_did_not_come_to_its_end(
    stub: Stub,
    requests: Path,
    capsys: pytest.CaptureFixture[str],
    end: dict[str, Any],
    code: int,
    said: str,
) -> None:
    stub.states[-1] = end
    assert run("run", requests) == code
    assert said in capsys.readouterr().err
    written = requests.with_name("requests.output.jsonl").exists()
    assert written == (end["output_file_id"] is not None), "what is done is kept"


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"[]\n", b"\xff\n", b'{"url"\n', b"1\n"])
def test_a_file_whose_first_row_is_no_request_is_not_sent(
    stub: Stub, requests: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    requests.write_bytes(content)
    assert run("run", requests) == 2
    assert "the first row of" in capsys.readouterr().err
    assert stub.asked == []


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_file_that_is_not_there_is_named(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run("run", tmp_path / name) == 2
    assert "there is no file" in capsys.readouterr().err


def test_what_the_server_refuses_is_one_line(
    stub: Stub, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.refusal = InvalidRequestError("The file cannot be run. line 2: custom_id is missing.")
    assert run("run", requests) == 2
    assert "line 2: custom_id is missing" in capsys.readouterr().err


def test_list_shows_how_batches_stand(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--limit", 3) == 0
    shown = capsys.readouterr().out
    assert stub.asked == [("list", 3)]
    for text in ("batch_1", "/v1/completions", "completed", "2/3", "1 minute"):
        assert text in shown
    assert run("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "batch_1"


def test_show_says_where_the_answers_are(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "batch_1") == 0
    shown = capsys.readouterr().out
    assert "output    o" in shown
    assert "errors    -" in shown
    assert "3: 2 completed, 1 failed" in shown
    assert run("show", "batch_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["job_id"] == 7


def test_cancel_says_what_it_came_to(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cancel", "batch_1") == 0
    assert capsys.readouterr().out == "batch_1 is cancelling\n"
