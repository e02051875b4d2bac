"""How many names of persons are found in noisy English (wnut17), and how fast, in CPU time.

Reads lines of a token and its BIO label (of which `person` counts), joins the tokens of a sentence
with spaces, and looks for names as the operator `anonymise` does, cautiously and eagerly. A name is
found where all of it is hidden; a find is right where it touches a name. Writes
results/anonymise.json.

    python bench/anonymise.py wnut17-dev.conll
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

from llmos.data.pii.finder import Names, find
from machine import machine
from results import table, write

LEAST_RECALL = 0.85
Sentence = tuple[str, list[tuple[int, int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conll", type=Path)
    options = parser.parse_args()
    sentences = read(options.conll)
    rows = [measured(names, sentences) for names in get_args(Names)]
    header = ("names", "labelled", "found", "recall", "finds", "right", "precision", "chars/CPU s")
    table(header, [[row[key] for key in header] for row in rows])
    best = max(row["recall"] for row in rows)
    print(
        f"recall {best:.3f}, at least {LEAST_RECALL}: {'ok' if best >= LEAST_RECALL else 'MISSED'}"
    )
    write("anonymise", {"machine": machine(), "data": options.conll.name, "rows": rows})


def read(path: Path) -> list[Sentence]:
    """Return each sentence and where persons are in it."""
    sentences: list[Sentence] = []
    for block in path.read_text("utf-8").replace("\n\t\n", "\n\n").split("\n\n"):
        lines = [line.split("\t") for line in block.splitlines() if line.strip()]
        text = " ".join(line[0] for line in lines)
        places: list[tuple[int, int]] = []
        start = 0
        for token, label in ((line[0], line[-1]) for line in lines):
            if label == "B-person":
                places.append((start, start + len(token)))
            elif label == "I-person" and places:
                places[-1] = (places[-1][0], start + len(token))
            start += len(token) + 1
        sentences.append((text, places))
    return sentences


def measured(names: Names, sentences: list[Sentence]) -> dict[str, Any]:
    """Return counts and shares."""
    labelled = found = finds = right = chars = 0
    find("Warm up, 热身。", names=names)
    begun = time.process_time()
    for text, places in sentences:
        spans = find(text, "en", ["NAME"], names)
        hidden = {place for span in spans for place in range(span.start, span.end)}
        for start, end in places:
            labelled += 1
            seen = {place for place in range(start, end) if text[place].isalnum()}
            found += seen <= hidden
        finds += len(spans)
        right += sum(any(s.start < end and start < s.end for start, end in places) for s in spans)
        chars += len(text)
    seconds = time.process_time() - begun
    return {
        "names": names,
        "labelled": labelled,
        "found": found,
        "recall": found / labelled,
        "finds": finds,
        "right": right,
        "precision": right / max(finds, 1),
        "chars/CPU s": chars / seconds,
    }


if __name__ == "__main__":
    main()
