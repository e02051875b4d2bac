"""What shares an n-gram with texts that models are evaluated on is what datatrove drops."""

from __future__ import annotations

import random
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import (
    NGramsDecontConfig,
    NGramsDecontFilter,
    NGramsDecontIndexer,
)
from datatrove.utils.hashing import HashConfig

from llmos.data.operators.decontaminate import Decontaminate
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply

WORDS = ["river", "house", "opened", "the", "old", "door", "slowly", "again", "bridge", "saw"]
NGRAM = 5


def test_texts_that_share_an_n_gram_are_those_that_datatrove_drops(tmp_path: Path) -> None:
    draw = random.Random(5)
    quiz = [" ".join(draw.choices(WORDS, k=draw.randint(NGRAM, 14))) for _ in range(120)]
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))).title() for _ in range(400)]
    texts += [f"And so: {draw.choice(quiz).upper()}!" for _ in range(20)]
    config = NGramsDecontConfig(n_grams=NGRAM, hash_config=HashConfig(hash_fc="sha1"))
    theirs = NGramsDecontFilter(str(tmp_path), config=config)
    # An indexer takes its texts from a hub's evaluations: its way of hashing them is what counts.
    hashes = (NGramsDecontIndexer.compute_hashes(theirs, one) for one in quiz)
    theirs._index_hashes = {one: "quiz" for some in hashes for one in some}
    kept = [text for text in texts if theirs.filter(Document(text=text, id="")) is True]
    operator = Decontaminate(texts=quiz, ngram=NGRAM)
    done = apply([operator], [Record(str(at), {"text": text}) for at, text in enumerate(texts)])
    assert [one.text() for one in done.records] == kept
    assert 100 <= len(kept) <= 400
