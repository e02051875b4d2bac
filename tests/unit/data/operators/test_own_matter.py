"""Operators of other fields than a text: every record ends somewhere once, and what becomes of it
is its own matter, whatever comes with it and in which order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators.tokens import Tokenize
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe

OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "lessons": ("judged_answers", {"into": "chat"}),
    "pairs": ("judged_answers", {"into": "preferences"}),
    "continued": ("judged_answers", {"into": "generate"}),
    "instruct": ("instruct", {"model": "m", "samples": 3}),
    "preferences": ("preferences", {"model": "m", "prompt": "{text}", "samples": 3}),
    "marked": ("preferences", {"model": "m", "prompt": "{text}", "judge": "j", "samples": 2}),
    "label_check": ("label_check", {"model": "m", "least": 0.5}),
    "entity_swap": ("entity_swap", {"names": {"CITY": ["Rome", "Bonn", "上海"]}, "copies": 2}),
    "conversations": ("conversations", {"to": "openai"}),
    "tokenize": ("tokenize", {"tokenizer": "m"}),
}
SAID = ("Yes.", "yes", "No.", "7", "3 of 10", "")
TEXT = st.sampled_from(["hi", "你好", "It is so.", " ", "", "Paris is large."])
TURN = st.builds(
    lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), TEXT
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT,
        "prompt": st.one_of(TEXT, st.lists(TURN, min_size=1, max_size=3)),
        "good": st.booleans(),
        "rating": st.integers(1, 5),
        "correction": TEXT,
        "label": st.sampled_from(["a", "b"]),
        "entities": st.just([{"start": 0, "end": 2, "label": "CITY"}]),
        "messages": st.lists(TURN, max_size=3),
        "instruction": TEXT,
        "output": TEXT,
        "chosen": TEXT,
        "rejected": TEXT,
    },
)
META = st.sampled_from([{}, {"augment": {"of": "r0", "by": "eda"}}])


def ask(path: str, bodies: Sequence[Any]) -> list[dict[str, Any]]:
    """What models answer that look at nothing but what they are asked, and the seed."""
    return [_answer(path, body) for body in bodies]


def _answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if path == "/api/v1/classify":
        label = "ab"[len(body["text"]) % 2]
        return {"label": label, "scores": {label: 0.4 + len(body["text"]) % 3 / 5}}
    luck = crc32(f"{body['seed']} {body['messages'][-1]['content']}".encode())
    texts = [SAID[(luck >> 3 * number) % len(SAID)] for number in range(body.get("n", 1))]
    return {"choices": [{"message": {"content": one}, "finish_reason": "stop"} for one in texts]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The files of a tokenizer."""
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_byte_bpe(["It is so.", "你好"], specials_of("generate"), 300, Splitting())
    tokenizer.save(str(made / "tokenizer.json"))
    (made / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return made


@pytest.mark.parametrize("name", OPERATORS)
@given(
    rows=st.lists(st.tuples(FIELDS, META), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_what_becomes_of_a_record_is_its_own_matter(
    name: str, folder: Any, rows: list[tuple[dict[str, Any], dict[str, Any]]], order: random.Random
) -> None:
    kind, options = OPERATORS[name]
    operator = make_operator(kind, options, 3)
    operator.ask = ask
    if isinstance(operator, Tokenize):
        operator.models = {"m": folder}

    def found(numbers: Sequence[int]) -> dict[str, Any]:
        records = [Record(f"r{one}", dict(rows[one][0]), dict(rows[one][1])) for one in numbers]
        done = apply([operator], records)
        ended = [one.to_row() for one in done.records]
        ended += [*done.outcome.dropped, *done.outcome.rejected]
        by_id = {row["id"]: row for row in ended}
        assert len(by_id) == len(ended) and {f"r{one}" for one in numbers} <= set(by_id)
        return by_id

    numbers = list(range(len(rows)))
    together = found(numbers)
    order.shuffle(numbers)
    assert found(numbers) == together
    alone: dict[str, Any] = {}
    for one in numbers:
        alone |= found([one])
    assert alone == together
