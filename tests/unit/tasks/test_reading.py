"""Answers out of windows, whatever their number."""

from __future__ import annotations

import itertools

import pytest
from tokenizers import Tokenizer

from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.tasks.answer import best_answer, best_span
from llmos.tasks.windows import windows_of

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
    for one, other in itertools.pairwise(windows):
        assert set(one.offsets) & set(other.offsets) - {(0, 0)}, "they overlap"


def test_there_is_no_window_where_the_question_leaves_no_room(tokenizer: Tokenizer) -> None:
    assert windows_of(tokenizer.encode(TEXT, "word1"), 30, 10) == []


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
