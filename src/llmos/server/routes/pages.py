"""The pages a browser sees: the status page at / and the API's description at /docs.

Each is one self-contained file. Their policy lets only their own script and style run, by hash, and
lets them speak to this server alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from llmos.server.docs_page import render_docs

STATIC = Path(__file__).parent.parent / "static"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def router() -> APIRouter:
    """Return the routes, which need no key: the data a page shows does."""
    routes = APIRouter(include_in_schema=False)

    @routes.head("/")  # Ollama's command line asks so whether anybody is there
    @routes.get("/")
    async def status_page() -> HTMLResponse:
        return page(_static("status.html"))

    @routes.get("/docs")
    async def docs_page(request: Request) -> HTMLResponse:
        return page(render_docs(request.app.openapi(), _static("docs.css")))

    return routes


def page(html: str) -> HTMLResponse:
    """Return a page with the policy that lets its own inline script and style run."""
    return HTMLResponse(html, headers={"Content-Security-Policy": content_policy(html)})


def content_policy(html: str) -> str:
    """Return the Content-Security-Policy of a self-contained page."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    allowed = {kind: " ".join(found) or "'none'" for kind, found in hashes.items()}
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {allowed['script']}",
            f"style-src {allowed['style']}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


@lru_cache(maxsize=8)
def _static(name: str) -> str:
    return (STATIC / name).read_text("utf-8")
