"""Sentiment records: short opinions and plain facts in English and Chinese.

`text/sentiment/*.tsv`: id, label, language, domains, sentence. A sentence stands for one of each of
its domains (restaurants, films, …): `{x:$thing}` is `{x:food_thing}` there. Every positive frame
has a negative twin, so that no word decides a label alone.
"""

from collections.abc import Iterator
from functools import cache
from random import Random

from llmos.starter.grammar import Split, Template, load_lexicon, read_tsv, samples
from llmos.starter.variants import informal, shares, take_turns

DOMAINS = ("food", "stay", "story", "goods", "staff", "course", "app", "post", "spot")
LABELS = ("positive", "negative", "neutral")
LANGUAGES = ("en", "zh")


@cache
def load_templates() -> dict[tuple[str, str], list[Template]]:
    """Templates by (language, label); those of one line share its id, and so its split."""
    templates: dict[tuple[str, str], list[Template]] = {
        (language, label): [] for language in LANGUAGES for label in LABELS
    }
    for name, label, language, domains, pattern in read_tsv("sentiment"):
        for domain in DOMAINS if domains == "*" else domains.split(","):
            in_domain = Template.parse(name, {language: pattern.replace("$", f"{domain}_")})
            templates[language, label].append(in_domain)
    return templates


def records(split: Split, seed: int, rows: int) -> Iterator[dict[str, str]]:
    """`rows` records {"text", "label", "lang"} of `split`, labels and languages in turn."""
    groups = load_templates()
    streams = [
        _stream(language, label, split, seed, share)
        for (language, label), share in zip(groups, shares(rows, len(groups)), strict=True)
    ]
    return take_turns(streams)


def _stream(
    language: str, label: str, split: Split, seed: int, rows: int
) -> Iterator[dict[str, str]]:
    random = Random(f"{split}:{seed}:{language}:{label}")
    chosen = samples(load_templates()[language, label], load_lexicon(), split, seed, rows)
    for sample in chosen:
        text = informal(sample.renderings[language].text, random)
        yield {"text": text, "label": label, "lang": language}
