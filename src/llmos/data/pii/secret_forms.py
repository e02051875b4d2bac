"""Keys and tokens that are known by their form: what each vendor publishes of its own."""

from __future__ import annotations

import re

_WEB64 = r"[A-Za-z0-9_-]"
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_FORMS = (
    # clouds
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{12,20}",
    r"LTAI[A-Za-z0-9]{12,24}",
    r"(?:AKID|AKLT)[A-Za-z0-9]{13,48}",
    rf"AIza{_WEB64}{{30,45}}",
    rf"ya29\.{_WEB64}{{16,400}}",
    rf"1//0{_WEB64}{{12,120}}",
    rf"GOCSPX-{_WEB64}{{16,40}}",
    r"(?<=AccountKey=)[A-Za-z0-9+/]{40,100}={0,2}",
    r"(?<=SharedAccessKey=)[A-Za-z0-9+/]{30,100}={0,2}",
    r"do[por]_v1_[a-f0-9]{32,64}",
    r"(?:AQVN|YC)[A-Za-z0-9_-]{35,40}",
    r"v1\.0-[0-9a-f]{16,32}-[0-9a-f]{60,160}",
    # code and packages
    r"gh[pousr]_[A-Za-z0-9]{16,255}",
    r"github_pat_[A-Za-z0-9_]{20,255}",
    rf"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent|oas)-{_WEB64}{{16,64}}",
    rf"GR1348941{_WEB64}{{20}}",
    r"ATBB[A-Za-z0-9]{20,40}",
    rf"ATATT3{_WEB64}{{40,220}}=?[0-9A-F]{{0,8}}",
    r"npm_[A-Za-z0-9]{20,64}",
    rf"pypi-{_WEB64}{{16,300}}",
    r"rubygems_[a-f0-9]{40,64}",
    r"CLOJARS_[a-z0-9]{40,64}",
    rf"dckr_(?:pat|oat)_{_WEB64}{{20,80}}",
    r"CCIPAT_[A-Za-z0-9_]{20,80}",
    r"pul-[a-f0-9]{40}",
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,80}",
    rf"hv[sb]\.{_WEB64}{{20,160}}",
    # models
    rf"sk-(?:ant-|proj-|svcacct-|admin-|or-)?{_WEB64}{{16,200}}",
    r"hf_[A-Za-z0-9]{20,64}",
    rf"(?:gsk|r8|fw|tvly|nvapi|pplx|xai|lin_api|rnd|sbp|vercel|ops|pat|figd|ntn|glsa|glc|sntrys|"
    rf"sntryu|aio|pscale_tkn|pscale_pw|rdme|shippo_live|shippo_test|duffel_test|duffel_live|dt0c01|"
    rf"phc|phx|rpa|tk-us|CFPAT|PMAK|NRAK|NRII|NRJS|EZAK|EZTK|fio-u|dp\.pt"
    rf"|dp\.st)[_.-]{_WEB64}{{20,180}}",
    r"(?:secret|live|test|prod|sec)_[A-Za-z0-9]{32,64}",
    r"llmos_[A-Za-z0-9]+_[A-Za-z0-9_-]{16,64}",
    # money and shops
    r"[rsp]k_(?:live|test|prod)_[A-Za-z0-9]{10,128}",
    r"whsec_[A-Za-z0-9+/=]{16,64}",
    r"shp(?:at|ss|ca|pa|tka)_[A-Fa-f0-9]{24,40}",
    rf"sq0(?:atp|csp|idp)-{_WEB64}{{20,64}}",
    r"EAAA[A-Za-z0-9_-]{50,64}",
    r"FLW(?:SEC|PUB)K_(?:TEST|LIVE)-[A-Za-z0-9-]{12,64}",
    r"access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}",
    # messages
    r"xox[abeoprs](?:\.xox[a-z])?-[A-Za-z0-9-]{10,180}",
    r"xapp-[A-Za-z0-9-]{10,160}",
    rf"\d{{8,10}}:AA{_WEB64}{{30,40}}",
    rf"[MNO][A-Za-z0-9_-]{{23,27}}\.{_WEB64}{{6}}\.{_WEB64}{{27,40}}",
    rf"SG\.{_WEB64}{{16,32}}\.{_WEB64}{{16,64}}",
    r"xkeysib-[a-f0-9]{40,64}-[A-Za-z0-9]{10,20}",
    r"key-[0-9a-f]{32}",
    r"[0-9a-f]{32}-us\d{1,2}",
    r"(?:SK|AC)[0-9a-f]{32}",
    r"EAAC[A-Za-z0-9]{16,300}",
    # data and maps
    r"dapi[0-9a-f]{32}(?:-\d)?",
    r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}",
    rf"pat-(?:na|eu)\d-{_UUID}",
    rf"[ps]k\.eyJ{_WEB64}{{20,200}}\.{_WEB64}{{16,40}}",
    # any
    rf"eyJ{_WEB64}{{8,}}\.{_WEB64}{{8,}}(?:\.{_WEB64}*)?",
    r"5[HJK][1-9A-HJ-NP-Za-km-z]{49,50}",
    r"[KL][1-9A-HJ-NP-Za-km-z]{51}",
    r"xprv[1-9A-HJ-NP-Za-km-z]{100,112}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{40,64}",
)
TOKENS = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_FORMS)})(?![A-Za-z0-9_])")
BLOCK = re.compile(
    r"-{3,5} ?BEGIN (?:[A-Z0-9]+ ){0,4}(?:PRIVATE KEY|PGP PRIVATE KEY BLOCK)(?: BLOCK)? ?-{3,5}"
    r".*?(?:-{3,5} ?END (?:[A-Z0-9]+ ){0,4}(?:PRIVATE KEY|PGP PRIVATE KEY BLOCK)(?: BLOCK)? ?-{3,"
    r"5}|\Z)",
    re.DOTALL,
)
"""A private key in PEM; to the end of the text where it is cut off."""
LOGIN_URLS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?!https?:)[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"']*:[^\s@\"'/]+@[^\s\"'<>，。；]+",
        r"https://hooks\.slack\.com/[^\s\"'<>，。；]+",
        r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[^\s\"'<>，。；]+",
        r"https://oapi\.dingtalk\.com/robot/send\?access_token=[^\s\"'<>，。；]+",
        r"https://(?:qyapi\.weixin\.qq|open\.feishu)\.(?:com|cn)/[^\s\"'<>，。；]*(?:key=|"
        r"hook/)[^\s\"'<>，。；]+",
        r"https://[0-9a-f]{32}(?::[0-9a-f]{32})?@[^\s\"'<>，。；]+",
        r"https://[\w.-]*webhook\.office\.com/[^\s\"'<>，。；]+",
        r"https://api\.telegram\.org/bot\d{8,10}:[^\s\"'<>，。；]+",
    )
)
"""Addresses that let in who has them."""
