"""Numbers that stand for a person: identity cards, bank cards and accounts, passports, birthdays.

Those that have check digits are found by them; others need words around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.checksums import IBAN_LENGTHS, is_iban, is_id_card, is_luhn, is_ssn
from llmos.data.pii.context import is_before, is_near, last_before, words
from llmos.data.pii.spans import Span

_ALONE_BEFORE, _ALONE_AFTER = r"(?<![A-Za-z0-9])(?<!\d[.,])", r"(?![A-Za-z0-9])(?!\.\d)"
_CARD = re.compile(rf"{_ALONE_BEFORE}\d(?:[ -]{{0,3}}\d){{12,18}}{_ALONE_AFTER}")
_CARD_LINE = re.compile(rf"{_ALONE_BEFORE}\d{{4}}(?:\s{{1,3}}\d{{4}}){{3}}{_ALONE_AFTER}")
_CARD_WORDS = words(
    "cards?", "visa", "master ?card", "amex", "american express", "debit", "credit", "union ?pay",
    "maestro", "discover", "jcb", "diners", "payment", "pan", "卡", "账号", "帐号", "账户", "银联",
)  # fmt: skip
_OTHER_NUMBER = words(
    "imei", "meid", "serial", "s/n", "sku", "tracking", "orders?", "order id", "invoice",
    "tickets?",
    "ref", "reference", "isbn", "ean", "upc", "barcode", "timestamp", "epoch", "meter", "parcel",
    "shipment", "waybill", "build", "commit", "transaction", "batch", "part", "lot", "model",
    "case", "catalogu?e",
    "订单", "单号", "运单", "快递", "流水", "条码", "条形码", "序列号", "批号", "编号", "货号",
    "发票", "时间戳", "设备号", "版本", "型号", "税号", "信用代码",
)  # fmt: skip
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]{0,2}[A-Za-z0-9]){11,30}")
_ID_CARD = re.compile(
    r"(?<![A-Za-z0-9])\d(?:[ -]{0,2}\d){5}[ -]{0,2}(?:1[ -]?[89]|2[ -]?0)(?:[ -]{0,2}\d){9}"
    r"[ -]{0,2}[\dXx](?![A-Za-z0-9])"
)
_OLD_ID_CARD = re.compile(
    r"(?<![A-Za-z0-9])\d{6}\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}(?![A-Za-z0-9])"
)
_ID_CARD_WORDS = words(
    "id card", "id no", "identity", "身份证", "身份号码", "公民身份", "证件", "证号"
)
_SSN = re.compile(r"(?<![A-Za-z0-9_-])(\d{3})([- .])(\d{2})\2(\d{4})(?![A-Za-z0-9_-])(?!\.\d)")
_BARE_SSN = re.compile(r"(?<![A-Za-z0-9_-])\d{3}[ -]{0,3}\d{2}[ -]{0,3}\d{4}(?![A-Za-z0-9_-])")
_SSN_WORDS = words(
    "ssn", r"s\.s\.n\.?", "ss ?#", "social", "social security", "soc sec", "social security number",
    "社会安全", "社安",
)  # fmt: skip
_PASSPORT = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{0,2}\d{6,9}[A-Za-z]?(?![A-Za-z0-9])")
_PASSPORT_CN = re.compile(r"(?<![A-Za-z0-9])(?:E[A-HJ-NP-Z]?|[DGSP]E?)\d{7,8}(?![A-Za-z0-9])")
_PASSPORT_WORDS = words("passports?", "travel document", "护照", "通行证", "旅行证")
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re.compile(
    r"(?<!\d)(?:\d{4} ?年 ?\d{1,2} ?月 ?\d{1,2} ?[日号]|(?:19|20)\d{2}[-/.]\d{1,2}[-/.]\d{1,2}"
    r"|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})|(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|"
    r"3[01])"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?(?: of)?[ -]{_MONTH}(?:,?[ -]\d{{4}})?"
    rf"|(?<![a-z]){_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?)(?!\d)",
    re.IGNORECASE,
)
_BORN_BEFORE = words(
    "born", "birth", r"d\.?o\.?b\.?", "birthday", "birth ?date", "出生", "生日", "生于", "诞辰"
)
_BORN_AFTER = re.compile(r"^[ ,，)）]{0,2}(?:出生|生(?!效|产|成)|\(?born)", re.IGNORECASE)


def cards(text: str) -> Iterator[Span]:
    """Bank cards: 13 to 19 digits, with spaces or dashes, the last of which is right (Luhn)."""
    for pattern in (_CARD, _CARD_LINE):
        for found in pattern.finditer(text):
            for start, end in _card_bounds(text, found.start(), found.end()):
                yield Span(start, end, "BANK_CARD", 0.95)


def _card_bounds(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    digits = re.sub(r"\D", "", text[start:end])
    is_told = is_near(_CARD_WORDS, text, start, end)
    if not 13 <= len(digits) <= 19 or not is_luhn(digits) or len(set(digits)) < 2:
        return
    if not is_told and (digits[0] not in "23456" or is_before(_OTHER_NUMBER, text, start, 24)):
        return
    yield start, end


def ibans(text: str) -> Iterator[Span]:
    """International account numbers, as long as their country's, with the right check digits."""
    for found in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(found[0][:2].upper())
        if length is None:
            continue
        seen = 0
        for place, char in enumerate(found[0]):
            seen += char.isalnum()
            if seen == length:
                end = found.start() + place + 1
                goes_on = re.match("[A-Za-z0-9]", text[end : end + 1]) is not None
                if not goes_on and is_iban(re.sub(r"[ -]", "", found[0][: place + 1])):
                    yield Span(found.start(), end, "IBAN", 1.0)
                break


def id_cards(text: str) -> Iterator[Span]:
    """Chinese identity numbers: 18 characters of which the last is right; 15 of the old ones where
    a word says so."""
    for found in _ID_CARD.finditer(text):
        if is_id_card(re.sub(r"[ -]", "", found[0])):
            yield Span(found.start(), found.end(), "ID_CARD_CN", 1.0)
    for found in _OLD_ID_CARD.finditer(text):
        if is_before(_ID_CARD_WORDS, text, found.start()):
            yield Span(found.start(), found.end(), "ID_CARD_CN", 0.8)


def social_security(text: str) -> Iterator[Span]:
    """US social security numbers; nine bare digits only where a word says so."""
    for found in _SSN.finditer(text):
        told = is_before(_SSN_WORDS, text, found.start())
        if is_ssn(found[1] + found[3] + found[4]) and (
            told or (found[2] != "." and not is_before(_OTHER_NUMBER, text, found.start(), 24))
        ):
            yield Span(found.start(), found.end(), "US_SSN", 0.9)
    for found in _BARE_SSN.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if is_ssn(digits) and is_near(_SSN_WORDS, text, found.start(), found.end()):
            yield Span(found.start(), found.end(), "US_SSN", 0.9)


def passports(text: str) -> Iterator[Span]:
    """Passports: by their own form where it is Chinese, else close after a word for one."""
    for found in _PASSPORT_CN.finditer(text):
        if not is_before(_OTHER_NUMBER, text, found.start(), 24):
            told = is_before(_PASSPORT_WORDS, text, found.start())
            yield Span(found.start(), found.end(), "PASSPORT", 0.9 if told else 0.5)
    for found in _PASSPORT.finditer(text):
        if is_before(_PASSPORT_WORDS, text, found.start(), 24):
            yield Span(found.start(), found.end(), "PASSPORT", 0.85)


def birthdays(text: str) -> Iterator[Span]:
    """Dates of birth: dates with a word for it around them."""
    for found in _DATE.finditer(text):
        told = last_before(_BORN_BEFORE, text, found.start(), 30)
        between = "" if told is None else text[told : found.start()]
        is_told = told is not None and not re.search(r"[.;。；\n]", between)
        if is_told or _BORN_AFTER.match(text[found.end() : found.end() + 8]):
            yield Span(found.start(), found.end(), "DATE_OF_BIRTH", 0.8)
