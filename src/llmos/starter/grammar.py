"""Lexicon, templates, slot filling and splits: how the starter text is put together.

`{f:food.a}` names a slot `f`, its category (a union: `food|drink`) and a form; `{f.pl}` or `{f}`
reuses the filler. `{v:chore@s}` agrees with slot `s`: "she cooks", "they cook"; so does the plain
verb in `{live@s}`, which is no slot. The forms are those of `inflection`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from random import Random
from typing import Literal

from llmos.starter.inflection import chinese, english

Split = Literal["train", "validation", "test_combinations", "test_templates"]
HELD_OUT_TEMPLATES = 0.10
TEMPLATE_DRAW = "second draw"
"""Drawn anew once the templates were written, since scores on the first draw had guided them."""
TEST_COMBINATIONS = 0.05
VALIDATION = 0.01
MAX_DRAWS = 40

SLOT = re.compile(r"\{(\w+)(?::([\w|]+))?((?:\.\w+)*)(?:@(\w+))?\}")


class GrammarError(ValueError):
    """A lexicon or template file says something the grammar cannot use."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One thing that can be said; `extra` holds irregular forms and measure words."""

    category: str
    en: str
    zh: str
    extra: Mapping[str, str]

    def inflect(self, language: str, forms: Iterable[str]) -> str:
        """The entry in `language` with each of `forms` applied in turn."""
        text = self.en if language == "en" else self.zh
        extra = self.extra
        for form in forms:
            inflected = (english if language == "en" else chinese)(text, extra, form)
            if inflected is None:
                raise GrammarError(f"{language} has no form .{form} (used with {text!r})")
            text, extra = inflected, {}
        return text


class Lexicon:
    """Entries by category, in file order."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.categories: dict[str, list[Entry]] = {}
        self._unions: dict[str, list[Entry]] = {}
        for entry in entries:
            self.categories.setdefault(entry.category, []).append(entry)

    def fillers(self, union: str) -> list[Entry]:
        """All entries of the categories in `union` ("food|drink")."""
        if union not in self._unions:
            try:
                self._unions[union] = [
                    entry for name in union.split("|") for entry in self.categories[name]
                ]
            except KeyError as error:
                raise GrammarError(f"no lexicon category {error}") from error
        return self._unions[union]

    def __len__(self) -> int:
        return sum(map(len, self.categories.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A sentence with slots, in one or more languages that share the slots."""

    id: str
    patterns: Mapping[str, str]
    slots: Mapping[str, str]

    @classmethod
    def parse(cls, template_id: str, patterns: Mapping[str, str]) -> "Template":
        """Read the slots out of `patterns` (language -> text); each needs a category."""
        matches = [match for pattern in patterns.values() for match in SLOT.finditer(pattern)]
        slots = {match[1]: match[2] for match in matches if match[2]}
        unknown = {match[4] or match[1] for match in matches} - set(slots)
        if unknown:
            raise GrammarError(f"{template_id}: slots without a category: {sorted(unknown)}")
        if any(brace in SLOT.sub("", pattern) for pattern in patterns.values() for brace in "{}"):
            raise GrammarError(f"{template_id}: malformed slot in {list(patterns.values())}")
        return cls(template_id, patterns, slots)


@dataclass(frozen=True, slots=True)
class Span:
    """Where slot `name` stands in a rendered text, in characters."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """A pattern with its slots filled."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One template with fillers, rendered in each of its languages."""

    template: Template
    fillers: Mapping[str, Entry]
    renderings: Mapping[str, Rendering]


def parse_extra(text: str) -> dict[str, str]:
    """`pl=knives;cl=把` as a dict; a bare key (`mass`) maps to "1"."""
    pairs = (part.partition("=") for part in text.split(";") if part)
    return {key: value if equals else "1" for key, equals, value in pairs}


def read_tsv(folder: str) -> Iterator[list[str]]:
    """The rows of every `text/<folder>/*.tsv`, without blank lines and `#` comments."""
    directory = files("llmos.starter") / "text" / folder
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".tsv"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if line and not line.startswith("#"):
                    yield line.split("\t")


@cache
def load_lexicon() -> Lexicon:
    """The whole lexicon: rows of category, English, Chinese and optional extra."""
    return Lexicon(
        Entry(row[0], row[1], row[2], parse_extra("".join(row[3:4]))) for row in read_tsv("lexicon")
    )


def render(pattern: str, fillers: Mapping[str, Entry], language: str) -> Rendering:
    """Fill `pattern`; an English text begins with a capital."""
    text, spans, position = "", [], 0
    for match in SLOT.finditer(pattern):
        name, _, forms, agrees_with = match.groups()
        text += pattern[position : match.start()]
        wanted = [form for form in forms.split(".") if form]
        if agrees_with is not None and fillers[agrees_with].extra.get("agr", "3") == "3":
            wanted.insert(0, "s")
        entry = fillers.get(name) or Entry("verb", name, name, {})
        filled = entry.inflect(language, wanted)
        spans.append(Span(name, len(text), len(text) + len(filled)))
        text, position = text + filled, match.end()
    text += pattern[position:]
    if language == "en":
        text = text[:1].upper() + text[1:]
    return Rendering(text, tuple(spans))


def stable_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on `parts` alone, the same on every machine and run."""
    return int.from_bytes(sha256("\x1f".join(parts).encode()).digest()[:8], "big") / 2**64


def is_held_out(template_id: str) -> bool:
    """Whether the template belongs to `test_templates` whole."""
    return stable_fraction("template", TEMPLATE_DRAW, template_id) < HELD_OUT_TEMPLATES


def split_of(template: Template, renderings: Mapping[str, Rendering]) -> Split:
    """The split a combination belongs to, by its text: equal sentences never part."""
    if is_held_out(template.id):
        return "test_templates"
    fraction = stable_fraction(
        "combination", *(renderings[language].text for language in sorted(renderings))
    )
    if fraction < TEST_COMBINATIONS:
        return "test_combinations"
    return "validation" if fraction < TEST_COMBINATIONS + VALIDATION else "train"


def draw(template: Template, lexicon: Lexicon, random: Random) -> Sample:
    """`template` with fillers chosen evenly; no two slots say the same thing."""
    fillers: dict[str, Entry] = {}
    for name, union in template.slots.items():
        taken = {filler.en for filler in fillers.values()}
        choices = lexicon.fillers(union)
        entry = random.choice(choices)
        if entry.en in taken:
            entry = random.choice([choice for choice in choices if choice.en not in taken])
        fillers[name] = entry
    renderings = {
        language: render(pattern, fillers, language)
        for language, pattern in template.patterns.items()
    }
    return Sample(template, fillers, renderings)


def samples(
    templates: Sequence[Template], lexicon: Lexicon, split: Split, seed: int, rows: int
) -> Iterator[Sample]:
    """`rows` combinations of `split`, templates taking turns in shuffled rounds.

    Train repeats combinations of small templates so that templates stay even; the other splits are
    distinct, fewer than `rows` where no more exist.
    """
    random = Random(f"{split}:{seed}")
    seen: set[tuple[str, ...]] = set()
    pool = [
        template
        for template in templates
        if is_held_out(template.id) == (split == "test_templates")
    ]
    while rows > 0 and pool:
        random.shuffle(pool)
        exhausted = set()
        for template in pool[:rows]:
            found = _draw_from_split(template, lexicon, split, random, seen)
            if found is None:
                exhausted.add(template.id)
                continue
            rows -= 1
            if split != "train":
                seen.add(_texts(found))
            yield found
        pool = [template for template in pool if template.id not in exhausted]


def _texts(sample: Sample) -> tuple[str, ...]:
    return tuple(rendering.text for rendering in sample.renderings.values())


def _draw_from_split(
    template: Template, lexicon: Lexicon, split: Split, random: Random, seen: set[tuple[str, ...]]
) -> Sample | None:
    """A combination of `split` not in `seen`; None when MAX_DRAWS draws find none."""
    for _ in range(MAX_DRAWS):
        sample = draw(template, lexicon, random)
        if split_of(template, sample.renderings) == split and _texts(sample) not in seen:
            return sample
    return None
