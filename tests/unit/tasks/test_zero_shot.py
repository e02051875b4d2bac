"""Labels that nobody trained for: the nearest, or the one that a text makes likelier."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from llmos.errors import ContextLengthError, InvalidRequestError, UnsupportedTaskError
from llmos.tasks.rows import Terms
from llmos.tasks.zero_shot import ZERO_SHOT_TASKS, classify_by_labels
from llmos.types import GenerateWork, PipelineOut, PipelineWork, Priority, TokenPiece, TokensOut

ServedBy = Callable[..., Any]
TERMS = Terms(Priority.BATCH, "ann")
GOOD, BAD, VERY = 14, 15, 16
"""Ids of the words tokenizer."""


def direction(work: PipelineWork) -> PipelineOut:
    """Good to the east, bad to the north, of length 1."""
    x, y = (work.input_ids.count(word) for word in (GOOD, BAD))
    length = math.hypot(x, y)
    return PipelineOut(vector=array("f", [x / length, y / length]).tobytes())


async def test_the_nearest_description_is_the_label(served_by: ServedBy) -> None:
    recipe = {"contrastive": {"temperature": 0.5}}
    context, served, fake = await served_by("words", "embed", pipeline=direction, recipe=recipe)
    labels = ["bad", "good"]
    done = await classify_by_labels(context, served, "good good bad", labels, "very {}", TERMS)
    assert done.label == "good" and [*done.scores] == ["good", "bad"]
    assert sum(done.scores.values()) == pytest.approx(1)
    gap = (2 - 1) / math.sqrt(5) / 0.5
    assert math.log(done.scores["good"] / done.scores["bad"]) == pytest.approx(gap, rel=1e-5)
    assert {VERY in work.input_ids for work in fake.works} == {True, False}
    assert all(work.tenant == "ann" and work.options["normalize"] for work in fake.works)


def likes(work: GenerateWork) -> Iterable[TokensOut]:
    """What comes after "bad" anywhere: good at 1/2, else at 1/8; all else always at 1/4."""
    pieces = []
    for place in range(1, len(work.prompt_ids)):
        token = work.prompt_ids[place]
        share = (0.5 if BAD in work.prompt_ids[:place] else 0.125) if token == GOOD else 0.25
        pieces.append(TokenPiece(token, math.log(share)))
    yield TokensOut(prompt=tuple(pieces))
    yield TokensOut((TokenPiece(3, -0.5),), "length")


async def test_a_language_model_says_what_a_text_makes_likelier(served_by: ServedBy) -> None:
    context, served, fake = await served_by("words", "generate", tokens=likes)
    labels = ["good", "very"]
    done = await classify_by_labels(context, served, "hello bad", labels, "{}", TERMS)
    assert done.label == "good" and done.score == pytest.approx(4 / 5)
    done = await classify_by_labels(context, served, "hello", labels, "{} good", TERMS)
    assert done.scores == pytest.approx({"good": 0.5, "very": 0.5})
    assert len(fake.works) == 8 and fake.num_cancelled == 0 and fake.num_leases == 0
    assert all(work.tenant == "ann" and work.prompt_logprobs == 0 for work in fake.works)


async def test_a_chat_model_is_asked_in_the_language_of_the_labels(served_by: ServedBy) -> None:
    def even(work: GenerateWork) -> Iterable[TokensOut]:
        pieces = tuple(TokenPiece(token, -1.0) for token in work.prompt_ids[1:])
        yield TokensOut((), "length", prompt=pieces)

    template = "{{ messages[0].content }}|"
    context, served, fake = await served_by(
        "byte_level", "chat", tokens=even, chat_template=template, context_tokens=400
    )
    done = await classify_by_labels(context, served, "今天去", ["天气", "旅行"], "{}", TERMS)
    assert done.scores == pytest.approx({"天气": 0.5, "旅行": 0.5})
    asked = {served.tokenizer.decode(work.prompt_ids) for work in fake.works}
    question = "以下哪一个最合适：天气、旅行？只回答其中一个。"
    assert asked == {
        f"{said}{question}|{label}" for said in ("今天去\n\n", "") for label in ("天气", "旅行")
    }
    await classify_by_labels(context, served, "今天去", ["trip", "news"], "{}", TERMS)
    assert "fits best: trip, news?" in served.tokenizer.decode(fake.works[-1].prompt_ids)


@pytest.mark.parametrize(
    ("text", "labels", "template", "param"),
    [
        (" ", ["good", "bad"], "{}", "text"),
        ("good", ["good", " "], "{}", "labels.1"),
        ("good", ["good", "bad", "good"], "{}", "labels.2"),
        ("good", ["good", "bad"], "about", "template"),
        ("good", ["good", "bad"], "{}" * 500, "template"),
    ],
)
async def test_bad_input_is_refused_by_name(
    served_by: ServedBy, text: str, labels: list[str], template: str, param: str
) -> None:
    context, served, fake = await served_by("words", "embed", pipeline=direction)
    with pytest.raises(InvalidRequestError) as caught:
        await classify_by_labels(context, served, text, labels, template, TERMS)
    assert caught.value.param == param and fake.works == []


async def test_a_text_too_long_for_a_language_model_is_refused(served_by: ServedBy) -> None:
    context, served, fake = await served_by("words", "generate", tokens=likes)
    with pytest.raises(ContextLengthError) as caught:
        await classify_by_labels(context, served, "good " * 64, ["good", "bad"], "{}", TERMS)
    assert caught.value.param == "text" and fake.works == []


async def test_a_classifier_knows_its_own_labels_alone(served_by: ServedBy) -> None:
    context, *_ = await served_by("words", "classify", labels=["a", "b"])
    with pytest.raises(UnsupportedTaskError, match="is a model for 'classify'"):
        await context.serve("m", ZERO_SHOT_TASKS)


async def test_a_model_of_several_tasks_is_served_as_one_of_the_task_asked(
    served_by: ServedBy,
) -> None:
    heads = {"classify": ["a", "b"], "entities": ["O", "B-X"], "embed": []}
    context, served, _ = await served_by(
        "words", "classify", labels=["a", "b"], heads=heads, pipeline=direction
    )
    assert served.manifest.labels == ["a", "b"]
    tagger = await context.serve("m", {"entities"})
    assert (tagger.manifest.task, tagger.manifest.labels) == ("entities", ["O", "B-X"])
    embedder = await context.serve("m", ZERO_SHOT_TASKS)
    done = await classify_by_labels(context, embedder, "good", ["good", "bad"], "{}", TERMS)
    assert done.label == "good"
    with pytest.raises(UnsupportedTaskError, match="'classify', 'entities', 'embed', not for"):
        await context.serve("m", {"rate"})
