"""The operator that hides personal data tells nothing of it by the side."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmos.data.operators.anonymise import Anonymise
from llmos.data.pii.replacing import KEY_FILE
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply
from llmos.errors import PipelineError

TEXT = "Ask Anna Schmidt, anna@example.org or anna@example.org."
KEY = "0123456789abcdef0123456789abcdef"


def test_what_was_found_is_counted_in_the_meta() -> None:
    (record,) = apply([Anonymise()], [Record("1", {"text": TEXT})]).records
    assert record.meta == {"personal_data": {"EMAIL": 2, "NAME": 1}}
    (again,) = apply([Anonymise()], [record]).records
    assert again.meta == record.meta and again.text() == record.text()


def test_messages_are_each_anonymised() -> None:
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "我叫陈建军"}]
    operator = Anonymise(field="messages")
    (record,) = apply([operator], [Record("1", {"messages": turns})]).records
    assert [turn["content"] for turn in record.fields["messages"]] == [
        "Ask [NAME], [EMAIL] or [EMAIL].", "我叫[NAME]",
    ]  # fmt: skip
    assert record.meta["personal_data"] == {"EMAIL": 2, "NAME": 2}


def test_a_dropped_record_leaves_no_trace_of_its_text() -> None:
    done = apply([Anonymise(actions={"EMAIL": "drop"})], [Record("1", {"text": TEXT})])
    (row,) = done.outcome.dropped
    assert row["reason"] == "personal data: EMAIL 2"
    assert row["excerpt"] == "Ask [NAME], [EMAIL] or [EMAIL]."


def test_a_model_finds_more_names() -> None:
    asked = []

    def ask(path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        asked.extend((path, body["text"]) for body in bodies)
        return [
            {"entities": [{"label": "PER", "start": 0, "end": 5, "score": 0.9},
                          {"label": "LOC", "start": 6, "end": 8, "score": 0.9}]}
            for _ in bodies
        ]  # fmt: skip

    operator = Anonymise(model="entities")
    operator.ask = ask
    records = [Record(str(n), {"text": text}) for n, text in enumerate(["zorbo is here", " "])]
    assert [one.text() for one in apply([operator], records).records] == ["[NAME] is here", " "]
    assert asked == [("/api/v1/entities", "zorbo is here")]


def test_the_key_is_in_no_option_and_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o600)
    monkeypatch.setenv(KEY_FILE, str(path))
    operator = make_operator("anonymise", {"action": "pseudonym"}, 0)
    (record,) = apply([operator], [Record("1", {"text": TEXT})]).records
    told = json.dumps([operator.options.model_dump(mode="json"), record.to_row()])
    assert KEY not in told and str(path) not in told
    assert (
        record.text().count("[EMAIL_") == 2
        and len(set(re.findall(r"\[EMAIL_\w+\]", record.text()))) == 1
    )


def test_without_a_key_pseudonyms_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_FILE, raising=False)
    with pytest.raises(PipelineError, match="LLMOS_PSEUDONYM_KEY_FILE"):
        make_operator("anonymise", {"actions": {"NAME": "surrogate"}}, 0)


def test_a_wrong_type_is_told() -> None:
    with pytest.raises(PipelineError, match="types"):
        make_operator("anonymise", {"types": ["SHOE_SIZE"]}, 0)
