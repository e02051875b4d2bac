"""English–Chinese translation records, from aligned templates.

`text/translation/*.tsv` holds them, one a line: id, English, Chinese.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice

from llmos.starter.grammar import Sample, Split, Template, load_lexicon, read_tsv, samples


@cache
def load_templates() -> tuple[Template, ...]:
    """Every aligned template pair."""
    return tuple(
        Template.parse(name, {"en": en, "zh": zh}) for name, en, zh in read_tsv("translation")
    )


def records(split: Split, seed: int, rows: int) -> Iterator[dict[str, str]]:
    """`rows` records of `split`, the two directions of each sentence pair next to each other.

    Each is {"source", "target", "source_lang", "target_lang"}; languages are "en" and "zh".
    """
    pairs = samples(load_templates(), load_lexicon(), split, seed, (rows + 1) // 2)
    return islice((record for pair in pairs for record in _both_ways(pair)), rows)


def _both_ways(pair: Sample) -> tuple[dict[str, str], dict[str, str]]:
    en, zh = pair.renderings["en"].text, pair.renderings["zh"].text
    return (
        {"source": en, "target": zh, "source_lang": "en", "target_lang": "zh"},
        {"source": zh, "target": en, "source_lang": "zh", "target_lang": "en"},
    )
