"""Check digits of cards, accounts and identity numbers: whether they are right, which are."""

from __future__ import annotations

from datetime import date

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28,
    "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
    "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20,
    "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30,
    "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22,
    "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23,
    "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
"""Country -> characters of an account number (ISO 13616 registry)."""
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"


def luhn_sum(digits: str) -> int:
    """Return the sum of ISO/IEC 7812-1, which is a multiple of 10 where the last digit is right."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled)


def is_luhn(digits: str) -> bool:
    """Whether the last digit of a card number is right."""
    return luhn_sum(digits) % 10 == 0


def with_luhn(digits: str) -> str:
    """Return digits and the one that makes a card number of them."""
    return digits + str(-luhn_sum(digits + "0") % 10)


def is_iban(text: str) -> bool:
    """Whether an account number without spaces is as long as its country's and has the right check
    digits (ISO 7064, mod 97-10)."""
    text = text.upper()
    return IBAN_LENGTHS.get(text[:2]) == len(text) and _iban_rest(text) == 1


def with_iban_check(country: str, account: str) -> str:
    """Return an account number with its country and its check digits."""
    return f"{country}{98 - _iban_rest(f'{country}00{account}'):02d}{account}"


def _iban_rest(text: str) -> int:
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97


def id_card_check(digits: str) -> str:
    """Return the last character of a Chinese identity number (GB 11643, ISO 7064 mod 11-2) of its
    first 17 digits."""
    total = sum(int(d) * weight for d, weight in zip(digits, _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % 11]


def is_id_card(number: str) -> bool:
    """Whether 18 characters are a Chinese identity number: its day of birth, its check."""
    return _is_day(number[6:14]) and id_card_check(number[:17]) == number[17].upper()


def _is_day(digits: str) -> bool:
    try:
        born = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return 1880 <= born.year <= 2099


def is_ssn(number: str) -> bool:
    """Whether nine digits are in the ranges of US social security numbers that are given out."""
    area, group, serial = number[:3], number[3:5], number[5:]
    return "000" < area < "900" and area != "666" and group != "00" and serial != "0000"
