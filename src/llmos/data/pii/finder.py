"""Finds personal data in a text, in English and Chinese: every finder, and what of theirs counts.

It finds much, never all: the docs have how much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal

from llmos.data.pii.addresses import addresses
from llmos.data.pii.names_en import names_in_latin
from llmos.data.pii.names_zh import names_in_chinese
from llmos.data.pii.network import emails, ips, urls
from llmos.data.pii.numbers import (
    birthdays,
    cards,
    ibans,
    id_cards,
    passports,
    social_security,
)
from llmos.data.pii.phones import phones
from llmos.data.pii.plain import PlainText, plain
from llmos.data.pii.presidio import numbers_by_presidio
from llmos.data.pii.secret_values import secrets
from llmos.data.pii.spans import Span, resolved
from llmos.types import PERSONAL_TYPES, PersonalType

Language = Literal["auto", "en", "zh"]
Names = Literal["cautious", "eager"]
Finder = Callable[[str], Iterator[Span]]
FINDERS: dict[Finder, tuple[PersonalType, ...]] = {
    emails: ("EMAIL",),
    urls: ("URL",),
    ips: ("IP",),
    phones: ("PHONE",),
    id_cards: ("ID_CARD_CN",),
    social_security: ("US_SSN",),
    cards: ("BANK_CARD",),
    ibans: ("IBAN",),
    passports: ("PASSPORT",),
    birthdays: ("DATE_OF_BIRTH",),
    secrets: ("SECRET",),
    addresses: ("ADDRESS",),
    numbers_by_presidio: ("OTHER_ID", "PASSPORT", "CRYPTO_WALLET"),
}
"""What each finder finds."""
_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def find(
    text: str,
    language: Language = "auto",
    types: Collection[PersonalType] = PERSONAL_TYPES,
    names: Names = "cautious",
    more: Iterable[Span] = (),
) -> list[Span]:
    """Return the personal data in a text: spans in order that do not overlap.

    Args:
        language: whose names to look for; auto: both, wherever there are letters of theirs.
            Everything else is found in either.
        types: what to look for. A longer find of another type takes nothing away from them.
        names: eager also takes what may be a name: more are found, and more that are none.
        more: spans that others found, which count like these.

    Raises:
        DataError: a package that is needed is not installed.
    """
    read = plain(text)
    found = list(_found(read, language, set(types), names))
    return resolved([*found, *(span for span in more if span.type in types)])


def _found(
    read: PlainText, language: Language, types: set[PersonalType], names: Names
) -> Iterator[Span]:
    spans: list[Span] = []
    for finder, kinds in FINDERS.items():
        if types.intersection(kinds) or ("NAME" in types and finder in (emails, urls)):
            spans.extend(finder(read.text))
    if "NAME" in types:
        spans.extend(_names(read.text, language, names == "eager", spans))
    for span in spans:
        if span.type in types and span.start < span.end:
            yield Span(*read.back(span.start, span.end), span.type, span.score)


def _names(text: str, language: Language, is_eager: bool, others: list[Span]) -> Iterator[Span]:
    """Yield names, of which none is within a web or e-mail address."""
    found: list[Span] = []
    if language != "zh" and _LATIN.search(text):
        found.extend(names_in_latin(text, is_eager=is_eager))
    if language != "en" and _HAN.search(text):
        found.extend(names_in_chinese(text, is_eager=is_eager))
    places = [(one.start, one.end) for one in others if one.type in {"URL", "EMAIL"}]
    for span in found:
        if not any(start < span.end and span.start < end for start, end in places):
            yield span
