"""Secrets in prose: one-time codes, passphrases of several words, answers to security questions,
and what looks like a key or a password in the same sentence as a word for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.context import listed
from llmos.data.pii.ordinary_en import BEGINNING, FUNCTION
from llmos.data.pii.plain import BLANK
from llmos.data.pii.secret_forms import LOGIN_URLS
from llmos.data.pii.spans import Span

_CODE = (
    r"((?:\d{2}(?: \d{2}){2,3}|\d{3}[ -]\d{3,4}|\d{4}[ -]\d{4}"
    r"|(?=[A-Z-]*\d)[A-Z0-9]{2,8}(?:-[A-Z0-9]{2,8}){1,7}"
    r"|\d(?: \d){3,7}|\d{3,10}|\d{1,4}(?:-\d{1,6}){1,4}|"
    r"(?=[A-Za-z]*\d)[A-Za-z0-9]{4,24})(?![\w%]|\.\d|:\d))"
)
_CODE_WORD = (
    r"(?:(?:verification|security|confirmation|authentication|authorization|login|log-in|sign-in|"
    r"access|activation|recovery|backup|reset|one[- ]?time|2fa|mfa|two[- ]factor|sms|temporary|"
    r"entry|gate|door|pass|pairing|unlock|redemption|invite|sms|texted|garage|alarm)"
    r"[ -](?:pass)?(?:codes?|pins?|numbers?|tokens?|passwords?|keys?)|otps?|otc|2fa|totp|pass ?code"
    r"|one[- ]?time (?:code|password|passcode)|pins?(?: code| number)?|cvv2?|cvc|cv2|puk)"
)
_NO_END = r"[^\n.!?。！？；]"
_CODES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w]){_CODE_WORD}(?![\w]){_NO_END}{{0,28}}?(?<![\w#-]){_CODE}",
        rf"(?<![\w]){_CODE} (?:is|was) (?:your|my|the|our|his|her)(?: \w+){{0,2}} {_CODE_WORD}",
        r"(?<![\w-])G-(\d{6})(?!\d)",
        rf"\b(?:enter|type|punch in|use|key in|dial|input|press) {_CODE}(?= {_NO_END}{{0,40}}"
        r"\b(?:codes?|pin|keypad|verify|log ?in|door|gate|unlock|alarm|lock|barrier|bell"
        r"|buzzer|turnstile)\b)",
        rf"\bcode (?:to|for|of|at|on) (?:the |my |our |his |her )?[\w' -]{{2,24}}? (?:is|was|"
        rf":) ?{_CODE}",
        r"(?<!error )(?<!status )(?<!area )(?<!zip )(?<!country )(?<!source )(?<!promo )"
        r"(?<!postal )"
        r"(?<!discount )(?<!exit )(?<!http )(?<!response )(?<!return )(?<!sort )(?<!swift )"
        r"(?<!tax )"
        r"(?<!product )(?<!coupon )(?<!voucher )\bcode(?:'s| is|:) ([#*]?\d{4,8}[#*]?)(?![\w.])",
        r"\b(?:PHPSESSID|JSESSIONID|session_?id|connect\.sid|csrf_?token|sid|sig|"
        r"xsrf-token)=([^\s;&\"']{8,})",
        r"(?<![\w$])(\$(?:2[abxy]|apr1|1|5|6|argon2id?|pbkdf2[\w-]*)\$[^\s:\"']{16,200})",
        r"\b(?:three|3) (?:digits|numbers) on (?:the|its) back (?:are|is|:|=) ?(\d{3})(?!\d)",
        r"\b(?:security|secret|memorable) (?:question|hint)s?\b[^\n]{0,60}?\b(?:answer"
        r"|a)(?: is|:| =) ?"
        r"([^\s.,;!?]{2,30}(?: [A-Z][\w'-]{1,20}){0,2})",
        r"(?:安全问题|密保(?:问题)?|密码提示|找回问题)[^\n]{0,30}?答案(?:是|为"
        r"|[:：])?\s?([\u4e00-\u9fffA-Za-z0-9]{2,16})",
        r"暗号[^\n。“\"「]{0,6}[“\"「]([^”\"」\n]{2,30})[”\"」]",
        r"(?:门|闸|电梯|锁|刷卡|指纹)[^\n。；]{0,12}?(?:输入?|按|键入)(?:了"
        r"|数字)?\s?([#*]?\d{3,8}[#*]?)(?![\d层楼号%])",
        r"密码[^\n。！？；“\"]{0,14}?(?:就|还|现在|其实|居然"
        r"|原来)?是([A-Za-z0-9@#!_.]{5,30})(?![A-Za-z])",
        r"\b(?:unlock|open|disarm|log ?in|sign ?in)(?:s|ed)?\b[^.\n]{0,24}? (?:with|using"
        r"|by typing) "
        r"([#*]?\d[\d#*-]{2,9}|(?=\S*\d)(?=\S*[A-Za-z])[^\s,;.]{5,40})(?![\w]|\.\d)",
        r"\b(?:u|user|usr|id|login|acct)\s?[:=]\s?\S{2,40}[\s,;/|]{1,3}(?:p|pw|pwd"
        r"|pass)\s?[:=]\s?(\S{3,60})",
        r"\b(?:keypad|buzzer|intercom|alarm|lockbox|padlock|garage|gate|entry|callbox|call box)"
        r"(?: (?:box|panel|number|no))?(?: is|:|=|'s| -|,)? ([#*]?\d{3,8}[#*]?)(?![\w.:-])",
        r"\b(?:auth|session\w{0,8}|jwt|access|refresh|remember_me|api|user)(?:[_-]?(?:token|id"
        r"|key))?="
        r"([A-Za-z0-9._%+/-]{16,})",
        r"\bauth ?= ?\( ?[\"'][^\"'\n]{1,60}[\"'], ?[\"']([^\"'\n]{3,80})[\"']",
        rf"\b(?:voicemail|mailbox|parking|club|house|flat|hotel|room|bank|gym|account|phone"
        rf"|office) "
        rf"(?:pass)?code(?: is|:|'s|,|=)? ?{_CODE}",
        r"((?<!\d)\d{1,2} ?(?:left|right|clockwise|L|R)\b(?:,? ?(?:then )?\d{1,2}(?: ?(?:left"
        r"|right|"
        r"clockwise|L|R)\b)?){1,3})",
        r"(?<![\w.])[\w.+-]{2,40}@[\w-]{1,40}\.[a-z]{2,8}:(?!//)([^\s:,;]{4,40})",
        r"\bword (?:to say|we use|to use|for pick-?up)[^\n\"“.]{0,40}[\"“]([^\"”\n]{3,30})[\"”]",
        r"\bmachine \S+ login \S+ password (\S+)",
        r"\b(?:pas+w[o0]?r?d|passwort|psswr?d|pasword|passwd|pswd|p/w|pass(?:code)?) ?(?:is|'s|:|"
        r"=|->|-) ?"
        r"[\"']?([^\s\"',;。，]*[\d!@#$%^&*][^\s\"',;。，]*(?<![.,;!?)]))",
        rf"\b(?:safe|lock|locker|vault|padlock|lockbox|combination|combo|door|"
        rf"gate)\b{_NO_END}{{0,40}}?"
        r"(?<![\w-])(\d{1,2}(?:[- /]\d{1,2}){2,5})(?![\w-])",
        r"\bkey:? ((?=\S*[A-Za-z])(?=\S*\d)(?=\S*[!@#$%^&*])[^\s,;.]{5,40})",
        r"(?:取件|取货|提货|寄存|口令|配对|卡密|核销)(?:码"
        r"|号)?[:：是为]?\s?(\d{1,4}(?:-\d{1,6}){1,3}|[A-Z]?\d{4,8})(?![\w-])",
        rf"\b(?:combination|"
        rf"combo)\b{_NO_END}{{0,60}}\bit's (\d{{1,2}}-\d{{1,2}}-\d{{1,2}})(?![\w-])",
        rf"(?:(?:验证|校验|动态|激活|通行|恢复|安全|PUK|确认|登录|取件|取货|开箱|核销|识别|邀请|"
        rf"备用|身份验证|PIN|门锁|注册|授权)\s?码|动态口令|动态密码|一次性密码|短信码|CVV2?|CVC|"
        rf"卡背面(?:的)?(?:三|后三)位(?:数字?|码)?|密\s?码|口令)[^\n。！；\d]{{0,12}}?"
        rf"(?<![A-Za-z0-9-]){_CODE}",
        r"(?<![A-Za-z0-9])([A-Z]?\d{4,8})(?:是|为)(?:您|你|我|本次)的?[^\n。]{0,8}(?:验证码|校验码|"
        r"动态码|密码|口令)",
        r"(?:输入?|按|输)\s?([#*]?\d{4,8}[#*]?)(?=[^\n。]{0,8}(?:开门|开锁|解锁|进门|开箱))",
    )
)
_PHRASE_WORD = (
    r"(?:pass ?words?|pass ?phrases?|pw|pwd|wi-?fi (?:password|key|pass)|network key|security "
    r"(?:answer|question)|secret (?:answer|word|phrase)|safe ?word|code ?word|memorable (?:word|"
    r"name|place|answer)|magic word|answer to (?:my|the|his|her|our) (?:security|secret) question|"
    r"(?:maiden name|first pet)(?= answer)|secret question answer|hint answer|passcode)"
)
_PHRASE = re.compile(
    rf"(?<![A-Za-z-]){_PHRASE_WORD}(?: (?:for|to|of|on|at|in) [\w' -]{{1,30}}?)?"
    r"(?:\s*[:=]\s*|\s+[-–]\s+|'s (?:just )?|,? (?:is|was|are|has been|is now|is still"
    r"|was set to|is just|used to be|"
    r"to be)\s+|"
    r" (?:reset|changed|updated|set|switched)(?: back)? to )"
    r"(?:now |still |just |always |simply )?((?!')(?:[\w'&@#!$%^*+-]+ ){0,5}[\w'&@#!$%^*+-]+)"
    r"(?=[.,;!?)\"]|\n|$| (?:and|but|so|if|all|with|for|on|in)\b)",
    re.IGNORECASE,
)
_BARE_WORD = re.compile(
    r"(?<![\w-])(?:password|passwd|pw|pwd|passphrase|passcode)\s+([A-Za-z][\w!@#$%^&*-]{3,40})"
    r"(?=\s*(?:[.,;!)\n]|$))",
    re.IGNORECASE,
)
_MAIDEN = re.compile(
    r"(?:mother's maiden name|first pet's name|security answer|secret answer|memorable word)"
    rf"{_NO_END}{{0,50}}(?:is|was|:|"
    rf"=)(?: a secret:)? ?((?:Mrs?\.? )?[A-Z][\w'-]*(?: [A-Z][\w'-]*){{0,3}})"
)
_NO_PHRASE = listed(
    "manager managers reset policy policies protection protected field fields hash hashes hashing "
    "box prompt change changes strength generator database recovery expiry file attempts "
    "requirements required incorrect wrong weak strong short long invalid expired secure safe "
    "hidden encrypted correct missing different same case-sensitive sensitive characters letters "
    "digits letter digit symbols number numbers twice again once least minimum maximum length "
    "below above attached here there pending blank set reset changed easy hard simple complex "
    "guess remember forgotten known unknown public private shared new old stored saved kept "
    "access security login account accounts email username user written something someone what "
    "your my their his her our the a an this that it none nothing null string hints hint leaked "
    "stolen compromised authentication sharing cracking"
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_@#./:+=-])[A-Za-z0-9#*!$][A-Za-z0-9_@#$%^&*!~+=/.-]{3,200}")
_CUE = re.compile(
    r"(?<![A-Za-z])(?:pass ?words?|pass ?codes?|pass ?phrases?|passwd|pwd?|log ?ins?|credentials?|"
    r"creds|secrets?|(?:api|access|secret|private|license|licence|product|wi-?fi|network|"
    r"encryption|"
    r"account|activation|deploy|wpa2?)[ _-]?keys?|wi-?fi|unlocks?|unlocked|2fa|totp|the key|"
    r"with key|tokens?|WPA2?|backup codes?|"
    r"recovery (?:codes?|keys?)|webhook)(?![A-Za-z])(?! page| form| screen)"
    r"|密\s?码|口令|密钥|秘钥|私钥|令牌|凭证|授权码|激活码|恢复码|登录名|账密|机器人key",
    re.IGNORECASE,
)
_NO_TOKEN = re.compile(
    r"(?:\d{1,4}(?:st|nd|rd|th|px|ms|s|h|m|am|pm|bit|bits|k|gb|mb|kb|x|d|chars?)|(?:sha|md|aes|"
    r"rsa|gpt|llama|tls|"
    r"utf|ipv|base|oauth|http|tls|ssl|mp|web|wpa|wep|h|x|s|ec|p|k|b|log|python|ios|windows|win)-?_?"
    r"\d{1,4}(?:[.-]\d+)?|v?\d+(?:[.-]\d+)+|\d{4}[-/]\d{1,2}[-/]\d{1,2}|"
    r".*@[A-Za-z0-9-]+\.[A-Za-z.]+|"
    r".*://.*|\d+[-+]?character.*|\d-?factor|[A-Za-z]+/[A-Za-z]+|\$\d.*|[12]fa)",
    re.IGNORECASE,
)
_LIST_MORE = re.compile(r"(?:,| and|、|;)\s?([A-Z0-9]{4,6}-[A-Z0-9]{4,6})(?![\w-])")
_ZH_SAID = (
    r"(?:密\s?码|口令|暗号|密令|密保(?:问题)?(?:的)?答案|安全词|通关语|密保)"
    r"(?:发(?:给)?[你您他她]了?|改好了|告诉[你您]|如下)?"
)
_ZH_VALUE = (
    r"[“\"「『]?([\u4e00-\u9fff]{2,12}\d{0,8}|[\u4e00-\u9fffA-Za-z0-9]{2,16}\d{2,8}|"
    r"[A-Za-z][A-Za-z0-9_.!@#-]{3,30})(?=[”\"」』。，,；;！!？?\s）)]|$)"
)
_ZH_PHRASE = re.compile(
    rf"{_ZH_SAID}(?:现在|就|还|都|依然)?(?:是|为|叫|改成了?|改为|设成了?|设为|换成了?)\s?[:：]?\s?"
    rf"(?:小写的?|大写的?|拼音|英文|全拼)?{_ZH_VALUE}"
)
_ZH_TOLD = re.compile(rf"{_ZH_SAID}\s?[:：=]\s?{_ZH_VALUE}")
_NO_ZH_TOLD = re.compile(
    r"什么|多少|忘|错误|不|正确|为空|^无|同上|保密|必填|请|输入|过期|失效|未|已|见|如下|加密"
    r"|默认$|位|发给|"
    r"字符|字母|数字"
)
_ZH_SEED = re.compile(
    r"助记词[^\n:：]{0,10}?[:：是]?\s?"
    r"((?:[\u4e00-\u9fff]{1,4}[ ,，、]{1,2}){8,23}[\u4e00-\u9fff]{1,4}"
    r"|(?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})"
)
_NO_ZH = re.compile(
    r"什么|多少|忘|错|不|正确|谁|几|一样|必须|由|你|我的|他|她|空|无|相同|需要|保密|通过|过期|"
    r"失效|发|"
    r"告诉|什|哪|如何|怎|请|要|可以|已|被|以|吗|呢|吧|随机|默认|初始|数字|字母|大写|小写|组合|位|"
    r"老样子|"
    r"生日|拼音|名字|统一|公开|唯一|明文|加密|简单|复杂|安全|对|是|^太|很|没|别|的$|这|那|个人|"
    r"自己|隐私"
)


def secret_phrases(text: str) -> Iterator[Span]:
    """Values without the word before them; may overlap."""
    for pattern in LOGIN_URLS:
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end(), "SECRET", 0.99)
    for pattern in _CODES:
        for found in pattern.finditer(text):
            if not re.search(r"优惠|兑换|取餐|promo|coupon|discount", found[0], re.IGNORECASE):
                yield _of(found, 0.65)
    for pattern in (_PHRASE, _BARE_WORD, _MAIDEN):
        for found in pattern.finditer(text):
            if pattern is _MAIDEN or _is_phrase(found[1]):
                yield _of(found, 0.6)
    for found in _ZH_PHRASE.finditer(text):
        if not _NO_ZH.search(found[1]):
            yield _of(found, 0.6)
    for found in _ZH_TOLD.finditer(text):
        if not _NO_ZH_TOLD.search(found[1]):
            yield _of(found, 0.6)
    for found in _ZH_SEED.finditer(text):
        yield _of(found, 0.8)
    yield from _beside_cues(text)


def _is_phrase(value: str) -> bool:
    """Whether words after "password is" are the password, not said of it."""
    words = value.lower().split()
    said = FUNCTION | _NO_PHRASE
    if len(words) >= 4 and value.islower() and not FUNCTION.intersection(words):
        return BLANK not in value
    if BLANK in value or len(value) < 4 or words[0] in said:
        return False
    if len(words) == 1:
        has_form = re.search(r"(?:ed|ing|ly|able|ible|less)$", words[0]) is not None
        return not has_form and words[0] not in BEGINNING
    return words[-1].isdigit() or not any(word in said for word in words)


def _beside_cues(text: str) -> Iterator[Span]:
    """What mixes letters with digits or signs, in a sentence with a word for a secret."""
    for cue in _CUE.finditer(text):
        start, end = max(0, cue.start() - 64), min(len(text), cue.end() + 48)
        stops = [
            it.end() for it in re.finditer(r"[.!?](?=\s)|[\n。！？]", text[start : cue.start()])
        ]
        start += stops[-1] if stops else 0
        stop = re.search(r"[.!](?=\s|$)|[\n。！]", text[cue.end() : end])
        end = cue.end() + stop.start() if stop else end
        for found in _TOKEN.finditer(text, start):
            if found.start() >= end:
                break
            value = found[0].rstrip(".,;:?)]}>!'\"")
            if not _looks_secret(value):
                continue
            yield Span(found.start(), found.start() + len(value), "SECRET", 0.5)
            at = found.end()
            while more := _LIST_MORE.match(text, at):
                yield _of(more, 0.5)
                at = more.end()


def _looks_secret(value: str) -> bool:
    if (
        len(value) < 5
        or _NO_TOKEN.fullmatch(value)
        or BLANK in value
        or re.match(r"[A-Za-z_]{1,40}=", value)
    ):
        return False
    has_letter = re.search("[A-Za-z]", value) is not None
    has_digit = re.search(r"\d", value) is not None
    has_sign = re.search(r"[@#$%^&*!]", value) is not None
    return (has_letter and has_digit) or (has_letter and has_sign and len(value) >= 6)


def _of(found: re.Match[str], score: float) -> Span:
    return Span(found.start(1), found.end(1), "SECRET", score)
