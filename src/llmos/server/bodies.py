"""JSON bodies read so that a large one stalls nobody else: counted, parsed and checked in a thread.

Parsing itself cannot be interrupted, so a body of more values than any good one has is refused
before it: what is left takes about a tenth of a second at most.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from llmos.errors import InvalidRequestError, LlmosError
from llmos.sdk.wire import MAX_PROMPT_IDS, MAX_VALUES, check_storable
from llmos.server.access import action_of
from llmos.server.anonymise import ACTIONS as ANONYMISED
from llmos.server.anonymise import HEADER, hide_prompt

if TYPE_CHECKING:
    from fastapi._compat import ModelField

SMALL_BYTES = 2**16
"""Up to here a body is read at once, in a few milliseconds."""
MAX_JSON_VALUES = MAX_PROMPT_IDS + MAX_VALUES
_STRING_OR_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)
_READERS = ThreadPoolExecutor(2, thread_name_prefix="bodies")
"""Few, as they share one core, and apart from the threads that everything else waits for."""


class BodyRoute(APIRoute):
    """A route whose JSON body is checked by `check_storable`, and in a thread if it is large. What
    models are to read has its personal data hidden here, where that is demanded."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        field = self.body_field
        hides = action_of(self) in ANONYMISED

        async def handle(request: Request) -> Response:
            try:
                response = await handler(_Request(request, field, hides=hides))
                if (hidden := getattr(request.state, "anonymised", None)) is not None:
                    response.headers[HEADER] = hidden
                return response
            except HTTPException as error:  # FastAPI wraps what reading the body raises
                if isinstance(error.__cause__, LlmosError | RequestValidationError):
                    raise error.__cause__ from None
                raise

        return handle


class _Request(Request):
    """Gives a small body as plain values, and a large one as the model it was validated to."""

    def __init__(self, request: Request, field: ModelField | None, *, hides: bool) -> None:
        super().__init__(request.scope, request.receive)
        self._field = field
        self._hides = hides

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= SMALL_BYTES:
            values = parsed(body)
            return await hide_prompt(self, values, False) if self._hides else values
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(_READERS, parsed, body)
        if self._hides:
            values = await hide_prompt(self, values, True)
        return await loop.run_in_executor(_READERS, _validated, values, self._field)


def parsed(body: bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        InvalidRequestError: it has too many values, or some that cannot be stored.
        ValueError, RecursionError: it is not JSON.
    """
    if _has_too_many_values(body):
        raise InvalidRequestError(
            f"The body has more than {MAX_JSON_VALUES} values: send less at once."
        )
    values = json.loads(body)
    check_storable(values)
    return values


def _validated(values: Any, field: ModelField | None) -> Any:
    if field is None:
        return values
    model, errors = field.validate(values, loc=("body",))
    if errors:
        raise RequestValidationError(errors)
    return model


def _has_too_many_values(body: bytes) -> bool:
    """Whether there are more values than good bodies have. Texts are looked into only where their
    commas and brackets could make the difference."""
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_JSON_VALUES:
        return False
    num_values = 0
    for match in _STRING_OR_VALUE.finditer(body):
        num_values += body[match.start()] != ord('"')
        if num_values > MAX_JSON_VALUES:
            return True
    return False
