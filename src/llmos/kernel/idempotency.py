"""Submitting once what is asked for twice: a request with a key makes one job, ever.

A client that does not know whether its request arrived sends it again with the same key.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, select

from llmos.errors import ConflictError, InvalidRequestError
from llmos.kernel.job_rows import find_jobs
from llmos.kernel.jobs import Job
from llmos.storage.schema import jobs

MAX_KEY_CHARS = 255
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key that an owner gave to a request, and a digest of that request."""

    key: str
    digest: str

    @classmethod
    def of(cls, key: str, request: Any) -> Self:
        """Return the key of ``request``, plain JSON as the client asked for it.

        Raises:
            InvalidRequestError: the key is not 1 to 255 visible ASCII characters.
        """
        if not _KEY.fullmatch(key):
            raise InvalidRequestError(
                f"An idempotency key has 1 to {MAX_KEY_CHARS} characters, visible and ASCII.",
                param="idempotency_key",
            )
        text = json.dumps(request, sort_keys=True, separators=(",", ":"))
        return cls(key, hashlib.sha256(text.encode()).hexdigest())

    def find(self, connection: Connection, owner: str) -> Job | None:
        """Return the job that ``owner`` has by this key; None when there is none.

        Raises:
            ConflictError: another request made it.
        """
        query = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == self.key)
        found = find_jobs(connection, query)
        if not found:
            return None
        if found[0].request_digest != self.digest:
            raise ConflictError(
                f"The idempotency key {self.key!r} came with another request, which made job "
                f"{found[0].id}: use a new key for a new request.",
                param="idempotency_key",
            )
        return found[0]
