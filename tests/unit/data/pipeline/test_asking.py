"""Operators that ask models: answers in order, busy servers asked again, one bad record alone."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from pydantic import Field

from llmos.data.pipeline.asking import (
    MAX_TRIES,
    WINDOW,
    Asker,
    Question,
    Reply,
)
from llmos.data.pipeline.operator import Batcher, Options, TextOptions
from llmos.data.pipeline.options import ModelName, model_options
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply, tried
from llmos.errors import InvalidRequestError, JobFailedError, PipelineError


class Server:
    """Answers the newest question first; how, ``answer`` says."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._open: deque[Question] = deque()
        self.most_open = self.asked = 0
        self.slept: list[float] = []
        self.ask = Asker(self._take, self._give, self.slept.append)

    def _take(self, question: Question) -> None:
        self._open.append(question)
        self.asked += 1
        self.most_open = max(self.most_open, len(self._open))

    def _give(self) -> Reply:
        question = self._open.pop()
        status, body, *retry = self._answer(json.loads(bytes(question.body)))
        return Reply(question.id, status, json.dumps(body), *retry)


def test_answers_come_in_the_order_of_the_questions() -> None:
    server = Server(lambda body: (200, {"double": 2 * body["n"]}))
    for _ in range(2):
        found = server.ask("/x", [{"n": number} for number in range(3 * WINDOW)])
        assert [one["double"] for one in found] == [2 * n for n in range(3 * WINDOW)]
    assert server.most_open == WINDOW
    assert server.ask("/x", []) == []


def test_a_busy_server_is_asked_again_and_not_for_ever() -> None:
    seen: set[int] = set()

    def busy_once(body: Any) -> Any:
        if body["n"] in seen:
            return 200, body
        seen.add(body["n"])
        return 503, {}, 0.25

    server = Server(busy_once)
    assert [one["n"] for one in server.ask("/x", [{"n": 1}, {"n": 2}])] == [1, 2]
    assert server.slept == [0.25, 0.25]
    always = Server(lambda body: (429, {"error": {"code": "x", "message": "full"}}, 1.0))
    with pytest.raises(Exception, match="full"):
        always.ask("/x", [{"n": 1}])
    assert always.asked == MAX_TRIES


def test_a_refusal_is_the_error_it_was_and_leaves_nothing_behind() -> None:
    def refuses_two(body: Any) -> Any:
        if body["n"] == 2:
            return 400, {"error": {"code": "invalid_request", "message": "too long"}}
        return 200, body

    server = Server(refuses_two)
    with pytest.raises(InvalidRequestError, match="too long"):
        server.ask("/x", [{"n": 1}, {"n": 2}, {"n": 3}])
    assert server.ask("/x", [{"n": 4}]) == [{"n": 4}]
    with pytest.raises(JobFailedError, match="/x was answered 500"):
        Server(lambda body: (500, "no error of ours")).ask("/x", [{}])


class LengthsOptions(TextOptions):
    model: ModelName = Field(description="which counts")
    judge: ModelName | None = None
    others: list[ModelName] = Field(default=[])
    share: float = 0.5


class Lengths(Batcher[LengthsOptions]):
    """Notes how long a model finds each text; drops what is empty."""

    name = "lengths"
    group = "shape"
    options_type: type[Options] = LengthsOptions

    def batch(self, records: list[Record]) -> list[Record]:
        bodies = [{"model": self.options.model, "text": one.text()} for one in records]
        for record, answer in zip(records, self.ask("/lengths", bodies), strict=True):
            record.fields["text"] += f" {answer['length']}"
            if not answer["length"]:
                record.dropped_reason = "empty"
        return [one for one in records if one.id != "7"]


def lengths() -> tuple[Lengths, list[int]]:
    operator, sizes = Lengths(model="m:1"), []

    def ask(path: str, bodies: Any) -> list[dict[str, Any]]:
        sizes.append(len(bodies))
        if any("bad" in body["text"] for body in bodies):
            raise InvalidRequestError("no such text")
        return [{"length": len(body["text"])} for body in bodies]

    operator.ask = ask
    return operator, sizes


def test_records_are_asked_of_together_and_a_bad_one_is_rejected_alone() -> None:
    operator, sizes = lengths()
    texts = ["good", "好", "", "bad", "fine", "x"]
    assert tried(operator, *texts) == [
        "good 4", "好 1", "dropped: empty", "rejected: no such text", "fine 4", "x 1",
    ]  # fmt: skip
    assert sizes == [6, 3, 3, 1, 2]
    operator, sizes = lengths()
    done = apply([operator], [Record(str(n), {"text": "x"}) for n in range(300)])
    assert sizes == [256, 44]
    (tally,) = done.tallies
    assert (tally.read, tally.kept, tally.changed) == (300, 299, 299)
    assert tally.dropped == {"left out": 1}


def test_outside_of_a_job_nobody_answers() -> None:
    assert tried(Lengths(model="m"), "x")[0].startswith("rejected: the operator asks a model")
    with pytest.raises(PipelineError, match="llmos data run"):
        Lengths(model="m").ask("/x", [])


def test_options_that_name_models_are_known() -> None:
    assert model_options(LengthsOptions) == {"model": [], "judge": [], "others": []}
    assert model_options(TextOptions) == {}
