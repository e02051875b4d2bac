"""MinHash: the signatures are datasketch's, and tell how much two sets have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data import shingles
from llmos.data.shingles import MinHasher, Shingler, sha1_numbers

TEXT = "the river rises when snow melts in the hills and the fields wait for it"
WORDS = TEXT.split()
CHINESE = list("雪在山里化了河水就涨起来田地等着它雪在山里化了")


def grams_of(words: list[str], n: int) -> list[str]:
    return [" ".join(words[place : place + n]) for place in range(len(words) - n + 1)]


@pytest.mark.parametrize("words", [WORDS, CHINESE, WORDS * 60], ids=["en", "zh", "long"])
@pytest.mark.parametrize(("places", "seed", "n"), [(112, 1, 5), (128, 42, 1), (7, 0, 3)])
def test_legacy_signatures_are_those_of_datasketch(
    words: list[str], places: int, seed: int, n: int
) -> None:
    theirs = MinHash(num_perm=places, seed=seed, scheme="legacy")
    for gram in grams_of(words, n):
        theirs.update(gram.encode())
    ours = MinHasher(places, seed, "legacy").signature(sha1_numbers(words, n))
    assert ours.tolist() == theirs.hashvalues.tolist()


@given(numbers=st.lists(st.integers(0, 2**32 - 1), max_size=40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_affine_signatures_are_those_of_datasketch(numbers: list[int], seed: int) -> None:
    theirs = MinHash(num_perm=16, seed=seed, scheme="affine32", hashfunc=lambda number: number)
    for number in numbers:
        theirs.update(number)
    ours = MinHasher(16, seed, "affine32").signature(np.array(numbers, np.uint32))
    assert ours.tolist() == theirs.hashvalues.tolist()


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize("places", [64, 128, 512])
def test_the_estimate_of_jaccard_similarity_is_within_three_errors(
    places: int, scheme: shingles.Scheme
) -> None:
    chance = np.random.default_rng(places)
    for trial, share in enumerate(np.linspace(0, 1, 21)):
        size = int(chance.integers(50, 900))
        common = round(2 * size * share / (1 + share))  # of two sets of this size
        drawn = chance.choice(2**32, 2 * size - common, replace=False).astype(np.uint32)
        some, others = drawn[:size], drawn[size - common :]
        similarity = common / len(drawn)
        hasher = MinHasher(places, trial, scheme)
        estimate = float((hasher.signature(some) == hasher.signature(others)).mean())
        assert abs(estimate - similarity) <= 3 / math.sqrt(places)


@given(
    words=st.lists(st.sampled_from([*WORDS, "雪", ""]), max_size=30),
    n=st.integers(1, 6),
    others=st.lists(st.sampled_from(WORDS), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_the_same_n_grams_have_the_same_numbers_and_others_have_others(
    words: list[str], n: int, others: list[str]
) -> None:
    shingler = Shingler(n)
    numbers = shingler.numbers(words).tolist()
    assert len(numbers) == (max(1, len(words) - n + 1) if words else 0)
    if len(words) >= n:
        grams = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
        assert len(set(numbers)) == len(set(grams))
        within = Shingler(n).numbers([*others, *words]).tolist()
        assert within[len(others) :] == numbers


def test_words_that_were_forgotten_have_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Shingler(3).numbers(WORDS).tolist()
    monkeypatch.setattr(shingles, "_MAX_REMEMBERED", 2)
    shingler = Shingler(3)
    assert [shingler.numbers(WORDS).tolist() for _ in range(3)] == [whole] * 3


def test_the_order_of_words_matters_and_repetition_does_not() -> None:
    numbers = Shingler(2).numbers(["a", "b", "a", "b"]).tolist()
    assert numbers[0] == numbers[2] != numbers[1]
    hasher = MinHasher(32, 0, "affine32")
    some = np.arange(100, dtype=np.uint32)
    twice = np.concatenate([some, some[::-1]])
    assert np.array_equal(hasher.signature(some), hasher.signature(twice))
