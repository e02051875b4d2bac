from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from llmos.errors import ContextLengthError, EngineError, InvalidRequestError, UnsupportedTaskError
from llmos.library.manifest import Manifest
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.generate import generate, generate_all, sampling_for
from llmos.types import (
    Chunk,
    GenerateRequest,
    GenerateWork,
    Message,
    SamplingParams,
    TokensOut,
    Usage,
)

Outs = Callable[..., list[TokensOut]]
ServedBy = Callable[..., Any]


def request(prompt: Any, **fields: Any) -> GenerateRequest:
    sampling = SamplingParams(**fields.pop("sampling", {}))
    return GenerateRequest("id", "m", prompt, sampling, **fields)


async def read(
    context: TaskContext, served: Served, asked: GenerateRequest
) -> tuple[list[str], list[Chunk]]:
    chunks = [chunk async for chunk in generate(context, served, asked)]
    texts = ["" for _ in range(asked.n)]
    for chunk in chunks:
        texts[chunk.index] += chunk.text
    return texts, chunks


async def test_text_comes_back_with_usage_on_the_last_chunk(
    served_by: ServedBy, spelled: Outs
) -> None:
    ids: list[int] = []
    context, served, fake = await served_by("byte_level", "generate", tokens=lambda _: spelled(ids))
    ids += served.tokenizer.encode_now("你好，世界！").ids
    texts, chunks = await read(context, served, request("Hello"))
    assert texts == ["你好，世界！"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == Usage(len(fake.works[0].prompt_ids), len(ids))
    assert chunks[-1].finish_reason == "stop"
    assert fake.num_leases == 0


async def test_max_tokens_is_clipped_to_what_the_context_leaves(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, fake = await served_by(
        "characters", "generate", tokens=lambda _: spelled([1]), context_tokens=10
    )
    await read(context, served, request("Hello,", sampling={"max_tokens": 100}))
    assert fake.works[0].sampling.max_tokens == 4


async def test_a_model_that_slides_goes_on_from_the_last_half_of_a_full_context(
    served_by: ServedBy, spelled: Outs
) -> None:
    def tokens(work: GenerateWork) -> list[TokensOut]:
        return spelled([1, 2, 3, 1, 2, 3][: work.sampling.max_tokens], "length")

    context, served, fake = await served_by(
        "characters", "generate", tokens=tokens, context_tokens=8, generation={"slide": True}
    )
    prompt = (5, 5, 5, 5, 5, 5)
    texts, chunks = await read(context, served, request(prompt, sampling={"max_tokens": 7}))
    assert [work.prompt_ids for work in fake.works] == [prompt, (5, 5, 1, 2), (1, 2, 3, 1)]
    assert [work.sampling.max_tokens for work in fake.works] == [2, 4, 1]
    assert len({work.sampling.seed for work in fake.works}) == 3
    assert len(texts[0]) == 7
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[-1].usage == Usage(6, 7)


async def test_too_long_a_prompt_is_refused_with_both_numbers(served_by: ServedBy) -> None:
    context, served, fake = await served_by("characters", "generate", context_tokens=5)
    with pytest.raises(ContextLengthError, match=r"6 tokens.* 5"):
        await read(context, served, request("Hello,"))
    assert fake.works == []


@pytest.mark.parametrize("wrong", [-1, 10**6])
async def test_token_ids_outside_the_vocabulary_are_refused(
    served_by: ServedBy, wrong: int
) -> None:
    context, served, _ = await served_by("characters", "generate", vocab_size=20)
    with pytest.raises(InvalidRequestError, match=str(wrong)):
        await read(context, served, request((1, wrong)))


async def test_an_empty_prompt_begins_with_bos_or_is_refused(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, fake = await served_by(
        "byte_fallback",
        "generate",
        tokens=lambda _: spelled([1]),
        special_tokens={"bos": "<s>"},
    )
    await read(context, served, request(""))
    assert fake.works[0].prompt_ids == (1,)
    context, served, _ = await served_by("characters", "generate")
    with pytest.raises(InvalidRequestError, match="empty"):
        await read(context, served, request(""))


async def test_a_stop_string_ends_the_work_and_is_not_shown(
    served_by: ServedBy, spelled: Outs
) -> None:
    ids: list[int] = []
    context, served, fake = await served_by(
        "characters", "generate", tokens=lambda _: spelled(ids, "length")
    )
    ids += served.tokenizer.encode_now("The quick brown fox").ids
    asked = request("a", stop=("br",), sampling={"logprobs": 1})
    texts, chunks = await read(context, served, asked)
    assert texts == ["The quick "]
    assert chunks[-1].finish_reason == "stop"
    assert fake.num_cancelled == 1
    shown = "".join(token.token for chunk in chunks for token in chunk.logprobs)
    assert shown == "The quick "


async def test_logprobs_say_token_bytes_and_alternatives(
    served_by: ServedBy, spelled: Outs
) -> None:
    ids: list[int] = []
    context, served, _ = await served_by("byte_level", "generate", tokens=lambda _: spelled(ids))
    ids += served.tokenizer.encode_now("é你").ids
    _, chunks = await read(context, served, request("a", sampling={"logprobs": 1}))
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert b"".join(token.bytes for token in tokens) == "é你".encode()
    assert all(token.logprob == token.top[0].logprob == -0.5 for token in tokens)


async def test_the_end_token_stands_for_no_text(served_by: ServedBy, spelled: Outs) -> None:
    ids: list[int] = []
    context, served, _ = await served_by(
        "characters", "generate", tokens=lambda _: spelled(ids), eos_ids=[9]
    )
    ids += [*served.tokenizer.encode_now("Hel").ids, 9]
    texts, chunks = await read(context, served, request("a"))
    assert texts == ["Hel"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_choices_are_streamed_together_and_told_apart(
    served_by: ServedBy, spelled: Outs
) -> None:
    words = ["Hello", "world", "fox"]

    def tokens(work: GenerateWork) -> Iterable[TokensOut]:
        return spelled(served.tokenizer.encode_now(words[work.choice]).ids)

    context, served, _ = await served_by("characters", "generate", tokens=tokens)
    texts, chunks = await read(context, served, request("a", n=3))
    assert texts == words
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage == Usage(1, len("".join(words)))
    assert len({chunk.index for chunk in chunks[:3]}) == 3


async def test_closing_the_stream_cancels_every_choice(served_by: ServedBy, spelled: Outs) -> None:
    context, served, fake = await served_by(
        "characters", "generate", tokens=lambda _: spelled([1] * 50)
    )
    stream = generate(context, served, request("a", n=3))
    await anext(stream)
    await stream.aclose()
    assert fake.num_cancelled == 3
    assert fake.num_leases == 0


async def test_one_choices_error_ends_the_others(served_by: ServedBy, spelled: Outs) -> None:
    def tokens(work: GenerateWork) -> Iterable[TokensOut]:
        if work.choice == 1:
            raise EngineError("gone")
        return spelled([1] * 50)

    context, served, fake = await served_by("characters", "generate", tokens=tokens)
    with pytest.raises(EngineError, match="gone"):
        await read(context, served, request("a", n=2))
    assert fake.num_cancelled == 2


async def test_an_engine_that_ends_without_a_reason_is_an_error(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, _ = await served_by(
        "characters", "generate", tokens=lambda _: spelled([1], None)
    )
    with pytest.raises(EngineError, match="without saying why"):
        await read(context, served, request("a"))


async def test_echo_gives_the_prompt_first(served_by: ServedBy, spelled: Outs) -> None:
    ids: list[int] = []
    context, served, _ = await served_by("characters", "generate", tokens=lambda _: spelled(ids))
    ids += served.tokenizer.encode_now(" fox").ids
    texts, _ = await read(context, served, request("The", echo=True))
    assert texts == ["The fox"]


async def test_a_chat_renders_the_template_and_adds_no_special_tokens(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, fake = await served_by(
        "words",
        "chat",
        tokens=lambda _: spelled([7]),
        chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}",
        special_tokens={"bos": "[CLS]"},
    )
    await read(context, served, request((Message("user", "hello Paris"),)))
    expected = [served.tokenizer.token_id(token) for token in ("[CLS]", "hello", "Paris")]
    assert list(fake.works[0].prompt_ids) == expected


async def test_a_chat_without_template_points_to_completions(served_by: ServedBy) -> None:
    context, served, _ = await served_by("words", "generate")
    with pytest.raises(UnsupportedTaskError, match="completions"):
        await read(context, served, request((Message("user", "hello"),)))


async def test_several_requests_are_numbered_on_and_summed(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, _ = await served_by("characters", "generate", tokens=lambda _: spelled([1, 2]))
    asked = [request("H", n=2), request("He", n=1)]
    chunks = [chunk async for chunk in generate_all(context, served, asked)]
    assert {chunk.index for chunk in chunks} == {0, 1, 2}
    assert [chunk.usage for chunk in chunks if chunk.usage] == [Usage(3, 6)]
    assert chunks[-1].usage is not None


async def test_a_model_for_another_task_is_refused(served_by: ServedBy) -> None:
    context, _, _ = await served_by("words", "classify")
    with pytest.raises(UnsupportedTaskError, match="'classify', not for 'chat' or 'generate'"):
        await context.serve("m", {"generate", "chat"})


def manifest(**generation: Any) -> Manifest:
    return Manifest(
        task="chat", engine="echo", architecture="e", model_type="e", generation=generation
    )


def test_what_is_not_given_comes_from_the_model() -> None:
    model = manifest(temperature=0.7, top_p=0.9, num_beams=4)
    params = sampling_for(model, {"temperature": 0.0, "top_p": None, "seed": -1}, is_chat=False)
    assert (params.temperature, params.top_p, params.max_tokens) == (0.0, 0.9, 256)
    assert params.seed == 2**63 - 1


def test_a_chat_may_fill_the_context_and_unset_seeds_differ() -> None:
    first, second = (sampling_for(manifest(), {}, is_chat=True) for _ in range(2))
    assert first.max_tokens > 10**6
    assert first.seed != second.seed
