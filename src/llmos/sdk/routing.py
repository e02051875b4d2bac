"""The part of the client about which model answers: routes, explanations, verdicts on answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from llmos.sdk.asking import given
from llmos.sdk.transport import Json, Transport


class Routing:
    """Asks the server behind ``transport`` how it chooses, and tells it how to."""

    transport: Transport

    def routes(self) -> list[Json]:
        """The routes: ``{"name", "targets": [{"model", "weight"}], "fallbacks", "owner", …}``."""
        return self.transport.list("GET", "/api/v1/routes")

    def set_route(
        self, name: str, targets: Mapping[str, float], fallbacks: Sequence[str] = ()
    ) -> Json:
        """Let ``name`` mean these models, each with its weight; returns the route.

        ``fallbacks`` are asked in order when a model fails before anything was sent.
        """
        body: Json = {
            "targets": [{"model": model, "weight": weight} for model, weight in targets.items()],
            "fallbacks": list(fallbacks),
        }
        return self.transport.json("PUT", f"/api/v1/routes/{quote(name, safe='')}", json=body)

    def remove_route(self, name: str, owner: str | None = None) -> Json:
        """Remove a route of one's own; an admin may name another ``owner``."""
        path = f"/api/v1/routes/{quote(name, safe='')}"
        return self.transport.json("DELETE", path, params=given({"owner": owner}))

    def explain_route(
        self, text: str, model: str = "auto", task: str = "chat", **more: Any
    ) -> Json:
        """Tell which model would answer ``text`` and why, without asking it.

        ``more`` takes max_latency_ms, min_quality, max_cost, max_tokens, priority, source_lang and
        target_lang.
        """
        body = {"text": text, "model": model, "task": task, **given(more)}
        return self.transport.json("POST", "/api/v1/routes/explain", json=body)

    def feedback(
        self,
        good: bool,
        *,
        model: str | None = None,
        response_id: str | None = None,
        task: str | None = None,
        language: str | None = None,
    ) -> Json:
        """Say whether an answer was good: of a model, or of a stored response.

        Returns:
            ``{"model", "task", "language", "good"}``, what it was noted for.
        """
        body = {"good": good, "model": model, "response_id": response_id, "task": task}
        return self.transport.json(
            "POST", "/api/v1/feedback", json=given({**body, "language": language})
        )
