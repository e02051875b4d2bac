"""The labelled sentences an anonymiser is measured on are what their README says they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "data" / "anonymise"
LANGUAGES = ("en", "zh")
BOTH = {"NAME", "EMAIL", "PHONE", "BANK_CARD", "IBAN", "ADDRESS", "IP", "URL", "SECRET"}
TYPES = {"en": BOTH | {"US_SSN"}, "zh": BOTH | {"ID_CARD_CN"}}
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def lines(language: str) -> list[dict[str, Any]]:
    text = (FOLDER / f"{language}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def surfaces(language: str, kind: str) -> list[str]:
    """Return the surface of each span of a type, but of those marked hard."""
    spans = [span for line in lines(language) for span in line["spans"]]
    return [span["text"] for span in spans if span["type"] == kind and "hard" not in span]


def luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_different_sentences(language: str) -> None:
    texts = [line["text"] for line in lines(language)]
    assert len(texts) >= 500
    assert [text for text, times in Counter(texts).items() if times > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_span_is_found_after_the_one_before_it(language: str) -> None:
    for line in lines(language):
        assert line.keys() == {"text", "spans"}
        end = 0
        for span in line["spans"]:
            assert span.keys() - {"hard"} == {"type", "text"} and span.get("hard", True) is True
            assert span["text"] and span["text"] == span["text"].strip()
            start = line["text"].find(span["text"], end)
            assert start >= end, f"{span} is not in order in {line['text']!r}"
            end = start + len(span["text"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_type_is_there_often_enough(language: str) -> None:
    counts = Counter(span["type"] for line in lines(language) for span in line["spans"])
    assert counts.keys() == TYPES[language]
    assert {kind: count for kind, count in counts.items() if count < 30} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_share_of_the_sentences_has_nothing_to_find(language: str) -> None:
    rows = lines(language)
    assert 0.15 <= sum(not row["spans"] for row in rows) / len(rows) <= 0.35


@pytest.mark.parametrize("language", LANGUAGES)
def test_bank_cards_pass_luhn(language: str) -> None:
    numbers = [re.sub(r"[ -]", "", card) for card in surfaces(language, "BANK_CARD")]
    assert [n for n in numbers if not (re.fullmatch(r"\d{13,19}", n) and luhn(n))] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_ibans_have_the_right_check_digits(language: str) -> None:
    for surface in surfaces(language, "IBAN"):
        iban = surface.replace(" ", "")
        assert re.fullmatch(r"[A-Z]{2}\d\d[A-Z0-9]{11,30}", iban), surface
        digits = "".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])
        assert int(digits) % 97 == 1, surface


def test_chinese_identity_numbers_have_the_right_check_character() -> None:
    for number in surfaces("zh", "ID_CARD_CN"):
        assert re.fullmatch(r"\d{6}(19|20)\d\d[01]\d[0-3]\d{4}[\dX]", number), number
        total = sum(int(d) * w for d, w in zip(number[:17], ID_WEIGHTS, strict=True))
        assert number[17] == "10X98765432"[total % 11], number


def test_social_security_numbers_are_in_ranges_that_are_given_out() -> None:
    for number in surfaces("en", "US_SSN"):
        match = re.fullmatch(r"(\d{3})[- ](\d\d)[- ](\d{4})", number)
        assert match, number
        area, group, serial = match.groups()
        assert "000" < area < "900" and area != "666" and group != "00" and serial != "0000"
