"""The part of the client that has rows labelled: tasks, items one by one, agreement, datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmos.sdk.asking import given
from llmos.sdk.transport import Json, Transport

_TASKS = "/api/v1/annotation/tasks"


class Annotating:
    """Runs and works on the labelling tasks of the server behind ``transport``."""

    transport: Transport

    def annotations(self) -> list[Json]:
        """The tasks that one runs or annotates, the newest first."""
        return self.transport.list("GET", _TASKS)

    def annotation(self, task: int) -> Json:
        """One task, with how far it is and how far oneself is (``own``).

        Raises:
            AnnotationNotFoundError: there is none that one runs or annotates.
        """
        return self.transport.json("GET", f"{_TASKS}/{task}")

    def annotate(
        self, name: str, dataset: str, kind: str, fields: Sequence[str], **options: Any
    ) -> Json:
        """Have rows of a dataset labelled; returns the task, whose ``job`` reads the rows.

        Args:
            kind: classification, spans, pairs, rating or text.
            fields: what annotators see; spans are marked in the first; of pairs the two answers.
            options: labels, several, least, most, ties, prompt, into, instructions, consent,
                overlap, annotators, order, rows, seed and lease_s, see docs/annotation.md.
        """
        body = {"name": name, "dataset": dataset, "kind": kind, "fields": list(fields)}
        return self.transport.json("POST", _TASKS, json=given(body | options))

    def change_annotation(self, task: int, **changes: Any) -> Json:
        """Change ``annotators``, ``instructions``, or whether it is ``closed``."""
        return self.transport.json("PATCH", f"{_TASKS}/{task}", json=given(changes))

    def remove_annotation(self, task: int) -> Json:
        """Remove a task with its labels; datasets made of them stay."""
        return self.transport.json("DELETE", f"{_TASKS}/{task}")

    # -- annotators ------------------------------------------------------------------------------

    def consent_to_annotation(self, task: int, agree: bool = True) -> Json:
        """Agree to what a task asks annotators to; or agree no more, and then one's labels there
        count no more."""
        return self.transport.json("POST", f"{_TASKS}/{task}/consent", json={"agree": agree})

    def next_item(self, task: int) -> Json | None:
        """An item to label, one's own for a while: ``{"place", "shown", "suggestion",
        "leased_until", …}``; the one that was given before, if it was not answered. None: there is
        none for oneself now."""
        item: Json | None = self.transport.json("POST", f"{_TASKS}/{task}/next")["item"]
        return item

    def label_item(
        self,
        task: int,
        place: int,
        value: Any = None,
        *,
        skip: bool = False,
        flag: str | None = None,
    ) -> Json:
        """Label an item that one was given, or skip it; once more to change that.

        Args:
            value: as the task's kind has it: a label or a list of them; spans ``{"start", "end",
                "label"}``; "first", "second" or "tie"; a number; a text.
            flag: what is wrong with the item, for a reviewer.
        """
        body = {"place": place, "value": value, "skip": skip, "flag": flag}
        return self.transport.json("POST", f"{_TASKS}/{task}/labels", json=given(body))

    def labels(self, task: int, *, limit: int = 100, before: int | None = None) -> list[Json]:
        """Labels, all there ever were, the newest first: one's own, or all of a task one runs; at
        most ``limit`` (1 to 1000) with ids below ``before``."""
        params = given({"limit": limit, "before": before})
        return self.transport.list("GET", f"{_TASKS}/{task}/labels", params=params)

    # -- who runs it -----------------------------------------------------------------------------

    def items_to_review(self, task: int, undecided: bool = False) -> Iterator[Json]:
        """Yield the items that want a reviewer: those that were flagged, or on which annotators
        differ; ``undecided``: without those that most agree on."""
        params: Json = {"undecided": undecided}
        while True:
            page = self.transport.json("GET", f"{_TASKS}/{task}/review", params=params)
            yield from page["data"]
            if page["next"] is None:
                return
            params["after"] = page["next"]

    def decide_item(self, task: int, place: int, value: Any) -> Json:
        """Decide an item as its reviewer, whatever annotators said."""
        body = {"place": place, "value": value}
        return self.transport.json("POST", f"{_TASKS}/{task}/final", json=body)

    def agreement(self, task: int) -> Json:
        """How far annotators agree: kappas and alphas, of spans F1."""
        return self.transport.json("GET", f"{_TASKS}/{task}/agreement")

    def suggest_labels(self, task: int, model: str) -> Json:
        """Start having a model label the items first; returns the job."""
        return self.transport.json("POST", f"{_TASKS}/{task}/suggest", json={"model": model})

    def export_labels(
        self, task: int, name: str, *, partial: bool = False, description: str = ""
    ) -> Json:
        """Start making a dataset of what was decided; returns the job.

        Args:
            partial: also of items that have not all their labels.
        """
        body = {"name": name, "partial": partial, "description": description}
        return self.transport.json("POST", f"{_TASKS}/{task}/export", json=body)
