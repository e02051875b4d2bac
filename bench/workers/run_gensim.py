"""gensim's word2vec on lines of words; prints seconds, and leaves the vectors in a file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from gensim.models import Word2Vec


def main() -> None:
    asked = json.loads(sys.argv[1])
    lines = [line.split() for line in Path(asked["lines"]).read_text("utf-8").splitlines()]
    model = Word2Vec(
        vector_size=asked["size"],
        window=asked["window"],
        negative=asked["negative"],
        sg=int(asked["method"] == "skip_gram"),
        sample=asked["subsample"],
        min_count=asked["min_count"],
        alpha=asked["learning_rate"],
        workers=asked["threads"],
        seed=asked["seed"],
    )
    model.build_vocab(lines)
    wall, cpu = time.perf_counter(), time.process_time()
    model.train(lines, total_examples=len(lines), epochs=asked["epochs"])
    told = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    np.savez(asked["out"], inputs=model.wv.vectors, outputs=model.syn1neg)
    print(json.dumps(told | {"words": model.wv.index_to_key}))


if __name__ == "__main__":
    main()
