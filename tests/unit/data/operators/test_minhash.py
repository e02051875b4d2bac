"""Near duplicates are found among many texts, in English and Chinese, wherever they stand."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasketch import MinHash

from llmos.data.operators.minhash import MinHashDedup
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import Applied, apply, tried

ENGLISH = [first + last for first in "bdfgklmnprst" for last in ("ase", "oth", "ilm", "urn", "end")]
CHINESE = list("天地人山水火木金土日月星云风雨雷电花草树鸟鱼虫马牛羊门户车船米布衣书画琴棋刀弓")


def planted(seed: int, words: list[str], gap: str) -> list[tuple[int, str]]:
    """Texts of 150 words, each with the number of its cluster: the same but for a word or two."""
    draw = random.Random(seed)
    texts = []
    for cluster in range(40):
        original = [draw.choice(words) for _ in range(150)]
        for _ in range(draw.choice([1, 1, 2, 4])):
            copy = list(original)
            copy[draw.randrange(len(copy))] = draw.choice(words)
            texts.append((cluster, gap.join(copy)))
    draw.shuffle(texts)
    return texts


def deduplicated(texts: list[str], **options: Any) -> Applied:
    records = [Record(str(number), {"text": text}) for number, text in enumerate(texts)]
    return apply([MinHashDedup(**options)], records)


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize(("words", "gap"), [(ENGLISH, " "), (CHINESE, "")], ids=["en", "zh"])
def test_one_of_each_planted_cluster_stays_the_first(
    words: list[str], gap: str, scheme: str
) -> None:
    texts = planted(1, words, gap)
    first: dict[int, int] = {}
    for place, (cluster, _) in enumerate(texts):
        first.setdefault(cluster, place)
    done = deduplicated([text for _, text in texts], scheme=scheme, bands=30, rows=4)
    assert [int(one.id) for one in done.records] == sorted(first.values())
    for row in done.outcome.dropped:
        cluster = texts[int(row["id"])][0]
        assert row["reason"] == f"near duplicate: of {first[cluster]}"


def test_which_texts_are_alike_does_not_depend_on_their_order() -> None:
    texts = planted(2, ENGLISH, " ")
    parts = []
    for seed in range(3):
        shuffled = list(texts)
        random.Random(seed).shuffle(shuffled)
        done = deduplicated([text for _, text in shuffled])
        where = {str(place): text for place, (_, text) in enumerate(shuffled)}
        alike: dict[str, set[str]] = {one.id: {one.text()} for one in done.records}
        for row in done.outcome.dropped:
            alike[row["reason"].rpartition(" ")[2]].add(where[row["id"]])
        parts.append({frozenset(part) for part in alike.values()})
    assert parts[0] == parts[1] == parts[2]


def test_the_longest_stays_where_that_is_wanted() -> None:
    text = " ".join(ENGLISH)
    copies = [text, text + " more of it", text + " more"]
    (kept,) = deduplicated(copies, bands=40, rows=2, keep="longest").records
    assert kept.id == "1"
    (kept,) = deduplicated(copies, bands=40, rows=2).records
    assert kept.id == "0"


def test_case_width_and_punctuation_do_not_matter_and_words_do() -> None:
    dedup = MinHashDedup()
    alike = tried(dedup, "One, two: three!", "ｏｎｅ two THREE", "one two four", "three two one")
    assert [text.startswith("dropped") for text in alike] == [False, True, False, False]


def test_texts_without_words_are_alike_to_none() -> None:
    assert tried(MinHashDedup(), "", "", "...", "...") == ["", "", "...", "..."]


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    thai = "ฝนตกที่ภูเขาแล้วแม่น้ำก็ขึ้นช้าๆทุกปี"
    changed = thai.replace("ช้าๆ", "เร็ว")
    options: dict[str, Any] = {"ngram": 2, "bands": 60, "rows": 2}
    assert tried(MinHashDedup(**options), thai, changed) == [thai, changed]
    assert tried(MinHashDedup(unit="characters", **options), thai, changed)[1].startswith("dropped")


def test_legacy_signatures_are_datasketchs_for_the_seed_of_the_pipeline() -> None:
    words = [*ENGLISH[:20], *CHINESE[:20]]
    theirs = MinHash(num_perm=112, seed=9, scheme="legacy")
    for place in range(len(words) - 4):
        theirs.update(" ".join(words[place : place + 5]).encode())
    ours = MinHashDedup(9, scheme="legacy").signature(words)
    assert ours.tolist() == theirs.hashvalues.tolist()
