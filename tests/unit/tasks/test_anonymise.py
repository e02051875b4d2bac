"""Personal data hidden in prompts and answers: the same whatever the pieces, and never past it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tasks.finding import InProcess

from llmos.data.pii.replacing import KEY_FILE
from llmos.errors import AnonymiseError, TooLargeError
from llmos.tasks import anonymise
from llmos.tasks.anonymise import WHOLE_CHARS, Anonymiser, Counts, Held, told
from llmos.tasks.hidden_answers import hidden
from llmos.tasks.sandbox import SandboxBrokenError, SandboxTimeoutError
from llmos.types import (
    Anonymise,
    Chunk,
    GenerateRequest,
    Grammar,
    Tool,
    ToolCallDelta,
    ToolUse,
    Usage,
)

ALL = Anonymise()
LETTER = (
    "Dear team, please call Dr. Rose Okafor. She lives at 14 Birch Lane, Leeds LS1 4AB. You can "
    "write to rose.okafor@example.org or phone +44 20 7946 0018 before noon!\nThe key:\n"
    "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 30 + "-----END "
    "PRIVATE KEY-----\nThat is all. 我叫陈建军，手机13800138000。请在周一之前打给我，谢谢。再见。"
)
SECRETS = ["Okafor", "rose.", "example.org", "7946", "0018", "MIIEv", "AASC", "陈建军", "138001"]
PLAIN = "It rained in the morning. Nobody minded, and the work went on until late in the evening.\n"


def cut(text: str, sizes: list[int]) -> list[str]:
    bits, place = [], 0
    while place < len(text):
        bits.append(text[place : place + sizes[len(bits) % len(sizes)]])
        place += len(bits[-1])
    return bits


async def held(bits: list[str], how: Anonymise = ALL) -> tuple[str, Counts]:
    counts: Counts = Counter()
    out = Held(InProcess(), how, "me", counts)
    return "".join([*[await out.push(bit) for bit in bits], await out.end()]), counts


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_an_answer_comes_out_the_same_however_it_comes_in(sizes: list[int]) -> None:
    whole, counts = asyncio.run(held([LETTER]))
    assert asyncio.run(held(cut(LETTER, sizes))) == (whole, counts)
    assert not [secret for secret in SECRETS if secret in whole]
    assert counts == Counter(NAME=2, EMAIL=1, PHONE=2, ADDRESS=1, SECRET=1)
    assert whole.startswith("Dear team, please call Dr. [NAME]. She lives at [ADDRESS]. You can ")
    assert whole.endswith("我叫[NAME]，手机[PHONE]。请在周一之前打给我，谢谢。再见。")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 300), st.integers(1, 60))
def test_what_is_cut_anywhere_is_never_shown_in_part(before: int, size: int) -> None:
    text = (
        (PLAIN * 5)[:before]
        + " Write to rose.okafor@example.org, or to 陈建军 13800138000. "
        + PLAIN
    )
    shown, counts = asyncio.run(held(cut(text, [size])))
    assert not [secret for secret in ("okafor", "example.org", "0013", "8000") if secret in shown]
    assert counts["EMAIL"] == counts["PHONE"] == 1


async def test_text_goes_out_sentences_behind_not_at_the_end() -> None:
    out = Held(InProcess(), ALL, "me", Counter())
    shown = [len(await out.push(char)) for char in PLAIN * 4]
    behind = max(place + 1 - sum(shown[: place + 1]) for place in range(len(shown)))
    assert behind <= 2 * len(PLAIN)


async def test_a_long_text_is_seen_in_pieces_and_a_known_one_not_again() -> None:
    anonymiser, counts = InProcess(), Counter[Any]()
    text = PLAIN * 300 + "Write to rose@example.org now.\n" + PLAIN * 50
    assert len(text) > WHOLE_CHARS
    (shown,) = await anonymiser.hide([text], ALL, "me", counts)
    assert shown == text.replace("rose@example.org", "[EMAIL]")
    assert counts == Counter(EMAIL=1)
    assert max(map(len, anonymiser.asked)) < WHOLE_CHARS
    num_asked = len(anonymiser.asked)
    assert await anonymiser.hide([text], ALL, "me", counts) == [shown]
    assert len(anonymiser.asked) == num_asked
    await anonymiser.hide([text], Anonymise(types=("IP",)), "me", counts)
    assert len(anonymiser.asked) > num_asked


async def test_json_stays_json_and_names_of_fields_speak_for_their_values() -> None:
    anonymiser, counts = InProcess(), Counter[Any]()
    given = {
        "password": "tulip#77",
        "to": ["rose@example.org", {"phone": 13800138000}],
        "rose@example.org": True,
        "count": 3,
    }
    shown = await anonymiser.hide_json(json.dumps(given), ALL, "me", counts)
    assert json.loads(shown) == {
        "password": "[SECRET]",
        "to": ["[EMAIL]", {"phone": "[PHONE]"}],
        "[EMAIL]": True,
        "count": 3,
    }
    assert counts == Counter(SECRET=1, EMAIL=2, PHONE=1)
    untouched = '{ "a" : [1.50, "b"] }'
    assert await anonymiser.hide_json(untouched, ALL, "me", counts) == untouched
    broken = '{"to": "rose@example.org", "tex'
    assert await anonymiser.hide_json(broken, ALL, "me", counts) == '{"to": "[EMAIL]", "tex'


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('{"a": "rose@example.org", "a": "x"}', '{"a": "x"}'),
        ('{"a": "rose\\u0040example.org", "b": "\\ud800"}', '{"a": "[EMAIL]", "b": "?"}'),
        ('{"\\ud800": 1}', '{"?": 1}'),
        ('{"a": "\\ud83d\\ude00"}', '{"a": "\\ud83d\\ude00"}'),
        ('{"a": "rose\\u0040example.org", "b', '{"a": "[EMAIL]", "b'),
        ('{"a": "\\u6211\\u53eb\\u9648\\u5efa\\u519b', '{"a": "\\u6211\\u53eb[NAME]'),
    ],
)
async def test_json_says_no_more_than_was_looked_at(given: str, shown: str) -> None:
    assert await InProcess().hide_json(given, ALL, "me", Counter()) == shown


async def test_what_was_found_is_remembered_for_its_owner_alone() -> None:
    anonymiser = InProcess()
    for owner in ("me", "me", "you"):
        await anonymiser.hide(["So it goes."], ALL, owner, Counter())
    assert anonymiser.asked == ["So it goes."] * 2


async def test_many_texts_are_looked_at_in_slices_and_too_many_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(anonymise, "SLICE_TEXTS", 2)
    monkeypatch.setattr(anonymise, "MAX_TEXTS", 5)
    monkeypatch.setattr(anonymise, "SMALL_CHARS", 10)
    texts = ["one", "rose@example.org", "two", "rose@example.org", "three"]
    hidden = await InProcess().hide(texts, ALL, "me", Counter())
    assert hidden == ["one", "[EMAIL]", "two", "[EMAIL]", "three"]
    told = await InProcess().hide_json(json.dumps(texts), ALL, "me", Counter())
    assert json.loads(told) == hidden
    for many in ([*texts, "four"], ["four"] * 6):
        with pytest.raises(TooLargeError, match="at most 5"):
            await InProcess().hide_json(json.dumps(many), ALL, "me", Counter())


async def test_a_pseudonym_is_the_owners_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, text = Anonymise(action="pseudonym"), "to rose@example.org"
    with pytest.raises(AnonymiseError, match=KEY_FILE):
        await InProcess().hide([text], how, "alice", Counter())
    key = tmp_path / "key"
    key.write_text("k" * 64)
    key.chmod(0o600)
    monkeypatch.setenv(KEY_FILE, str(key))
    alice = await InProcess().hide([text, text.upper()], how, "alice", Counter())
    bob = await InProcess().hide([text], how, "bob", Counter())
    assert (
        alice[0].removeprefix("to ") == alice[1].removeprefix("TO ") != bob[0].removeprefix("to ")
    )
    assert await InProcess().hide(alice, how, "alice", Counter()) == alice


@pytest.mark.parametrize(
    ("error", "reason"),
    [(SandboxTimeoutError(), "more than 10 s"), (SandboxBrokenError(), "the process")],
)
async def test_what_cannot_be_looked_at_is_not_passed_on(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: Any, **options: Any) -> None:
        raise error

    anonymiser = Anonymiser()
    monkeypatch.setattr(anonymiser._sandbox, "ask", fail)
    with pytest.raises(AnonymiseError, match=reason):
        await anonymiser.hide(["text"], ALL, "me", Counter())
    out: list[Chunk] = []
    with pytest.raises(AnonymiseError, match=reason):
        async for chunk in hidden(
            anonymiser, asking(), stream([Chunk(text="to rose@example.org")])
        ):
            out.append(chunk)
    assert out == []


# -- whole answers ---------------------------------------------------------------------------------

CALL = '{"to": "rose@example.org", "text": "Call Dr. Rose Okafor."}'
END = Usage(3, 40)


def asking(**fields: Any) -> GenerateRequest:
    return GenerateRequest("gen-1", "m:1", "hi", anonymise=ALL, **fields)


async def stream(chunks: list[Chunk]) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk
    yield Chunk(finish_reason="stop", usage=END, token_ids=(9,))


def answer(sizes: list[int]) -> list[Chunk]:
    """Thoughts, a text and two calls, in bits."""
    chunks = [Chunk(reasoning=bit, token_ids=(1,)) for bit in cut(LETTER, sizes)]
    chunks += [Chunk(text=bit, token_ids=(2,)) for bit in cut(PLAIN + LETTER, sizes)]
    for index in range(2):
        bits = cut(CALL, sizes)
        deltas = [ToolCallDelta(index, arguments=bit) for bit in bits[1:]]
        begun = ToolCallDelta(index, f"call_{index}", "send", bits[0])
        chunks += [Chunk(tool_calls=(delta,)) for delta in (begun, *deltas)]
    return chunks


def said(chunks: list[Chunk]) -> tuple[Any, ...]:
    calls: dict[int, list[str]] = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls):
        calls.setdefault(delta.index, []).extend(filter(None, [delta.id, delta.name]))
        calls[delta.index].append(delta.arguments)
    texts = "".join(chunk.reasoning for chunk in chunks), "".join(chunk.text for chunk in chunks)
    return *texts, {index: ["".join(parts)] for index, parts in calls.items()}


async def shown(chunks: list[Chunk], **fields: Any) -> list[Chunk]:
    return [chunk async for chunk in hidden(InProcess(), asking(**fields), stream(chunks))]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_thoughts_text_and_calls_are_hidden_alike_however_they_come(sizes: list[int]) -> None:
    whole = asyncio.run(shown(answer([10_000])))
    chunks = asyncio.run(shown(answer(sizes)))
    assert said(chunks) == said(whole)
    assert not [secret for secret in SECRETS if secret in str(said(whole))]
    assert '{"to": "[EMAIL]", "text": "Call Dr. [NAME]."}' in said(whole)[2][1][0]
    assert {chunk.token_ids for chunk in chunks} == {()}
    assert chunks[-1] == Chunk(finish_reason="stop", usage=END)


async def test_the_name_of_a_tool_that_a_model_made_up_is_looked_at() -> None:
    there = ToolUse((Tool("call_13800138000", "", {}),))
    names = ["call_13800138000", "tel-13800138000"]
    calls = [ToolCallDelta(index, f"call_{index}", name, "{}") for index, name in enumerate(names)]
    chunks = await shown([Chunk(tool_calls=(call,)) for call in calls], tool_use=there)
    assert said(chunks)[2] == {0: [f"call_0{names[0]}{{}}"], 1: ["call_1tel-[PHONE]{}"]}


async def test_an_answer_in_json_is_held_until_it_is_whole() -> None:
    chunks = await shown(
        [Chunk(text=bit) for bit in cut(CALL, [5])], grammar=Grammar("json_object")
    )
    assert [chunk.text for chunk in chunks] == ['{"to": "[EMAIL]", "text": "Call Dr. [NAME]."}', ""]


async def test_choices_are_told_apart() -> None:
    bits = cut("Write to rose@example.org now. " + PLAIN, [7])
    mixed = [Chunk(index, bit) for bit in bits for index in range(2)]
    mixed.append(Chunk(1, finish_reason="length"))
    chunks = await shown(mixed, n=2)
    for index in range(2):
        text = "".join(chunk.text for chunk in chunks if chunk.index == index)
        assert text == "Write to [EMAIL] now. " + PLAIN


def test_counts_are_told_without_values() -> None:
    assert told(Counter(EMAIL=2, NAME=1)) == "NAME=1,EMAIL=2"
    assert told(Counter()) == "none"
