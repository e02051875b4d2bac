"""A client whose server is a Python function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from llmos.sdk.client import Client

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def client_of() -> Iterator[Callable[[Handler], Client]]:
    made: list[Client] = []

    def make(handler: Handler) -> Client:
        now = iter(range(10**6))
        client = Client(
            "http://127.0.0.1:1", "llmos_k", clock=lambda: float(next(now)), sleep=lambda _: None
        )
        client.transport._lazy = httpx.Client(
            transport=httpx.MockTransport(handler), base_url="http://127.0.0.1:1"
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
