"""Every error as ``{"error": {"message", "type", "code", "param"}}`` with the right status."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmos.errors import (
    FileRowsError,
    InvalidRequestError,
    LlmosError,
    NotFoundError,
    OverloadedError,
    QuotaExceededError,
)
from llmos.sdk.wire import MAX_JSON_DEPTH

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

_MAX_SHOWN_CHARS = 100
_TAG = re.compile(r"constrained-\w+|function-\w+\[.*\]|(list|dict)\[.*\]|str|int|float|bool")


class MethodNotAllowedError(InvalidRequestError):
    """This address does not take that method: see /docs."""

    status = 405
    code = "method_not_allowed"


class ClientGoneError(LlmosError):
    """The client closed the connection before the answer was ready."""

    status = 499
    code = "client_gone"


def install_handlers(app: FastAPI) -> None:
    """Let every error raised in a route, or by the framework, be answered in this form."""
    app.add_exception_handler(LlmosError, _on_llmos_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def error_body(error: LlmosError) -> dict[str, Any]:
    """Return the JSON of an error."""
    fields = {"message": error.message, "type": error.type, "code": error.code}
    lines = {"lines": error.lines} if isinstance(error, FileRowsError) else {}
    return {"error": {**fields, "param": error.param, **lines}}


def is_ollama_path(path: str) -> bool:
    """Whether Ollama's clients read what this path answers: all of /api but our own /api/v1."""
    return path.startswith("/api/") and not path.startswith("/api/v1/")


def error_response(error: LlmosError, path: str) -> JSONResponse:
    """Return the answer that says what was wrong, in the form that clients of ``path`` read."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, QuotaExceededError):  # OpenAI's clients ask again at once otherwise
        headers["X-Should-Retry"] = "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = {"error": error.message} if is_ollama_path(path) else error_body(error)
    return JSONResponse(body, status_code=error.status, headers=headers)


def validation_error(error: RequestValidationError) -> InvalidRequestError:
    """Return one sentence about the first thing that is wrong, naming the field."""
    first = error.errors()[0]
    kind, message = str(first["type"]), str(first["msg"])
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", message)
        return InvalidRequestError(f"The body is not JSON: {_uncapital(str(reason))}.")
    inner = [part for part in first["loc"][2:] if not _is_tag(part)]
    field = ".".join(map(str, [*first["loc"][1:2], *inner]))
    if not field and isinstance(first.get("input"), bytes):
        return InvalidRequestError(
            "The body was not taken for JSON: send it with Content-Type: application/json."
        )
    if not field:
        return InvalidRequestError(f"The request is not valid: {_uncapital(_plain(message))}.")
    if kind == "extra_forbidden":
        return InvalidRequestError(
            f"There is no field {field!r} here: see /docs for those there are.", param=field
        )
    if kind == "missing":
        return InvalidRequestError(f"The field {field!r} is missing.", param=field)
    given = _repr(first.get("input"))
    shown = f" (given: {given})" if len(given) <= _MAX_SHOWN_CHARS else ""
    text = _uncapital(_plain(message))
    return InvalidRequestError(f"The field {field!r} is not valid: {text}{shown}.", param=field)


async def _on_llmos_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LlmosError)
    return error_response(error, request.url.path)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(validation_error(error), request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if isinstance(error.__cause__, LlmosError):  # FastAPI wraps what reading the body raises
        return error_response(error.__cause__, path)
    if isinstance(error.__cause__, RecursionError):
        deep = InvalidRequestError(
            f"The body is nested too deeply: at most {MAX_JSON_DEPTH} levels are taken."
        )
        return error_response(deep, path)
    if isinstance(error.__cause__, UnicodeDecodeError):
        return error_response(InvalidRequestError("The body is not UTF-8."), path)
    where = path[:_MAX_SHOWN_CHARS]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(NotFoundError(f"There is nothing at {where}: see /docs."), path)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = error_response(
            MethodNotAllowedError(f"{where} does not take {request.method}: see /docs."), path
        )
        response.headers.update(error.headers or {})
        return response
    plain = InvalidRequestError(f"The request cannot be read: {_uncapital(str(error.detail))}.")
    response = error_response(plain, path)
    response.status_code = error.status_code
    return response


def _is_tag(part: Any) -> bool:
    """Whether a part of a place is pydantic's name of a type, not a field or a number."""
    return isinstance(part, str) and _TAG.fullmatch(part) is not None


def _repr(value: Any) -> str:
    """Return a value as Python writes it, if it is a plain one."""
    return "…" * (_MAX_SHOWN_CHARS + 1) if isinstance(value, dict | list) else repr(value)


def _plain(message: str) -> str:
    """Drop pydantic's own prefix and full stop."""
    return message.removeprefix("Value error, ").rstrip(".")


def _uncapital(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
