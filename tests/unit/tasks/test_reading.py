"""Answers out of windows, whatever their number."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from tokenizers import Tokenizer

from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.tasks.answer import best_answer, best_span
from llmos.tasks.windows import num_windows, windows_of

TEXT = " ".join(f"word{number}" for number in range(40))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_bpe([TEXT], specials_of("answer"), 300, Splitting())


@pytest.mark.parametrize("room", [20, 33, 64, 500])
def test_windows_hold_every_token_of_the_context_beside_the_question(
    tokenizer: Tokenizer, room: int
) -> None:
    pair = tokenizer.encode("which word", TEXT)
    question = [i for i, part in zip(pair.ids, pair.sequence_ids, strict=True) if part != 1]
    windows = windows_of(pair, room, 1000)
    assert all(len(window.ids) <= room for window in windows)
    seen: set[tuple[int, int]] = set()
    for window in windows:
        parts = list(zip(window.ids, window.parts, window.offsets, strict=True))
        assert [i for i, part, _ in parts if part != 1] == question
        seen |= {offsets for _, part, offsets in parts if part == 1}
    assert len(seen) == pair.sequence_ids.count(1)
    assert (len(windows) == 1) == (len(pair.ids) <= room)
    assert num_windows(pair, room) == len(windows)
    assert windows_of(pair, room, 2) == windows[:2]
    for one, other in itertools.pairwise(windows):
        assert set(one.offsets) & set(other.offsets) - {(0, 0)}, "they overlap"


def test_there_is_no_window_where_the_question_leaves_no_room(tokenizer: Tokenizer) -> None:
    pair = tokenizer.encode(TEXT, "word1")
    assert windows_of(pair, 30, 10) == []
    assert num_windows(pair, 30) == 0


def test_windows_read_each_field_of_an_encoding_as_often_however_many_they_are(
    tokenizer: Tokenizer,
) -> None:
    reads: Counter[str] = Counter()

    class Counted:
        """An encoding, each access to which copies what it holds."""

        def __init__(self) -> None:
            self.pair = tokenizer.encode("which word", TEXT)

        def __len__(self) -> int:
            return len(self.pair)

        def __getattr__(self, name: str) -> Any:
            reads[name] += 1
            return getattr(self.pair, name)

    pair: Any = Counted()
    assert len(windows_of(pair, 20, 1000)) > 10
    many = reads.copy()
    reads.clear()
    assert len(windows_of(pair, 500, 1000)) == 1
    assert reads == many


@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 300])
@pytest.mark.parametrize("max_tokens", [1, 5, 64])
def test_the_best_span_is_that_of_all_pairs_of_start_and_end(size: int, max_tokens: int) -> None:
    rng = random.Random(size)
    parts = [None, 0, None, *[1] * size, None]
    starts, ends = ([rng.gauss(0, 3) for _ in parts] for _ in range(2))
    span, nothing = best_span(starts, ends, parts, max_tokens)
    pairs = [(a, b) for a in range(3, 3 + size) for b in range(a, min(a + max_tokens, 3 + size))]
    assert (span.first, span.last) == max(pairs, key=lambda pair: starts[pair[0]] + ends[pair[1]])
    gap = starts[span.first] + ends[span.last] - starts[0] - ends[0]
    assert math.log(span.score / nothing) == pytest.approx(gap)


def test_a_window_without_context_has_no_span() -> None:
    span, nothing = best_span([1.0, 2.0], [1.0, 2.0], [None, 0])
    assert span.score < 0 and nothing == 1


def test_a_span_ends_after_it_starts_and_lies_in_the_context() -> None:
    parts = [None, 0, 0, None, 1, 1, 1, None]
    starts = [0.0, 9.0, 9.0, 9.0, 1.0, 5.0, 2.0, 9.0]
    ends = [0.0, 9.0, 9.0, 9.0, 6.0, 2.0, 3.0, 9.0]
    span, nothing = best_span(starts, ends, parts)
    assert (span.first, span.last) == (4, 4) or (span.first, span.last) == (5, 6)
    scores = {(a, b): starts[a] + ends[b] for a in range(4, 7) for b in range(a, 7)}
    assert (span.first, span.last) == max(scores, key=scores.__getitem__)
    assert 0 < nothing < span.score < 1
    short, _ = best_span(starts, ends, parts, max_tokens=1)
    assert short.first == short.last


def test_the_likeliest_window_answers_unless_all_hold_that_there_is_none(
    tokenizer: Tokenizer,
) -> None:
    pair = tokenizer.encode("which word", TEXT)
    windows = windows_of(pair, 40, 100)
    text = TEXT
    flat = [0.0] * 40

    def found(place: int, null: float) -> tuple[list[float], list[float]]:
        logits = flat[:]
        logits[0], logits[place] = null, 8.0
        return logits, logits

    wanted = windows[1].parts.index(1) + 3
    spans = []
    for number, window in enumerate(windows):
        starts, ends = found(wanted, 0.0) if number == 1 else found(0, 9.0)
        size = len(window.ids)
        spans.append((best_span(starts[:size], ends[:size], window.parts), window))
    answer = best_answer(spans, text)
    start, end = windows[1].offsets[wanted]
    assert (answer.text, answer.start, answer.end) == (text[start:end].strip(), answer.start, end)
    assert answer.text == text[answer.start : answer.end]
    nothing = best_answer([spans[0]], text)
    assert (nothing.text, nothing.start, nothing.end) == ("", 0, 0) and nothing.score > 0.9
