"""Secrets: keys and tokens by their form, passwords and codes by the word before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.context import is_before, listed, words
from llmos.data.pii.ordinary_en import BEGINNING, FUNCTION
from llmos.data.pii.plain import BLANK
from llmos.data.pii.secret_forms import BLOCK, TOKENS
from llmos.data.pii.secret_phrases import secret_phrases
from llmos.data.pii.spans import Span

_BEARER = re.compile(
    r"(?:\bBearer|\bBasic(?= [A-Za-z0-9+/]{12,}={0,2}(?:\W|$))|\bAuthorization: ?token)\s+"
    r"([A-Za-z0-9._~+/=-]{8,})",
    re.IGNORECASE,
)
_FLAG = re.compile(
    r"(?:--(?:password|passwd|pass|token|secret|api-?key|auth-?token)[= ]|\s-p(?=['\"])|"
    r"\bsshpass -p ?|\s/user:\S{1,40} |\s-p (?=\S*\d)|\bPGPASSWORD=|\bMYSQL_PWD="
    r"|\bcurl\b[^\n]{0,60}\s-u ?[^\s:]{1,40}:|"
    r"\bIDENTIFIED BY )"
    r"(?:\"([^\"\n]+)\"|'([^'\n]+)'|([^\s'\"]{3,}))",
    re.IGNORECASE,
)
_WORD = (
    r"(?:pass ?words?|pass ?codes?|pass ?phrases?|pass ?wd|passwort|pwd?|pass(?=\s?[:=]| is\b)|p/w|"
    r"pin(?:[ -]?"
    r"(?:code|number|no\.?))?|secrets?(?:[ _-]?(?:access)?[ _-]?key)?|(?:api|access|auth|account|"
    r"private|"
    r"signing|encryption|license|licence|master|deploy|client|storage|webhook|session|app|refresh|"
    r"service|shared|secret|recovery|backup|security|bot|personal access|product|wi-?fi|wep|wpa2?|"
    r"network)"
    r"[ _-]?(?:key|token|secret|passphrase)|tokens?|(?:door|gate|entry|alarm|lock|lockbox|unlock|"
    r"keypad|garage|access|safe|"
    r"building|locker|share|sharing|extraction|extract|download|security|front[ -]?door|padlock|"
    r"key ?box|"
    r"bike lock|screen|disarm|mail ?room|lobby|elevator|vault|conference|meeting|recovery)"
    r"[ -]?(?:codes?|combo|combination|pin|passcode)|combination|cvv2?|cvc|security answer|"
    r"(?:seed|recovery|backup|mnemonic)[ -]?phrase|mnemonic|wi-?fi(?: code)?(?=\s?[:=])|"
    r"credentials?(?=\s?[:=])"
    r"|encryption key|passkey|puk(?: code)?|(?:pre-?shared|wireless|vpn|ssh|router|hotspot|zip|"
    r"archive|disk|bitlocker|filevault|vault|admin|decryption) ?keys?|psk|community(?: string)?|"
    r"(?:recovery|seed|secret|backup) words|keypad|buzzer|sim pin|"
    r"app[- ]?password|session ?(?:id|key)|auth ?code|pairing code|admin (?:pass|pw))"
)
_LINK = (
    r"(?:\s*\([^()\n]{1,30}\))?(?:\s+(?:for|to|of|on|at|in) (?:the |my |our |his |her |your |"
    r"their )?"
    r"[\w' -]{1,40}?)?(?:\s+(?:now|currently|still|again|there|here|today))?"
    r"(?:\s*(?:=>|->|→|:=|==?|:|\||>|-(?=\s))\s*|\s+(?:is|was|are|will be|remains|became)"
    r"(?: now| still| just| currently| back to| set to| changed to| again|:)*\s*:?\s*|,?\s+(?:has "
    r"been |been |was |is )?"
    r"(?:changed|reset|set|updated|rotated) to:?\s+)"
)
_VALUE = (
    r"(?:\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|`([^`\n]{1,200})`|“([^”\n]{1,200})”|‘([^’\n]{1,"
    r"200})’"
    r"|「([^」\n]{1,200})」|<?([^\s\"'`“”「」，,;。；、！？<>\u4e00-\u9fff]{2,400})>?)"
)
_ASSIGNED = re.compile(rf"(?<![A-Za-z])(?:{_WORD})[\"']?{_LINK}{_VALUE}", re.IGNORECASE)
_SIGNED = r"(?=[^\s\u4e00-\u9fff]*[\d#*!@$%^&])[^\s\"'`“”,;，。；、！？<>()\u4e00-\u9fff]{3,64}"
_DIRECT = re.compile(
    rf"(?<![A-Za-z])(?:{_WORD})(?:'s|,)?(?:\s+(?:to|as|of|at|number|no\.?|like|with))?\s+"
    rf"(?:\"([^\"\n]{{3,100}})\"|“([^”\n]{{3,100}})”|'([^'\n]{{3,100}})'|(\d(?: \d){{3,7}})(?!\d)|"
    rf"({_SIGNED}))",
    re.IGNORECASE,
)
_DOOR = (
    r"(?:doors?|gate|alarm|lock|locker|lockbox|safe|entry|keypad|building|buzzer|garage|elevator|"
    r"lobby|entrance|"
    r"padlock|key ?box|mailbox|stairwell|gym|shed|barn|bike room|phone|screen|ipad|tablet|laptop|"
    r"vault)"
)
_DOOR_CODE = re.compile(
    rf"(?<![A-Za-z]){_DOOR}\b[^.\n]{{0,40}}\b(?:codes?|combo|combination|number|pin)\b(?: is| was|"
    rf":|=|'s)?\s+({_SIGNED}|\d(?: \d){{3,7}})"
    rf"|\b(?:codes?|combo)\b(?: is|:|=|'s)?\s+([#*]?\d[\d#*-]{{2,9}})(?=[^.\n]{{0,40}}\b{_DOOR}\b)"
    rf"|\b(?:unlock(?:s|ed)?|open(?:s|ed)?|disarm(?:s|ed)?|punch in|key in|type in)\b[^.\n]{{0,"
    rf"24}}?\s([#*]?\d[\d#*-]{{3,9}})(?![\d.])",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"(?:\blog ?in|\bsign in|\bcreds?|\bcredentials|账号密码|账号|用户名)\b[^\n/|]{0,"
    r"40}?[A-Za-z0-9_.@-]{2,40} ?[/|] ?"
    rf"({_SIGNED})",
    re.IGNORECASE,
)
_MYSQL = re.compile(r"\bmysql(?:dump|admin)?\b[^\n]{0,80}?\s-p([^\s'\"]{3,})")
_NAMED = re.compile(
    r"(?<![A-Za-z])[A-Za-z][A-Za-z0-9_.-]{0,40}?(?:password|passwd|_pwd|_pass|secret|token|"
    r"api_?key|access_?key|"
    r"private_?key|secret_?key|_key|passphrase|credential)[A-Za-z0-9_]{0,20}[\"']?\]?\s*(?::|=>|"
    r":=|=)\s*"
    r"(?:[brfu]?\"([^\"\n]{3,400})\"|'([^'\n]{3,400})'|([^\s\"'`,;，。；<>(){}\u4e00-\u9fff]{4,"
    r"400}))",
    re.IGNORECASE,
)
_ZH_WORD = (
    r"(?:密\s?码|口令|暗号|密钥|秘钥|私钥|公私钥|提取码|分享码|访问码|门禁码|门禁|开门码|开锁码|解"
    r"锁码|"
    r"门锁码|令牌|授权码|取件密码|PIN ?码|pin ?码|密保答案|助记词|安全码|会议密码|入会密码|共享码|"
    r"pwd|passwd|password|token|api ?key|API ?Key|secret(?: ?key)?|access ?key|WiFi|wifi|密匙|暗码|"
    r"(?:道闸|临时|开箱|解压|解锁|房门|车库|电梯|入户|取款|验证|激活|启动|恢复|备份|登陆|登录"
    r"|联机|配对|后台|"
    r"管理|查询|配对|口令)(?:码|密匙)|卡密|PIN|(?:门|车|箱|密码|柜|挂|U型|电子|智能)锁)"
)
_ZH_LINK = (
    r"(?:[(（][^()（）\n]{1,16}[)）])?\s*(?:(?:现在|目前|还|都|一直|默认|统一|暂时|已经|已|被|就|"
    r"刚|我|"
    r"今天|先|重新|改后|仍|依然|也)\s*){0,3}"
    r"(?:是|为|叫|设的?是|改成了?|改为了?|换成了?|换为|设成了?|设为了?|设置成了?|设置为|重置为|重"
    r"置成了?|"
    r"更新为|更新成|变成了?|填|输入?|用的?是?|写的?是?|[:：=]|->|→|-(?=\s))\s*(?:[:：]\s*)?(?:了"
    r"\s*)?"
)
_ZH_ASSIGNED = re.compile(rf"{_ZH_WORD}{_ZH_LINK}{_VALUE}", re.IGNORECASE)
_ZH_DIRECT = re.compile(
    r"(?:密码|口令|提取码|门禁码|门禁|开门码|解锁码|令牌|密钥|秘钥|分享码|访问码|PIN ?码|暗号"
    r"|密匙|私钥|授权码|"
    r"解压码|道闸码|临时码|解锁|门锁|车锁|箱锁|锁屏|机器人key|密码锁)"
    r"(?:[A-Za-z0-9_.-]{2,20}[/／])?"
    r"(?:(?:就|还|都|也)?(?:是|用|为)(?:我|她|他|你|咱|家)?的?[\u4e00-\u9fff]{0,"
    r"5}?)?\s?[\"“‘「']?([A-Za-z0-9!@#$%^&*_.+-]{3,64})"
    r"|(?:密码|口令|暗号)(?:是|为|[:：])?\s?[“「‘\"]([^”」’\"\n]{2,30})[”」’\"]"
)
_NO_VALUE = listed(
    "is was the a an my your our his her their its it this that not no none null nil undefined "
    "empty "
    "yes true false required optional invalid incorrect wrong expired missing correct valid strong "
    "weak string str int bool bytes text char varchar number field value here there below above "
    "attached secret password passwd pwd token hidden redacted removed masked changed reset set "
    "stored saved needed unknown same different example todo tbd n/a na self os env process.env "
    "getenv input prompt config settings sent shared being too very so only still now invalid. "
    "protected enabled disabled used what how why when where forgotten lost safe case-sensitive "
    "in on at by to for of from with and or but if must should can cannot will would encrypted "
    "hashed about getpass all any each long short written kept"
)
_GIVEN_AWAY = words(
    "voucher", "promo", "coupon", "discount", "优惠", "兑换", "取餐",
)  # fmt: skip
_MASKED = re.compile(r"[*•xX.●…_\-#?]+|<[^>]*>|\$\{?\w+\}?|\{\{?.*|%\w+%")
_NO_PASSWORD = re.compile(r"(?:ed|ing|ly|able|ible|ful|less|ant|ent|ive|en)$")
_VALUE_FIRST = re.compile(
    rf"[\"“‘']([^\"”’'\n]{{3,40}})[\"”’'] (?:is|was|as|for) (?:still |now )?(?:the|my|your|our"
    rf"|his|her|their)"
    rf"(?: \w+){{0,2}}? ?(?:{_WORD}|(?:code|safe|pass|magic|secret) ?word)(?![A-Za-z])|"
    rf"(?<!\S)[\"'“]?({_SIGNED})[\"'”]?,? (?:is|was|as|for|=) (?:still |now )?(?:the|my|your|our|"
    rf"his|her|their|a)?(?: \w+){{0,2}}? ?{_WORD}(?![A-Za-z])"
    r"|([A-Za-z0-9!@#$%^&*_.+-]{4,40})\s?(?:就?是|当|作为|做|为)(?:我|你|他|她|咱)?(?:们|家)?的"
    r"?(?:新|旧|开机|登录|支付|WiFi|wifi|门锁|门禁)?(?:密码|口令|提取码|暗号)",
    re.IGNORECASE,
)
_SEED = re.compile(
    r"(?:seed|recovery|mnemonic|backup|secret)[ -]?(?:phrase|words)\b[^\n:.]{0,30}?(?:[:=]"
    r"|\bis\b|\bare\b|-|)\s*"
    r"\b((?:(?!(?:is|are|the|you|your|and|for|to|of|it|not|was|will|can|with|that|this"
    r"|or)\b)[a-z]{3,8}[ ,]{1,2}){11,23}"
    r"[a-z]{3,8})",
    re.IGNORECASE,
)
"""Of 12 to 24 words of BIP 39, of which none is one of these."""
_LONG = re.compile(
    r"(?<![A-Za-z0-9+/=_.-])(?=[^\s]*\d)(?=[^\s]*[A-Za-z])[A-Za-z0-9+/_=-]{16,200}(?![\w+/=])"
)
_KEY_WORDS = words(
    "key",
    "token",
    "secret",
    "credential",
    "api",
    "psk",
    "auth",
    "cookie",
    "密钥",
    "秘钥",
    "令牌",
    "凭证",
)


def secrets(text: str) -> Iterator[Span]:
    """Values of passwords, codes, keys and tokens, without the word before them."""
    yield from secret_phrases(text)
    for pattern in (BLOCK, TOKENS):
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end(), "SECRET", 0.98)
    for pattern in (_BEARER, _FLAG, _SEED):
        for found in pattern.finditer(text):
            yield _of_group(found, 0.85)
    for pattern in (_ASSIGNED, _ZH_ASSIGNED, _NAMED):
        for found in pattern.finditer(text):
            if (span := _assigned(text, found)) is not None:
                yield span
    for pattern in (_ZH_DIRECT, _DIRECT, _DOOR_CODE, _PAIR, _MYSQL, _VALUE_FIRST):
        for found in pattern.finditer(text):
            if (span := _bare(text, found)) is not None:
                yield span
    for found in _LONG.finditer(text):
        if is_before(_KEY_WORDS, text, found.start(), 24):
            yield Span(found.start(), found.end(), "SECRET", 0.6)


def _assigned(text: str, found: re.Match[str]) -> Span | None:
    """Return the span of a value, None where it is a word of the sentence."""
    span = _of_group(found, 0.8)
    is_quoted = text[span.start - 1 : span.start] in {'"', "'", "`", "“", "‘", "「"}
    value = text[span.start : span.end]
    if not is_quoted:
        value = value.rstrip(".,;:?)]}>。，；\\")
        if value.startswith("(") or re.match(r"(?:process|os|self|config|settings|env)\.", value):
            return None
    span = Span(span.start, span.start + len(value), "SECRET", span.score)
    if BLANK in value or len(value) < 2 or value.lower() in _NO_VALUE or _MASKED.fullmatch(value):
        return None
    before = (
        text[max(0, found.start() - 14) : found.start()] + found[0][: span.start - found.start()]
    )
    if _GIVEN_AWAY.search(before):
        return None
    said = text[found.start() : span.start].rstrip("\"'`“‘「 ")
    is_told = said.endswith(("=", ":", "：", "→", ">", "|"))
    has_sign = re.search(r"[\d_@#$%^&*+=!~-]", value) is not None
    mixed = re.search(r"[a-z][A-Z]", value) is not None
    if is_quoted or has_sign or mixed:
        return span
    if not re.fullmatch(r"[^\s()\[\]{}]{3,}", value):
        return None
    key = value.lower()
    is_word = key in FUNCTION or key in BEGINNING or _NO_PASSWORD.search(key) is not None
    return span if is_told or not (is_word or len(value) < 5) else None


def _bare(text: str, found: re.Match[str]) -> Span | None:
    """Return the span of a value that no sign leads to, None where it is a word."""
    span = _of_group(found, 0.7)
    is_quoted = text[span.end : span.end + 1] in {'"', "'", "”", "’", "」"}
    value = text[span.start : span.end]
    value = value if is_quoted else value.rstrip(".,;:?)]}")
    if _GIVEN_AWAY.search(text[max(0, found.start() - 14) : span.start]) or _MASKED.fullmatch(
        value
    ):
        return None
    is_chinese = found.re is _ZH_DIRECT and len(value) >= 6 and value.lower() not in _NO_VALUE
    if BLANK in value or len(value) < 3 or not (is_quoted or is_chinese or re.search(r"\d", value)):
        return None
    if re.match(r"(?:\d+(?:st|nd|rd|th|px|ms|s|%)$|\d{1,2}$|v?\d+\.\d)", value):
        return None
    return Span(span.start, span.start + len(value), "SECRET", span.score)


def _of_group(found: re.Match[str], score: float) -> Span:
    """Return the span of the group that has matched."""
    number = next(n for n, group in enumerate(found.groups(), 1) if group is not None)
    return Span(found.start(number), found.end(number), "SECRET", score)
