"""Lines that are there before are those that datatrove's sentence deduplication takes out."""

from __future__ import annotations

import random
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.utils.hashing import HashConfig

from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply

THINGS = ("house", "mill", "boat", "bridge", "garden", "tower")
LINES = [f"The {thing} was {what}." for thing in THINGS for what in ("sold", "built", "lost")]
CONFIG = SentDedupConfig(
    n_sentences=1,
    split_sentences=False,
    only_dedup_in_index=False,
    min_doc_words=0,
    min_num_sentences=0,
    hash_config=HashConfig(hash_fc="sha1"),
)


def kept_by_datatrove(texts: list[str], folder: Path) -> dict[str, list[str]]:
    """Return the lines of each text that stay."""

    def documents() -> list[Document]:
        return [Document(text=text, id=str(number)) for number, text in enumerate(texts)]

    signatures, repeats = str(folder / "signatures"), str(folder / "repeats")
    for _ in SentenceDedupSignature(signatures, config=CONFIG).run(documents()) or ():
        pass
    for _ in SentenceFindDedups(signatures, repeats, config=CONFIG).run() or ():
        pass
    left = SentenceDedupFilter(repeats, config=CONFIG).run(documents())
    return {one.id: one.text.splitlines() for one in left}


def test_lines_that_stay_are_those_that_datatrove_keeps(tmp_path: Path) -> None:
    draw = random.Random(3)
    texts = ["\n".join(draw.choices(LINES, k=draw.randint(1, 5))) for _ in range(30)]
    texts += [
        f"A line of {chr(97 + number) * 3} alone.\n{draw.choice(LINES)}" for number in range(10)
    ]
    theirs = kept_by_datatrove(texts, tmp_path)
    done = apply(
        [make_operator("line_dedup", {"least": 2, "least_left": 0}, 0)],
        [Record(str(number), {"text": text}) for number, text in enumerate(texts)],
    )
    ours = {one.id: [line for line in one.text().splitlines() if line] for one in done.records}
    assert {key: lines for key, lines in ours.items() if lines} == {
        key: lines for key, lines in theirs.items() if lines
    }
    assert 20 <= sum(map(len, ours.values())) < sum(text.count("\n") + 1 for text in texts)
