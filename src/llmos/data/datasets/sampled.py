"""What is told of a dataset from some of its rows: languages, the commonest words, and how the
vocabulary grows. The rows are spread over the shards, the same of the same dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llmos.data.datasets.stats import FieldStats
from llmos.data.operators.words import is_symbols, words_of
from llmos.data.pipeline.record import ID, Record, Row
from llmos.storage.parquet import read_rows

SAMPLE_ROWS = 2000
SAMPLE_SHARDS = 50
SAMPLE_CHARS = 2000
"""Of a text."""
LEAST_CHARS = 20
"""Of a text whose language is told; a Chinese character counts as four."""
TOP_WORDS = 20
GROWTH_POINTS = 40
EXAMPLES = 4
"""Of SAMPLE_ROWS rows."""
EXAMPLE_CHARS = 200
SHORT = "too short"
PACKAGES = {"py3langid": "py3langid"}


def text_field(fields: Mapping[str, FieldStats]) -> str | None:
    """Return the field that has the most text, None where none has any."""
    lengths = {name: field.characters for name, field in fields.items() if field.characters}
    return max(sorted(lengths), key=lengths.__getitem__, default=None)


def describe_sample(shards: Sequence[Path], field: str) -> dict[str, Any]:
    """Return what some rows tell of a field: ``{"field", "rows", "languages": {code: rows},
    "words": [[word, count]], "growth": [[words, different ones]], "examples": [{"id", field}]}``,
    the commonest first."""
    import py3langid

    languages: Counter[str] = Counter()
    words: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = [(0, 0)]
    examples: list[Row] = []
    total = count = 0
    for row in sampled_rows(shards):
        text = _text(row, field)
        if text is None:
            continue
        count += 1
        if count % (SAMPLE_ROWS // EXAMPLES) == 1:
            examples.append({ID: row[ID], field: text[:EXAMPLE_CHARS]})
        own = [word for word in words_of(text.lower()) if not is_symbols(word)]
        languages[py3langid.classify(text)[0] if _is_long(text) else SHORT] += 1
        words.update(own)
        total += len(own)
        sizes.append((total, len(words)))
    every = max(1, (len(sizes) - 1) // GROWTH_POINTS)
    ordered = sorted(words.items(), key=lambda one: (-one[1], one[0]))
    return {
        "field": field,
        "rows": count,
        "languages": dict(sorted(languages.items(), key=lambda one: (-one[1], one[0]))),
        "words": [list(one) for one in ordered[:TOP_WORDS]],
        "growth": [list(one) for one in (*sizes[:-1:every], sizes[-1])],
        "examples": examples,
    }


def sampled_rows(shards: Sequence[Path]) -> Iterator[Row]:
    """Yield about SAMPLE_ROWS rows: as many from the beginning of each of some shards."""
    step = -(-len(shards) // SAMPLE_SHARDS)
    chosen = shards[::step]
    for shard in chosen:
        yield from islice(read_rows(shard), -(-SAMPLE_ROWS // len(chosen)))


def _text(row: Row, field: str) -> str | None:
    value = row.get(field)
    if not isinstance(value, str | list):
        return None
    return Record.of_row(row).text(field)[:SAMPLE_CHARS]


def _is_long(text: str) -> bool:
    return len(text) + 3 * sum("\u4e00" <= one <= "\u9fff" for one in text) >= LEAST_CHARS
