"""The bodies of OpenAI's Batch API, as far as llmos serves it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from llmos.errors import InvalidRequestError
from llmos.sdk.wire import Body

MAX_NOTES = 16
LEAST_KEPT_S, MOST_KEPT_S = 3600, 2_592_000
NoteName = Annotated[str, Field(max_length=64)]
Note = Annotated[str, Field(max_length=512)]


class ExpiryBody(Body):
    """How long a file is kept from its making on."""

    anchor: Literal["created_at"]
    seconds: StrictInt = Field(ge=LEAST_KEPT_S, le=MOST_KEPT_S)

    @classmethod
    def checked(cls, seconds: int) -> ExpiryBody:
        """Return it for a number of seconds. Raises InvalidRequestError."""
        if not LEAST_KEPT_S <= seconds <= MOST_KEPT_S:
            raise InvalidRequestError(
                f"expires_after has {LEAST_KEPT_S} to {MOST_KEPT_S} seconds, not {seconds}.",
                param="expires_after",
            )
        return cls(anchor="created_at", seconds=seconds)


class BatchBody(Body):
    """``POST /v1/batches``"""

    max_items = {"metadata": MAX_NOTES}  # noqa: RUF012 - as in Body
    input_file_id: str = Field(min_length=1, max_length=100)
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: dict[NoteName, Note] | None = None
    output_expires_after: ExpiryBody | None = None
