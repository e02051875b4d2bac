"""The rows of a batch file: checked all before a batch begins, read one by one while it runs.

Also the lines that answer them, in OpenAI's form.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from llmos.errors import BatchFileError
from llmos.kernel.protocol import Answer

MAX_ROWS = 50_000
MAX_LINES = 2 * MAX_ROWS
"""Empty ones included."""
MAX_FILE_BYTES = 200 * 2**20
MAX_ID_CHARS = 512
MAX_FAULTS = 5
"""Faults that are looked for and told; more of them say nothing new."""
_SHOWN_CHARS = 60


class Row(msgspec.Struct, frozen=True):
    """One request; ``body`` is its JSON text, as it came."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    """What of a row's body is looked at before it is asked."""

    model: str
    stream: bool | None = None


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Fault(msgspec.Struct):
    code: str
    message: str


class _Line(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Fault | None


_ROW = msgspec.json.Decoder(Row)
_BODY = msgspec.json.Decoder(_Body)
_ENCODER = msgspec.json.Encoder()


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchFile:
    """What is known of a file whose rows are all good."""

    num_rows: int
    model: str
    """The one that every row asks for."""


def check_file(lines: Iterable[bytes], endpoint: str, max_row_bytes: int) -> BatchFile:
    """Return what a batch file holds, once every row of it can be asked.

    Args:
        lines: of the file, in order.
        endpoint: the path that every row must name.
        max_row_bytes: a longer row would be too large a request.

    Raises:
        BatchFileError: it has no rows, too many, or some that cannot be asked; the first few are
            told with line and reason.
    """
    seen = _Seen(endpoint, max_row_bytes)
    faults: list[dict[str, str | int]] = []
    for number, line in numbered(lines):
        if number > MAX_LINES or len(seen.lines_of) == MAX_ROWS:
            reason = f"there are more than {MAX_ROWS} rows: make several batches of them"
            faults.append({"line": number, "code": "too_many_rows", "message": reason})
            break
        try:
            seen.take(number, line)
        except _BadRowError as error:
            code, reason = error.args
            faults.append({"line": number, "code": code, "message": reason})
            if len(faults) == MAX_FAULTS:
                break
    if faults:
        told = "; ".join(f"line {fault['line']}: {fault['message']}" for fault in faults)
        raise BatchFileError(
            f"The file cannot be run. {told}.", param="input_file_id", lines=faults
        )
    if not seen.lines_of:
        raise BatchFileError(
            "The file has no rows: give it a JSON object a line.", param="input_file_id"
        )
    return BatchFile(len(seen.lines_of), seen.model)


def read_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, Row]]:
    """Yield the line number and the row of every line of a file that was checked."""
    for number, line in numbered(lines):
        yield number, _ROW.decode(line)


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold something, with their numbers from 1; a byte order mark is none."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if number > MAX_LINES or text.strip():
            yield number, text


class _BadRowError(Exception):
    """A row that cannot be asked: a code, and the reason."""


@dataclass(slots=True)
class _Seen:
    """The rows up to here: what the next one must agree with."""

    endpoint: str
    max_row_bytes: int
    model: str = ""
    lines_of: dict[str, int] = field(default_factory=dict)
    """The line of each custom_id."""

    def take(self, number: int, line: bytes) -> None:
        """Take the next row. Raises _BadRowError."""
        if len(line) > self.max_row_bytes:
            raise _BadRowError("row_too_large", f"it is longer than {self.max_row_bytes} bytes")
        try:
            row = _ROW.decode(line)
            body = _BODY.decode(row.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _BadRowError("invalid_row", _plain(error)) from error
        if not 0 < len(row.custom_id) <= MAX_ID_CHARS:
            raise _BadRowError("invalid_custom_id", f"custom_id has 1 to {MAX_ID_CHARS} characters")
        if (first := self.lines_of.get(row.custom_id)) is not None:
            raise _BadRowError(
                "duplicate_custom_id",
                f"custom_id {_shown(row.custom_id)} is that of line {first} already",
            )
        if row.method != "POST":
            raise _BadRowError("invalid_method", f"method is {_shown(row.method)}, not 'POST'")
        if row.url != self.endpoint:
            raise _BadRowError("invalid_url", f"url is {_shown(row.url)}, not '{self.endpoint}'")
        if not body.model:
            raise _BadRowError("missing_model", "body.model is empty")
        if body.stream:
            raise _BadRowError(
                "stream", "body.stream is true, but a batch's answers are not streamed"
            )
        if self.lines_of and body.model != self.model:
            raise _BadRowError(
                "several_models",
                f"body.model is {_shown(body.model)}, but the rows before ask for "
                f"{_shown(self.model)}: a batch is for one model",
            )
        self.model = body.model
        self.lines_of[row.custom_id] = number


def _plain(error: Exception) -> str:
    """Return why a row cannot be read, in a sentence without msgspec's own signs."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    text = str(error).replace("`", "").replace("$.", "")
    return text[:1].lower() + text[1:] if not text.startswith("JSON") else text


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARS])


# -- answering -----------------------------------------------------------------------------------


def answer_line(row_id: str, custom_id: str, answer: Answer) -> bytes:
    """Return the line that a row's answer, good or bad, makes in an output or error file."""
    if not is_json(answer):
        return error_line(row_id, custom_id, "no_answer", "The server gave no answer to this row.")
    response = _Response(answer.status, answer.request_id, msgspec.Raw(answer.body))
    return _ENCODER.encode(_Line(row_id, custom_id, response, None)) + b"\n"


def is_json(answer: Answer) -> bool:
    """Whether an answer is the one line of JSON that the server's answers are."""
    return answer.body.startswith(b"{") and b"\n" not in answer.body


def error_line(row_id: str, custom_id: str, code: str, message: str) -> bytes:
    """Return the line of a row that was not answered."""
    return _ENCODER.encode(_Line(row_id, custom_id, None, _Fault(code, message))) + b"\n"
