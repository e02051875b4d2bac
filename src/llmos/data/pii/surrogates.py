"""Made-up values that look like the real ones: of their form, with right check digits, in ranges
that are given to nobody where there are such. Names are put together of common ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import date, timedelta

from llmos.data.pii.checksums import IBAN_LENGTHS, id_card_check, with_iban_check, with_luhn
from llmos.data.pii.context import listed
from llmos.types import PersonalType

GIVEN = sorted(
    listed(
        "Alex Amina Anna Ben Carla Chidi Clara Daniel Diana Elena Emma Farah Felix Grace Hana Ivan "
        "Jonas "
        "Julia Karim Laura Leon Lucia Maria Marta Miguel Nadia Nina Omar Paul Priya Rosa Sam Sofia "
        "Tariq "
        "Teresa Tom Vera Victor Yusuf Zoe"
    )
)
SURNAMES = sorted(
    listed(
        "Adler Bauer Brooks Carter Castillo Dalton Diaz Evans Fischer Foster Garcia Hayes Hughes "
        "Ito "
        "Jensen Kaya Keller Khan Lindberg Lopez Marsh Meyer Moreno Morgan Nakamura Novak Okoro "
        "Owens "
        "Park "
        "Patel Quinn Reyes Rossi Silva Tanaka Turner Usman Vega Weber Young"
    )
)
ZH_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗"
ZH_GIVEN = "伟芳娜敏静丽强磊洋艳勇军杰娟涛明超霞平刚文辉玲英建华国志晓雨欣佳浩宇晨婷雪梅"
STREETS = ("Birch", "Cedar", "Elm", "Maple", "Oak", "Pine", "Poplar", "Willow")
DOCUMENTATION = ("192.0.2", "198.51.100", "203.0.113")
"""Networks that are in books alone (RFC 5737)."""
ZH_STREETS = ("和平路", "人民路", "解放路", "建设路", "中山路", "新华路", "文化路", "胜利路")
_HAN = re.compile(r"[\u4e00-\u9fff]")


class Chance:
    """Numbers that follow from some bytes alone.

    Args:
        seed: 32 bytes that nobody can guess.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed, self._count, self._bits = seed, 0, 0

    def below(self, limit: int) -> int:
        """Return the next number in [0, limit)."""
        self._count += 1
        drawn = hashlib.sha256(self._seed + self._count.to_bytes(4, "big")).digest()
        return int.from_bytes(drawn[:16], "big") % limit

    def of(self, choices: Sequence[str]) -> str:
        """Return one of these."""
        return choices[self.below(len(choices))]

    def digits(self, count: int) -> str:
        """Return so many digits."""
        return "".join(str(self.below(10)) for _ in range(count))

    def like(self, value: str) -> str:
        """Return as many characters, each of the kind of that which stood there."""
        return "".join(self._like(char) for char in value)

    def _like(self, char: str) -> str:
        for kind in ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
            if char in kind:
                return self.of(kind)
        return char if char.isspace() or not char.isalnum() else self.of("abcdefghijkmnpqrstuvwxyz")


def surrogate(kind: PersonalType, value: str, chance: Chance) -> str:
    """Return what can stand for a value of a type."""
    match kind:
        case "NAME":
            return _name(value, chance)
        case "EMAIL":
            return f"{chance.of(GIVEN).lower()}{chance.digits(6)}@example.com"
        case "URL":
            return f"https://example.com/{chance.digits(8)}"
        case "IP":
            return _ip(value, chance)
        case "PHONE":
            return _phone(value, chance)
        case "BANK_CARD":
            length = len(_plain(value))
            return _shaped(value, with_luhn("9999" + chance.digits(length - 5)))
        case "IBAN":
            return _iban(value, chance)
        case "ID_CARD_CN":
            first = f"990000{_day(chance):%Y%m%d}{chance.digits(3)}"
            card = first + id_card_check(first)
            return _shaped(value, card if len(_plain(value)) == 18 else first[:6] + first[8:17])
        case "US_SSN":
            return _shaped(value, f"666{chance.digits(6)}")
        case "ADDRESS":
            number = 1 + chance.below(300)
            if _HAN.search(value):
                return f"{chance.of(ZH_STREETS)}{number}号"
            return f"{number} {chance.of(STREETS)} Street"
        case "DATE_OF_BIRTH":
            return f"{_day(chance)}"
        case _:
            return chance.like(value)


def _name(value: str, chance: Chance) -> str:
    if _HAN.search(value):
        plain = re.sub(r"[^\u4e00-\u9fff]", "", value)
        given = "".join(chance.of(ZH_GIVEN) for _ in range(min(2, len(plain) - 1)))
        return chance.of(ZH_SURNAMES) + given
    given, surname = chance.of(GIVEN), chance.of(SURNAMES)
    name = given if len(value.split()) == 1 else f"{given} {surname}"
    return name.upper() if value.isupper() else name.lower() if value.islower() else name


def _phone(value: str, chance: Chance) -> str:
    """Of its form, with its country code; its first digits then, 0 and 0 after any country code or
    where a mobile in China has its network, begin no number."""
    digits = _plain(value)
    if not digits.isdigit():
        return chance.like(value)
    country = re.match(r"\s*\(?(?:\+|00)\s?(\d{1,3}?)(?=[ ()-])", value)
    kept = country[1] if country else ""
    if "+86" in value and not kept:
        kept = "86"
    rest = len(digits) - len(kept)
    new = "00" + chance.digits(rest - 2)
    if rest == 11 and digits[len(kept)] == "1":
        new = "10" + chance.digits(9)
    elif not kept and rest == 10 and digits[0] not in "0+":
        new = f"{digits[len(kept) : len(kept) + 3]}55501{chance.digits(2)}"
    return _shaped(value, kept + new)


def _ip(value: str, chance: Chance) -> str:
    if ":" in value:
        return f"2001:db8::{chance.below(65535):x}:{chance.below(65535):x}"
    return f"{chance.of(DOCUMENTATION)}.{1 + chance.below(254)}"


def _iban(value: str, chance: Chance) -> str:
    country = value[:2].upper()
    length = IBAN_LENGTHS.get(country, len(_plain(value)))
    return _shaped(value, with_iban_check(country, "0000" + chance.digits(length - 8)))


def _day(chance: Chance) -> date:
    return date(1940, 1, 1) + timedelta(days=chance.below(24_000))


def _plain(value: str) -> str:
    return "".join(char for char in value if char.isalnum())


def _shaped(value: str, new: str) -> str:
    """Return new letters and digits with the spaces and signs of a value between them."""
    fresh = iter(new)
    return "".join(next(fresh, "") if char.isalnum() else char for char in value)
