"""Where a home is, in Chinese: numbers of buildings and rooms, and the street or estate before."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.spans import Span

_HAN = r"\u4e00-\u9fff"
_NUMERAL = "零〇一二三四五六七八九十百两"
_NUMBER = (
    rf"(?:[A-Za-z]{{0,2}}\d{{1,5}}[A-Za-z]?(?:[-#~之]\d{{1,5}}[A-Za-z]?){{0,4}}|[{_NUMERAL}]{{1,6}}"
    r"|[A-Za-z](?=[座栋幢区馆楼室])|[甲乙丙丁东西南北](?=[座栋幢楼]))"
)
_UNIT_WORD = (
    r"(?:号院|号大院|号楼|号门|号房|号室|号铺|号库|号(?![线码机文店选球称令员服])|號|弄|栋|幢|棟|"
    r"座|楼|樓|层(?!次|面|级)|"
    r"室(?![内外温])|单元(?!格)|單元|门(?![口票前诊])|户|房(?![东子价屋间产租])|组(?![织合长成])|"
    r"社(?![区会交])|队|支弄|车间|"
    r"铺|信箱|宿舍|期|区|#楼?|栋楼|附\d+号|房间|排(?![名骨球队放])|床|教室|巷)"
)
_TRADITIONAL = str.maketrans(
    "號樓棟單區縣鄉鎮廣廈園東門閣軒灣國際莊廠條層舖臺湾華麗麓龍鐵灘衛學醫縣營堡寧濱陽會館業莊",
    "号楼栋单区县乡镇广厦园东门阁轩湾国际庄厂条层铺台湾华丽麓龙铁滩卫学医县营堡宁滨阳会馆业庄",
)
_UNIT = re.compile(rf"(?<![A-Za-z0-9])(?:附|第|近|邮政|信箱)?\s?{_NUMBER}\s?{_UNIT_WORD}")
_BETWEEN = re.compile(rf"[\s,，、]?[{_HAN}A-Za-z()·\s]{{0,12}}[\s,，、]?")
_NOT_BETWEEN = re.compile(
    r"电话|手机|联系|邮编|和|与|到|至|的|有|是|在|了|住|请|转|收|，.*，|月|年|买|租|找|姓名|密码|"
    r"或|离"
)
_STREET = (
    r"(?:大道|大街|公路|路|街|巷|弄|胡同|里|道|村|庄|屯|镇|鎮|乡|鄉|坊|條|条|湾|桥|坡|营|堡|寨|沟|"
    r"塘|岭|段|庄园|"
    r"小区|花园|花苑|公寓|大厦|广场|家园|新村|新城|苑|园|庭|府|城|湾|居|阁|轩|邸|中心|大楼|宿舍|国"
    r"际|大院|社区|"
    r"工业园|科技园|产业园|学院|大学|医院|别墅|公馆|名都|豪庭|市场|工厂|厂|公司|银行|酒店|宾馆|[县"
    r"區区市省]|苑\d期|天地|之家|都|嘉园|华府|世家|丽景|山庄|农场|林场|矿|站|街道|院|楼|墅|里弄|"
    r"塔|SOHO|soho|"
    r"邨|馆|门|商厦|商城|坊|壹号|一号|学校|中学|小学|基地|校区|食堂|住院部)"
)
_PLACE = re.compile(rf"[{_HAN}A-Za-z·]{{1,20}}{_STREET}[{_HAN}A-Za-z0-9()·\s]{{0,12}}$")
_DASHED = re.compile(
    rf"[{_HAN}]{{2,12}}(?:小区|花园|花苑|公寓|大厦|广场|家园|新村|新城|苑|园|庭|府|城|湾|居|阁|轩|"
    rf"邸|别墅|嘉园|国际|山庄|里)"
    r"\s?(?:[东西南北]区|[一二三四五六七八九十\d]期)?\s?[A-Za-z]?\d{1,3}(?:[-#栋幢]\d{1,4}){1,"
    r"3}(?![\d%元年月])(?:室|号|房)?"
)
_TOWER = (
    r"(?:大厦|大楼|中心|广场|公寓|花园|花苑|小区|国际|大院|商厦|商城|家园|产业园|科技园|工业园|"
    r"工业区|软件园|创意园|园区|园|苑|宿舍|学校|大学|学院|医院|酒店|宾馆|商场|城|馆|座|塔|公馆|"
    r"市场)"
)
_ROOM = re.compile(
    r"(?:(?:之\d{1,2})|"
    rf"(?:[{_HAN}A-Za-z]{{1,12}}?{_TOWER})?(?:[一二三四五六七八九十]期|[东西南北]塔|[东西南北]楼)?"
    r"\s?[A-Za-z]?\d{1,4}[A-Za-z]?(?:[-#]\d{1,4}){0,2}(?![\d年月日元号%点:：个米人.])"
    rf"\s?(?:室|房|户|教室)?|[零〇一二三四五六七八九]{{3,4}}\s?(?:室|房)?"
    rf"|[{_HAN}A-Za-z]{{1,12}}?{_TOWER})"
)
_NOT_TOWER = re.compile(r"的|有|在|了|和|与|是|去|到|找|见|附近|旁|对面|后面|门口|那|这|来|，")
_BOX = re.compile(
    rf"[{_HAN}]{{0,12}}(?:邮政)?(?:信箱|邮箱)\s?\d{{1,6}}(?:[-#]\d+)?\s?(?:号|分箱)?(?![\w@.])"
)
_LEAD = re.compile(
    r"地址|住址|住所|家住|住在|住进|住|位于|坐落于|坐落在|坐落|寄到|寄往|寄给|寄去|寄至|寄|送到|送"
    r"至|送往|送去|送|邮寄到|搬到|搬去|搬家到|搬进|"
    r"搬|东西放在?|放在?|来到|去到|到达|赶到|前往|发到|发往|发货到|投递到|定位到|定位|开到|地点|"
    r"收货地|收件地|户籍"
    r"所在地|户籍地|户籍|籍贯|开在|租在|租住|租了|买在|买了|"
    r"约在|设在|老家在|老家|家在|就在|现居|居住于|居住在|居住|现住|注册于|注册地|办公地|门店|总部|"
    r"店在|出发|导航到|导航|打车到|打车去|接我|上门|"
    r"是在|改成|改到|改为|换成|换到|变更为|更新为|搬迁至|迁至|迁到|派送|配送|写|填|叫|说|我家|他家"
    r"|她家|公司|单位|家里|人在|还是|"
    r"邮编|新家|就打车|是|在|于|到|至|从|去|来|往|为|给|租|买|离|进|回|的|了|和(?!平)|请|把|就|"
    r"我|你|他|她"
)
_REGION = re.compile(
    r"北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|"
    r"广东|海南|四川|贵州|云南|"
    r"陕西|甘肃|青海|台湾|臺灣|内蒙古|广西|西藏|宁夏|新疆|香港|九龙|新界|澳门|台北|臺北|高雄|台中|"
    r"台南|新北|广州|深圳|杭州|南京|苏州|成都|"
    r"武汉|西安|郑州|长沙|青岛|大连|厦门|宁波|无锡|佛山|东莞|合肥|福州|济南|昆明|沈阳|哈尔滨|长春|"
    r"石家庄|太原|南昌|南宁|贵阳|"
    r"兰州|海口|温州|泉州|珠海|中山市|惠州|常州|徐州|烟台|嘉兴|绍兴|台州|金华|扬州|南通|洛阳|唐山|"
    r"保定|乌鲁木齐|呼和浩特|银川|"
    r"西宁|拉萨|三亚|桂林|临沂|潍坊|淄博|济宁|邯郸|廊坊|秦皇岛|芜湖|赣州|九江|襄阳|宜昌|株洲|湘潭|"
    r"柳州|遵义|绵阳|德阳|汕头|"
    r"江门|湛江|盐城|镇江|泰州|淮安|连云港|湖州|丽水|衢州|舟山|莆田|漳州|威海|日照|大同|包头|鞍山|"
    r"抚顺|大庆|齐齐哈尔"
)


_BEFORE_LEVEL = rf"(?:(?!的|在|和|与|是|了|到|去)[{_HAN}]){{1,7}}?"
_LEVELS = re.compile(
    rf"(?:{_BEFORE_LEVEL}(?:省|自治区|特别行政区))?"
    rf"(?:{_BEFORE_LEVEL}(?:市|自治州|地区|盟|州))?"
    rf"(?:{_BEFORE_LEVEL}(?:自治县|县|区|旗|市))?"
    rf"(?:{_BEFORE_LEVEL}(?:街道|镇|乡|苏木|农场|林场))?"
    rf"(?:{_BEFORE_LEVEL}(?:社区|行政村|村委会|自然村|村|屯|寨))?"
    rf"(?:{_BEFORE_LEVEL}(?:大道|大街|公路|路(?!口)|街(?!道)|巷|胡同|小区|工业区|花园|公寓|大厦|"
    rf"广场))?"
    r"(?:[东西南北]头)?(?:第[一二三四五六七八九十\d]{1,2}家)?"
)
"""From the province down; each level may be left out."""
_LEVEL = re.compile(
    r"省|自治区|市|自治州|地区|盟|县|旗|区|街道|镇|乡|村|屯|社区|路|街|大道|巷|胡同"
)
_LOW_END = re.compile(
    r"(?:街道|镇|乡|苏木|农场|林场|社区|村|村委会|屯|寨|大道|大街|公路|路|街|巷|胡同|小区|工业区|"
    r"花园|公寓|大厦|广场|家|[东西南北]头)$"
)
_CROSSING = re.compile(
    rf"[{_HAN}]{{2,8}}?(?:路|街|大街|大道|道|环|胡同)(?:和|与|跟|、|及|-)[{_HAN}]{{1,8}}?(?:路|街|"
    r"大街|大道|道|环|胡同)的?(?:交叉路口|交叉口|交口|十字路口|路口|交汇处|交界处|口)"
)
_POSTCODE = re.compile(r"(?:邮政编码|郵遞區號|邮编|邮递区号)(?:是|为)?[:：\s]{0,2}(\d{3,6})(?!\d)")
_IN_HOUSE = re.compile(
    rf"[{_HAN}]{{1,10}}(?:楼|馆|宿舍|公寓|院系楼|大厦|广场)\s?[A-Za-z]?\d{{3,4}}[A-Za-z]?"
    r"(?![\d年月日元米人块万%:：.])\s?(?:室|教室|房|号|办公室)?"
)
_HOME = re.compile(
    r"(?:住在|家住|住到|租在|租住在?|搬到|搬进|搬去|现居|居住在|家在|房子在|家是|地址[:：是]|"
    r"住址[:：是]|他?她?我?住)\s?"
    rf"((?:(?!的|了|在|一起|酒店|医院)[{_HAN}A-Za-z]){{2,12}}?(?:小区|花园|公寓|花苑|家园|新村|"
    rf"新城|苑|大厦|宿舍|"
    r"胡同|社区|村|屯|府|里|庄园|华庭|国际|嘉园|山庄|别墅|大院|街|路|镇)"
    r"(?:[东西南北]?[一二三四五六七八九十\d]{0,2}[区期])?)(?![\u4e00-\u9fff](?<![，吗呢吧附旁边]))"
)


def chinese_addresses(text: str) -> Iterator[Span]:
    """Addresses down to the building, the room, the village or the crossing."""
    text = text.translate(_TRADITIONAL)
    units = list(_UNIT.finditer(text))
    place = 0
    while place < len(units):
        first = last = units[place]
        place += 1
        while place < len(units) and _goes_on(text[last.end() : units[place].start()]):
            last = units[place]
            place += 1
        if (start := _start(text, first.start(), has_more=last is not first)) is not None:
            yield Span(start, _end(text, last.end()), "ADDRESS", 0.8)
    for pattern in (_DASHED, _BOX, _CROSSING, _IN_HOUSE):
        for found in pattern.finditer(text):
            if "密码" in found[0]:
                continue
            start = found.start() + _led_in(found[0], len(found[0]))
            yield Span(start, found.end(), "ADDRESS", 0.7)
    for pattern in (_POSTCODE, _HOME):
        for found in pattern.finditer(text):
            yield Span(found.start(1), found.end(1), "ADDRESS", 0.6)
    yield from _by_levels(text)


def _by_levels(text: str) -> Iterator[Span]:
    """Addresses of which a region and something below a district is told."""
    for run in re.finditer(rf"[{_HAN}]{{5,}}", text):
        start = run.start() + _led_in(run[0], len(run[0]))
        found = _LEVELS.match(text, start, run.end())
        if (
            found is not None
            and len(_LEVEL.findall(found[0])) >= 2
            and _LOW_END.search(found[0])
            and re.search("[省市县区旗镇乡]", found[0][:-1])
            and len(found[0]) >= 6
        ):
            yield Span(start, found.end(), "ADDRESS", 0.6)


def _end(text: str, end: int) -> int:
    """Return where an address ends of which the last number is known: its building and room."""
    for _ in range(2):
        found = _ROOM.match(text, end)
        if found is None or _NOT_TOWER.search(found[0]):
            break
        end = found.end()
    return end


def _goes_on(between: str) -> bool:
    return _BETWEEN.fullmatch(between) is not None and _NOT_BETWEEN.search(between) is None


def _start(text: str, number: int, *, has_more: bool) -> int | None:
    """Return where an address begins of which the first number is known, None where it is none."""

    before = re.search(
        rf"[{_HAN}A-Za-z()·\s]*(?:[{_HAN}\d]+段)?\s?$", text[max(0, number - 40) : number]
    )
    prefix = before[0] if before else ""
    start = number - len(prefix)
    offset = _led_in(prefix, len(prefix))
    prefix = prefix[offset:]
    start += offset
    if "密码" in prefix:
        return None
    if _PLACE.search(prefix) or (prefix and _REGION.match(prefix)):
        return start
    is_home = re.match(r"[A-Za-z]?\d{1,3}\s?(?:号楼|栋|幢|座|#楼?|弄|单元)", text[number:])
    if not (has_more and is_home):
        return None
    return start if len(prefix) <= 8 else number


def _led_in(prefix: str, end: int) -> int:
    """Return how much of what stands before a number is no part of the address."""
    region = _REGION.search(prefix)
    if region is not None:
        return region.start()
    offset = 0
    for found in _LEAD.finditer(prefix):
        rest = prefix[found.end() : end].strip(" :：")
        if len(rest) >= 2 and not re.fullmatch(_STREET, rest):
            offset = found.end()
    return offset + len(prefix[offset:]) - len(prefix[offset:].lstrip(" ()·"))
