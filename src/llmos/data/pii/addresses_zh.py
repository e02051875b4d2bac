"""Where a home is, in Chinese: numbers of buildings and rooms, and the street or estate before."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.context import listed
from llmos.data.pii.dictionary_zh import simplified, words_of
from llmos.data.pii.spans import Span

_HAN = r"\u4e00-\u9fff"
_NUMERAL = "零〇一二三四五六七八九十百两"
_NUMBER = (
    rf"(?:[A-Za-z]{{0,2}}\d{{1,5}}[A-Za-z]?(?:[-#~之]\d{{1,5}}[A-Za-z]?){{0,4}}|[{_NUMERAL}]{{1,6}}"
    r"|[A-Za-z](?=[座栋幢区馆楼室])|[甲乙丙丁东西南北](?=[座栋幢楼单])|[甲乙丙丁]\d{1,4})"
)
_UNIT_WORD = (
    r"(?:号院|号大院|号楼|号门|号房|号室|号铺|号库|号(?![线码机文店选球称令员服])|號|弄|栋|幢|棟|"
    r"座|楼|樓|层(?!次|面|级)|"
    r"室(?![内外温])|单元(?!格)|單元|门(?![口票前诊])|户|房(?![东子价屋间产租])|组(?![织合长成])|"
    r"社(?![区会交])|队|支弄|车间|"
    r"铺|信箱|宿舍|期|区|#楼?|栋楼|附\d+号|房间|排(?![名骨球队放])|床|舍|分箱|教室|巷)"
)
_UNIT = re.compile(rf"(?<![A-Za-z0-9])(?:附|第|近|邮政|信箱)?\s?{_NUMBER}\s?{_UNIT_WORD}")
_BETWEEN = re.compile(
    rf"[\s,，、-]?(?:[{_HAN}A-Za-z()·\s]|\d{{1,4}}(?=[{_HAN}])){{0,14}}[\s,，、-]?"
)
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
    rf"[{_HAN}A-Za-z]{{1,14}}[{_HAN}](?:(?<=[区园苑寓厦场村城庭府湾居阁轩邸墅际庄里景座楼院馆舍期都岸郡台坊巷])\s?(?:[东西南北]区|[一二三四五六七八九十\d]期)?\s?[A-Za-z]?\d{{1,3}}(?:[-#栋幢]\d{{1,4}}){{1,3}}"
    r"|[-\s]?\d{1,3}[栋幢座#]?-\d{1,3}(?:单元)?-\d{3,4}"
    r"|-\d{1,3}[栋幢座]-\d{3,4})(?![\d%元年月])(?:室|号|房)?"
)
_TOWER = (
    r"(?:大厦|大楼|中心|广场|公寓|花园|花苑|小区|国际|大院|商厦|商城|家园|产业园|科技园|工业园"
    r"|工业区|"
    r"软件园|创意园|园区|园|苑|宿舍|学校|大学|学院|医院|酒店|宾馆|商场|城|馆|座|塔|公馆|市场"
    r"|百货|商务园|"
    r"校区|[东西南北前后新老]区|[东西南北前后]院|家属院|银行|写字楼|办公楼|红砖楼|水晶街|驿站"
    r"|步行街)"
)
_ROOM = re.compile(
    r"(?:(?:之\d{1,2})|"
    rf"(?:[{_HAN}A-Za-z]{{1,12}}?{_TOWER}+)?(?:[一二三四五六七八九十]期|[东西南北]塔|[东西南北]楼)?"
    r"\s?[A-Za-z]?\d{1,4}[A-Za-z]?(?:[-#]\d{1,4}){0,2}(?![\d年月日元号%点:：个米人.])"
    rf"\s?(?:室|房|户|教室|字楼)?|[零〇一二三四五六七八九]{{3,4}}\s?(?:室|房)?"
    rf"|[{_HAN}A-Za-z]{{1,12}}?{_TOWER}+)"
)
_MORE = re.compile(
    r"\s?附\s?\d{1,4}号?|[甲乙丙丁](?![方班级组等类])(?:号|单元)?|-[A-Za-z]\d{1,4}"
    r"|[上中下东西南北]段|之[一二三四五六七八九十\d]{1,2}|"
    r"\s?[一二三四五六七八九十\d]{1,2}(?:层|楼|字楼|F)(?![\w])|\s?[A-Za-z](?:座|室|栋|区"
    r"|户)?(?![A-Za-z0-9])|[东西南北](?:户|塔|楼)"
    r"|\s?[A-Za-z]?\d{1,2}(?:座?\d{1,2})?[A-Z](?![A-Za-z])"
    r"|\s?\d{1,4}-[A-Za-z]?\d{1,4}(?:-\d{1,4})?(?![\d年月日元号%点:：个米人.])"
    r"|\s?[A-Za-z]\d{0,2}-?\d{2,4}(?!\d)"
    r"|(?:[东西南北前后左右中][侧面边门区院园]?(?:区|院|门|侧|楼)?)(?=[，,。；;\s]|$)"
    rf"|\s?[（(][{_HAN}A-Za-z0-9·-]{{2,20}}[）)]"
    rf"|\s[{_HAN}]{{2,8}}(?=\s?\d)|[,，\s]{{0,2}}(?:邮编|邮政编码)[:：]?\s?\d{{6}}(?!\d)"
    rf"|(?:交叉路?口|路口|十字路口)?[东西南北向往]{{1,2}}\d{{1,4}}米(?:路[东西南北])?"
)
_NOT_TOWER = re.compile(r"的|有|在|了|和|与|是|去|到|找|见|附近|旁|对面|后面|门口|那|这|来|，")
_BOX = re.compile(
    rf"[{_HAN}]{{0,12}}(?:邮政)?(?:信箱|邮箱)\s?\d{{1,6}}(?:[-#]\d+)?\s?(?:号?分箱\s?\d{{0,4}}"
    rf"|号)?(?![\w@.])"
)
_STOPS = listed(
    "地址 住址 住所 所在地 户籍 户籍地 籍贯 地点 位于 坐落 来到 到达 赶到 前往 定位 出发 导航 "
    "打车 上门 "
    "派送 配送 投递 收货 收货地 收件 收件人 收货人 寄件 邮寄 邮编 注册 注册地 办公 办公地 变更 "
    "更新 现居 "
    "居住 现住 租住 家住 搬家 搬迁 家里 我家 他家 她家 你家 新家 老家 我妈 我爸 我们 你们 他们 "
    "公司 单位 "
    "门店 总部 客户 师傅 司机 快递 外卖 东西 车停 这里 那里 这边 那边 附近 旁边 对面 开车 直接 "
    "麻烦 帮忙 "
    "今天 明天 昨天 现在 目前 之前 以前 以后 之后 后来 上周 下周 去年 今年 明年 然后 已经 一直 "
    "还有 还是 "
    "就是 或者 以及 但是 因为 所以 如果 姓名 联系人 电话 手机 患者 甲方 乙方 月 日 点 分 号线 "
    "报警 报警人 "
    "店 租 出租 出售 二手 二手房 本人 家庭 家庭住址 会议 活动 地方 订单 包裹 发货 改成 改为 "
    "换成 改到 接 "
    "门牌 门牌号 宿舍是 学校发 楼下 楼上 去过 名下 房产 房子 一套 物业 业主 单位地址 公司地址 房屋"
)
"""Words that stand before an address and are no part of one."""
_STOP_CHARS = frozenset(
    "在到于至往去来从向为给把被请就也还又再的了是有叫让说问找我你他她您它咱们与和跟或及并住寄送"
    "搬买卖写填改换发放约等收离进回转见"
)
"""What words are made of that part an address from the words before it."""
_MAY_BE_INSIDE = _STOP_CHARS - frozenset("的在是了")
_DISTRICT_ENDS = frozenset("省市县区旗镇乡州盟")
"""After which such a word begins a name: 大庆市让胡路区."""
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
    rf"([{_HAN}]{{2,24}}?(?:路|街|大街|大道|道|环|胡同))(?:和|与|跟|、|及"
    rf"|-)[{_HAN}]{{1,8}}?(?:路|街|"
    r"大街|大道|道|环|胡同)的?(?:交叉路口|交叉口|交口|十字路口|路口|交汇处|交界处|口)"
)
_BY_VILLAGE = re.compile(
    rf"[{_HAN}]{{2,10}}(?:村|庄|屯|寨|街|巷"
    rf"|路)的?[东西南北]头(?:路[东西南北])?(?:第?[一二三四五六七八九十两\d]{{1,2}}(?:家|户))?"
)
_POSTCODE = re.compile(r"(?:邮政编码|郵遞區號|邮编|邮递区号)(?:是|为)?[:：\s]{0,2}(\d{3,6})(?!\d)")
_IN_HOUSE = re.compile(
    rf"[{_HAN}]{{1,10}}(?:楼|馆|宿舍|公寓|院系楼|大厦|广场|车库|车位|公馆|座|大院|家属院)\s?"
    rf"(?:[A-Za-z]\d?-?)?\d{{3,4}}[A-Za-z]?"
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


_HAN_CHAR = re.compile(f"[{_HAN}]")
_RUN_BEFORE = re.compile(
    rf"(?:[{_HAN}A-Za-z()·\s-]|(?<=[{_HAN}])\d{{1,4}}(?=[{_HAN}])"
    rf"|(?<![\d.])\d{{3,6}}(?=[{_HAN}]{{2}}市))*$"
)
_COUNTED = re.compile("(?:共|每|约|近|达|超过|多|上下|有)$")
_HOUSE_UNIT = re.compile(
    r"[A-Za-z]?(?:\d{1,3}|[一二三四五六七八九十]{1,3}|(?<=[A-Za-z]))\s?(?:号楼|栋|幢|座|#楼?"
    r"|弄|单元|号院|期|舍)"
)


def chinese_addresses(text: str) -> Iterator[Span]:
    """Addresses down to the building, the room, the village or the crossing."""
    if not _HAN_CHAR.search(text):
        return
    text = text.translate(simplified())
    units = list(_UNIT.finditer(text))
    place = 0
    while place < len(units):
        run = [units[place]]
        place += 1
        while place < len(units) and _goes_on(text[run[-1].end() : units[place].start()]):
            run.append(units[place])
            place += 1
        for first in range(len(run)):
            if (start := _start(text, run[first:])) is not None:
                yield Span(start, _end(text, run[-1].end()), "ADDRESS", 0.8)
                break
    for pattern in (_DASHED, _BOX, _CROSSING, _IN_HOUSE, _BY_VILLAGE):
        for found in pattern.finditer(text):
            if re.search("密码|[码钥令锁]\\s?[:：]?[#A-Za-z]?\\d", found[0]):
                continue
            named = found[1] if pattern is _CROSSING else found[0]
            start = found.start() + _led_in(named)
            yield Span(start, _end(text, found.end()), "ADDRESS", 0.7)
    for pattern in (_POSTCODE, _HOME):
        for found in pattern.finditer(text):
            yield Span(found.start(1), found.end(1), "ADDRESS", 0.6)
    yield from _by_levels(text)


def _by_levels(text: str) -> Iterator[Span]:
    """Addresses of which a region and something below a district is told."""
    for run in re.finditer(rf"[{_HAN}]{{5,}}", text):
        start = run.start() + _led_in(run[0])
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
    for _ in range(5):
        found = _MORE.match(text, end) or _ROOM.match(text, end)
        if found is None or _NOT_TOWER.search(found[0]):
            break
        end = found.end()
    return end


def _goes_on(between: str) -> bool:
    return _BETWEEN.fullmatch(between) is not None and _NOT_BETWEEN.search(between) is None


def _start(text: str, run: list[re.Match[str]]) -> int | None:
    """Return where an address begins whose numbers are known, None where it is none."""
    number = run[0].start()
    before = _RUN_BEFORE.search(text[max(0, number - 40) : number])
    prefix = before[0] if before else ""
    offset = _led_in(prefix)
    start = number - len(prefix) + offset
    prefix = prefix[offset:]
    if "密码" in prefix or _COUNTED.search(prefix):
        return None
    if _PLACE.search(prefix) or (prefix and _REGION.match(prefix)):
        return start
    is_home = any(_HOUSE_UNIT.match(unit[0]) for unit in run)
    if not (is_home and (len(run) > 1 or len(prefix) >= 3)):
        return None
    return start if len(prefix) <= 10 else number


def _led_in(prefix: str) -> int:
    """Return how much of what stands before a number is no part of the address."""
    place = len(prefix)
    for word in reversed(words_of(prefix)):
        is_inside = word in _MAY_BE_INSIDE and _DISTRICT_ENDS.issuperset(
            prefix[place - 2 : place - 1]
        )
        if word in _STOPS or (_STOP_CHARS.issuperset(word) and not (is_inside and place > 1)):
            break
        place -= len(word)
    return place + len(prefix[place:]) - len(prefix[place:].lstrip(" ()·"))
