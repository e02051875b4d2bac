"""Models that a pipeline names are found, made for what is asked of them, and told by version."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmos.apps.data_inputs import models_for
from llmos.errors import InvalidRequestError, PipelineError
from llmos.library.artifacts import Library
from llmos.security.actors import Actor
from llmos.types import FileRef

ADMIN = Actor("k1", "admin", "admin")
TOKENIZER = {"tokenizer.json": FileRef("sha256:" + "1" * 64, 9)}
MODELS: dict[str, dict[str, Any]] = {
    "judge": {"task": "classify", "labels": ["good", "bad"]},
    "both": {"task": "classify", "heads": {"classify": ["a", "b"], "entities": ["X"]}},
    "talker": {"task": "chat", "labels": None},
}


def resolve(name: str, kind: str) -> Any:
    files = TOKENIZER if name == "talker" else {}
    return SimpleNamespace(ref=f"{name}:1", manifest=MODELS[name], files=files)


async def found(*steps: Any, **params: Any) -> dict[str, Any]:
    library = cast(Library, SimpleNamespace(resolve=resolve))
    pipeline = {"name": "x", "input": "y", "steps": list(steps)}
    return await models_for(library, ADMIN, {"pipeline": pipeline, **params})


async def test_models_are_told_by_their_versions_and_the_files_that_are_read() -> None:
    told = await found(
        {"classifier_filter": {"model": "judge", "keep": ["good"]}},
        {"classifier_filter": {"model": "both", "keep": ["b"]}},
        {"tag": {"model": "both"}},
        {"tokenize": {"tokenizer": "talker"}},
    )
    options = [next(iter(step.values())) for step in told["pipeline"]["steps"]]
    assert [one.get("model") for one in options] == ["judge:1", "both:1", "both:1", None]
    assert options[3]["tokenizer"] == "talker:1"
    size = {"digest": "sha256:" + "1" * 64, "size": 9}
    assert told["models"] == {"talker:1": {"tokenizer.json": size}}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            {"classifier_filter": {"model": "talker", "keep": ["good"]}},
            "step 1: classifier_filter: talker:1 is a model for chat, not for classify",
        ),
        ({"paraphrase": {"model": "judge"}}, "for classify, not for chat or generate"),
        ({"embed": {"model": "both"}}, "for classify, entities, not for embed"),
        (
            {"classifier_filter": {"model": "judge", "keep": ["good", "god"]}},
            "judge:1 knows no label 'god', only good, bad: set `keep`",
        ),
        ({"classifier_filter": {"model": "both", "keep": ["X"]}}, "no label 'X', only a, b"),
        ({"tokenize": {"tokenizer": "judge"}}, "judge:1 has no tokenizer.json to read"),
    ],
)
async def test_a_model_that_is_not_made_for_a_step_is_refused(step: Any, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        await found(step)


async def test_files_of_models_are_the_servers_to_name() -> None:
    with pytest.raises(InvalidRequestError, match="the server's to fill in"):
        await found("whitespace", models={})
