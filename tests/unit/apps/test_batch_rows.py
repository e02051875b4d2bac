"""A batch file is refused whole, with line and reason, or read row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.apps import batch_rows
from llmos.apps.batch_rows import MAX_FAULTS, answer_line, check_file, error_line, read_rows
from llmos.errors import BatchFileError
from llmos.kernel.protocol import Answer

CHAT = "/v1/chat/completions"


def row(custom_id: str = "a", **changes: Any) -> bytes:
    body = {"model": "talker", "messages": [{"role": "user", "content": "hi"}]}
    values = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes
    kept = {name: value for name, value in values.items() if value is not None}
    return json.dumps(kept).encode() + b"\n"


def faults(*lines: bytes) -> list[dict[str, Any]]:
    with pytest.raises(BatchFileError) as caught:
        check_file(lines, CHAT, 1000)
    for fault in caught.value.lines:
        assert f"line {fault['line']}: {fault['message']}" in caught.value.message
    return caught.value.lines


def test_good_rows_are_counted_and_their_model_found() -> None:
    lines = [b"\xef\xbb\xbf" + row("a"), b"\n", b"  \n", row("b").rstrip()]
    found = check_file(lines, CHAT, 1000)
    assert (found.num_rows, found.model) == (2, "talker")
    assert [(number, one.custom_id) for number, one in read_rows(lines)] == [(1, "a"), (4, "b")]


def test_a_rows_body_stays_as_it_came() -> None:
    odd = b'{"custom_id":"a","method":"POST","url":"/v1/x","body":{ "model" : "m","n":1.0}}'
    [(_, found)] = read_rows([odd])
    assert bytes(found.body) == b'{ "model" : "m","n":1.0}'


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (b"{nonsense\n", "invalid_row", "JSON is malformed"),
        (b"[]\n", "invalid_row", "expected object"),
        (b"\xff\xfe\n", "invalid_row", "JSON"),
        (b'{"custom_id": "\xff"}\n', "invalid_row", "UTF-8"),
        (row("\ud800"), "invalid_row", ""),
        (b"[" * 900 + b"\n", "invalid_row", ""),
        (row(custom_id=None), "invalid_row", "custom_id"),  # type: ignore[arg-type]
        (row(custom_id=7), "invalid_row", "expected str, got int - at custom_id"),  # type: ignore[arg-type]
        (row(""), "invalid_custom_id", "1 to 512 characters"),
        (row("x" * 600), "invalid_custom_id", "1 to 512 characters"),
        (row(method="GET"), "invalid_method", "'GET', not 'POST'"),
        (row(url="/v1/embeddings"), "invalid_url", "not '/v1/chat/completions'"),
        (row(body=None), "invalid_row", "body"),
        (row(body="x"), "invalid_row", "expected object, got str"),
        (row(body={}), "invalid_row", "missing required field model"),
        (row(body={"model": ""}), "missing_model", "empty"),
        (row(body={"model": "m", "stream": True}), "stream", "not streamed"),
        (row("y", body={"model": "m", "x": "y" * 1000}), "row_too_large", "1000 bytes"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_with_line_and_reason(
    line: bytes, code: str, reason: str
) -> None:
    [fault] = faults(row("good"), line)
    assert (fault["line"], fault["code"]) == (2, code)
    assert reason in fault["message"]


def test_a_null_stream_is_none() -> None:
    body = {"model": "m", "stream": None}
    assert check_file([row(body=body)], CHAT, 1000).model == "m"


def test_custom_ids_are_each_rows_own_and_a_batch_is_for_one_model() -> None:
    other = row("c", body={"model": "writer"})
    found = faults(row("a"), row("b"), row("a"), other)
    assert [(one["line"], one["code"]) for one in found] == [
        (3, "duplicate_custom_id"),
        (4, "several_models"),
    ]
    assert "line 1 already" in found[0]["message"]
    assert "'writer'" in found[1]["message"]


def test_no_more_than_the_first_faults_are_looked_for() -> None:
    assert len(faults(*[b"x\n"] * 1000)) == MAX_FAULTS


def test_an_empty_file_and_one_of_too_many_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for lines in ([], [b"\n", b" \n"]):
        with pytest.raises(BatchFileError, match="no rows"):
            check_file(lines, CHAT, 1000)
    monkeypatch.setattr(batch_rows, "MAX_ROWS", 2)
    assert check_file([row("a"), row("b"), b"\n"], CHAT, 1000).num_rows == 2
    [fault] = faults(row("a"), row("b"), row("c"))
    assert (fault["line"], fault["code"]) == (3, "too_many_rows")
    monkeypatch.setattr(batch_rows, "MAX_LINES", 5)
    [fault] = faults(*[b"\n"] * 100)
    assert (fault["line"], fault["code"]) == (6, "too_many_rows")


def test_answers_are_written_as_openai_writes_them() -> None:
    line = answer_line("batch_req_1", "a", Answer(200, b'{"id": "x"}', "req-1"))
    assert json.loads(line) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req-1", "body": {"id": "x"}},
        "error": None,
    }
    line = error_line("batch_req_2", "你", "batch_expired", "too late")
    assert json.loads(line) == {
        "id": "batch_req_2",
        "custom_id": "你",
        "response": None,
        "error": {"code": "batch_expired", "message": "too late"},
    }
    assert line.count(b"\n") == 1 and line.endswith(b"\n")


@pytest.mark.parametrize("body", [b"", b"data: {}\n\n", b'{"a":\n1}'])
def test_what_is_no_line_of_json_never_breaks_a_file(body: bytes) -> None:
    line = answer_line("batch_req_1", "a", Answer(200, body))
    assert json.loads(line)["error"]["code"] == "no_answer"
    assert line.count(b"\n") == 1
