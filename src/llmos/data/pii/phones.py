"""Telephone numbers: international ones by phonenumbers, those of a country by their form, any
other after a word for one; also spelled out in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.context import is_before, is_near, words
from llmos.data.pii.spans import Span

_GAP = r"[ .\-]{0,2}"
_EXTENSION = (
    r"(?:\s?(?:,|;|-|/)?\s?(?:ext(?:ension)?\.?|x|#|转|转接|分机)\s?[:：#]?\s?\d{1,6}(?!\d))?"
)
_EDGE = r"(?<![A-Za-z0-9_.+/@=-])(?<!\d[ ,])"
_END = r"(?![A-Za-z0-9_@])(?!\.\d|,\d{3}|-[A-Za-z0-9])"
_CN_EDGE, _CN_END = r"(?<![A-Za-z0-9_.+=-])", r"(?![A-Za-z0-9_@])(?!\.\d|-\d{5})"
_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_+])(?:\(?\+|00(?=[1-9]))[ ]?\d{1,3}\)?(?:[ .\-/]{0,2}\(?\d{1,5}\)?){1,7}"
    + _EXTENSION
)
_NORTH_AMERICAN = re.compile(
    rf"{_EDGE}(?:1[-. ]?)?(?:\([2-9]\d\d\)[ .\-]{{0,2}}|[2-9]\d\d[-. /])[2-9]\d\d[-. ]\d{{4}}"
    rf"(?!\d){_EXTENSION}{_END}"
)
_BRITISH = re.compile(
    rf"{_EDGE}(?:\(0\d{{2,5}}\)|0\d{{2,5}})(?:[ -]\d{{3,8}}){{1,3}}(?!\d){_EXTENSION}{_END}"
)
_PAIRS = re.compile(rf"{_EDGE}0[1-9](?:[ .-]\d\d){{4}}(?!\d){_END}")
_FICTION = re.compile(rf"{_EDGE}555[-. ]\d{{4}}(?!\d){_EXTENSION}{_END}")
_TOLL_FREE = re.compile(
    rf"{_EDGE}(?:1[-. ]?)?8(?:00|33|44|55|66|77|88)[-. ](?:\d{{3}}[-. ]?\d{{4}}"
    rf"|[A-Z0-9]{{3}}-?[A-Z0-9]{{4}}|[A-Z]{{7}})(?!\d){_END}"
)
_CN_MOBILE = re.compile(
    rf"{_CN_EDGE}(?:\(?(?:\+|00)?86\)?[ -]{{0,2}})?1[3-9]\d(?:\d{{8}}|[ .\-]{{1,3}}\d{{4}}[ "
    rf".\-]{{1,3}}"
    rf"\d{{4}}|[ -]\d{{8}}|\d[ -]\d{{4}}[ -]\d{{3}}|\d{{4}}[ -]\d{{4}}|[ -]\d{{3}}[ -]\d{{5}}"
    rf"|[ -]\d{{4}}\d{{4}}|[ -]\d{{2}}[ -]\d{{2}}[ -]\d{{2}}[ -]\d{{2}})(?!\d){_CN_END}"
)
_CN_SPACED = re.compile(rf"{_CN_EDGE}1[ .\-_]{{1,2}}[3-9](?:[ .\-_]{{1,2}}\d){{9}}(?!\d){_CN_END}")
_CN_LANDLINE = re.compile(
    rf"{_CN_EDGE}(?:\(?(?:\+|00)?86\)?[ -]{{0,2}})?(?:\(0?\d{{2,3}}\)[ -]{{0,2}}|0(?:10|2\d|"
    rf"[3-9]\d\d)"
    rf"[ -]{{1,3}})[2-9]\d{{2,3}}[ -]?\d{{4}}(?!\d){_EXTENSION}(?:-\d{{1,5}}(?!\d))?{_CN_END}"
)
_CN_BARE_LANDLINE = re.compile(
    rf"{_CN_EDGE}0(?:10|2\d)[2-9]\d{{7}}(?!\d){_EXTENSION}{_CN_END}"
    rf"|{_CN_EDGE}0[3-9]\d\d[2-9]\d{{6,7}}(?!\d){_EXTENSION}{_CN_END}"
)
_CN_SERVICE = re.compile(
    rf"{_CN_EDGE}[48]00(?:[ -]\d{{3}}[ -]?\d{{4}}|[ -]?\d{{4}}[ -]\d{{3}}|[ "
    rf"-]\d{{7}})(?!\d){_CN_END}"
)
_HONG_KONG = re.compile(rf"{_CN_EDGE}[2-9]\d{{3}}[ -]\d{{4}}(?!\d){_CN_END}")
_ANY = re.compile(
    rf"(?<![A-Za-z0-9_.+])(?<!\d[ ,])\(?\d(?:[ .\-/()]{{0,2}}\d){{6,14}}(?!\d){_EXTENSION}"
)
_WORDS = words(
    "phones?", "tel", "telephone", "cell", "cellphone", "mobile", "mob", "call", "called",
    "calling", "calls", "callback",
    "text", "texted", "txt", "sms", "fax", "dial", "ring", "rang", "reach",
    "whats ?app", "signal", "wechat", "landline", "hotline", "helpline", "voicemail", "ph",
    "phone number", "my number", "his number", "her number", "their number", "your number",
    "number is", "reached", "contact", "pager", "line", "home", "office", "ext", "imessage",
    "电话", "手机", "手机号", "号码", "联系方式", "座机", "固话", "传真", "拨打", "致电", "来电",
    "热线",
    "拨", "打给", "微信", "短信", "联系", "电联", "回电", "☎", "📞", "📱", "手机号码", "通话",
)  # fmt: skip
_OTHER = words(
    "orders?", "order no", "order id", "invoice", "tickets?", "ref", "reference", "tracking", "sku",
    "serial", "isbn", "issn", "account", "acct", "routing", "iban", "ssn", "social", "passport",
    "case", "part", "model", "version", "licen[cs]e", "policy", "id", "zip", "lot", "batch", "nhs",
    "vat", "ein", "imei", "flight", "coordinates", "timestamp", "epoch", "build", "pid", "room",
    "pages?", "pp", "doi", "commit", "claim", "member", "customer number", "student", "employee",
    "订单", "单号", "运单", "流水", "编号", "批号", "序列号", "货号", "发票", "身份证", "卡号",
    "账号",
    "学号", "工号", "版本", "时间戳", "邮编", "税号", "密码", "验证码", "群号", "qq", "QQ",
)  # fmt: skip
_DATE = re.compile(
    r"^\(?(?:(?:19|20)\d\d[-./ ]?\d{1,2}[-./ ]?\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d)\b"
)
_RANGE = re.compile(r"^\(?(?:\d{4}-\d{4}|\d{1,3}(?:,\d{3})+|\d+\.\d+|(?:\d{1,3}\.){3}\d{1,3})$")
_DIGIT_WORDS = {
    "zero": "0", "oh": "0", "o": "0", "nought": "0", "one": "1", "two": "2", "three": "3",
    "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "niner": "9",
}  # fmt: skip
_ENGLISH_DIGIT = "zero|oh|nought|one|two|three|four|five|six|seven|eight|niner|nine"
_SPOKEN = re.compile(
    rf"(?<![A-Za-z])(?:(?:double|triple) )?(?:{_ENGLISH_DIGIT}|\d(?!\d))"
    rf"(?:[\s,.\-–]{{1,3}}(?:(?:double|triple) )?(?:{_ENGLISH_DIGIT}|o|\d(?!\d))){{5,14}}"
    rf"(?![A-Za-z\d])",
    re.IGNORECASE,
)
_HAN_DIGITS = "零〇○一二三四五六七八九幺壹贰叁肆伍陆柒捌玖两"
_HAN_SPOKEN = re.compile(
    rf"(?<![{_HAN_DIGITS}\d第])[{_HAN_DIGITS}\d](?:[ ,，、\-]?[{_HAN_DIGITS}\d]){{6,"
    rf"14}}(?![{_HAN_DIGITS}\d年])"
)
_HAN_VALUE = str.maketrans(_HAN_DIGITS, "00012345678911234567892")


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers, with their extension."""
    yield from _international(text)
    for pattern, score in (
        (_NORTH_AMERICAN, 0.85),
        (_TOLL_FREE, 0.8),
        (_FICTION, 0.7),
        (_BRITISH, 0.75),
        (_PAIRS, 0.75),
        (_CN_MOBILE, 0.9),
        (_CN_SPACED, 0.7),
        (_CN_LANDLINE, 0.85),
        (_CN_BARE_LANDLINE, 0.7),
        (_CN_SERVICE, 0.8),
    ):
        for found in pattern.finditer(text):
            if not _DATE.match(found[0]) and not is_before(_OTHER, text, found.start(), 14):
                yield _span(found.start(), found[0], score)
    yield from _told(text)
    yield from _spoken(text)


def _international(text: str) -> Iterator[Span]:
    if "+" not in text and "00" not in text:
        return
    from phonenumbers import NumberParseException, is_possible_number, parse

    for found in _INTERNATIONAL.finditer(text):
        shown = found[0].rstrip("( ").rstrip()
        dialled = re.sub(r"^\(?00", "+", shown)
        try:
            number = parse(dialled.replace("(0)", "").lstrip("("), None)
        except NumberParseException:
            continue
        is_told = shown.lstrip("(").startswith("+") or is_near(
            _WORDS, text, found.start(), found.end()
        )
        if is_told and is_possible_number(number):
            yield _span(found.start(), shown, 0.9)


def _told(text: str) -> Iterator[Span]:
    """Any number with as many digits as one has, after a word for it."""
    for pattern in (_ANY, _HONG_KONG):
        for found in pattern.finditer(text):
            shown = found[0].strip(" .-/")
            digits = re.sub(r"\D", "", shown)
            start = found.start() + found[0].index(shown)
            if (
                7 <= len(digits) <= 15
                and not _DATE.match(shown)
                and not _RANGE.match(shown)
                and is_before(_WORDS, text, start, 32)
                and not is_before(_OTHER, text, start, 20)
            ):
                yield _span(start, shown, 0.6)


def _spoken(text: str) -> Iterator[Span]:
    """Numbers in words: "five five five, oh one two three", 一三八零零…"""
    for found in _SPOKEN.finditer(text):
        if len(re.findall(r"[A-Za-z]{2,}", found[0])) >= 3:
            count = _spoken_digits(found[0])
            if count in {10, 11} or (count >= 7 and is_before(_WORDS, text, found.start(), 48)):
                yield Span(found.start(), found.end(), "PHONE", 0.6)
    for found in _HAN_SPOKEN.finditer(text):
        if found[0].isascii():
            continue
        digits = re.sub(r"\D", "", found[0].translate(_HAN_VALUE))
        is_mobile = len(digits) == 11 and re.match("1[3-9]", digits) is not None
        if is_mobile or (len(digits) >= 7 and is_before(_WORDS, text, found.start())):
            yield Span(found.start(), found.end(), "PHONE", 0.7)


def _spoken_digits(text: str) -> int:
    """Return how many digits are said."""
    count, times = 0, 1
    for word in re.findall(r"[a-z]+|\d", text.lower()):
        if word in {"double", "triple"}:
            times = 2 if word == "double" else 3
        elif word in _DIGIT_WORDS or word.isdigit():
            count, times = count + times, 1
    return count


def _span(start: int, shown: str, score: float) -> Span:
    """Return the span of a number, without a bracket that it does not close."""
    if shown.startswith("(") and ")" not in shown:
        start, shown = start + 1, shown[1:]
    if shown.endswith(")") and "(" not in shown:
        shown = shown[:-1]
    return Span(start, start + len(shown.rstrip()), "PHONE", score)
