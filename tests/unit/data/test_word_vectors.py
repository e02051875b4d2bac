from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from llmos.data.tokenizers import Splitting, given_words, specials_of, train_words
from llmos.data.word_vectors import (
    WordVectors,
    read_model,
    read_text,
    write_imported,
    write_text,
)
from llmos.errors import DataError
from llmos.models.registry import register


def vectors() -> WordVectors:
    words = ["the", "国王", "don't", "1984", "naïve"]
    matrix = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    return WordVectors(words, matrix * np.float32(1e-3) ** np.arange(7, dtype=np.float32))


@pytest.mark.parametrize("header", [True, False], ids=["word2vec", "glove"])
def test_the_text_format_holds_every_bit(header: bool, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    write_text(path, vectors(), header=header)
    assert path.read_text("utf-8").startswith("5 7\n" if header else "the ")
    read = read_text(path)
    assert read.words == vectors().words
    assert np.array_equal(read.matrix, vectors().matrix)


def test_what_other_programs_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes("2 3\r\nking 1e-1 -2 .5 \r\n王 0.0 1 2.50\r\n".encode())
    read = read_text(path)
    assert read.words == ["king", "王"]
    assert read.matrix.tolist() == [[np.float32(0.1), -2.0, 0.5], [0.0, 1.0, 2.5]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no vectors"),
        ("2 2\n", "has no vectors"),
        ("a 1 2\nb 1\n", r"line 2 has 1 numbers where 2 are expected"),
        ("a 1 2\nb 1 2 3\n", r"line 2 has 3 numbers where 2 are expected"),
        ("3 2\na 1 2\nb 1 2\n", r"says that it has 3 words, but has 2"),
        ("1 3\na 1 2\n", r"line 2 has 2 numbers where 3 are expected"),
        ("a 1 2\nb 1 two\n", r"line 2: 'two' is not a number"),
        ("a 1 2\nb 1 nan\n", r"line 2 has a number that is not finite"),
        ("a 1 2\nb 1 1e99\n", r"line 2 has a number that is not finite"),
        ("a 1 2\nb 1 2\na 3 4\n", r"line 3: 'a' is there already, in line 1"),
        ("a 1 2\n 1 2\n", r"line 2 begins with a space"),
        ("a 1 2\n\nb 1 2\n", r"line 2 must be a word and its numbers"),
        ("word\n", r"line 1 must be a word and its numbers"),
        (b"a 1 2\n\xff\xfe 1 2\n", "binary format must be saved as text"),
    ],
)
def test_a_bad_line_is_named(text: str | bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says):
        read_text(path)


def test_a_word_with_a_space_cannot_be_written(tmp_path: Path) -> None:
    two = WordVectors(["new york"], np.ones((1, 2), dtype=np.float32))
    with pytest.raises(DataError, match="not one word"):
        write_text(tmp_path / "v.txt", two, header=False)


def test_transformers_loads_what_was_imported(tmp_path: Path) -> None:
    register()
    write_imported(tmp_path, vectors())
    model = AutoModel.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("the 国王 1984, don't", return_tensors="pt")["input_ids"]
    expected = torch.zeros(4, 7)
    for place, row in ((0, 0), (1, 1), (3, 2)):  # "1984," is no word here
        expected[place] = torch.from_numpy(vectors().matrix[row])
    assert torch.equal(model(ids).last_hidden_state[0], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["it's", "a", "well-known", "Café", "in", "1984", "国王", "和", "王后"]),
        ({"cjk": True}, [*"国王和王后"]),
        ({"lowercase": True}, ["café"]),
        ({"punctuation": True}, [",", "，", "!"]),
    ],
)
def test_words_are_runs_of_letters(options: dict[str, bool], words: list[str]) -> None:
    text = "it's a well-known Café, in 1984! 国王 和 王后，"
    tokenizer = train_words([text], specials_of("word_vectors"), 1000, 1, Splitting(**options))
    assert set(words) <= set(tokenizer.encode(text).tokens)
    if not options:
        assert tokenizer.encode(text).tokens == words


def test_rare_words_are_unknown_and_frequent_ones_come_first() -> None:
    tokenizer = train_words(
        ["b b b a a a a c c"], specials_of("word_vectors"), 1000, 3, Splitting()
    )
    assert tokenizer.encode("a b c").tokens == ["a", "b", "<unk>"]
    assert tokenizer.encode("a b c").ids == [2, 3, 1]


def test_a_tokenizer_of_given_words_splits_as_one_that_found_them() -> None:
    splitting = Splitting(cjk=True, lowercase=True)
    words = ["the", "国", "王", "don't", "<unk>"]
    tokenizer = given_words(words, specials_of("classify"), splitting)
    read = tokenizer.encode("The 国王, don't!")
    assert read.tokens == ["[CLS]", "the", "国", "王", "don't", "[SEP]"]
    assert tokenizer.encode("zebra", add_special_tokens=False).tokens == ["<unk>"]
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__)[4:] == words[:-1]


def test_a_directory_gives_back_what_was_written_into_it(tmp_path: Path) -> None:
    write_imported(tmp_path, vectors())
    read = read_model(tmp_path)
    assert read.words == ["<pad>", "<unk>", *vectors().words]
    assert np.array_equal(read.matrix[2:], vectors().matrix)
