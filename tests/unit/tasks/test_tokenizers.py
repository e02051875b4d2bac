from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.errors import InvalidModelError
from llmos.tasks.tokenizers import Detokenizer, Tokenizer, Tokenizers
from llmos.types import FileRef

TokenizerOf = Callable[[str], Tokenizer]


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_detokenizing_token_by_token_gives_the_text_back(
    tokenizer_of: TokenizerOf, family: str, text: str
) -> None:
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode_now(text).ids
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback"])
def test_no_part_of_a_character_is_emitted(tokenizer_of: TokenizerOf, family: str) -> None:
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode_now("a🙂你b").ids
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "🙂" in pieces
    assert "" in pieces  # the tokens in which the character was not whole yet


def test_a_character_left_unfinished_is_left_out(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_fallback")
    ids = tokenizer.encode_now("ab🙂").ids[:-1]
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)).strip() == "ab"


def test_invalid_bytes_do_not_stall_the_stream(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_fallback")
    stray = tokenizer.token_id("<0x80>")
    assert stray is not None
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push(stray) for _ in range(3)] == ["\ufffd"] * 3


def test_text_that_continues_keeps_its_leading_space(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_fallback")
    hello, world = tokenizer.token_id("▁Hello"), tokenizer.token_id("▁world")
    assert hello is not None
    assert world is not None
    assert Detokenizer(tokenizer, [hello]).push(world) == " world"
    assert Detokenizer(tokenizer).push(world) == "world"


def test_special_tokens_stand_for_no_text(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_level")
    end = tokenizer.token_id("<|end|>")
    assert end is not None
    assert Detokenizer(tokenizer).push(end) == ""
    assert tokenizer.token_bytes(end) == b"<|end|>"


def test_a_special_token_may_be_made_visible(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_level")
    user, end = (tokenizer.token_id(name) for name in ("<|user|>", "<|end|>"))
    assert user is not None
    assert end is not None
    detokenizer = Detokenizer(tokenizer, visible_ids={user})
    ids = (*tokenizer.encode_now("你").ids, user, end, *tokenizer.encode_now(" b").ids)
    assert "".join(map(detokenizer.push, ids)) == "你<|user|> b"


async def test_ids_alone_are_those_of_the_whole_encoding(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("words")
    for text in ("Alice flew", "Alice flew from Paris " * 500):
        for special in (True, False):
            encoded = await tokenizer.encode(text, special_tokens=special)
            assert await tokenizer.ids(text, special_tokens=special) == encoded.ids


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback", "characters", "words"])
@pytest.mark.parametrize("text", ["Hello 你好 🙂 " * 30_000, "x" * 200_000, " " * 200_000])
async def test_a_long_text_has_at_least_the_tokens_that_are_told(
    tokenizer_of: TokenizerOf, family: str, text: str
) -> None:
    tokenizer = tokenizer_of(family)
    exact = len(await tokenizer.ids(text, special_tokens=False))
    least = await tokenizer.least_tokens(text, 1000)
    assert least <= exact
    assert least > 1000 or exact < 2000
    assert await tokenizer.least_tokens(text, len(text)) == 0


def test_offsets_and_special_marks_come_with_the_ids(tokenizer_of: TokenizerOf) -> None:
    encoded = tokenizer_of("words").encode_now("Alice flew")
    assert encoded.offsets == ((0, 0), (0, 5), (6, 10), (0, 0))
    assert encoded.special == (True, False, False, True)


async def test_long_texts_are_encoded_alike(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("characters")
    text = "Hello, world! " * 1000
    assert await tokenizer.encode(text) == tokenizer.encode_now(text)


class _Blobs:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.num_reads = 0

    def read_bytes(self, digest: str) -> bytes:
        self.num_reads += 1
        return self.data


async def test_a_tokenizer_is_loaded_once(tokenizer_of: TokenizerOf) -> None:
    blobs = _Blobs(tokenizer_of("words")._rust.to_str().encode())
    tokenizers = Tokenizers(blobs, capacity=1)
    files = {"tokenizer.json": FileRef("sha256:a", 1)}
    assert await tokenizers.get(files) is await tokenizers.get(files)
    assert blobs.num_reads == 1
    await tokenizers.get({"tokenizer.json": FileRef("sha256:b", 1)})
    await tokenizers.get(files)
    assert blobs.num_reads == 3  # the least recently used one had gone


async def test_a_model_without_a_readable_tokenizer_says_so() -> None:
    with pytest.raises(InvalidModelError, match=r"no tokenizer\.json"):
        await Tokenizers(_Blobs(b"")).get({})
    broken = Tokenizers(_Blobs(b'{"version": "1.0"}'))
    with pytest.raises(InvalidModelError, match="cannot be read"):
        await broken.get({"tokenizer.json": FileRef("sha256:a", 1)})
