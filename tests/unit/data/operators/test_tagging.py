from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.data.operators.segment import Words
from llmos.data.operators.tagging import Tag
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply
from llmos.errors import ContextLengthError

SPAN = {"text": "Li", "label": "PERSON", "start": 0, "end": 2}


class Server:
    """Finds one name in a text, and reads none of over 20 characters."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []

    def ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        assert path == "/api/v1/entities"
        self.asked.append([*bodies])
        if any(len(body["text"]) > 20 for body in bodies):
            raise ContextLengthError("too long", param="text")
        return [{"entities": [{**SPAN, "score": 0.7}]} for _ in bodies]


def test_a_batch_is_asked_at_once_and_empty_texts_are_not() -> None:
    server, operator = Server(), Tag(model="tagger:1", into="names")
    operator.ask = server.ask
    records = [Record("1", {"text": "Li sings."}), Record("2", {"text": " "})]
    done = apply([operator], records).records
    assert [one.fields["names"] for one in done] == [[SPAN], []]
    assert server.asked == [[{"model": "tagger:1", "text": "Li sings."}]]


def test_a_text_that_cannot_be_read_is_rejected_alone() -> None:
    operator = Tag(model="tagger:1")
    operator.ask = Server().ask
    texts = ["Li sings.", "Li sings a very long song.", "Li"]
    records = [Record(str(number), {"text": text}) for number, text in enumerate(texts)]
    done = apply([operator], records)
    assert [one.fields["entities"] for one in done.records] == [[SPAN], [SPAN]]
    assert [(row["id"], row["reason"]) for row in done.outcome.rejected] == [("1", "too long")]


def test_words_may_be_a_model_s() -> None:
    operator = Words(model="words:1", into=None)
    operator.ask = Server().ask
    (done,) = apply([operator], [Record("1", {"text": "Li sings."})]).records
    assert done.text() == "Li"
