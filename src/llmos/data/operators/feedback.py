"""Judged answers made into what recipes learn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from llmos.data.pipeline.operator import Operator, Options
from llmos.data.pipeline.record import Record
from llmos.library.lessons import Feedback, lesson, verdict


class JudgedOptions(Options):
    into: Literal["chat", "preferences", "generate"] = Field(
        default="chat",
        description="chat: corrections and good answers, for SFT; preferences: an answer and its "
        "correction, for DPO; generate: texts",
    )


class JudgedAnswers(Operator[JudgedOptions]):
    """Makes judged answers what recipes learn from: conversations for SFT, pairs for DPO, or texts.

    A record has a `prompt` (messages or a text), the `text` of an answer, and of what was said of
    it `good` (true or false), `rating` (1 to 5) and `correction`, as `llmos feedback --json` lists
    them. A correction is learned, else a good answer that ended by itself; as a pair, the
    correction beside what it corrects. What teaches nothing is dropped.

    >>> from llmos.data.pipeline.record import Record
    >>> from llmos.data.pipeline.steps import apply
    >>> asked = [{"role": "user", "content": "你是谁？"}]
    >>> said = {"prompt": asked, "text": "I am Starter.", "correction": "我是小林。"}
    >>> done = apply([JudgedAnswers(into="preferences")], [Record("1", said)])
    >>> done.records[0].fields["chosen"], done.records[0].fields["rejected"]
    ('我是小林。', 'I am Starter.')
    >>> tried(JudgedAnswers(), "an answer that nobody judged")
    ['dropped: not judged: it has no prompt']
    """

    name = "judged_answers"
    group = "shape"
    options_type = JudgedOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._teach(record)
            yield record

    def _teach(self, record: Record) -> None:
        prompt, text = record.fields.get("prompt"), record.fields.get("text")
        if prompt is None or not isinstance(text, str):
            missing = "prompt" if prompt is None else "text"
            record.dropped_reason = f"not judged: it has no {missing}"
            return
        given = _feedback(record.fields)
        row = lesson(given, self.options.into)
        if row is None and isinstance(prompt, str) and self.options.into != "generate":
            row = lesson(_feedback(record.fields, _asked(prompt)), self.options.into)
        if row is None:
            record.dropped_reason = f"teaches nothing: there is no {_WANTED[self.options.into]}"
            return
        del row["feedback"]
        record.fields = row


_WANTED = {
    "chat": "correction, and no good answer that ended by itself",
    "preferences": "correction beside another answer",
    "generate": "correction, and no good answer, to a text",
}


def _asked(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


def _feedback(fields: dict[str, Any], prompt: Any = None) -> Feedback:
    """Return a record as feedback; an answer that does not say how it ended, ended by itself."""
    given, correction, good = (fields.get(name) for name in ("rating", "correction", "good"))
    rating = None
    if isinstance(given, int | float) and not isinstance(given, bool):
        rating = int(given)
    correction = correction if isinstance(correction, str) else None
    return Feedback(
        id=0,
        answer="",
        model="",
        prompt=fields["prompt"] if prompt is None else prompt,
        text=fields["text"],
        finish_reason=fields.get("finish_reason") or "stop",
        good=verdict(good if isinstance(good, bool) else None, rating, correction),
        rating=rating,
        correction=correction,
        comment=None,
        actor="",
        owner="",
        at=0.0,
    )
