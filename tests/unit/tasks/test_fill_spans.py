"""Spans in place of masks: read as in training, put where they belong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer

from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.errors import InvalidModelError, InvalidRequestError
from llmos.models.sentinels import sentinel
from llmos.tasks.fill_mask import fill_mask
from llmos.tasks.rows import Terms
from llmos.types import PipelineOut, PipelineWork

TEXTS = ["I drink tea every day.", "我每天都喝茶。", "Do you drink coffee, too?"]
SENTINELS = tuple(sentinel(number) for number in range(4))
Make = Callable[..., Any]


def trained(sentinels: Sequence[str] = SENTINELS) -> Tokenizer:
    specials = replace(specials_of("translate"), sentinels=tuple(sentinels))
    return train_byte_bpe(TEXTS * 5, specials, 400, Splitting(cjk=True, punctuation=True))


def writes(text: str, logprob: float = -0.1) -> Callable[[PipelineWork], PipelineOut]:
    """A model that writes this, and its end."""
    ids = trained().encode(text, add_special_tokens=False).ids

    def pipeline(work: PipelineWork) -> PipelineOut:
        assert work.kind == "seq2seq" and work.options["num_beams"] == 1
        return PipelineOut(tuple(ids), ((logprob,) * (len(ids) + 1),))

    return pipeline


async def test_each_mask_gets_its_span_and_the_text_has_them_all(served_by: Make) -> None:
    told = "<extra_id_0> tea<extra_id_1>喝茶<extra_id_2>"
    context, served, fake = await served_by(trained, "fill_mask", pipeline=writes(told))
    text = "I drink [MASK] every day. 我每天都[MASK]。"
    first, second = await fill_mask(context, served, text, 5, Terms())
    assert [fill.token for fill in (*first, *second)] == ["tea", "喝茶"]
    whole = "I drink tea every day. 我每天都喝茶。"
    assert {fill.text for fill in (*first, *second)} == {whole}
    num_tokens = len(trained().encode(" tea", add_special_tokens=False).ids)
    assert first[0].score == pytest.approx(math.exp(-0.1 * (num_tokens + 1)))
    (work,) = fake.works
    named = "I drink<extra_id_0> every day. 我每天都<extra_id_1>。"
    assert work.input_ids == tuple(trained().encode(named).ids)


async def test_what_is_read_is_what_was_trained(served_by: Make) -> None:
    context, served, fake = await served_by(
        trained, "fill_mask", pipeline=writes("<extra_id_0> tea<extra_id_1>")
    )
    await fill_mask(context, served, "I drink [MASK] every day.", 1, Terms())
    tokenizer = trained()
    whole = tokenizer.encode("I drink tea every day.").ids
    gone = tokenizer.encode(" tea", add_special_tokens=False).ids
    start = next(i for i in range(len(whole)) if whole[i : i + len(gone)] == gone)
    name = tokenizer.token_to_id(SENTINELS[0])
    assert list(fake.works[0].input_ids) == [*whole[:start], name, *whole[start + len(gone) :]]


async def test_masks_may_be_sentinels_of_any_number(served_by: Make) -> None:
    told = writes("<extra_id_0> drink<extra_id_1> every<extra_id_2>")
    context, served, fake = await served_by(trained, "fill_mask", pipeline=told)
    texts = ("I [MASK] tea [MASK] day.", "I <extra_id_1> tea <extra_id_0> day.")
    first, second = [await fill_mask(context, served, text, 1, Terms()) for text in texts]
    assert first == second and first[0][0].text == "I drink tea every day."
    assert fake.works[0].input_ids == fake.works[1].input_ids


async def test_a_mask_that_nothing_was_written_for_stays(served_by: Make) -> None:
    told = writes("<extra_id_1>茶")
    context, served, _ = await served_by(trained, "fill_mask", pipeline=told)
    first, second = await fill_mask(context, served, "I drink [MASK]. 我喝[MASK]。", 1, Terms())
    assert first == [] and second[0].token == "茶"
    assert second[0].text == "I drink [MASK]. 我喝茶。"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I drink tea.", r"no \[MASK\]"),
        ("  ", "empty"),
        ("[MASK] a" * 4, "has 4 masks, but m:1 knows 3 in a text"),
        ("[MASK] a" * 33, "33 masks, but one request may have 32"),
    ],
)
async def test_what_cannot_be_filled_is_refused(text: str, says: str, served_by: Make) -> None:
    context, served, fake = await served_by(trained, "fill_mask", pipeline=writes(""))
    with pytest.raises(InvalidRequestError, match=says) as raised:
        await fill_mask(context, served, text, 1, Terms())
    assert raised.value.param == "text" and not fake.works


async def test_a_model_of_neither_masks_nor_sentinels_says_so(served_by: Make) -> None:
    context, served, _ = await served_by(lambda: trained(()), "fill_mask")
    with pytest.raises(InvalidModelError, match="no mask token, and has no sentinels"):
        await fill_mask(context, served, "[MASK]", 1, Terms())
