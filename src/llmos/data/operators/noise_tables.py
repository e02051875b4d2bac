"""What is easily taken for something else: keys side by side, shapes, Chinese sounds. Of our own
making, and small.
"""

from __future__ import annotations

from collections.abc import Iterable

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
OCR_PAIRS = (
    ("0", "O"), ("0", "o"), ("1", "l"), ("1", "I"), ("l", "I"), ("2", "Z"), ("5", "S"), ("6", "b"),
    ("8", "B"), ("9", "g"), ("c", "e"), ("h", "b"), ("i", "j"), ("u", "v"), ("n", "r"), ("f", "t"),
    ("D", "O"), ("E", "F"), ("rn", "m"), ("cl", "d"), ("vv", "w"), ("ri", "n"), (".", ","),
)  # fmt: skip
"""What readers of scanned pages take for each other."""
_HOMOPHONES = """
的得地 在再 做作坐座 他她它 那哪 以已 像象向 是事市式试室 有又右 和合何河 会汇惠 为位未味 因音阴
应英鹰 时十石实食 常长尝 青清轻 请顷 情晴 园圆员元 近进尽 气汽器 门们 工公功宫 机鸡基积 几己挤
记计纪季寄 见件建健 家加佳 假甲 间坚尖 交教焦 角脚 叫较觉 节结洁 界借戒 今金斤 经京惊 静净境竞
就旧救 局橘菊 决绝 可渴 课克客刻 来莱 里理礼李 力利立历 连联帘 练恋炼 两辆 林临邻 留流刘 路录陆
买卖 美每 明名鸣 目木牧 您宁 旁庞 期七妻漆 其齐骑奇 起启 前钱潜 亲侵 求球 去趣 全权泉 认任 身深伸
生声升 师诗狮 世势视示 手首守 书输舒 树数束 思丝司 送颂 酸栓 题提 听厅 通同 外歪 玩完丸 往网 望忘
问文闻 无吴 五午舞 物务误 西息希 喜洗 下夏吓 先鲜 现县线限 相香箱 想响享 小晓 笑校孝 新心辛 信性
星兴 行形型 学穴 言严颜 眼演 样漾 要药 也野 业夜叶 一衣医 意易议义 影迎 用佣 友有 于鱼余 雨语羽
遇育玉域 远院 月阅越 早枣 章张 找爪 真针 正证政 知之支 直值职 只纸止 中终钟 种肿 重众 周州舟 主煮
住注祝 字自 走奏 最罪醉 左佐 包胞 报抱暴 被备背 本苯 比笔 必毕币 边编鞭 变便遍 表婊 别憋 病并
不布步部 才财材 菜蔡 草操 层曾 查茶察 成城程诚 吃痴 出初 处触 船传 词辞慈 从丛 错措 打大 代带待
单担丹 但蛋 道到 等灯 低滴 点典 电店殿 东冬 动洞冻 都斗 读独毒 度肚 短端 对队 多哆 饿恶 耳尔 发罚
反返 方芳 放房 飞非 分纷芬 份愤 风丰封 夫肤 服福浮 父付负富 该改 感敢赶 刚钢 高糕 歌哥割 个各 给级
跟根 更耕 够购 古谷鼓 故固顾 关观官 馆管 光广 贵柜 国果 过裹 还孩 海害 汉汗 好号 喝呵 黑嘿 很狠
红洪 后候厚 湖胡壶 花华 话画化 坏怀 欢环 黄皇 回灰 火伙 活或
"""
HOMOPHONES = tuple(_HOMOPHONES.split())
"""Characters that sound alike, but for the tone at most."""
_SHAPES = """
己已巳 未末 人入八 土士 日曰目 天夫夭 大太犬 干千于 王玉主 白自百 今令 午牛 贝见 刀力 儿几 万方
川州 申甲由 田由 木本术 休体 处外 间问 晴睛 清请 渴喝 拔拨 栽裁 辨辩 折拆 侍待 遣遗 徒徙 候侯
戊戌戍 冶治 免兔 乌鸟 孑子 杯坏 住往 没设 买卖 实买 师帅 竟竞 茶荼 崇祟 旱早 炙灸 毫亳 市巿 名各
季李 情倩 跟根 眼眠 课棵 玩坑 暖缓 蓝篮 密蜜 低底 抵纸 狼狠 很恨 拿拾 快块 怀坏 哀衰 爱受 历厉
爪瓜 氏氐 丁下 了子 风凤 又叉 古吉 右石 左在 目且 西酉 车东 开井 友发 无元
"""
SHAPES = tuple(_SHAPES.split())
"""Characters that look alike."""


def neighbours() -> dict[str, str]:
    """Return the letters beside each on a keyboard, of the layout with Q W E R T Y."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        for column, key in enumerate(keys):
            beside = [(row, column - 1), (row, column + 1)]
            # A row stands half a key to the right of the one above it.
            beside += [
                (row - 1, column),
                (row - 1, column + 1),
                (row + 1, column - 1),
                (row + 1, column),
            ]
            found[key] = "".join(
                _ROWS[r][c] for r, c in beside if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r])
            )
    return found


def others_of(groups: Iterable[str]) -> dict[str, str]:
    """Return the others of its groups for each character."""
    found: dict[str, str] = {}
    for group in groups:
        for one in group:
            more = [other for other in group if other != one and other not in found.get(one, "")]
            found[one] = found.get(one, "") + "".join(more)
    return found


def read_as() -> dict[str, tuple[str, ...]]:
    """Return what each of the OCR pairs is taken for."""
    found: dict[str, tuple[str, ...]] = {}
    for one, other in OCR_PAIRS:
        found[one] = (*found.get(one, ()), other)
        found[other] = (*found.get(other, ()), one)
    return found
