"""Operators that have a model write what is learned from: its answers are agreed on or judged, what
is no good is dropped with why, and the rows are those that recipes take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmos.data.operators.dedup import ExactDedup
from llmos.data.operators.instruct import Instruct
from llmos.data.operators.preferences import Preferences
from llmos.data.operators.prompts import filled
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import Applied, apply
from llmos.data.record import to_record
from llmos.errors import DataError, PipelineError


class Model:
    """Answers by a function of what it is asked, which it remembers."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked: list[dict[str, Any]] = []

    def __call__(self, path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
        assert path == "/v1/chat/completions"
        self.asked += bodies
        return [
            {"choices": [_choice(text) for text in self._answer(body["messages"][-1]["content"])]}
            for body in bodies
        ]


def _choice(text: str) -> dict[str, Any]:
    reason = "length" if text.endswith("…") else "stop"
    return {"message": {"content": text}, "finish_reason": reason}


def run(operator: Any, model: Model, *fields: dict[str, Any]) -> Applied:
    operator.ask = model
    return apply([operator], [Record(str(n), dict(row)) for n, row in enumerate(fields)])


def reasons(done: Applied) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in done.outcome.dropped}


def by_length(asked: str) -> list[str]:
    if asked.startswith("Write one question"):
        return ["" if "void" in asked else f"What is {asked[-3:]}?"]
    return ["It is so.", "it is so", "No."] if "abc" in asked else ["Yes.", "No.", "Perhaps…"]


def test_the_answer_that_most_give_is_kept() -> None:
    model = Model(by_length)
    done = run(
        Instruct(model="m", samples=3, agree=0.6),
        model,
        {"text": "abc"},
        {"text": "xyz"},
        {"text": "void"},
    )
    (made,) = done.records
    assert made.fields["messages"] == [
        {"role": "user", "content": "What is abc?"},
        {"role": "assistant", "content": "It is so."},
    ]
    assert made.fields["text"] == "abc" and made.id == "0"
    assert made.meta["synthesise"] == {"by": "instruct", "agreed": 0.667}
    assert reasons(done) == {
        "1": "no agreement: 1 of 3 answers say the same",
        "2": "no question: the model asked none",
    }
    to_record("chat", made.fields, "row")
    assert [body.get("n") for body in model.asked] == [None, None, None, 3, 3]
    assert len({body["seed"] for body in model.asked}) == 5
    assert all(0 <= body["seed"] < 2**63 for body in model.asked)


def test_questions_may_be_the_records_own() -> None:
    model = Model(lambda asked: [asked.upper()])
    operator = Instruct(
        model="m", question=None, answer="{ask} {n} {{x}}", prompt="{ask}", system="Be short."
    )
    done = run(operator, model, {"ask": "why", "n": 3}, {"n": 4})
    assert [turn["content"] for turn in done.records[0].fields["messages"]] == ["why", "WHY 3 {X}"]
    assert model.asked[0]["messages"][0] == {"role": "system", "content": "Be short."}
    assert done.outcome.rejected[0]["reason"] == "the template has {ask}, but the record only n"
    again = run(operator, model, {"ask": "why", "n": 1, "messages": []})
    assert "already" in again.outcome.rejected[0]["reason"]


def test_what_is_compared_may_be_a_part_of_the_answer() -> None:
    answers = ["2 and 2, so Answer: 4.", "Answer: 5", "Surely Answer: 3. No, Answer: 4", "none"]
    operator = Instruct(
        model="m",
        question=None,
        answer="{q}",
        prompt="{q}",
        samples=4,
        compare=r"Answer: ([0-9]+)",
    )
    done = run(operator, Model(lambda asked: answers), {"q": "2 + 2"})
    assert done.records[0].fields["messages"][1]["content"] == answers[0]
    assert done.records[0].meta["synthesise"]["agreed"] == 0.5


def test_the_same_conversations_are_found_by_the_dedup_operators() -> None:
    operator = Instruct(model="m", question=None, answer="{q}", prompt="{q}")
    operator.ask = Model(lambda asked: ["yes"])
    records = [Record(str(n), {"q": "same"}) for n in range(3)]
    done = apply([operator, ExactDedup(fields=["messages"])], records)
    assert [one.id for one in done.records] == ["0"]


def test_most_are_chosen_and_fewest_rejected() -> None:
    sets = {"a": ["Four", "four.", "Five"], "b": ["x", "x", "X."], "c": ["1", "2", "3"]}
    operator = Preferences(model="m", prompt="{text}", samples=3)
    done = run(operator, Model(lambda asked: sets[asked]), *({"text": one} for one in "abc"))
    (made,) = done.records
    assert (made.fields["chosen"], made.fields["rejected"]) == ("Four", "Five")
    to_record("preferences", made.fields, "row")
    assert reasons(done) == {
        "1": "no preference: no answer stands out",
        "2": "no agreement: 33% of the answers say the same",
    }


def test_a_judge_tells_the_better_answer() -> None:
    marks = {"good": "9", "bad": "I give it 2.", "odd": "hm", "fair": "100"}

    def answer(asked: str) -> list[str]:
        if asked.startswith("Below"):
            return [marks[asked.rsplit(" ", 1)[1]]]
        return ["good", "bad", "good"] if "1" in asked else ["odd", "fair", "cut…"]

    model = Model(answer)
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ask 1"},
        {"role": "assistant", "content": "old"},
    ]
    other = [{"role": "user", "content": "ask 2"}]
    operator = Preferences(model="m", judge="j", samples=3)
    done = run(operator, model, {"messages": turns}, {"messages": other})
    (made,) = done.records
    assert made.fields["messages"] == turns[:2]
    assert (made.fields["chosen"], made.fields["rejected"]) == ("good", "bad")
    assert made.meta["synthesise"] == {"by": "preferences", "marks": [9, 2]}
    assert reasons(done) == {"1": "no preference: the judge gave no mark"}
    judged = [body for body in model.asked if body["model"] == "j"]
    assert len(judged) == 4 and all(body["temperature"] == 0 for body in judged)
    assert turns[2]["content"] == "old"
    missing = run(Preferences(model="m"), model, {"text": "x"})
    assert "set `prompt`" in missing.outcome.rejected[0]["reason"]


def test_braces_name_fields_and_nothing_of_python() -> None:
    assert filled("{a} {{b}} {", {"a": "{b}"}) == "{b} {b} {"
    with pytest.raises(DataError, match="only a"):
        filled("{b}", {"a": "x"})
    assert filled("{a.__class__}", {"a": "x"}) == "{a.__class__}"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("instruct", {"question": None}, "there is no {question}"),
        ("instruct", {"prompt": "Hello"}, "needs the name of a field"),
        ("instruct", {"compare": "("}, "no regular expression"),
        ("instruct", {"compare": "x"}, "put what is compared in parentheses"),
        ("preferences", {"samples": 1}, "samples: "),
        ("preferences", {"judging": "Good?"}, "judging needs {answer}"),
        ("preferences", {"prompt": "Hi"}, "prompt needs the name"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        make_operator(name, {"model": "m", **options}, 0)
    assert said in str(caught.value)
