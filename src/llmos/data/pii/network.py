"""Addresses of the net: e-mail, also when it is spelled out, IP and web addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from llmos.data.pii.context import is_before, listed, words
from llmos.data.pii.spans import Span

_LETTER = r"A-Za-z0-9\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"
_LABEL = rf"[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?"
_EMAIL = re.compile(
    rf"(?<![{_LETTER}._%+-])(?:\"[^\"\n@]{{1,40}}\"|[{_LETTER}._%+'&/=^{{}}~!#$*?|`-]{{0,63}}"
    rf"[{_LETTER}_%+-])@(?:{_LABEL}(?:\.{_LABEL})+|\[[0-9a-fA-F.:]{{3,45}}\])"
)
_HAN_EMAIL = re.compile(r"[\u4e00-\u9fff]{2,8}@[\u4e00-\u9fff]{2,12}\.[\u4e00-\u9fff]{2,4}")
_ENDINGS = (
    r"(?:com|org|net|edu|gov|io|cn|co|uk|de|fr|jp|info|biz|me|app|dev|ai|us|eu|ca|au|in|nl|it|es|"
    r"se|ch|at|ru|br|example|test|invalid|hk|tw|sg|nz|ie|xyz|online|cc|tv|mail)"
)
_AT = (
    r"(?:\s*[\[({<]\s*(?:at|@|艾特|AT)\s*[\])}>]\s*|\s*@\s*|\s+at\s+|\s*艾特\s*|\s*\(a\)\s*"
    r"|\s*#\s*|\s*小老鼠\s*|\s*圈[aA]\s*)"
)
_DOT = r"(?:\s*[\[({<]\s*(?:dot|\.|点|punkt)\s*[\])}>]\s*|\s+dot\s+|\s*点\s*|\s+\.\s*|\s*\.\s+|\.)"
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_+-]{0,40}[A-Za-z0-9])?"
_SPELLED_EMAIL = re.compile(
    rf"(?<![A-Za-z0-9._-])(?P<who>{_WORD}(?:{_DOT}{_WORD}){{0,2}})(?P<at>{_AT})"
    rf"(?P<where>{_WORD}(?:{_DOT}{_WORD}){{0,3}})(?P<dot>{_DOT})(?P<end>{_ENDINGS})"
    rf"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_ONE = listed(
    "look looked find found us me is are was be it available hosted visit site website page meet "
    "see"
    " live lives here there arrive arrived up shop buy sold read more him her them out online start"
    " starts this that video only"
)
_PROSE_DOT = re.compile(r"\.\s+")
_SCHEME = r"(?:[A-Za-z][A-Za-z0-9+.-]{1,20}://|www\d?\.)"
_URL_CHAR = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%\u00c0-\u024f\u0400-\u04ff|{}\\^]"
_URL = re.compile(
    rf"(?<![A-Za-z0-9@]){_SCHEME}(?:{_URL_CHAR}|(?<=[/=?&#._-])[\u4e00-\u9fff]+"
    r"(?=[/?&#.=_-]|\s|$)|(?<=//)[\u4e00-\u9fff]+(?=\.))+",
    re.IGNORECASE,
)
_NOT_LAST = ".,;:!?'\"|\\^*_~"
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|0?\d?\d)"
_IPV4_DOT = r"(?:\.|\[\.\]|\(\.\)| ?\[dot\] ?)"
_IPV4 = re.compile(
    rf"(?<![A-Za-z0-9_.])(?<![A-Za-z]/)(?:{_OCTET}{_IPV4_DOT}){{3}}{_OCTET}(?![A-Za-z0-9_])(?!\.[A-Za-z0-9_])"
)
_IPV6 = re.compile(
    r"(?<![A-Za-z0-9_.])(?<![0-9A-Fa-f:]:)(?:[0-9A-Fa-f]{0,4}:){2,8}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,"
    r"3}\.){3}\d{1,3})?"
    r"(?![A-Za-z0-9_:])(?!\.[A-Za-z0-9_])"
)
_VERSION = re.compile(
    r"(?:\bv|\bver\.?|version|release|build|firmware|revision|\brev\.?|upgrade[d]?(?: to| from)?|"
    r"section|clause|chapter|§|figure|\bfig\.?|table|paragraph|step|版本|固件|版|章|节|条|升级到|"
    r"更新到)"
    r"[ :：#]{0,2}(?:is|was|to|号|为|是)?[ :]?$",
    re.IGNORECASE,
)
_VERSION_AFTER = re.compile(
    r" ?(?:release|version|build|driver|firmware|patch|update|版本?|固件|beta|rc\d|-(?:rc|beta|"
    r"alpha))",
    re.IGNORECASE,
)
_IP_WORDS = words(
    "ip", "ipv4", "host", "server", "addr", "address", "ping", "ssh", "地址", "服务器"
)


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, as they are written and as they are spelled out: "name at example dot
    com", "name [艾特] example 点 com"."""
    if "@" in text:
        for pattern in (_EMAIL, _HAN_EMAIL):
            for found in pattern.finditer(text):
                start = found.start() + len(found[0]) - len(found[0].lstrip("'/|`!#$*?&={}^"))
                yield Span(start, found.end(), "EMAIL", 0.95)
    for found in _SPELLED_EMAIL.finditer(text):
        if _is_spelled(found):
            yield Span(found.start(), found.end(), "EMAIL", 0.75)


def _is_spelled(found: re.Match[str]) -> bool:
    who, at, dot, end = found["who"], found["at"], found["dot"], found["end"]
    if who.lower() in _NO_ONE:
        return False
    joined = at + dot + found["where"]
    if _PROSE_DOT.search(joined) and end[0].isupper():
        return False
    if at.strip() in {"#", ""}:
        return False
    if at.strip().lower() == "at":
        # "at" alone is a word of its own: then the dot must be spelled, too, or the end be plain.
        return "dot" in dot.lower() or "点" in dot or dot == "."
    return True


def urls(text: str) -> Iterator[Span]:
    """Web addresses: with a scheme, or beginning with www."""
    for found in _URL.finditer(text):
        address = found[0]
        while address and (address[-1] in _NOT_LAST or _is_open(address)):
            address = address[:-1]
        rest = re.sub(rf"^{_SCHEME}", "", address, flags=re.IGNORECASE)
        if (rest and not rest.startswith("/")) or address.lower().startswith("file:///"):
            yield Span(found.start(), found.start() + len(address), "URL", 0.95)


def _is_open(address: str) -> bool:
    """Whether an address ends in a bracket that was opened before it."""
    opens = _BRACKETS.get(address[-1])
    return opens is not None and address.count(address[-1]) > address.count(opens)


def ips(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses; four numbers after a word for a version are none."""
    for found in _IPV4.finditer(text):
        before = text[max(0, found.start() - 24) : found.start()]
        after = text[found.end() : found.end() + 12]
        is_version = _VERSION.search(before) or _VERSION_AFTER.match(after)
        if not is_version or is_before(_IP_WORDS, text, found.start(), 16):
            yield Span(found.start(), found.end(), "IP", 0.9)
    if ":" not in text:
        return
    for found in _IPV6.finditer(text):
        if _is_ipv6(found[0]):
            yield Span(found.start(), found.end(), "IP", 0.9)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    groups = [group for group in text.split(":") if group]
    return text == "::1" or len(groups) >= 5 or (len(groups) >= 2 and any(map(str.isdigit, text)))
