"""Uploads come in only as far as their owner has room: counted while they come, whatever length
was announced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:
    from starlette.types import Message

    from llmos.kernel.room import Room

CHECK_BYTES = 16 * 2**20
"""So much may come between two looks at what else the owner stores."""


@asynccontextmanager
async def received(room: Room, request: Request, owner: str) -> AsyncIterator[Request]:
    """Give the request whose body, as it comes, counts as stored by an owner until this is left.

    Reading it raises QuotaExceededError once there is too much.
    """
    await room.check(owner, int(request.headers.get("content-length", "0")))
    unchecked_bytes = 0

    async def receive() -> Message:
        nonlocal unchecked_bytes
        message = await request.receive()
        num_bytes = len(message.get("body", b""))
        arriving.num_bytes += num_bytes
        unchecked_bytes += num_bytes
        if unchecked_bytes >= CHECK_BYTES or not message.get("more_body", False):
            unchecked_bytes = 0
            await room.check(owner, 0)
        return message

    with room.arriving(owner) as arriving:
        yield Request(request.scope, receive)
