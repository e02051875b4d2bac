"""The least an ASGI server can do: a constant event, streamed. ``python serve_constant.py PORT``

Takes the body's ``max_tokens`` and ``pause_s`` (seconds between events) and knows no model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

CHOICE = {"index": 0, "text": " w1234", "finish_reason": None, "logprobs": None}
EVENT = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "choices": [CHOICE]}
PIECE = b"data: " + json.dumps(EVENT).encode() + b"\n\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if not body:  # somebody wants to know whether the server is there
        await send({"type": "http.response.body", "body": b"{}"})
        return
    asked = json.loads(body)
    for _ in range(asked["max_tokens"]):
        await asyncio.sleep(asked["pause_s"])
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off")
