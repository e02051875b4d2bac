from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu

from llmos.evaluation.metrics import (
    accuracy,
    answer_scores,
    bleu,
    bleu_among,
    class_scores,
    correlations,
    distinct,
    edit_rate,
    macro_f1,
    ndcg,
    perplexity,
    scores,
    span_scores,
)


def test_class_scores_match_counts_made_by_hand() -> None:
    gold = ["a", "a", "a", "b", "b", "c"]
    predicted = ["a", "a", "b", "b", "a", "a"]
    found = class_scores(predicted, gold)
    # a: 2 hits of 4 predicted, 3 there; b: 1 of 2, 2 there; c: never predicted.
    assert (found["a"].precision, found["a"].recall) == (2 / 4, 2 / 3)
    assert found["a"].f1 == pytest.approx(4 / 7)
    assert (found["b"].precision, found["b"].recall, found["b"].f1) == (0.5, 0.5, 0.5)
    assert found["c"].f1 == 0
    assert macro_f1(predicted, gold) == pytest.approx((4 / 7 + 0.5 + 0) / 3)
    assert accuracy(predicted, gold) == 0.5


def test_a_span_counts_only_when_start_end_and_label_match() -> None:
    gold = [{(0, 5, "PER"), (10, 15, "LOC")}, {(0, 3, "ORG")}, set()]
    predicted = [{(0, 5, "PER"), (10, 14, "LOC")}, {(0, 3, "LOC")}, {(1, 2, "PER")}]
    found = span_scores(predicted, gold)
    assert (found.precision, found.recall) == (1 / 4, 1 / 3)
    assert found.f1 == pytest.approx(2 / 7)


def test_nothing_to_find_and_nothing_found_scores_zero_not_an_error() -> None:
    assert scores(0, 0, 0).f1 == 0
    assert accuracy([], []) == 0
    assert macro_f1([], []) == 0


def test_perplexity_is_exp_of_the_loss() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(10_000) == math.inf


def test_bleu_is_sacrebleus_with_a_signature() -> None:
    hypotheses, references = (
        ["the cat sat on a mat", "hello there"],
        ["the cat sat on the mat", "hello"],
    )
    found = bleu(hypotheses, references, "en")
    assert found.score == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score)
    assert "tok:13a" in found.signature


def test_chinese_bleu_cuts_by_character() -> None:
    found = bleu(["今天天气很好。"], ["今天天气很好。"], "zh")
    assert found.score == pytest.approx(100) and "tok:zh" in found.signature


def test_edits_are_counted_as_levenshtein_does() -> None:
    assert edit_rate(["kitten", "", "北京"], ["sitting", "ab", "上海北京"]) == 7 / (7 + 2 + 4)
    assert edit_rate(["same"], ["same"]) == 0.0


def test_bleu_against_many_texts_is_sacrebleu_s_of_each() -> None:
    texts = [[1, 2, 3, 4, 5], [2, 3, 4, 9, 9, 1], [7, 1, 2, 3, 4]]
    references = [[1, 2, 3, 4, 6], [2, 3, 4, 9, 1, 2, 3, 4], [5, 5, 5, 7, 1, 2]]
    worded = [" ".join(map(str, one)) for one in references]
    oracle = [
        sacrebleu.sentence_bleu(
            " ".join(map(str, text)), worded, tokenize="none", smooth_method="none"
        ).score
        for text in texts
    ]
    assert bleu_among(texts, references) == pytest.approx(sum(oracle) / 3 / 100)


def test_texts_that_are_all_the_same_have_no_variety() -> None:
    same = [[1, 2, 3, 4, 5]] * 3
    other = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]
    assert bleu_among(same) == pytest.approx(1.0)
    assert bleu_among(other) < 0.2
    assert (distinct(same, 2), distinct(other, 2)) == (4 / 12, 1.0)


def test_correlations_are_numpy_s_of_numbers_and_of_ranks() -> None:
    xs, ys = [1.0, 4.0, 2.0, 8.0, 5.0], [2.0, 3.0, 1.0, 9.0, 9.0]
    found = correlations(xs, ys)
    assert found["pearson"] == pytest.approx(np.corrcoef(xs, ys)[0, 1])
    ranks = [0, 2, 1, 4, 3], [1, 2, 0, 3.5, 3.5]  # equal numbers share their mean rank
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert correlations([1.0, 1.0], [1.0, 2.0]) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("eiffel", ["the Eiffel Tower", "Eiffel"], 1.0, 1.0),
        ("in Paris, France", ["Paris"], 0.0, 0.5),
        ("", [""], 1.0, 1.0),
        ("Paris", [""], 0.0, 0.0),
        ("北京市", ["北京"], 0.0, 0.8),
        ("《红楼梦》", ["红楼梦"], 1.0, 1.0),
    ],
)
def test_answers_are_compared_as_squad_does_and_chinese_by_character(
    answer: str, gold: list[str], exact: float, f1: float
) -> None:
    found = answer_scores([answer], [gold])
    assert found == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_gain_is_discounted_by_rank() -> None:
    assert ndcg([True, False, True]) == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))
    assert ndcg([True, True, False]) == 1.0
    assert ndcg([False, True]) == pytest.approx(1 / math.log2(3))
    assert ndcg([False] * 10 + [True]) == ndcg([False]) == 0.0
