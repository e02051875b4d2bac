"""Chinese names told by lists and frames: usual given names, names of other languages in
characters, Japanese names, kinship, and surname-first words where only a person stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.context import listed
from llmos.data.pii.cues_zh import SINGLE_SURNAMES
from llmos.data.pii.lexicon_en import PINYIN_SURNAMES
from llmos.data.pii.spans import Span

_SURNAME = f"[{''.join(sorted(SINGLE_SURNAMES))}朴崔]"
_GIVEN = listed(
    "建军 建国 建华 建平 国强 国栋 国庆 志强 志明 志伟 志远 浩然 浩宇 子轩 子涵 子墨 梓涵 梓轩 "
    "梓萱 欣怡 "
    "雨桐 雨欣 雨涵 思远 思雨 思琪 若曦 若溪 诗涵 诗琪 佳怡 佳琪 文博 俊杰 俊豪 宇轩 宇航 一诺 "
    "依诺 可馨 "
    "晓雯 晓燕 晓东 晓明 晓丽 小明 小红 小刚 小芳 秀英 秀兰 秀珍 淑芬 淑珍 淑华 桂英 桂兰 玉兰 "
    "玉梅 丽华 "
    "丽娟 海燕 海涛 春梅 春燕 红梅 慧敏 静怡 美玲 美华 雅婷 雅琪 怡君 家豪 志豪 俊宏 嘉欣 嘉怡 "
    "嘉豪 浩轩 "
    "明轩 天宇 泽宇 博文 子豪 子怡 紫涵 梦琪 梦瑶 雪莹 婉婷 晓峰 永强 永康 德华 德明 卫东 卫国 "
    "爱华 爱国 "
    "婷婷 丽丽 莉莉 娜娜 芳芳 佳佳 敏敏 静静 璐璐 倩倩 晶晶 莹莹 琳琳 萌萌 菲菲 薇薇 媛媛 雯雯 "
    "露露 兰兰"
)
_FOREIGN = listed(
    "亚当 亚历克斯 亚历山大 亚瑟 伊丽莎白 伊莎贝拉 伊万 伊恩 保罗 克里斯 克里斯蒂娜 克劳斯 "
    "克莱尔 凯伦 "
    "凯文 凯特 凯瑟琳 劳拉 劳伦 加布里埃尔 卡尔 卡洛斯 卡门 史密斯 史蒂文 史蒂芬 乔治 乔丹 乔伊 "
    "吉姆 "
    "哈里 哈桑 大卫 奥利弗 奥利维亚 妮可 安东尼 安妮 安娜 安德烈 安德鲁 安吉拉 尼克 布莱恩 布朗 "
    "弗兰克 "
    "弗朗西斯 彼得 彼得罗夫 戴维 戴维斯 托马斯 托尼 拉吉 查尔斯 查理 格蕾丝 格雷格 梅根 汉斯 "
    "汉娜 汤姆 "
    "汤姆森 法蒂玛 海伦 海伦娜 爱丽丝 爱玛 爱德华 玛丽 玛丽亚 玛莎 理查德 琳达 瑞秋 皮埃尔 "
    "米歇尔 索菲 "
    "索菲亚 约瑟夫 约翰 约翰逊 罗伯特 罗伊 艾伦 艾米 艾米丽 艾玛 苏珊 茱莉亚 莉莉 莎拉 菲利普 "
    "萨拉 詹姆斯 "
    "詹妮弗 穆罕默德 阿卜杜拉 艾哈迈德 阿里木 雅各布 雷切尔 露西 马克 马丁 马修 马特 马里奥 麦克 "
    "麦克斯 "
    "黛安娜 丹尼 丹尼尔 丽莎 伯纳德 威廉 威廉姆斯 娜塔莎 娜塔莉 本杰明 朱莉娅 杰克 杰克逊 杰森 "
    "杰瑞 杰西卡 "
    "其其格 乌云其其格 巴特尔 买买提 艾买提 阿依古丽 古丽 古丽娜 古丽娜扎 索朗旺堆 扎西 才让卓玛 "
    "央金 次仁 "
    "热依扎 努尔兰 迪丽娜尔 帕提古丽 吐尔逊 阿不都拉 巴图 苏日娜 萨仁 其木格 丹增 格桑 洛桑 白玛 "
    "达瓦"
)
_JAPANESE = (
    "(?:佐藤|铃木|高桥|田中|渡边|伊藤|山本|中村|小林|加藤|吉田|山田|佐佐木|山口|松本|井上|木村|清水|斋藤|"
    "山崎|中岛|阿部|池田|桥本|石川|山下|小川|石井|长谷川|后藤|冈田|近藤|前田|藤田|远藤|青木|坂本|村上|太田|"
    "藤井|西村|福田|三浦|竹内|中川|冈本|松田|原田|中野|小野|田村|宫本|宫崎|工藤|高木|安藤|大野|上野|野口)"
    "[\u4e00-\u9fff]{1,2}?(?:[子郎一二美人介太助香奈菜花惠希树平辉雄夫男彦咲绿润翔])"
)
_KIN = (
    rf"{_SURNAME}(?:爷爷|奶奶|叔叔|阿姨|大爷|大妈|大娘|大哥|大姐|大叔|大婶|伯伯|伯母|婆婆|哥|姐|"
    rf"叔|姨|婶|嫂|伯)"
    r"(?![们伦特斯白妹本夫])"
)
_EAGER_KIN = r"[强涛芳丽杰燕敏军磊勇静伟超娟红梅玲辉鹏峰斌霞娜婷明刚平](?:哥|姐|叔|姨)(?![们妹夫])"
_ASKS = (
    r"(?:^|(?<=[，。！？：:、；“\"@\s])|(?<=跟)|(?<=和)|(?<=请)|(?<=让)|(?<=通知)|(?<=给)|"
    r"(?<=找)|(?<=问)|"
    r"(?<=约)|(?<=陪)|(?<=联系)|(?<=告诉)|(?<=昨天)|(?<=今天)|(?<=叫)|(?<=名叫)|(?<=同事)|"
    r"(?<=同学)|(?<=朋友))"
)
_DOES = (
    r"(?=说|表示|告诉|约好|约了|签字|的(?:电话|手机|孩子|邮箱|妈|爸|老公|老婆|生日|快递|病历|"
    r"身份证|作业|简历)|"
    r"，[男女]|(?:明天|昨天|今天|上周|下周)(?!的)|发烧|请假|迟到|没来|来了|报名|辞职|离职|入职|"
    r"获奖|结婚|生病|"
    r"住院|出院|毕业|打来|来电|回复|同意|投诉|发来|问我|给我|跟我|和我|先生|女士|老师|教授|医生|"
    r"同学|，你|你好|您好)"
)
_LATIN_SURNAME = "|".join(sorted(PINYIN_SURNAMES - listed("he an pan song long")))
_PINYIN = re.compile(
    rf"(?<![A-Za-z0-9_@./-])(?:{_LATIN_SURNAME}) "
    r"(?:(?:[bpmfdtnlgkhjqxrzcsyw]|zh|ch|sh)[aeiou]{1,3}(?:ng|n)?){1,2}(?![A-Za-z0-9_@./-])"
    r"(?=[^A-Za-z]{0,3}(?:[\u4e00-\u9fff]|$))"
)
_CAUTIOUS = (
    (re.compile(_JAPANESE), 0.6),
    (re.compile(_KIN), 0.55),
    (re.compile("|".join(sorted(_FOREIGN, key=len, reverse=True))), 0.55),
)
_EAGER = (
    (re.compile("|".join(sorted(_GIVEN))), 0.5),
    (_PINYIN, 0.5),
    (re.compile(_EAGER_KIN), 0.4),
    (re.compile(rf"{_ASKS}{_SURNAME}[\u4e00-\u9fff]{{1,2}}?{_DOES}"), 0.4),
    (re.compile(rf"{_ASKS}{_SURNAME}{{2}}[\u4e00-\u9fff]{{2}}(?:{_DOES}|(?=[，。、；\s]|$))"), 0.4),
)
_NO_FOREIGN_AFTER = re.compile(
    "[河湖山州市省岛国海港镇县峰城]|大学|公司|商场|机场|利亚|教堂|街|语|杯|牌"
)
_NO_PERSON = listed(
    "于是 和我 向我 应该 成功 时候 大家 有人 和他 万一 方面 但是 因为 任何 何时 安排 关于"
)


def known_names(text: str, *, is_eager: bool) -> Iterator[Span]:
    """Yield names in simplified characters; may overlap."""
    for pattern, score in (*_CAUTIOUS, *_EAGER) if is_eager else _CAUTIOUS:
        for found in pattern.finditer(text):
            if found[0][:2] not in _NO_PERSON and not _NO_FOREIGN_AFTER.match(text, found.end()):
                yield Span(found.start(), found.end(), "NAME", score)
