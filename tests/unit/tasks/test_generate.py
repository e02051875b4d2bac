from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    GrammarError,
    InvalidRequestError,
    UnsupportedTaskError,
)
from llmos.library.manifest import Manifest
from llmos.settings import Settings
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.deadline import Deadline
from llmos.tasks.generate import generate, generate_all, sampling_for
from llmos.types import (
    Chunk,
    GenerateRequest,
    GenerateWork,
    Grammar,
    Message,
    SamplingParams,
    TokenPiece,
    TokensOut,
    Tool,
    ToolUse,
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


@pytest.mark.parametrize(("slides", "ends_early"), [(False, True), (True, False)])
async def test_a_lease_is_for_every_choice_and_ends_with_the_last_unless_the_model_slides(
    served_by: ServedBy, spelled: Outs, slides: bool, ends_early: bool
) -> None:
    context, served, fake = await served_by(
        "characters", "generate", tokens=lambda _: spelled([1]), generation={"slide": slides}
    )
    asked = request("Hello", n=3, owner="ann", sampling={"max_tokens": 5})
    await read(context, served, asked)
    assert fake.lease_terms == [("ann", 3, ends_early)]


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


# -- prompts with log-probabilities ----------------------------------------------------------------


def prompt_pieces(work: GenerateWork) -> tuple[TokenPiece, ...]:
    assert work.prompt_logprobs is not None
    return tuple(TokenPiece(i, -1.0, ((i, -1.0),)) for i in work.prompt_ids[1:])


async def test_echo_with_logprobs_shows_the_prompts_but_the_first_tokens(
    served_by: ServedBy,
) -> None:
    def tokens(work: GenerateWork) -> list[TokensOut]:
        first = TokensOut((TokenPiece(3, -0.5),), prompt=prompt_pieces(work), num_cached=2)
        return [first, TokensOut((TokenPiece(4, -0.5),), "length")]

    context, served, fake = await served_by("characters", "generate", tokens=tokens)
    asked = request("Hello", echo=True, sampling={"logprobs": 1, "max_tokens": 2})
    texts, chunks = await read(context, served, asked)
    assert texts == ["Hello" + served.tokenizer.decode([3, 4])]
    assert fake.works[0].prompt_logprobs == 1
    shown = [token.logprob for chunk in chunks for token in chunk.logprobs]
    assert shown == [None, -1.0, -1.0, -1.0, -1.0, -0.5, -0.5]
    assert chunks[-1].usage == Usage(5, 2, cached_tokens=2)


async def test_a_prompt_alone_is_scored_without_output(served_by: ServedBy) -> None:
    def tokens(work: GenerateWork) -> list[TokensOut]:
        return [TokensOut((TokenPiece(3, -0.5),), "length", prompt_pieces(work))]

    context, served, fake = await served_by("characters", "generate", tokens=tokens)
    asked = request((1, 2, 3), echo=True, sampling={"logprobs": 0, "max_tokens": 0})
    texts, chunks = await read(context, served, asked)
    assert texts == [served.tokenizer.decode([1, 2, 3])]
    assert fake.works[0].sampling.max_tokens == 1
    assert len(chunks[0].logprobs) == 3
    assert (chunks[0].finish_reason, chunks[0].usage) == ("length", Usage(3, 0))


@pytest.mark.parametrize("max_tokens", [0, 3])
async def test_a_prompt_of_one_token_is_echoed_though_nothing_predicts_it(
    served_by: ServedBy, spelled: Outs, max_tokens: int
) -> None:
    context, served, _ = await served_by(
        "characters", "generate", tokens=lambda work: spelled([5] * work.sampling.max_tokens)
    )
    sampling = {"logprobs": 1, "max_tokens": max_tokens}
    asked = [request((3,), echo=True, sampling=sampling) for _ in range(2)]
    chunks = [chunk async for chunk in generate_all(context, served, asked)]
    for index in range(2):
        own = [chunk for chunk in chunks if chunk.index == index]
        expected = served.tokenizer.decode([3] + [5] * max_tokens)
        assert "".join(chunk.text for chunk in own) == expected
        shown = [token.logprob for chunk in own for token in chunk.logprobs]
        assert shown == [None] + [-0.5] * max_tokens
    assert chunks[-1].usage == Usage(2, 2 * max_tokens)


@pytest.mark.parametrize(("num_tokens", "fits"), [(64, True), (65, False)])
async def test_a_prompt_that_is_only_scored_may_fill_the_context(
    served_by: ServedBy, num_tokens: int, fits: bool
) -> None:
    def tokens(work: GenerateWork) -> list[TokensOut]:
        return [TokensOut((), "length", prompt_pieces(work))]

    context, served, _ = await served_by("characters", "generate", tokens=tokens)
    ids = (3,) * num_tokens
    sampling = {"logprobs": 1, "max_tokens": 0}
    if fits:
        _, chunks = await read(context, served, request(ids, echo=True, sampling=sampling))
        assert len(chunks[0].logprobs) == num_tokens
    else:
        with pytest.raises(ContextLengthError):
            await read(context, served, request(ids, echo=True, sampling=sampling))
    with pytest.raises(ContextLengthError):
        await read(context, served, request(ids, echo=True, sampling={"max_tokens": 1}))


async def test_more_choices_or_prompts_than_the_queue_takes_are_a_mistake(
    served_by: ServedBy, spelled: Outs
) -> None:
    context, served, _ = await served_by("characters", "generate", tokens=lambda _: spelled([1]))
    context = dataclasses.replace(context, settings=Settings(max_queue=3))
    with pytest.raises(InvalidRequestError, match="max_queue") as raised:
        await read(context, served, request("a", n=4))
    assert raised.value.param == "n"
    with pytest.raises(InvalidRequestError, match="max_queue") as raised:
        [chunk async for chunk in generate_all(context, served, [request("a", n=2)] * 2)]
    assert raised.value.param == "prompt"
    await read(context, served, request("a", n=3))


async def test_tools_that_are_far_too_long_are_named(speaking: Any) -> None:
    context, served, _ = await speaking("a")
    tools = ToolUse((Tool("f", "x" * 100_000),))
    with pytest.raises(ContextLengthError) as raised:
        await read(context, served, request(ASKED, tool_use=tools))
    assert raised.value.param == "tools"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_call_cut_off_leaves_no_markup(speaking: Any, stream: bool) -> None:
    context, served, _ = await speaking('<tool_call>\n{"name": "f", "argum', "length")
    required = ToolUse(TOOLS.tools, "required")
    _, chunks = await read(context, served, request(ASKED, tool_use=required, stream=stream))
    assert joined(chunks) == ("", "", "")
    assert chunks[-1].finish_reason == "length"


async def test_the_end_token_has_its_place_after_a_scored_prompt(served_by: ServedBy) -> None:
    def tokens(work: GenerateWork) -> list[TokensOut]:
        assert work.sampling.ignore_eos
        return [TokensOut((TokenPiece(9, -0.25),), "length", prompt_pieces(work))]

    context, served, _ = await served_by("characters", "generate", tokens=tokens, eos_ids=[9])
    asked = request((1, 2), echo=True, sampling={"logprobs": 1, "max_tokens": 1})
    texts, chunks = await read(context, served, asked)
    assert texts == [served.tokenizer.decode([1, 2])]
    assert [token.logprob for token in chunks[-1].logprobs] == [None, -1.0, -0.25]
    assert chunks[-1].finish_reason == "stop"


async def test_an_echo_of_nothing_more_needs_no_engine(served_by: ServedBy) -> None:
    context, served, fake = await served_by("characters", "generate")
    asked = request("Hello", echo=True, n=2, sampling={"max_tokens": 0})
    texts, chunks = await read(context, served, asked)
    assert (texts, fake.works) == (["Hello", "Hello"], [])
    assert [chunk.usage for chunk in chunks] == [None, Usage(5, 0)]


# -- conversations ---------------------------------------------------------------------------------

THINKER = "{% for m in messages %}{{ m.content }}{% endfor %}<think>{% if tools %}{% endif %}"
ASKED = (Message("user", "hi"),)
TOOLS = ToolUse((Tool("f"),))


def thinking_family() -> RustTokenizer:
    """Characters, with markers as tokens of their own, some of them special."""
    names = [*map(chr, range(32, 127)), "\n", "<think>", "</think>"]
    names += ["<tool_call>", "</tool_call>", "~"]
    ids = {name: at for at, name in enumerate(names)}
    rust = RustTokenizer(models.WordLevel(ids, unk_token="~"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    rust.decoder = decoders.Fuse()
    rust.add_tokens(["<think>", "</think>"])
    rust.add_special_tokens(["<tool_call>", "</tool_call>", "~"])
    return rust


@pytest.fixture
def speaking(served_by: ServedBy) -> Callable[..., Any]:
    """Return a function: the text a chat model says -> (context, served, fake model)."""
    family = thinking_family()

    async def make(said: str, finish: Any = "stop") -> Any:
        pieces = re.findall(r"</?think>|</?tool_call>|[\s\S]", said)
        ids = [family.token_to_id(piece) for piece in pieces]
        outs = [TokensOut((TokenPiece(i, -0.5),)) for i in ids] + [TokensOut((), finish)]
        template = {"chat_template": THINKER}
        return await served_by(lambda: family, "chat", tokens=lambda _: outs, **template)

    return make


def joined(chunks: list[Chunk]) -> tuple[str, str, str]:
    calls = "".join(
        f"{call.name or ''}{call.arguments}" for chunk in chunks for call in chunk.tool_calls
    )
    texts = "".join(chunk.text for chunk in chunks)
    return "".join(chunk.reasoning for chunk in chunks), texts, calls


SAID = 'hm, stop?\n</think>\n\nWell.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


async def test_reasoning_content_and_calls_are_told_apart(speaking: Any) -> None:
    context, served, _ = await speaking(SAID)
    asked = request(ASKED, tool_use=TOOLS, stop=("stop",), stream=True, sampling={"logprobs": 0})
    _, chunks = await read(context, served, asked)
    assert joined(chunks) == ("hm, stop?", "Well.", 'f{"a": 1}')
    assert chunks[-1].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.reasoning_tokens == len("hm, stop?\n") + 1
    assert sum(len(chunk.logprobs) for chunk in chunks) == chunks[-1].usage.completion_tokens


async def test_a_stop_string_counts_in_the_answer_alone(speaking: Any) -> None:
    context, served, _ = await speaking("a stop b</think>c stop d")
    _, chunks = await read(context, served, request(ASKED, stop=("stop",)))
    assert joined(chunks) == ("a stop b", "c ", "")
    assert chunks[-1].finish_reason == "stop"


async def test_special_markers_of_tools_are_silent_where_there_are_no_tools(speaking: Any) -> None:
    context, served, _ = await speaking("</think><tool_call>{}</tool_call>")
    _, chunks = await read(context, served, request(ASKED))
    assert joined(chunks) == ("", "{}", "")


async def test_a_call_cut_off_ends_with_length(speaking: Any) -> None:
    context, served, _ = await speaking(SAID[:-14], "length")
    _, chunks = await read(context, served, request(ASKED, tool_use=TOOLS, stream=True))
    assert joined(chunks) == ("hm, stop?", "Well.", 'f{"a": 1')
    assert chunks[-1].finish_reason == "length"


async def test_one_call_is_enough_where_calls_are_not_parallel(speaking: Any) -> None:
    context, served, fake = await speaking(SAID + SAID[-40:])
    single = ToolUse(TOOLS.tools, "auto", parallel=False)
    _, chunks = await read(context, served, request(ASKED, tool_use=single))
    assert joined(chunks)[2] == 'f{"a": 1}'
    assert chunks[-1].finish_reason == "tool_calls"
    assert fake.num_cancelled == 1


async def test_a_constrained_answer_closes_the_block_that_its_template_opened(
    speaking: Any,
) -> None:
    context, served, fake = await speaking("42")
    asked = request(ASKED, grammar=Grammar("regex", "[0-9]+"))
    _, chunks = await read(context, served, asked)
    assert joined(chunks) == ("", "42", "")
    text = served.tokenizer.decode(fake.works[0].prompt_ids)
    assert text == "hi<think>\n\n</think>\n\n"
    assert fake.works[0].grammar == asked.grammar


async def test_a_required_tool_is_a_grammar_whatever_format_an_answer_would_have(
    speaking: Any,
) -> None:
    context, served, fake = await speaking(SAID[-55:])
    required = ToolUse(TOOLS.tools, "required")
    await read(context, served, request(ASKED, tool_use=required))
    grammar = Grammar("json_object")
    await read(context, served, request(ASKED, tool_use=required, grammar=grammar))
    assert fake.works[0].grammar == fake.works[1].grammar != grammar
    assert fake.works[0].grammar is not None


async def test_with_a_format_the_model_calls_a_tool_or_answers_in_it(speaking: Any) -> None:
    asked = request(ASKED, tool_use=TOOLS, grammar=Grammar("json_object"))
    for said, expected in (
        ('{"a": 1}', ("", '{"a": 1}', "")),
        (SAID.rpartition("\n")[2], ("", "", 'f{"a": 1}')),
    ):
        context, served, fake = await speaking(said)
        _, chunks = await read(context, served, asked)
        assert joined(chunks) == expected
        grammar = fake.works[0].grammar
        assert grammar.kind == "lark"
        assert grammar.source.startswith("start: calls | answer")


async def test_a_bad_format_beside_tools_is_refused_with_its_own_field(speaking: Any) -> None:
    context, served, _ = await speaking("x")
    bad = Grammar("json_schema", '{"type": "strng"}')
    with pytest.raises(GrammarError) as raised:
        await read(context, served, request(ASKED, tool_use=TOOLS, grammar=bad))
    assert raised.value.param == "response_format"
    asked = request(ASKED, tool_use=TOOLS, grammar=Grammar("regex", "[0-9]+"))
    with pytest.raises(InvalidRequestError) as other:
        await read(context, served, asked)
    assert other.value.param == "tool_choice"


@pytest.mark.parametrize("stops", [(), ("好，世",), ("🙂b",)])
async def test_characters_come_whole_whatever_else_is_looked_for(
    served_by: ServedBy, spelled: Outs, stops: tuple[str, ...]
) -> None:
    said = "你好，世界 🙂🙃 naïve 🙂b"
    ids: list[int] = []
    template = {"chat_template": "{{ messages[0].content }}{% if tools or '</think>' %}{% endif %}"}
    context, served, _ = await served_by(
        "byte_level", "chat", tokens=lambda _: spelled(ids), **template
    )
    ids += served.tokenizer.encode_now(said).ids
    asked = request(ASKED, stop=stops, tool_use=TOOLS, sampling={"logprobs": 0})
    _, chunks = await read(context, served, asked)
    expected = said.partition(stops[0])[0] if stops else said
    assert joined(chunks) == ("", expected, "")
    assert not any("\ufffd" in chunk.text for chunk in chunks)
    logged = b"".join(token.bytes for chunk in chunks for token in chunk.logprobs)
    assert logged.startswith(expected.encode())


# -- whose it is, and until when -------------------------------------------------------------------


async def test_each_owner_has_a_salt_of_its_own(served_by: ServedBy, spelled: Outs) -> None:
    context, served, fake = await served_by("characters", "generate", tokens=lambda _: spelled([1]))
    for owner in ("ann", "bob", "ann"):
        await read(context, served, request("a", owner=owner))
    salts = [work.cache_salt for work in fake.works]
    assert salts[0] == salts[2] != salts[1]
    assert len(salts[0]) == 32
    assert [work.tenant for work in fake.works] == ["ann", "bob", "ann"]


async def test_a_deadline_is_passed_on_and_kept(served_by: ServedBy, spelled: Outs) -> None:
    context, served, fake = await served_by("characters", "generate", tokens=lambda _: spelled([1]))
    await read(context, served, request("a", deadline_ms=60_000))
    assert 0 < (fake.works[0].deadline_s or 0) <= 60
    deadline = Deadline(0)
    with pytest.raises(DeadlineExceededError, match="0 ms"):
        deadline.left_s()


async def test_a_bias_for_a_token_there_is_not_is_refused(served_by: ServedBy) -> None:
    context, served, _ = await served_by("characters", "generate", vocab_size=20)
    with pytest.raises(InvalidRequestError, match="20") as raised:
        await read(context, served, request("a", sampling={"logit_bias": ((3, 1.0), (20, 1.0))}))
    assert raised.value.param == "logit_bias"


@pytest.mark.parametrize("prompt", ["x" * 3_000_000, (Message("user", "y" * 3_000_000),)])
async def test_a_prompt_far_too_long_is_refused_without_counting_it_all(
    served_by: ServedBy, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, served, _ = await served_by(
        "characters", "chat", chat_template="{{ messages[0].content }}"
    )
    counted: list[int] = []
    ids_now = served.tokenizer._ids_now

    def counting(text: str, special_tokens: bool) -> tuple[int, ...]:
        counted.append(len(text))
        return ids_now(text, special_tokens)

    monkeypatch.setattr(served.tokenizer, "_ids_now", counting)
    with pytest.raises(ContextLengthError, match="at least"):
        await read(context, served, request(prompt))
    assert sum(counted) < 100_000
