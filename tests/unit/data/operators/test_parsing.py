from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.data.operators.parsing import Parse
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply
from llmos.data.record import to_record
from llmos.data.trees import Parsed


class Server:
    """Hangs each word below the one before it; a sentence ends at a full stop."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        assert path == "/api/v1/parse"
        self.asked += bodies
        return [{"sentences": [self._parsed(one) for one in self._words(body)]} for body in bodies]

    def _words(self, body: dict[str, Any]) -> list[list[str]]:
        if "words" in body:
            return [body["words"]]
        return [[*part.split(), "."] for part in body["text"].split(".") if part.strip()]

    def _parsed(self, words: list[str]) -> dict[str, Any]:
        told = {"upos": "X", "deprel": "dep", "score": 0.5}
        return {
            "words": [
                {"id": n + 1, "text": word, "head": n, **told} for n, word in enumerate(words)
            ]
        }


def parsed(records: list[Record], **options: Any) -> tuple[Any, Server]:
    server, operator = Server(), Parse(model="parser:1", **options)
    operator.ask = server.ask
    return apply([operator], records), server


def test_each_sentence_of_a_text_has_its_columns() -> None:
    done, server = parsed([Record("1", {"text": "Li sings. We go."}), Record("2", {"text": " "})])
    trees = [one.fields["trees"] for one in done.records]
    assert trees[0] == [
        {
            "tokens": ["Li", "sings", "."],
            "upos": ["X"] * 3,
            "heads": [0, 1, 2],
            "deprel": ["dep"] * 3,
        },
        {"tokens": ["We", "go", "."], "upos": ["X"] * 3, "heads": [0, 1, 2], "deprel": ["dep"] * 3},
    ]
    assert trees[1] == []
    assert server.asked == [{"model": "parser:1", "text": "Li sings. We go."}]


def test_words_that_were_cut_before_are_taken_as_they_are() -> None:
    done, server = parsed([Record("1", {"cut": ["小猫", " ", "睡"]})], field="cut", into=None)
    assert server.asked == [{"model": "parser:1", "words": ["小猫", "睡"]}]
    (record,) = done.records
    row = to_record("parse", record.fields, "a row")
    assert row == Parsed(("小猫", "睡"), (0, 1), ("dep", "dep"), ("X", "X"))


def test_a_record_of_several_sentences_has_no_one_tree() -> None:
    records = [Record(str(at), {"text": text}) for at, text in enumerate(["a. b.", "", "c."])]
    done, _ = parsed(records, into=None)
    assert [one.id for one in done.records] == ["2"]
    reasons = {row["id"]: row["reason"] for row in done.outcome.rejected}
    assert "has 2 sentences, not one" in reasons["0"] and "has 0 sentences" in reasons["1"]
