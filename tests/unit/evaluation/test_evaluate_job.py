"""The evaluate job: what it is asked for, what it asks, and how the answers are scored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import CancelledError, DataError, InvalidRequestError, JobFailedError
from llmos.evaluation import handler
from llmos.evaluation.asking import WINDOW, Ask, ask_all
from llmos.evaluation.jobs import validate
from llmos.kernel.protocol import Answer
from llmos.storage.blobs import BlobStore

DIGEST = "sha256:" + "0" * 64
GOOD: dict[str, Any] = {"model": "m:1", "task": "classify", "data": {"dir/news.jsonl": DIGEST}}
Body = dict[str, Any]


class Context:
    """What the handler uses of a job's context; ``answer`` says what the server answers."""

    def __init__(self, blobs: BlobStore, params: Body, answer: Callable[[str, Body], Any]) -> None:
        self.blobs, self.params = blobs, params
        self.asked: list[tuple[str, Body]] = []
        self.steps: list[tuple[int, int]] = []
        self.lines: list[str] = []
        self.is_cancelled = False
        self._answer = answer

    def ask(self, path: str, body: bytes | None = None) -> Future[Answer]:
        given = json.loads(body or b"null")
        self.asked.append((path, given))
        answer = self._answer(path, given)
        future: Future[Answer] = Future()
        if not isinstance(answer, Answer):
            answer = Answer(200, json.dumps(answer).encode())
        future.set_result(answer)
        return future

    def progress(self, step: int, total: int, message: str = "") -> None:
        self.steps.append((step, total))

    def log(self, line: str) -> None:
        self.lines.append(line)

    def wait_while_paused(self) -> None:
        pass

    def raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            raise CancelledError


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that evaluates on a file and returns the result's summary."""

    def run(
        task: str, name: str, text: str, answer: Callable[[str, Body], Any], **more: Any
    ) -> Any:
        blobs = BlobStore(tmp_path / "blobs")
        digest = blobs.put_bytes(text.encode()).digest
        params = validate({"model": "m:1", "task": task, "data": {name: digest}, **more})
        run.context = Context(blobs, params, answer)  # type: ignore[attr-defined]
        return handler.run(run.context).summary  # type: ignore[attr-defined]

    return run


# -- what is asked for -----------------------------------------------------------------------------


def test_a_dataset_is_named_after_its_file_unless_told() -> None:
    assert validate(GOOD) == {
        "model": "m:1",
        "task": "classify",
        "data": {"dir/news.jsonl": DIGEST},
        "dataset": "news",
        "rows": None,
        "fields": {},
    }
    assert validate(GOOD | {"dataset": "held-out"})["dataset"] == "held-out"
    assert validate(GOOD | {"data": {"a.b": DIGEST}})["dataset"] == "a.b"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"task": "speak"}, "model"),
        ({"data": {}}, "data"),
        ({"data": {"a": DIGEST, "b": DIGEST}}, "data"),
        ({"data": {"a": "sha256:1"}}, "data"),
        ({"dataset": "a/b"}, "dataset"),
        ({"dataset": 3}, "dataset"),
        ({"rows": 0}, "rows"),
        ({"rows": True}, "rows"),
        ({"fields": ["text"]}, "fields"),
        ({"fields": {"words": "text"}}, "fields"),
        ({"speed": 1}, "speed"),
    ],
)
def test_what_means_nothing_is_refused_with_its_field(change: Body, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(GOOD | change)
    assert caught.value.param == param


# -- what is asked, and the scores -----------------------------------------------------------------


def test_labels_are_held_against_the_gold_ones(measured: Callable[..., Any]) -> None:
    rows = [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("awful", "neg")]
    text = "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows)

    def answer(path: str, body: Body) -> Any:
        assert (path, body["model"]) == ("/api/v1/classify", "m:1")
        return {"label": "neg" if body["text"] in ("bad", "fine", "awful") else "pos"}

    found = measured("classify", "x.jsonl", text, answer)
    assert (found["dataset"], found["rows"]) == ("x", 4)
    assert found["metrics"]["accuracy"] == 0.75
    assert found["metrics"]["f1_by_class"] == {"neg": 0.8, "pos": pytest.approx(2 / 3)}


def test_only_the_first_rows_are_used_and_fields_are_renamed(measured: Callable[..., Any]) -> None:
    text = "satz\tklasse\na\tx\nb\ty\n"
    fields = {"text": "satz", "label": "klasse"}
    found = measured("classify", "x.tsv", text, lambda *_: {"label": "x"}, rows=1, fields=fields)
    assert (found["rows"], found["metrics"]["accuracy"]) == (1, 1.0)


def test_entities_count_when_place_and_label_match(measured: Callable[..., Any]) -> None:
    entity = {"start": 0, "end": 5, "label": "PERSON"}
    row = {"text": "Alice in Paris", "entities": [entity, {"start": 9, "end": 14, "label": "CITY"}]}
    said = [{"text": "Alice", **entity, "score": 1.0}, {"start": 9, "end": 14, "label": "PERSON"}]
    found = measured("entities", "x.jsonl", json.dumps(row), lambda *_: {"entities": said})
    assert found["metrics"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_translations_are_scored_by_direction(measured: Callable[..., Any]) -> None:
    rows = [
        {"source": "你好，世界！", "target": "Hello, world! How are you", "source_lang": "zh",
         "target_lang": "en"},
        {"source": "Good", "target": "好", "source_lang": "en", "target_lang": "zh"},
        {"source": "Bad", "target": "坏", "source_lang": "en", "target_lang": "zh"},
    ]  # fmt: skip
    said = {"你好，世界！": "Hello, world! How are you", "Good": "好", "Bad": "好"}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found = measured("translate", "x.jsonl", text, lambda _, body: {"text": said[body["text"]]})
    assert found["metrics"]["bleu_zh_en"] == pytest.approx(100.0)
    assert found["metrics"]["bleu_en_zh"] < 100
    assert "tok:zh" in found["metrics"]["bleu_en_zh_signature"]
    assert found["metrics"]["exact_match"] == pytest.approx(2 / 3)


def test_perplexity_is_that_of_every_token_but_the_first_of_each_piece(
    measured: Callable[..., Any],
) -> None:
    def answer(path: str, body: Body) -> Any:
        if path == "/tokenize":
            return {"tokens": [ord(char) for char in body["text"]], "max_model_len": 4}
        assert (body["echo"], body["max_tokens"], len(body["prompt"]) <= 4) == (True, 0, True)
        text = "".join(map(chr, body["prompt"]))
        told: Body = {"token_logprobs": [None] + [-2.0] * (len(text) - 1)}
        told["text_offset"] = [*range(len(text))]
        return {"choices": [{"text": text, "logprobs": told}]}

    found = measured("chat", "x.txt", "abcdefghi", answer)  # pieces of 4, 4 and 1
    assert found["metrics"] == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.e**2),
        "bits_per_character": pytest.approx(2 / math.log(2)),
        "tokens": 6,
    }
    with pytest.raises(DataError, match="too short"):
        measured("generate", "x.txt", "a", answer)


@pytest.mark.parametrize(
    ("task", "name", "text", "said"),
    [("classify", "x.txt", "words", "measured on rows"), ("classify", "x.jsonl", "{}", "no 'text'"),
     ("generate", "x.jsonl", "\n\n ", "is empty"), ("embed", "x.txt", "words", "measured on rows"),
     ("word_vectors", "x.txt", ": capitals\na b c d\na b c\n", "line 3 has 3 words"),
     ("rate", "x.tsv", "text\tscore\ngood\tfine\n", "must be a number"),
     ("rerank", "x.jsonl", '{"query": "q", "documents": ["a"], "relevant": [1]}',
      "places from 0 to 0"),
     ("rerank", "x.jsonl", '{"query": "q", "documents": ["a"], "relevant": []}', "needs lists"),
     ("embed", "x.jsonl", '{"anchor": "a", "positive": "b", "score": 1}\n{"anchor": "a", '
      '"positive": "b"}', "one kind")],
)  # fmt: skip
def test_a_file_that_is_not_of_the_task_is_refused(
    measured: Callable[..., Any], task: str, name: str, text: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        measured(task, name, text, lambda *_: None)


# -- asking ----------------------------------------------------------------------------------------


def test_answers_come_in_order_with_a_bounded_number_under_way(tmp_path: Path) -> None:
    context = Context(BlobStore(tmp_path), {}, lambda _, body: body)
    asks = [Ask("/x", {"n": number}) for number in range(3 * WINDOW)]
    answers = ask_all(context, asks)  # type: ignore[arg-type]
    assert next(answers) == {"n": 0}
    assert len(context.asked) == WINDOW
    assert [answer["n"] for answer in answers] == list(range(1, 3 * WINDOW))
    assert context.steps[-1] == (3 * WINDOW, 3 * WINDOW)


def test_a_busy_server_is_asked_again_and_a_refusal_fails_the_job(tmp_path: Path) -> None:
    said = [Answer(429, b"", retry_after_s=0.0), Answer(503, b"", retry_after_s=0.0), {"n": 1}]
    context = Context(BlobStore(tmp_path), {}, lambda *_: said.pop(0))
    assert list(ask_all(context, [Ask("/x", {})])) == [{"n": 1}]  # type: ignore[arg-type]
    said.append(Answer(400, b'{"error": "no"}'))
    with pytest.raises(JobFailedError, match=r"question 1 to /x was answered 400: .*no"):
        list(ask_all(context, [Ask("/x", {})]))  # type: ignore[arg-type]
    said.append(Answer(401, b'{"error": {"message": "the key was revoked", "param": null}}'))
    with pytest.raises(JobFailedError, match=r"was answered 401: the key was revoked$"):
        list(ask_all(context, [Ask("/x", {})]))  # type: ignore[arg-type]


def test_a_cancelled_job_stops_asking(tmp_path: Path) -> None:
    context = Context(BlobStore(tmp_path), {}, lambda *_: {})
    context.is_cancelled = True
    with pytest.raises(CancelledError):
        list(ask_all(context, [Ask("/x", {})]))  # type: ignore[arg-type]
