"""A field, a label or a task that cannot be is found before a job runs, as far as columns tell."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.data.datasets import jobs
from llmos.data.pipeline import spec as specs
from llmos.data.pipeline.registry import find_operator, operator_paths
from llmos.errors import InvalidRequestError, PipelineError

COLUMNS = {"id": "string", "meta": "json", "body": "string", "age": "integer", "turns": "json"}
DIGEST = "sha256:" + "0" * 64


def version(**columns: str) -> dict[str, Any]:
    told = {"ref": "posts:1", "digest": DIGEST, "rows": 9, "license": "", "shards": [DIGEST]}
    return told | {"columns": columns or COLUMNS}


def check(*steps: Any, **others: Any) -> None:
    spec = specs.parse({"name": "x", "input": "posts", "steps": list(steps)})
    specs.check_fields(spec, specs.steps_of(spec), {"input": version(), **others})


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            ["whitespace"],
            "step 1: whitespace: no row of posts:1 has a field 'text', only body, age",
        ),
        ([{"length": {"field": "age"}}], "'age' of posts:1 holds no text .it is of type integer."),
        ([{"length": {"field": "id"}}], "no row of posts:1 has a field 'id'"),
        ([{"exact_dedup": {"fields": ["body", "bdy"]}}], "a field 'bdy', .*: set `fields`"),
        ([{"k_anonymity": {"fields": ["age"], "sensitive": "ill"}}], "'ill', .*set `sensitive`"),
        ([{"length": {"field": "body"}}, "semantic_dedup"], "step 2: semantic_dedup: no row of"),
        ([{"semantic_dedup": {"field": "body"}}], "holds no lists"),
        (
            [
                {"tokenize": {"tokenizer": "m", "field": "body", "keep_text": False}},
                {"length": {"field": "body"}},
            ],
            "step 2: length: no row of posts:1 has a field 'body', only age, turns, input_ids",
        ),
    ],
)
def test_a_field_that_no_row_has_is_refused(steps: list[Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        check(*steps)


def test_what_steps_add_is_there_behind_them_and_what_nobody_knows_is_left_to_the_job() -> None:
    check({"whitespace": {"field": "turns"}}, {"exact_dedup": {"fields": ["age"]}})
    check({"embed": {"field": "body", "model": "m", "to": "v"}}, {"semantic_dedup": {"field": "v"}})
    check({"sentences": {"field": "body", "into": "s"}}, {"whitespace": {"field": "s"}})
    check({"generalise": {"field": "age", "width": 10}}, {"length": {"field": "age"}})
    check({"tokenize": {"tokenizer": "m", "field": "body"}}, {"pack": {"length": 8}}, "whitespace")
    check("conversations", {"length": {"field": "whatever"}})


def test_a_dataset_to_look_things_up_in_has_the_fields_that_are_named() -> None:
    steps = {"decontaminate": {"field": "body", "datasets": ["quiz"], "fields": ["question"]}}
    check(steps, **{"steps.1.datasets.0": version(question="string")})
    with pytest.raises(PipelineError, match="decontaminate: no row of posts:1 has question"):
        check(steps, **{"steps.1.datasets.0": version(answer="string")})


def test_every_operator_says_what_becomes_of_columns() -> None:
    """Those that do not make rows anew, which only the rows tell of."""
    unknown = {name for name in operator_paths() if find_operator(name).adds is None}
    assert unknown == {"conversations", "judged_answers", "pack", "tokenize"}


@pytest.mark.parametrize("key", ["by", "stratify", "time"])
def test_a_split_by_a_field_that_is_not_there_is_refused(key: str) -> None:
    params = {"input": "posts", "parts": {"a": 0.5, "b": 0.5}, "datasets": {"input": version()}}
    assert jobs.check_split({**params, key: "age"})[key] == "age"
    with pytest.raises(InvalidRequestError, match=f"a field 'agge', only .*: set `{key}`"):
        jobs.check_split({**params, key: "agge"})
    old = {"input": {**version(), "columns": {}}}
    assert jobs.check_split({**params, key: "agge", "datasets": old})[key] == "agge"
