"""Check digits, beside presidio's recognizers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.pii import checksums
from llmos.data.pii.finder import find

DIGITS = st.text("0123456789", min_size=12, max_size=18)


@pytest.fixture(scope="module")
def known() -> Any:
    """presidio's recognizers."""
    pytest.importorskip("presidio_analyzer")
    from presidio_analyzer import predefined_recognizers

    return predefined_recognizers


@given(digits=DIGITS)
def test_exactly_one_last_digit_makes_a_card_number(digits: str) -> None:
    right = [str(last) for last in range(10) if checksums.is_luhn(digits + str(last))]
    assert [digits + last for last in right] == [checksums.with_luhn(digits)]


@given(first=st.sampled_from("3456"), digits=st.text("0123456789", min_size=14, max_size=14))
@settings(max_examples=60, deadline=None)
def test_cards_are_those_that_presidio_takes(known: Any, first: str, digits: str) -> None:
    number = checksums.with_luhn(first + digits)
    theirs = known.CreditCardRecognizer().analyze(f"card {number} ok", ["CREDIT_CARD"])
    ours = find(f"card {number} ok", types=["BANK_CARD"])
    if theirs:
        assert [(one.start, one.end) for one in ours] == [(theirs[0].start, theirs[0].end)]
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert not find(f"card {wrong} ok", types=["BANK_CARD"])


@given(country=st.sampled_from(sorted(checksums.IBAN_LENGTHS)), seed=st.integers(0, 10**40))
@settings(max_examples=100, deadline=None)
def test_ibans_are_those_that_presidio_takes(known: Any, country: str, seed: int) -> None:
    account = f"{seed:040d}"[-(checksums.IBAN_LENGTHS[country] - 4) :]
    iban = checksums.with_iban_check(country, account)
    assert checksums.is_iban(iban) and checksums.is_iban(iban.lower())
    wrong = iban[:-1] + str((int(iban[-1]) + 1) % 10)
    assert not checksums.is_iban(wrong)
    if known.IbanRecognizer().analyze(f"to {iban} now", ["IBAN_CODE"]):
        assert [one.type for one in find(f"to {iban} now", types=["IBAN"])] == ["IBAN"]


def test_a_chinese_identity_number_has_a_day_and_a_check_character() -> None:
    first = "11010519491231002"
    assert checksums.id_card_check(first) == "X"  # the standard's own example
    assert checksums.is_id_card(first + "X") and checksums.is_id_card(first + "x")
    assert not checksums.is_id_card(first + "1")
    day = "11010519491331002"
    assert not checksums.is_id_card(day + checksums.id_card_check(day))


@pytest.mark.parametrize(
    ("number", "is_right"),
    [("219099999", True), ("000121234", False), ("666121234", False), ("900121234", False),
     ("219009999", False), ("219090000", False)],
)  # fmt: skip
def test_social_security_numbers_are_in_ranges_that_are_given_out(
    number: str, is_right: bool
) -> None:
    assert checksums.is_ssn(number) is is_right
