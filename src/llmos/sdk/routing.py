"""The part of the client about which model answers: routes, explanations, verdicts on answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

from llmos.sdk.asking import given
from llmos.sdk.transport import Json, Transport

ROWS_AT_ONCE = 200


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
        good: bool | None = None,
        *,
        model: str | None = None,
        response_id: str | None = None,
        task: str | None = None,
        language: str | None = None,
        rating: int | None = None,
        correction: str | None = None,
        comment: str | None = None,
        choice: int = 0,
    ) -> Json:
        """Say whether an answer was good: of a model, or of a response that was stored or kept.

        Of a kept one (``keep_answers``) more can be said, which is kept with it to be learned from:
        a ``rating`` from 1 to 5, a ``correction`` (what should have been answered), a ``comment``.

        Args:
            choice: which of the answers of the response.

        Returns:
            ``{"model", "task", "language", "good"}``, what it was noted for; of a kept answer with
            the ``id`` of the feedback.

        Raises:
            NotFoundError: the answer was not kept.
        """
        body: Json = {"good": good, "model": model, "response_id": response_id, "task": task}
        body |= {"language": language, "rating": rating, "correction": correction}
        body |= {"comment": comment, "choice": choice or None}
        return self.transport.json("POST", "/api/v1/feedback", json=given(body))

    def teach(self, model: str, rows: Iterable[Mapping[str, Any]]) -> Json:
        """Give rows to be learned by the models of a name, as data files have them: conversations
        (``messages``), two answers (``chosen``, ``rejected``) or texts (``text``). Those that are
        there already are left out, so that a file which has grown can be given again.

        Returns:
            ``{"model", "added", "known"}``.

        Raises:
            DataError: a row is none of these, or teaches nothing; those before it may be taken.
        """
        told: Json = {"model": model, "added": 0, "known": 0}
        left = iter(rows)
        while some := list(islice(left, ROWS_AT_ONCE)):
            first = told["added"] + told["known"] + 1
            body = {"model": model, "rows": some, "first": first}
            came = self.transport.json("POST", "/api/v1/feedback/rows", json=body)
            told = came | {name: told[name] + came[name] for name in ("added", "known")}
        return told

    def feedback_given(
        self, model: str | None = None, *, limit: int = 100, before: int | None = None
    ) -> list[Json]:
        """What was said of answers, the newest first: of those of a model or of one version of it;
        at most ``limit`` (1 to 1000) with ids below ``before``."""
        params = {"model": model, "limit": limit, "before": before}
        return self.transport.list("GET", "/api/v1/feedback", params=given(params))

    def forget_feedback(self, feedback_id: int) -> Json:
        """Forget a piece of feedback; models that have learned it stay as they are."""
        return self.transport.json("DELETE", f"/api/v1/feedback/{feedback_id}")
