"""`llmos data annotate`: what is typed is sent as labels, and items are shown as one can label
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self

import pytest
import typer
from click.testing import CliRunner

from llmos.cli import annotate, annotate_runs, main
from llmos.cli.annotate import choices, ordered, parsed, show_item, told
from llmos.cli.annotate_runs import _scale
from llmos.data.annotation.scheme import checked_value, scheme_of

CLASSES = scheme_of(
    {"kind": "classification", "fields": ["text"], "labels": ["good", "坏"]}
).to_dict()
SPANS = scheme_of({"kind": "spans", "fields": ["text"], "labels": ["NAME", "CITY"]}).to_dict()
PAIR: dict[str, Any] = {"kind": "pairs", "fields": ["one", "two"], "order": ["one", "two"]}
PAIR |= {"prompt": "q", "ties": True, "labels": []}
ITEMS = [
    {
        "place": 4,
        "shown": {"text": "很好看"},
        "suggestion": {"value": "good", "model": "m:1", "confidence": 0.51},
    },
    {"place": 2, "shown": {"text": "dull"}, "suggestion": None},
    {"place": 9, "shown": {"text": "?"}, "suggestion": None},
]
TASK: dict[str, Any] = {
    "id": 1,
    "name": "reviews",
    "scheme": CLASSES,
    "instructions": "Say what it is.",
    "consent": "",
    "state": "open",
    "owner": "admin",
    "created_at": 0.0,
    "dataset": "reviews:1",
    "left_out": {"no text": 2},
    "own": {"labelled": 1, "skipped": 1, "left": 4, "agreed": True},
    "progress": {
        "items": 8,
        "complete": 3,
        "decided": 1,
        "suggested": 8,
        "annotators": [{"annotator": "bob", "labelled": 3, "skipped": 0, "flagged": 1}],
    },
}
AGREEMENT: dict[str, Any] = {
    "items": 8,
    "annotators": 2,
    "same": 0.75,
    "alpha": {"nominal": 0.5},
    "fleiss": {"items": 8, "labels": 2, "kappa": None},
    "cohen": [{"annotators": ["bob", "eve"], "items": 8, "kappa": 0.4567}],
}
LABEL: dict[str, Any] = {
    "id": 5, "place": 4, "annotator": "bob", "role": "label", "skipped": False, "value": "坏",
    "flag": "half", "suggested_by": "m:1", "at": 0.0,
}  # fmt: skip


class Stub:
    """Answers as the server would."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.items: Iterator[Any] = iter(ITEMS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def annotations(self) -> Any:
        return [TASK]

    def annotation(self, task: int) -> Any:
        return TASK

    def annotate(self, *given: Any, **options: Any) -> Any:
        self.sent.append((given, {k: v for k, v in options.items() if v is not None}))
        return {"id": 1, "job": {"id": 7}}

    def job(self, number: int) -> Any:
        result = {"model": "m:1", "suggested": 8, "items": 8, "artifacts": ["made:1"], "rows": 3}
        return {"id": number, "state": "succeeded", "result": result}

    def next_item(self, task: int) -> Any:
        return next(self.items, None)

    def label_item(self, task: int, place: int, value: Any = None, **more: Any) -> Any:
        said = {name: what for name, what in more.items() if what}
        self.sent.append((place, value, said))
        return LABEL

    def labels(self, task: int, limit: int) -> Any:
        return [LABEL, LABEL | {"skipped": True, "role": "final"}]

    def items_to_review(self, task: int, undecided: bool) -> Any:
        return [ITEMS[1] | {"labels": [LABEL, LABEL | {"annotator": "eve", "skipped": True}]}]

    def decide_item(self, *given: Any) -> Any:
        self.sent.append(given)
        return LABEL

    def agreement(self, task: int) -> Any:
        return AGREEMENT

    def suggest_labels(self, *given: Any) -> Any:
        return self.job(1)

    def export_labels(self, *given: Any, **more: Any) -> Any:
        self.sent.append((given, more))
        return self.job(1)

    def consent_to_annotation(self, *given: Any) -> Any:
        self.sent.append(given)

    def change_annotation(self, task: int, **changes: Any) -> Any:
        self.sent.append({name: what for name, what in changes.items() if what is not None})
        return TASK

    def remove_annotation(self, task: int) -> Any:
        self.sent.append(task)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    for module in (annotate, annotate_runs):
        monkeypatch.setattr(module, "open_client", lambda server, home: made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.invoke(["data", "annotate", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_task_is_made_with_what_was_said_and_nothing_else(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(
        capsys, "new", "reviews", "--field", "text", "--labels", "good, 坏", "--annotators", "bob"
    )
    given, options = stub.sent[0]
    assert given == ("reviews", "reviews", "classification", ["text"])
    assert options == {
        "labels": ["good", "坏"],
        "annotators": ["bob"],
        "overlap": 1,
        "order": "random",
        "seed": 0,
        "lease_s": 600.0,
    }
    assert "annotation task 1: 8 items, 2 rows left out" in out
    run(capsys, "new", "r", "--kind", "rating", "--field", "text", "--scale", "-2-2")
    assert (stub.sent[1][1]["least"], stub.sent[1][1]["most"]) == (-2, 2)
    with pytest.raises(typer.BadParameter, match="LEAST-MOST"):
        _scale("low-high")


def test_work_shows_one_item_after_the_other_and_sends_what_is_typed(stub: Stub) -> None:
    command = typer.main.get_command(annotate.app)
    done = CliRunner().invoke(command, ["work", "1"], input="\nnone of these\n2\nf\nno words\n")
    assert done.exit_code == 0, done.output
    assert "Say what it is." in done.output
    assert "m:1 says: good, 51% sure" in done.output
    assert "one of: 1 good, 2 坏" in done.output
    assert "'none of these' is not one of: 1 good" in done.output
    assert stub.sent == [
        (4, "good", {}),
        (2, "坏", {}),
        (9, None, {"skip": True, "flag": "no words"}),
    ]
    assert "3 answered; yours: 1 labelled, 1 skipped\n" in done.output


def test_work_ends_where_one_says_so(stub: Stub) -> None:
    command = typer.main.get_command(annotate.app)
    done = CliRunner().invoke(command, ["work", "1"], input="s\nq\n")
    assert done.exit_code == 0 and stub.sent == [(4, None, {"skip": True})]
    assert "1 answered; yours: 1 labelled, 1 skipped, 4 left" in done.output


def test_items_labels_and_measures_are_shown(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "reviews  classification  good, 坏" in run(capsys, "ls")
    shown = run(capsys, "show", "1")
    assert "reviews:1: 8 items, 3 complete, 1 decided, 8 suggested" in shown
    assert "left out: 2 rows, no text" in shown and "bob" in shown
    assert "item 4" in run(capsys, "next", "1")
    out = run(capsys, "label", "1", "4", "坏", "--flag", "half")
    assert out == "item 4: labelled, label 5\n" and stub.sent == [(4, "坏", {"flag": "half"})]
    assert main.invoke(["data", "annotate", "label", "1", "4"]) == 2
    assert "a label or --skip" in capsys.readouterr().err
    labels = run(capsys, "labels", "1")
    assert "bob (final)" in labels and "坏" in labels
    measured = run(capsys, "agreement", "1")
    assert "8 items with two labels or more, 75.0% of them" in measured
    assert "bob and eve  8      0.457" in measured and "alpha (nominal)" in measured
    assert json.loads(run(capsys, "agreement", "1", "--json")) == AGREEMENT
    review = run(capsys, "review", "1")
    assert "  bob: 坏; flagged: half" in review and "  eve: skipped" in review
    run(capsys, "final", "1", "2", "1")
    assert stub.sent[-1] == (1, 2, "good")
    assert "8 suggestions of m:1 for 8 items" in run(capsys, "suggest", "1", "--model", "m")
    assert "made:1 is ready" in run(capsys, "export", "1", "made", "--partial")
    run(capsys, "change", "1", "--close")
    assert stub.sent[-1] == {"closed": True}
    run(capsys, "consent", "1", "--withdraw")
    assert stub.sent[-1] == (1, False)
    run(capsys, "rm", "1")
    assert stub.sent[-1] == 1


@pytest.mark.parametrize(
    ("scheme", "text", "value"),
    [
        (CLASSES, "2", "坏"),
        (CLASSES | {"several": True}, "1,坏", ["good", "坏"]),
        (CLASSES | {"several": True}, "none", []),
        (SPANS, "0-5=NAME, 7-9=2", [(0, 5, "NAME"), (7, 9, "CITY")]),
        (SPANS, "none", []),
        (PAIR, "0", "tie"),
        (PAIR, "2", "second"),
        (PAIR, "one", "first"),
        (PAIR | {"order": ["two", "one"]}, "2", "first"),
        (PAIR | {"order": ["two", "one"]}, "two", "second"),
        ({"kind": "rating"}, "-2", -2),
        ({"kind": "text"}, "1", "1"),
    ],
)
def test_what_is_typed_is_a_label(scheme: dict[str, Any], text: str, value: Any) -> None:
    made = parsed(scheme, text)
    if scheme["kind"] == "spans":
        assert [(one["start"], one["end"], one["label"]) for one in made] == value
        assert parsed(scheme, told(scheme, made)) == made
    else:
        assert made == value
        assert parsed(scheme, told(scheme, made)) == made


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (PAIR, "first"),
        (CLASSES, "3"),
        (SPANS, "0-5"),
        (SPANS, "a-b=NAME"),
        ({"kind": "rating"}, "good"),
    ],
)
def test_what_is_no_label_is_said_before_anything_is_sent(
    scheme: dict[str, Any], text: str
) -> None:
    with pytest.raises(typer.BadParameter):
        parsed(scheme, text)


def test_every_kind_says_what_may_be_typed_and_that_is_taken() -> None:
    for values, text, shown in (
        ({"kind": "classification", "labels": ["a", "b"]}, "1", {}),
        ({"kind": "classification", "labels": ["a", "b"], "several": True}, "1,2", {}),
        ({"kind": "spans", "labels": ["A"]}, "0-1=1", {}),
        ({"kind": "pairs", "fields": ["one", "two"], "prompt": "p"}, "2", {}),
        ({"kind": "rating"}, "3", {}),
        ({"kind": "text"}, "words", {}),
    ):
        scheme = scheme_of({"fields": ["text"], **values})
        asked = ordered(scheme.to_dict(), 1, 7)
        assert choices(asked)
        checked_value(scheme, {"text": "你好", **shown}, parsed(asked, text))


def test_answers_are_numbered_as_they_are_shown_and_mean_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = set()
    for place in range(20):
        asked = ordered(PAIR, 3, place)
        shown = {"q": "?", "one": "A", "two": "B"}
        suggestion = {"value": "second", "model": "m:1", "confidence": None}
        show_item(asked, {"place": place, "shown": shown, "suggestion": suggestion})
        item, prompt, *answers, says, choice = capsys.readouterr().out.splitlines()
        assert (item, prompt) == (f"item {place}", "  q: ?")
        number = 1 + answers.index("  two: B")
        assert says == f"  m:1 says: {number}" and f"{number} two" in choice
        assert parsed(asked, str(number)) == "second" and parsed(asked, str(3 - number)) == "first"
        seen.add(number)
    assert seen == {1, 2}
