"""HTTP as the client needs it: JSON, server-sent events, and errors rebuilt as llmos errors.

httpx is imported at the first request, so that importing llmos stays quick.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from llmos.errors import LlmosError, UnreachableError, by_code, by_status
from llmos.sdk.connect import Endpoint

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]


class Transport:
    """Connections to one endpoint. Every method raises UnreachableError when nothing answers."""

    def __init__(self, endpoint: Endpoint, api_key: str | None, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._lazy: httpx.Client | None = None

    def close(self) -> None:
        if self._lazy is not None:
            self._lazy.close()
            self._lazy = None

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Yield an open response whose body the caller reads."""
        import httpx

        try:
            with self._http.stream(method, path, **options) as response:
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response.status_code, response.content)
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response whatever its status."""
        import httpx

        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def response(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return a successful response, or raise the error in its body."""
        response = self.request(method, path, **options)
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)
        return response

    def json(self, method: str, path: str, **options: Any) -> Json:
        """Return the JSON object of a successful response."""
        return cast(Json, self.response(method, path, **options).json())

    def list(self, method: str, path: str, **options: Any) -> list[Json]:
        """Return the ``data`` array of a successful response."""
        return cast("list[Json]", self.json(method, path, **options)["data"])

    def events(self, method: str, path: str, **options: Any) -> Iterator[Json]:
        """Yield the JSON of each server-sent event; an error event is raised.

        Raises:
            UnreachableError: also when the stream ends without its end mark.
        """
        with self.stream(method, path, **options) as response:
            for data in sse_data(lines_of(response.iter_bytes())):
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise error_of(500, data.encode())
                yield event
        raise UnreachableError("The server went away before its answer was whole.")

    def _unreachable(self, error: Exception) -> UnreachableError:
        where = self._endpoint.socket or self._endpoint.url
        detail = str(error) or type(error).__name__
        return UnreachableError(
            f"No llmos server answers at {where} ({detail}): start one with `llmos up`."
        )

    @property
    def _http(self) -> httpx.Client:
        if self._lazy is None:
            import httpx

            uds = self._endpoint.socket
            self._lazy = httpx.Client(
                base_url="http://localhost" if uds else self._endpoint.url,
                transport=httpx.HTTPTransport(uds=uds) if uds else None,
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
                timeout=httpx.Timeout(self._timeout_s, connect=5.0),
                trust_env=not uds and not _is_loopback(self._endpoint.url),
            )
            weakref.finalize(self, self._lazy.close)
        return self._lazy


def lines_of(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a body, which end in "\\n" or "\\r\\n" and in nothing else.

    JSON may hold U+2028, U+2029 and U+0085 as they are; those that split text at them cut it.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def sse_data(lines: Iterator[str]) -> Iterator[str]:
    """Yield the data of each server-sent event; comments and other fields are dropped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def error_of(status: int, body: bytes) -> LlmosError:
    """Rebuild the typed error from an error body; an unreadable body gives a plain LlmosError."""
    try:
        error = json.loads(body)["error"]
        message, code, param = str(error["message"]), str(error["code"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        return LlmosError(f"The server answered with status {status} and no explanation.")
    found = by_code(code)
    if found is not LlmosError or code == LlmosError.code:
        return found(message, param=param)
    general = by_status(status)(message, param=param)  # one of the server's own
    general.code = code
    return general


def _is_loopback(url: str) -> bool:
    return (urlsplit(url).hostname or "") in {"localhost", "127.0.0.1", "::1"}
