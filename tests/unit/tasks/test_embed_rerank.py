"""Embedding and reranking over a model that is a Python function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.embed import EmbedOptions, embed
from llmos.tasks.rerank import rerank
from llmos.tasks.rows import MAX_IN_FLIGHT, Terms
from llmos.tasks.tokenizers import Row, Tokenizer
from llmos.types import PipelineOut, PipelineWork, Priority

ServedBy = Callable[..., Any]
PLAIN = EmbedOptions()
TERMS = Terms(Priority.BATCH, "ann")
OWN = {"pooling": "cls", "normalize": False, "dimensions": 6, "prompts": {"query": "hello "}}


def length(work: PipelineWork) -> PipelineOut:
    return PipelineOut(vector=bytes([len(work.input_ids) % 256]))


def match(work: PipelineWork) -> PipelineOut:
    """The longer, the better; ids of documents of equal length tell nothing apart."""
    return PipelineOut(scores=((len(work.input_ids) / 100,),))


async def embedder(served_by: ServedBy, **manifest: Any) -> Any:
    return await served_by("words", "embed", pipeline=length, embedding=OWN, **manifest)


async def test_vectors_come_in_the_order_of_the_inputs_though_the_longest_runs_first(
    served_by: ServedBy,
) -> None:
    context, served, fake = await embedder(served_by)
    made = await embed(context, served, ["good", "very very good", "bad bad"], PLAIN, TERMS)
    assert made.vectors == [b"\3", b"\5", b"\4"]
    assert [len(work.input_ids) for work in fake.works] == [5, 4, 3]
    assert made.usage.prompt_tokens == 12


async def test_works_carry_the_models_own_way_and_whose_they_are(served_by: ServedBy) -> None:
    context, served, fake = await embedder(served_by)
    await embed(context, served, ["good"], PLAIN, TERMS)
    options = EmbedOptions(dimensions=3, normalize=True)
    await embed(context, served, ["good"], options, Terms(deadline_ms=60_000))
    assert fake.deadlines_s == [None, 60]
    first, second = fake.works
    assert (first.kind, first.options) == ("embed", {"pooling": "cls", "normalize": False})
    assert (first.priority, first.tenant) == (Priority.BATCH, "ann")
    assert second.options == {"pooling": "cls", "normalize": True, "dimensions": 3}


async def test_a_prompt_of_the_model_is_put_before_texts(served_by: ServedBy) -> None:
    context, served, fake = await embedder(served_by)
    await embed(context, served, ["good"], EmbedOptions(prompt_name="query"), TERMS)
    assert served.tokenizer.decode(fake.works[0].input_ids) == "hello good"
    with pytest.raises(InvalidRequestError, match="no prompt 'passage'; it has: query"):
        await embed(context, served, ["good"], EmbedOptions(prompt_name="passage"), TERMS)


async def test_token_ids_are_taken_as_they_are(served_by: ServedBy) -> None:
    context, served, fake = await embedder(served_by, vocab_size=18)
    await embed(context, served, [(3, 4), "good"], PLAIN, TERMS)
    assert {work.input_ids for work in fake.works} == {(3, 4), (1, 14, 2)}


@pytest.mark.parametrize(
    ("inputs", "options", "param"),
    [
        ([], PLAIN, "input"),
        (["good"] * 2049, PLAIN, "input"),
        ([""], PLAIN, "input"),
        (["good", " \n"], PLAIN, "input.1"),
        ([(), "good"], PLAIN, "input.0"),
        (["good", (18,)], PLAIN, "input.1"),
        ([(0, -1)], PLAIN, "input"),
        (["good"], EmbedOptions(dimensions=7), "dimensions"),
        ([(3,) * 2000] * 151, PLAIN, "input"),
    ],
)
async def test_bad_input_is_refused_by_name(
    served_by: ServedBy, inputs: Any, options: EmbedOptions, param: str
) -> None:
    context, served, fake = await embedder(served_by, vocab_size=18, context_tokens=4000)
    with pytest.raises(InvalidRequestError) as raised:
        await embed(context, served, inputs, options, TERMS)
    assert raised.value.param == param
    assert fake.works == []


async def test_a_long_text_is_refused_with_both_numbers_or_cut(served_by: ServedBy) -> None:
    context, served, fake = await embedder(served_by, context_tokens=5)
    with pytest.raises(ContextLengthError, match=r"input\.1 has 8 tokens.* at most 5.*truncate"):
        await embed(context, served, ["good", "very " * 6], PLAIN, TERMS)
    await embed(context, served, ["very " * 6], EmbedOptions(truncate=True), TERMS)
    assert [work.input_ids for work in fake.works] == [(1, 16, 16, 16, 2)]


async def test_many_rows_run_a_few_at_a_time(served_by: ServedBy) -> None:
    num_running = most = 0

    def slow(work: PipelineWork) -> PipelineOut:
        nonlocal num_running, most
        num_running += 1
        most = max(most, num_running)
        asyncio.get_running_loop().call_soon(lambda: set_running(num_running - 1))
        return PipelineOut(vector=b"x")

    def set_running(number: int) -> None:
        nonlocal num_running
        num_running = number

    context, served, fake = await served_by("words", "embed", pipeline=slow)
    made = await embed(context, served, ["good"] * 200, PLAIN, TERMS)
    assert len(made.vectors) == len(fake.works) == 200
    assert most <= MAX_IN_FLIGHT


async def test_documents_are_read_with_the_query_and_ordered_by_score(served_by: ServedBy) -> None:
    context, served, fake = await served_by("words", "rerank", pipeline=match)
    documents = ["good", "very very good", "bad", "very good"]
    ranking = await rerank(context, served, "hello", documents, TERMS)
    assert [one.index for one in ranking.results] == [1, 3, 0, 2]
    assert ranking.results[0].score == 0.07
    assert {work.kind for work in fake.works} == {"classify"}
    assert ranking.usage.prompt_tokens == sum(len(work.input_ids) for work in fake.works)


async def test_of_two_labels_the_second_is_the_match(served_by: ServedBy) -> None:
    context, served, _ = await served_by(
        "words", "rerank", pipeline=lambda work: PipelineOut(scores=((0.75, 0.25),))
    )
    ranking = await rerank(context, served, "hello", ["good"], TERMS)
    assert ranking.results[0].score == 0.25


@pytest.mark.parametrize(
    ("query", "documents", "param"),
    [
        ("", ["good"], "query"),
        ("hello", [], "documents"),
        ("hello", ["good", ""], "documents.1"),
        ("hello", ["good"] * 2049, "documents"),
    ],
)
async def test_what_cannot_be_ranked_is_refused_by_name(
    served_by: ServedBy, query: str, documents: list[str], param: str
) -> None:
    context, served, _ = await served_by("words", "rerank", pipeline=match)
    with pytest.raises(InvalidRequestError) as raised:
        await rerank(context, served, query, documents, TERMS)
    assert raised.value.param == param


async def test_a_long_document_is_refused_or_cut_and_a_long_query_never_cut(
    served_by: ServedBy,
) -> None:
    context, served, fake = await served_by("words", "rerank", pipeline=match, context_tokens=6)
    with pytest.raises(ContextLengthError, match=r"documents\.0 has 10 tokens.* at most 6"):
        await rerank(context, served, "hello", ["very " * 6], TERMS)
    await rerank(context, served, "hello", ["very " * 6], TERMS, truncate=True)
    assert [len(work.input_ids) for work in fake.works] == [6]
    for query in ("hello " * 9, "hello " * 10**6):
        for truncate in (False, True):
            with pytest.raises(
                ContextLengthError, match=r"^query has .* a pair: shorten it\.$"
            ) as e:
                await rerank(context, served, query, ["very"], TERMS, truncate=truncate)
            assert e.value.param == "query"


async def test_pairs_have_type_ids_where_the_tokenizer_tells_texts_apart(
    tokenizer_of: Callable[[str], Tokenizer],
) -> None:
    (row,) = await tokenizer_of("words").rows([("hello", "very good")])
    assert row == Row((1, 13, 2, 16, 14, 2), (0, 0, 0, 1, 1, 1), (None, 0, None, 1, 1, None))
    assert row.cut(5) == Row((1, 13, 2, 16, 2), (0, 0, 0, 1, 1), (None, 0, None, 1, None))
    assert row.cut(4) is row
    (single,) = await tokenizer_of("words").rows(["very good"])
    assert single.type_ids == ()


async def test_far_too_much_text_is_refused_without_tokenising_it_all(served_by: ServedBy) -> None:
    context, served, _ = await embedder(served_by, context_tokens=2500)
    lengths: list[int] = []
    encode = served.tokenizer._rust.encode_batch_fast

    class Counting:
        def encode_batch_fast(self, texts: Any, **options: Any) -> Any:
            lengths.extend(map(len, texts))
            return encode(texts, **options)

    served.tokenizer._rust = Counting()
    with pytest.raises(ContextLengthError, match=r"input\.1 has at least \d+ tokens.* most 2500"):
        await embed(context, served, ["good", "very " * 10**6], PLAIN, TERMS)
    with pytest.raises(InvalidRequestError, match="tokens or more in all"):
        await embed(context, served, ["very " * 2000] * 2000, PLAIN, TERMS)
    cut = await embed(context, served, ["very " * 10**6], EmbedOptions(truncate=True), TERMS)
    assert cut.usage.prompt_tokens == 2500
    assert sum(lengths) < 3_000_000  # of 20 million characters
