from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.models.words import UPOS
from llmos.tasks.parse import Word, parse_text, parse_words
from llmos.tasks.rows import Terms
from llmos.types import PipelineOut, PipelineWork, Priority

ServedBy = Callable[..., Any]
LABELS = ["root", "dep"]
TERMS = Terms(Priority.BATCH, "ann", 5000)


async def opened(served_by: ServedBy) -> tuple[Any, Any, Any]:
    """Return a parser for which each word hangs below the one before it."""

    def pipeline(work: PipelineWork) -> PipelineOut:
        count = len(served.tokenizer.decode(work.input_ids).split())
        heads, relations = range(count), [int(at > 0) for at in range(count)]
        tags = [UPOS.index("NOUN")] * count
        return PipelineOut((*heads, *relations, *tags), (tuple(1 / (1 + at) for at in heads),))

    context, served, fake = await served_by(
        "byte_level", "parse", pipeline=pipeline, labels=LABELS, context_tokens=40
    )
    return context, served, fake


async def test_words_of_each_sentence_stand_where_they_are_in_the_text(
    served_by: ServedBy,
) -> None:
    context, served, fake = await opened(served_by)
    text = " It's late.  We sing!"
    found = await parse_text(context, served, text, TERMS)
    assert [[word.text for word in one] for one in found] == [
        ["It", "'s", "late", "."],
        ["We", "sing", "!"],
    ]
    assert all(text[word.start : word.end] == word.text for one in found for word in one)
    assert found[1][1] == Word(2, "sing", "NOUN", 1, "dep", 0.5, 16, 20)
    read = sorted(served.tokenizer.decode(work.input_ids) for work in fake.works)
    assert read == ["It 's late .", "We sing !"]
    assert {(work.kind, work.priority, work.tenant) for work in fake.works} == {
        ("parse", Priority.BATCH, "ann")
    }


async def test_given_words_are_one_sentence(served_by: ServedBy) -> None:
    context, served, _ = await opened(served_by)
    ((first, second),) = await parse_words(context, served, ["小猫", "睡"], TERMS)
    assert first == Word(1, "小猫", "NOUN", 0, "root", 1.0)
    assert (second.head, second.deprel, second.start) == (1, "dep", None)


@pytest.mark.parametrize(
    ("text", "reason"), [(" \n", "empty"), ("小猫睡觉。", "give its `words`"), ("ok 猫", "words")]
)
async def test_a_text_whose_words_are_not_known_is_refused(
    served_by: ServedBy, text: str, reason: str
) -> None:
    context, served, _ = await opened(served_by)
    with pytest.raises(InvalidRequestError, match=reason):
        await parse_text(context, served, text, TERMS)


async def test_a_sentence_that_is_too_long_is_refused_whole(served_by: ServedBy) -> None:
    context, served, fake = await opened(served_by)
    with pytest.raises(ContextLengthError) as caught:
        await parse_text(context, served, f"Short. {'long ' * 20}", TERMS)
    assert caught.value.param == "text"
    assert fake.works == []


async def test_a_word_that_the_model_reads_as_something_else_is_refused(
    served_by: ServedBy,
) -> None:
    context, served, _ = await served_by(
        "byte_level",
        "parse",
        pipeline=lambda _: PipelineOut((0, 0, 0), ((1.0,),)),
        labels=LABELS,
    )
    with pytest.raises(InvalidRequestError, match="reads 1 words where 2"):
        await parse_words(context, served, ["a", "[SEP]"], TERMS)
