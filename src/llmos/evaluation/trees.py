"""How many words of sentences hang where they should (Buchholz and Marsi, 2006, CoNLL-X).

Punctuation counts, and a relation is right without what is behind its colon: `nsubj:pass` for
`nsubj`, as in CoNLL 2018 (Zeman et al., 2018). Words are those of the gold sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.data.trees import Parsed
from llmos.models.words import PUNCTUATION


@dataclass(frozen=True, slots=True)
class Tree:
    """What is told of a sentence's words: heads, relations and parts of speech."""

    heads: Sequence[int]
    relations: Sequence[str]
    tags: Sequence[str]


def attachment(predicted: Sequence[Tree], gold: Sequence[Parsed]) -> dict[str, float]:
    """Return the shares of words with the right head (`uas`), and with its relation too (`las`);
    both `…_without_punctuation`, which words are by their gold part of speech, or relation where
    they have none; and of words with the right part of speech (`upos`), where it is known. Each is
    0 of nothing."""
    words = [
        _Word(
            head == gold_head,
            _universal(relation) == _universal(gold_relation),
            gold_tag == PUNCTUATION if gold_tag else gold_relation == "punct",
            tag == gold_tag,
            bool(gold_tag),
        )
        for tree, one in zip(predicted, gold, strict=True)
        for head, relation, tag, gold_head, gold_relation, gold_tag in zip(
            tree.heads,
            tree.relations,
            tree.tags,
            one.heads,
            one.relations,
            one.tags or [""] * len(one.words),
            strict=True,
        )
    ]
    spoken = [word for word in words if not word.is_punctuation]
    return {
        "uas": _share([word.has_head for word in words]),
        "las": _share([word.has_head and word.has_relation for word in words]),
        "uas_without_punctuation": _share([word.has_head for word in spoken]),
        "las_without_punctuation": _share([word.has_head and word.has_relation for word in spoken]),
        "upos": _share([word.has_tag for word in words if word.is_tagged]),
    }


@dataclass(frozen=True, slots=True)
class _Word:
    has_head: bool
    has_relation: bool
    is_punctuation: bool
    has_tag: bool
    is_tagged: bool


def _universal(relation: str) -> str:
    return relation.partition(":")[0]


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0
