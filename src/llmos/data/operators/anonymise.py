"""The operator that hides personal data."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from pydantic import Field

from llmos.data.pii.dictionary_zh import PACKAGES as DICTIONARIES
from llmos.data.pii.finder import Language, Names, find
from llmos.data.pii.known_words import PACKAGES as WORDS
from llmos.data.pii.presidio import PACKAGES as PRESIDIO
from llmos.data.pii.replacing import KEYED, Action, Replacer, read_key
from llmos.data.pii.spans import Span
from llmos.data.pipeline.operator import Batcher, TextOptions
from llmos.data.pipeline.options import Tagger
from llmos.data.pipeline.record import Record
from llmos.types import PERSONAL_TYPES, PersonalType

FOUND = "personal_data"
"""The note in a record's meta: how many pieces of each type were found in it."""


PERSON_LABELS = frozenset({"per", "person", "name", "nr", "pers"})
"""What models call a person, in lower case."""


class AnonymiseOptions(TextOptions):
    types: list[PersonalType] = Field(
        default=list(PERSONAL_TYPES), min_length=1, description="what to look for"
    )
    language: Language = Field(
        default="auto", description="whose names to look for; auto: English and Chinese ones"
    )
    action: Action = Field(
        default="replace",
        description="replace: [EMAIL]; mask: asterisks; pseudonym: [EMAIL_3f0c…], the same for the "
        "same value; surrogate: a made-up value, the same for the same value; drop: the record "
        "goes; keep: only counted. pseudonym and surrogate need a secret key",
    )
    actions: dict[PersonalType, Action] = Field(
        default={}, description="another action for some types"
    )
    names: Names = Field(
        default="cautious",
        description="eager: capitalised words that could be a name are one, and more that are none",
    )
    model: Tagger | None = Field(
        default=None, description="of the library, that finds entities: persons are names, too"
    )


class Anonymise(Batcher[AnonymiseOptions]):
    """Hides personal data of 15 types (names, addresses, phones, cards, keys, …) in English and
    Chinese texts: much, never all of it.

    What was found is counted in the record's meta, without its text.

    >>> tried(Anonymise(), "Ask Dr. Rose Okafor, rose@example.org or +44 20 7946 0018.")
    ['Ask Dr. [NAME], [EMAIL] or [PHONE].']
    >>> tried(Anonymise(), "我叫陈建军，手机１３８ 0013 8000，密码是tulip#77")
    ['我叫[NAME]，手机[PHONE]，密码是[SECRET]']
    >>> options = {"action": "mask", "actions": {"IP": "drop"}, "types": ["EMAIL", "IP"]}
    >>> tried(Anonymise(**options), "to a.b@example.net", "from 192.0.2.7")
    ['to ***************', 'dropped: personal data: IP 1']
    """

    name = "anonymise"
    adds = ()
    group = "anonymise"
    options_type = AnonymiseOptions
    needs: ClassVar[dict[str, str]] = {**PRESIDIO, **DICTIONARIES, **WORDS}

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        actions = {self.options.action, *self.options.actions.values()}
        self._replacer = Replacer(read_key() if actions & KEYED else None)

    def batch(self, records: list[Record]) -> list[Record]:
        """Hide it. Raises DataError: a record has no text; LlmosError: the model refuses one."""
        texts = [self._texts(record) for record in records]
        names = iter(self._named([text for some in texts for text in some]))
        found = [[self._find(text, next(names)) for text in some] for some in texts]
        for record, spans in zip(records, found, strict=True):
            self._hide(record, spans)
        return records

    def _texts(self, record: Record) -> list[str]:
        """Return the texts of a record in the order in which `Record.change_text` has them."""
        texts: list[str] = []

        def noted(text: str) -> str:
            texts.append(text)
            return text

        Record(record.id, dict(record.fields)).change_text(self.options.field, noted)
        return texts

    def _named(self, texts: list[str]) -> list[list[Span]]:
        """Return the names that a model finds in texts; none where there is no model."""
        found: list[list[Span]] = [[] for _ in texts]
        if self.options.model is None:
            return found
        places = [place for place, text in enumerate(texts) if text.strip()]
        bodies = [{"model": self.options.model, "text": texts[place]} for place in places]
        for place, told in zip(places, self.ask("/api/v1/entities", bodies), strict=True):
            found[place] = [
                Span(one["start"], one["end"], "NAME", one["score"])
                for one in told["entities"]
                if one["label"].lower() in PERSON_LABELS
            ]
        return found

    def _find(self, text: str, names: list[Span]) -> list[Span]:
        options = self.options
        return find(text, options.language, options.types, options.names, names)

    def _hide(self, record: Record, found: list[list[Span]]) -> None:
        every = [span for spans in found for span in spans]
        if not every:
            return
        rest = iter(found)
        record.change_text(
            self.options.field,
            lambda text: self._replacer.replaced(
                text, [(span, self._action(span)) for span in next(rest)]
            ),
        )
        counts = Counter(span.type for span in every)
        drops = Counter(span.type for span in every if self._action(span) == "drop")
        before = record.meta.get(FOUND)
        counts.update(before if isinstance(before, dict) else {})
        record.meta[FOUND] = dict(sorted(counts.items()))
        if drops:
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(drops.items()))
            record.dropped_reason = f"personal data: {told}"

    def _action(self, span: Span) -> Action:
        return self.options.actions.get(span.type, self.options.action)
