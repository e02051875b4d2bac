"""Numbers of persons that presidio knows how to find: national ones, licences, wallets.

Its recognizers are used by themselves, by pattern and checksum, without a language model. Those
whose numbers say little (nine digits) count only close after one of their own context words.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from llmos.data.lean_imports import without_networks
from llmos.data.pii.context import is_before, words
from llmos.data.pii.spans import Span
from llmos.types import PersonalType

PACKAGES = {"presidio_analyzer": "presidio-analyzer", "phonenumbers": "phonenumbers"}
"""Modules that finding personal data needs -> the packages they come from."""
NEEDS_WORD = {
    "UsItinRecognizer": "OTHER_ID",
    "UsLicenseRecognizer": "OTHER_ID",
    "UsPassportRecognizer": "PASSPORT",
    "MedicalLicenseRecognizer": "OTHER_ID",
    "NhsRecognizer": "OTHER_ID",
    "UkNinoRecognizer": "OTHER_ID",
    "UkPassportRecognizer": "PASSPORT",
    "AuMedicareRecognizer": "OTHER_ID",
    "AuTfnRecognizer": "OTHER_ID",
    "InAadhaarRecognizer": "OTHER_ID",
    "InPanRecognizer": "OTHER_ID",
    "EsNifRecognizer": "OTHER_ID",
    "ItFiscalCodeRecognizer": "OTHER_ID",
    "PlPeselRecognizer": "OTHER_ID",
    "SgFinRecognizer": "OTHER_ID",
    "FiPersonalIdentityCodeRecognizer": "OTHER_ID",
}
"""Recognizer -> the type of what it finds."""
WORD_CHARS = 40
_MAY_BE = re.compile(
    r"passport|travel document|licen[cs]e|national insurance|\bni number|\bnino\b|\bnhs\b|health|"
    r"\bitin\b|taxpayer|tax|medicare|aadhaar|uidai|\bpan\b|\bdni\b|\bnif\b|fiscal|pesel|\bnric\b|"
    r"\bfin\b|"
    r"\bdea\b|certificate|henkil|personal identity|permit|driv|(?<![A-Za-z0-9])(?:bc1|"
    r"[13])[a-zA-HJ-NP-Z0-9]{25}",
    re.IGNORECASE,
)
"""What stands in any text in which one of them finds something."""


def numbers_by_presidio(text: str) -> Iterator[Span]:
    """Yield what presidio's recognizers find of types that no pattern here covers."""
    if not (_MAY_BE.search(text) and any(map(str.isdigit, text))):
        return  # presidio takes a second to import, and memory
    for recognizer, kind, asked in _recognizers():
        for found in recognizer.analyze(text, recognizer.supported_entities):
            if asked is None or is_before(asked, text, found.start, WORD_CHARS):
                yield Span(found.start, found.end, kind, 0.8)


@cache
def _recognizers() -> list[tuple[Any, PersonalType, re.Pattern[str] | None]]:
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    with warnings.catch_warnings(), without_networks():
        warnings.simplefilter("ignore")
        from presidio_analyzer import predefined_recognizers as known
    found: list[tuple[Any, PersonalType, re.Pattern[str] | None]] = [
        (known.CryptoRecognizer(), "CRYPTO_WALLET", None)
    ]
    for name, kind in NEEDS_WORD.items():
        recognizer = getattr(known, name)()
        asked = words(*(re.escape(word.strip()) for word in recognizer.context))
        found.append((recognizer, kind, asked))  # type: ignore[arg-type]
    return found
