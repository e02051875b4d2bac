from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

NewClient = Callable[..., httpx.AsyncClient]


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_are_self_contained_under_a_strict_policy(
    new_client: NewClient, path: str
) -> None:
    response = await new_client(None).get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, attributes in _Page(response.text).tags:
        assert tag not in {"link", "img", "iframe", "object", "base"}
        assert "src" not in attributes
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "/").startswith(("/", "#"))
    assert not re.search(
        r"(https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9.]+\.[a-z]{2,}", response.text
    )


async def test_the_status_page_puts_in_text_and_never_html(new_client: NewClient) -> None:
    html = (await new_client(None).get("/")).text
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in html
    assert "localStorage" not in html


async def test_the_docs_describe_every_route(new_client: NewClient, app: Any) -> None:
    open_client = new_client(None)
    html = (await open_client.get("/docs")).text
    paths = (await open_client.get("/openapi.json")).json()["paths"]
    routes = [route for route in app.state.routes if route.include_in_schema]
    for route in routes:
        assert route.path_format in html
        for method in route.methods:
            operation = paths[route.path_format][method.lower()]
            assert operation["description"]
            assert "default" in operation["responses"]
    assert "max_completion_tokens" in html
    assert "<script" not in html
