"""Numbers that say how good predictions are. Plain Python; BLEU is sacrebleu's."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass

CHINESE = ("zh", "yue", "wuu")
ARTICLES = frozenset({"a", "an", "the"})
WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")
RECALLS = {"accuracy": 1, "recall_at_5": 5, "recall_at_10": 10}


@dataclass(frozen=True, slots=True)
class Scores:
    """Precision, recall and their harmonic mean, each in [0, 1]; 0 where undefined."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Bleu:
    """Corpus BLEU in [0, 100] and the signature under which it can be compared."""

    score: float
    signature: str


def perplexity(mean_loss: float) -> float:
    """exp of the mean cross-entropy in nats; infinite where it would overflow."""
    return math.exp(mean_loss) if mean_loss < 700 else math.inf


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)


def accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """Share of predictions that equal the gold label; 0 of nothing."""
    right = sum(p == g for p, g in zip(predicted, gold, strict=True))
    return right / len(gold) if gold else 0.0


def distinct(texts: Sequence[Sequence[Hashable]], order: int) -> float:
    """Share of different n-grams among all of that order (Li et al., arXiv:1510.03055)."""
    found = [ngram for text in texts for ngram in _ngrams(text, order).elements()]
    return len(set(found)) / max(1, len(found))


def bleu_among(
    texts: Sequence[Sequence[Hashable]],
    references: Sequence[Sequence[Hashable]] | None = None,
    order: int = 4,
) -> float:
    """Mean BLEU in [0, 1] of texts, each against all references, or where there are none against
    all other texts (self-BLEU: Zhu et al., arXiv:1802.01886). An order with no hit counts for half
    a hit."""
    total = 0.0
    for number, text in enumerate(texts):
        others = references or [*texts[:number], *texts[number + 1 :]]
        total += _sentence_bleu(text, others, min(order, len(text)))
    return total / max(1, len(texts))


def _sentence_bleu(
    text: Sequence[Hashable], references: Sequence[Sequence[Hashable]], order: int
) -> float:
    logs = 0.0
    for n in range(1, order + 1):
        ours = _ngrams(text, n)
        hits = dict.fromkeys(ours, 0)
        for reference in references:
            theirs = _ngrams(reference, n)
            for ngram in ours.keys() & theirs.keys():
                hits[ngram] = max(hits[ngram], min(ours[ngram], theirs[ngram]))
        logs += math.log((sum(hits.values()) or 0.5) / ours.total()) / order
    nearest = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    return math.exp(logs + min(0.0, 1 - nearest / len(text)))


def _ngrams(text: Sequence[Hashable], order: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(zip(*(text[start:] for start in range(order)), strict=False))


def edit_rate(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Characters to insert, delete or replace (Levenshtein) for each that is wanted."""
    edits = sum(_edits(ours, theirs) for ours, theirs in zip(written, wanted, strict=True))
    return edits / max(1, sum(map(len, wanted)))


def _edits(ours: str, theirs: str) -> int:
    row = list(range(len(theirs) + 1))
    for place, ours_here in enumerate(ours, start=1):
        before, row[0] = row[0], place
        for other, theirs_here in enumerate(theirs, start=1):
            changed = before + (ours_here != theirs_here)
            before, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, changed)
    return row[-1]


def scores(true_positives: int, predicted: int, gold: int) -> Scores:
    """Scores from counts: hits, things predicted, things that were there."""
    precision = true_positives / predicted if predicted else 0.0
    recall = true_positives / gold if gold else 0.0
    total = predicted + gold
    return Scores(precision, recall, 2 * true_positives / total if total else 0.0)


def class_scores(predicted: Sequence[str], gold: Sequence[str]) -> dict[str, Scores]:
    """Scores of each class that occurs among predictions or gold labels."""
    hits = Counter(p for p, g in zip(predicted, gold, strict=True) if p == g)
    predicted_counts, gold_counts = Counter(predicted), Counter(gold)
    return {
        label: scores(hits[label], predicted_counts[label], gold_counts[label])
        for label in sorted(predicted_counts | gold_counts)
    }


def macro_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Mean F1 over the classes, each counting the same."""
    per_class = class_scores(predicted, gold)
    return sum(s.f1 for s in per_class.values()) / len(per_class) if per_class else 0.0


def span_scores(predicted: Sequence[Set[Hashable]], gold: Sequence[Set[Hashable]]) -> Scores:
    """Exact-match scores over the spans of all texts together (CoNLL-2000/2003 F1).

    Each text's spans are a set of (start, end, label); a span counts only when all three match.
    """
    hits = sum(len(p & g) for p, g in zip(predicted, gold, strict=True))
    return scores(hits, sum(map(len, predicted)), sum(map(len, gold)))


def bleu(hypotheses: Sequence[str], references: Sequence[str], target_lang: str = "") -> Bleu:
    """Corpus BLEU, one reference each; Chinese is cut by character (``tokenize="zh"``)."""
    from sacrebleu.metrics import BLEU

    tokenize = "zh" if target_lang.split("-")[0] in CHINESE else "13a"
    metric = BLEU(tokenize=tokenize)
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(float(score.score), str(metric.get_signature()))


def normalized(answer: str) -> str:
    """An answer without case, punctuation, articles and double spaces, as SQuAD compares them."""
    kept = (char for char in answer.lower() if not unicodedata.category(char).startswith("P"))
    return " ".join(word for word in "".join(kept).split() if word not in ARTICLES)


def overlap_f1(predicted: str, gold: str) -> float:
    """F1 of the words that an answer and the right one have in common; a Chinese character is a
    word. Two empty answers are the same, one is wrong."""
    ours, theirs = (WORD.findall(normalized(text)) for text in (predicted, gold))
    if not ours or not theirs:
        return float(ours == theirs)
    hits = sum((Counter(ours) & Counter(theirs)).values())
    return scores(hits, len(ours), len(theirs)).f1


def answer_scores(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of the words in common, each with the right answer that fits best, as
    SQuAD has them (Rajpurkar et al., 2016, arXiv:1606.05250, section 6.1)."""
    pairs = [*zip(predicted, gold, strict=True)]
    exact = [normalized(ours) in map(normalized, theirs) for ours, theirs in pairs]
    f1 = [max(overlap_f1(ours, one) for one in theirs) for ours, theirs in pairs]
    count = max(1, len(pairs))
    return {"exact_match": sum(exact) / count, "f1": sum(f1) / count}


def rating_scores(given: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Mean squared error of numbers, and how they go together with the right ones: Pearson's
    correlation, and Spearman's of their ranks."""
    errors = [(one - other) ** 2 for one, other in zip(given, right, strict=True)]
    return {"mse": math.fsum(errors) / max(1, len(errors)), **correlations(given, right)}


def correlations(given: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation, and Spearman's."""
    return {"pearson": pearson(given, right), "spearman": spearman(given, right)}


def ranking_scores(ranks: Sequence[int]) -> dict[str, float]:
    """How often what is looked for comes first (accuracy), among the first 5 and 10 (recall), and
    the mean of one over its rank (MRR).

    Args:
        ranks: of what was looked for, each 1 or more.
    """
    count = max(1, len(ranks))
    shares = {name: sum(rank <= most for rank in ranks) / count for name, most in RECALLS.items()}
    return {**shares, "mrr": math.fsum(1 / rank for rank in ranks) / count}


def ndcg(ordered: Sequence[bool], most: int = 10) -> float:
    """Normalised discounted cumulative gain of what comes first (Järvelin and Kekäläinen, 2002,
    doi:10.1145/582415.582418): what is relevant counts 1 over the binary logarithm of its rank
    plus 1, against the best order there is; 0 where nothing is relevant.

    Args:
        ordered: whether each is relevant, the first first.
    """
    gains = [1 / math.log2(place + 2) for place in range(min(most, len(ordered)))]
    best = math.fsum(gains[: sum(ordered)])
    found = math.fsum(
        gain for gain, is_relevant in zip(gains, ordered, strict=False) if is_relevant
    )
    return found / best if best else 0.0


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of them does not vary."""
    count = len(xs)
    mean_x, mean_y = math.fsum(xs) / max(1, count), math.fsum(ys) / max(1, count)
    together = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    alone = [math.fsum((v - m) ** 2 for v in vs) for vs, m in ((xs, mean_x), (ys, mean_y))]
    return together / math.sqrt(alone[0] * alone[1]) if all(alone) else 0.0


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values at their mean rank."""
    return pearson(_ranks(xs), _ranks(ys))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, begin = [0.0] * len(values), 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for place in order[begin:end]:
            ranks[place] = (begin + end - 1) / 2
        begin = end
    return ranks
