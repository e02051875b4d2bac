from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmos.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    UnsupportedTaskError,
)
from llmos.tasks.classify import classify
from llmos.tasks.entities import Entity, entities, spans
from llmos.tasks.rows import Terms
from llmos.tasks.tokenizers import Encoded, Tokenizer
from llmos.tasks.translate import translate
from llmos.types import PipelineOut, PipelineWork, Priority

ServedBy = Callable[..., Any]
PAIRS = [["en", "zh"], ["zh", "en"]]
STANDARD = Terms(Priority.STANDARD, "ann")


def echo(work: PipelineWork) -> PipelineOut:
    return PipelineOut(token_ids=work.input_ids)


async def translated(served_by: ServedBy, text: str, **options: Any) -> str:
    context, served, _ = await served_by(
        "byte_level", "translate", pipeline=echo, translation={"prefix": "", "pairs": PAIRS}
    )
    target = options.pop("target", "en")
    source = "zh" if target == "en" else "en"
    done = await translate(context, served, text, source, target, options=options, terms=STANDARD)
    return done.text


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "One. Two. Three.",
        "One.\n\n  Two.\r\nThree.\n",
        "  indented",
    ],
)
async def test_lines_and_spaces_stay_where_they_were(served_by: ServedBy, text: str) -> None:
    assert await translated(served_by, text) == text


async def test_sentences_are_joined_as_the_target_language_does(served_by: ServedBy) -> None:
    assert await translated(served_by, "One. Two.", target="zh") == "One.Two."
    assert await translated(served_by, "一。二。") == "一。 二。"


async def test_each_sentence_gets_the_prefix_and_the_options(served_by: ServedBy) -> None:
    context, served, fake = await served_by(
        "byte_level",
        "translate",
        pipeline=echo,
        translation={"prefix": "<2{target_lang}> ", "pairs": PAIRS},
        generation={"num_beams": 4, "temperature": 0.5, "max_tokens": 9},
    )
    options = {"num_beams": None, "no_repeat_ngram_size": 3}
    done = await translate(
        context, served, "One. Two.", "en", "zh", options=options, terms=Terms(Priority.BATCH)
    )
    texts = [served.tokenizer.decode(work.input_ids) for work in fake.works]
    assert texts == ["<2zh> One.", "<2zh> Two."]
    assert {work.kind for work in fake.works} == {"seq2seq"}
    assert fake.works[0].options == {"num_beams": 4, "max_tokens": 9, "no_repeat_ngram_size": 3}
    assert fake.works[0].priority == Priority.BATCH
    num_tokens = sum(len(work.input_ids) for work in fake.works)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (num_tokens, num_tokens)


async def test_an_unknown_pair_is_refused_with_those_there_are(served_by: ServedBy) -> None:
    context, served, _ = await served_by(
        "byte_level", "translate", translation={"prefix": "", "pairs": PAIRS}
    )
    with pytest.raises(InvalidRequestError, match="en to fr: it knows en to zh, zh to en"):
        await translate(context, served, "x", "en", "fr", options={}, terms=STANDARD)


async def test_a_model_that_names_no_pairs_takes_any(served_by: ServedBy) -> None:
    context, served, _ = await served_by(
        "byte_level", "translate", pipeline=echo, translation={"prefix": "", "pairs": []}
    )
    done = await translate(context, served, "x", "de", "fr", options={}, terms=STANDARD)
    assert done.text == "x"
    context, served, _ = await served_by("byte_level", "translate")
    with pytest.raises(UnsupportedTaskError, match="does not say"):
        await translate(context, served, "x", "de", "fr", options={}, terms=STANDARD)


async def test_a_long_sentence_is_cut_at_commas_and_else_refused(served_by: ServedBy) -> None:
    context, served, fake = await served_by(
        "characters",
        "translate",
        pipeline=echo,
        translation={"prefix": "", "pairs": []},
        context_tokens=8,
    )
    ask = {"options": {}, "terms": STANDARD}
    done = await translate(context, served, "Hello, world, fox.", "en", "fr", **ask)
    assert done.text == "Hello, world, fox."
    assert len(fake.works) == 3
    with pytest.raises(ContextLengthError, match=r"9 tokens.* 8 at once"):
        await translate(context, served, "quickfox.", "en", "fr", **ask)


async def test_empty_text_is_refused(served_by: ServedBy) -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        await translated(served_by, " \n ")


async def test_an_error_in_one_sentence_is_the_answer(served_by: ServedBy) -> None:
    def fail(work: PipelineWork) -> PipelineOut:
        raise EngineError("gone")

    context, served, fake = await served_by(
        "characters", "translate", pipeline=fail, translation={"prefix": "", "pairs": []}
    )
    with pytest.raises(EngineError, match="gone"):
        await translate(context, served, "a. " * 20, "en", "fr", options={}, terms=STANDARD)
    assert fake.num_leases == 0


async def test_classification_ranks_every_label(served_by: ServedBy) -> None:
    context, served, fake = await served_by(
        "words",
        "classify",
        pipeline=lambda _: PipelineOut(scores=((0.1, 0.7, 0.2),)),
        labels=["negative", "positive", "neutral"],
    )
    done = await classify(context, served, "very good", terms=STANDARD)
    assert (done.label, done.score) == ("positive", 0.7)
    assert list(done.scores) == ["positive", "neutral", "negative"]
    assert fake.works[0].kind == "classify"
    with pytest.raises(InvalidRequestError, match="empty"):
        await classify(context, served, " ", terms=STANDARD)


# -- entities ------------------------------------------------------------------------------------

LABELS = ["O", "B-PERSON", "I-PERSON", "B-LOCATION", "I-LOCATION"]


def one_hot(label: str) -> tuple[float, ...]:
    return tuple(0.9 if name == label else 0.025 for name in LABELS)


def labelled(tokenizer: Tokenizer, text: str, by_token: Sequence[str]) -> list[Entity]:
    encoded = tokenizer.encode_now(text)
    labels = iter(by_token)
    rows = [one_hot("O" if special else next(labels)) for special in encoded.special]
    return spans(text, 0, encoded, rows, LABELS)


def found(entities_: list[Entity]) -> list[tuple[str, str, int]]:
    return [(entity.text, entity.label, entity.start) for entity in entities_]


def test_bio_labels_become_spans(tokenizer_of: Callable[[str], Tokenizer]) -> None:
    text = "Alice flew from Paris to New York ."
    labels = ["B-PERSON", "O", "O", "B-LOCATION", "O", "B-LOCATION", "I-LOCATION", "O"]
    result = labelled(tokenizer_of("words"), text, labels)
    assert found(result) == [
        ("Alice", "PERSON", 0),
        ("Paris", "LOCATION", 16),
        ("New York", "LOCATION", 25),
    ]
    assert result[2].score == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["B-LOCATION", "B-LOCATION"], ["New", "York"]),
        (["I-LOCATION", "I-LOCATION"], ["New York"]),
        (["B-PERSON", "I-LOCATION"], ["New", "York"]),
        (["O", "I-LOCATION"], ["York"]),
        (["B-LOCATION", "O"], ["New"]),
    ],
)
def test_where_one_entity_ends_and_the_next_begins(
    tokenizer_of: Callable[[str], Tokenizer], labels: list[str], expected: list[str]
) -> None:
    result = labelled(tokenizer_of("words"), "New York", labels)
    assert [entity.text for entity in result] == expected


def test_a_words_later_pieces_take_its_first_label() -> None:
    text = "in Beijing now"
    encoded = Encoded((1, 2, 3, 4), ((0, 2), (2, 6), (6, 10), (10, 14)), (False,) * 4)
    rows = [one_hot(name) for name in ("O", "B-LOCATION", "O", "O")]
    assert found(spans(text, 0, encoded, rows, LABELS)) == [("Beijing", "LOCATION", 3)]


def test_chinese_characters_are_labelled_one_by_one() -> None:
    text = "我去北京。"
    encoded = Encoded((1, 2, 3, 4, 5), tuple((i, i + 1) for i in range(5)), (False,) * 5)
    rows = [one_hot(name) for name in ("O", "O", "B-LOCATION", "I-LOCATION", "O")]
    assert found(spans(text, 0, encoded, rows, LABELS)) == [("北京", "LOCATION", 2)]


def test_the_bytes_of_one_character_are_one_character() -> None:
    text = "京都"
    offsets = ((0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2))
    encoded = Encoded((1,) * 6, offsets, (False,) * 6)
    names = ("B-LOCATION", "O", "O", "I-LOCATION", "B-PERSON", "O")
    result = spans(text, 0, encoded, [one_hot(name) for name in names], LABELS)
    assert found(result) == [("京都", "LOCATION", 0)]


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback"])
def test_offsets_leave_out_spaces_the_tokenizer_counts_in(
    tokenizer_of: Callable[[str], Tokenizer], family: str
) -> None:
    tokenizer = tokenizer_of(family)
    text = "Hello Hello"
    encoded = tokenizer.encode_now(text)
    rows = [one_hot("O" if end <= 5 else "I-PERSON") for _, end in encoded.offsets]
    assert found(spans(text, 0, encoded, rows, LABELS)) == [("Hello", "PERSON", 6)]


async def test_offsets_count_in_the_whole_text(served_by: ServedBy) -> None:
    paris = 6

    def pipeline(work: PipelineWork) -> PipelineOut:
        rows = (one_hot("B-LOCATION" if i == paris else "O") for i in work.input_ids)
        return PipelineOut(scores=tuple(rows))

    context, served, fake = await served_by("words", "entities", pipeline=pipeline, labels=LABELS)
    text = "hello Paris .\n  hello . Paris ."
    result = await entities(context, served, text, terms=STANDARD)
    assert found(result) == [("Paris", "LOCATION", 6), ("Paris", "LOCATION", 24)]
    assert all(text[entity.start : entity.end] == entity.text for entity in result)
    assert len(fake.works) == 3


@pytest.mark.parametrize("task", ["translate", "classify", "entities"])
async def test_the_works_of_a_request_are_its_askers(served_by: ServedBy, task: str) -> None:
    context, served, fake = await served_by(
        "words",
        task,
        pipeline=lambda work: PipelineOut(
            token_ids=work.input_ids, scores=tuple(one_hot("O") for _ in work.input_ids)
        ),
        labels=LABELS,
        translation={"prefix": "", "pairs": PAIRS},
    )
    terms = Terms(Priority.BATCH, "bob", 5000)
    if task == "translate":
        await translate(context, served, "hello . hello .", "en", "zh", options={}, terms=terms)
    elif task == "classify":
        await classify(context, served, "hello .", terms)
    else:
        await entities(context, served, "hello . hello .", terms)
    assert {(work.tenant, work.priority) for work in fake.works} == {("bob", Priority.BATCH)}
    assert fake.deadlines_s == [5.0]
    assert [tenant for tenant, _, _ in fake.lease_terms] == ["bob"]
