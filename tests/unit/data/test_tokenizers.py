from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe, train_character

TEXTS = [
    "Hello, world! It is 2024.\n",
    "你好，世界！ 你好吗？\n",
    "The cat sat on the mat.\r\n\t x",
] * 3


def bpe(**splitting: bool) -> Tokenizer:
    specials = specials_of("translate", ["<2zh>"])
    return train_byte_bpe(TEXTS, specials, 320, Splitting(**splitting))


CHARACTER = train_character(TEXTS, specials_of("generate"))
BPE = bpe(cjk=True, punctuation=True, digits=True)


@given(st.text(alphabet="".join(sorted(set("".join(TEXTS))))))
def test_characters_round_trip_with_spaces_and_newlines(text: str) -> None:
    assert CHARACTER.decode(CHARACTER.encode(text).ids) == text
    assert len(CHARACTER.encode(text).ids) == len(text)


def test_an_unseen_character_is_unknown() -> None:
    ids = CHARACTER.encode("a☃").ids
    assert ids[-1] == CHARACTER.token_to_id("<unk>")


@given(st.text())
def test_byte_bpe_round_trips_any_text(text: str) -> None:
    text = text.replace("<2zh>", "")
    assert BPE.decode(BPE.encode(text).ids) == text


def test_the_prefix_is_one_token_and_the_text_ends_with_eos() -> None:
    assert BPE.encode("<2zh>Hello").tokens[0] == "<2zh>"
    assert BPE.encode("Hello").tokens[-1] == "</s>"


def test_padding_has_id_zero_and_specials_come_first() -> None:
    assert [BPE.token_to_id(token) for token in ("<pad>", "</s>", "<2zh>")] == [0, 1, 2]


def test_classifiers_read_their_text_between_cls_and_sep() -> None:
    tokenizer = train_byte_bpe(TEXTS, specials_of("classify"), 320, Splitting())
    tokens = tokenizer.encode("The cat").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")


def test_training_is_deterministic() -> None:
    assert bpe(cjk=True).to_str() == bpe(cjk=True).to_str()


def test_cjk_characters_punctuation_and_digits_stand_alone() -> None:
    words = BPE.pre_tokenizer.pre_tokenize_str("你好，a24!!")
    assert [span for _, span in words] == [(i, i + 1) for i in range(8)]


def test_dropped_spaces_make_a_word_the_same_everywhere() -> None:
    tokenizer = bpe(drop_spaces=True)
    assert tokenizer.encode("cat cat").ids[:-1] == tokenizer.encode("cat").ids[:-1] * 2


def test_offsets_are_those_of_the_text_without_its_spaces() -> None:
    encoding = bpe().encode("The cat")
    assert encoding.offsets[-2][1] == 7 and all(
        not "The cat"[start:end].startswith(" ") for start, end in encoding.offsets
    )


@pytest.mark.parametrize("task", ["generate", "chat"])
def test_nothing_is_put_around_text_to_continue(task: str) -> None:
    tokenizer = train_character(TEXTS, specials_of(task))
    assert len(tokenizer.encode("Hello").ids) == 5
