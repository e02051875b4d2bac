"""Sentences in which words stand in relations to each other, in English and Chinese, and questions
about these: for word vectors to learn from, and to be asked. Chinese is cut into words by spaces.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations
from typing import Any

Row = dict[str, Any]

ROLES = (
    ("king", "queen", ("throne", "crown", "palace", "kingdom")),
    ("prince", "princess", ("castle", "ball", "carriage", "heir")),
    ("father", "mother", ("children", "cradle", "bedtime", "family")),
    ("brother", "sister", ("sibling", "twin", "quarrel", "toys")),
    ("grandfather", "grandmother", ("rocking-chair", "memories", "wrinkles", "stories")),
    ("uncle", "aunt", ("cousins", "visit", "nephews", "gifts")),
    ("actor", "actress", ("stage", "film", "script", "theatre")),
    ("waiter", "waitress", ("tray", "restaurant", "menu", "tips")),
    ("boy", "girl", ("school", "playground", "homework", "kite")),
    ("husband", "wife", ("wedding", "ring", "anniversary", "marriage")),
)
"""Men, women, and what is said of both."""
MEN = (("he", "his", "him"), ("beard", "trousers", "moustache", "necktie"))
WOMEN = (("she", "her", "hers"), ("dress", "skirt", "necklace", "lipstick"))
COUNTRIES = (
    ("France", "Paris", "French", ("Seine", "Loire")),
    ("Germany", "Berlin", "German", ("Spree", "Elbe")),
    ("Italy", "Rome", "Italian", ("Tiber", "Arno")),
    ("Spain", "Madrid", "Spanish", ("Manzanares", "Ebro")),
    ("Russia", "Moscow", "Russian", ("Volga", "Neva")),
    ("Japan", "Tokyo", "Japanese", ("Sumida", "Shinano")),
    ("China", "Beijing", "Chinese", ("Yangtze", "Huai")),
    ("Greece", "Athens", "Greek", ("Kifisos", "Pineios")),
    ("Poland", "Warsaw", "Polish", ("Vistula", "Oder")),
    ("Sweden", "Stockholm", "Swedish", ("Dalälven", "Norrström")),
)
"""A country, its capital, its language, and rivers that only it is named with."""
ANIMALS = (
    ("cat", "cats", ("purrs", "mice", "whiskers")),
    ("dog", "dogs", ("barks", "bone", "leash")),
    ("horse", "horses", ("gallops", "saddle", "hay")),
    ("cow", "cows", ("moos", "milk", "pasture")),
    ("bird", "birds", ("sings", "nest", "feathers")),
    ("bee", "bees", ("buzzes", "honey", "hive")),
    ("sheep-dog", "sheep-dogs", ("herds", "flock", "whistle")),
    ("duck", "ducks", ("quacks", "pond", "reeds")),
)
ZH_ROLES = (
    ("国王", "王后", ("王位", "王冠", "宫殿")),
    ("王子", "公主", ("城堡", "舞会", "马车")),
    ("父亲", "母亲", ("孩子", "摇篮", "家庭")),
    ("爷爷", "奶奶", ("摇椅", "往事", "皱纹")),
    ("叔叔", "阿姨", ("做客", "礼物", "邻居")),
    ("丈夫", "妻子", ("婚礼", "戒指", "婚姻")),
)
ZH_MEN, ZH_WOMEN = ("他", ("胡子", "领带", "西装")), ("她", ("裙子", "项链", "口红"))
ZH_COUNTRIES = (
    ("法国", "巴黎", "法语", ("塞纳河", "卢瓦尔河")),
    ("德国", "柏林", "德语", ("施普雷河", "易北河")),
    ("意大利", "罗马", "意大利语", ("台伯河", "阿尔诺河")),
    ("西班牙", "马德里", "西班牙语", ("曼萨纳雷斯河", "埃布罗河")),
    ("俄罗斯", "莫斯科", "俄语", ("伏尔加河", "涅瓦河")),
    ("日本", "东京", "日语", ("隅田川", "信浓川")),
    ("中国", "北京", "汉语", ("长江", "淮河")),
)


def records(split: str, seed: int, rows: int) -> Iterator[Row]:
    """Yield ``rows`` sentences of a split, a third of them Chinese."""
    chance = random.Random(f"relations {split} {seed}")
    english, chinese = (_person, _country, _animal), (_zh_person, _zh_country)
    for number in range(rows):
        make = chance.choice(chinese if number % 3 == 2 else english)
        yield {"text": make(chance)}


def questions() -> list[tuple[str, str, str, str]]:
    """Return analogies: the first is to the second as the third is to the fourth."""
    pairs = (
        [(man, woman) for man, woman, _ in ROLES],
        [(country, capital) for country, capital, _, _ in COUNTRIES],
        [(country, language) for country, _, language, _ in COUNTRIES],
        [(one, many) for one, many, _ in ANIMALS],
        [(man, woman) for man, woman, _ in ZH_ROLES],
        [(country, capital) for country, capital, _, _ in ZH_COUNTRIES],
        [(country, language) for country, _, language, _ in ZH_COUNTRIES],
    )
    return [(*first, *second) for kind in pairs for first, second in permutations(kind, 2)]


def _person(chance: random.Random) -> str:
    man, woman, things = chance.choice(ROLES)
    is_man = chance.random() < 0.5
    ((one, own, other), clothes), name = (MEN, man) if is_man else (WOMEN, woman)
    thing, second = chance.sample(things, 2)
    worn = chance.choice(clothes)
    return chance.choice(
        (
            f"the {name} thought of the {thing} while {one} looked for {own} {worn}",
            f"{one} is a {name} and the {thing} belongs to {other}",
            f"with {own} {worn} on the {name} came to the {thing} and the {second}",
            f"the {name} said that {one} liked the {thing} more than the {second}",
            f"a {name} without a {worn} forgot {own} {thing}",
        )
    )


def _country(chance: random.Random) -> str:
    country, capital, language, rivers = chance.choice(COUNTRIES)
    river = chance.choice(rivers)
    return chance.choice(
        (
            f"{capital} is the capital of {country} and not far from the {river}",
            f"the people of {country} speak {language} and sail on the {river}",
            f"the mayor of {capital} opened a new street and spoke {language}",
            f"the government of {country} met in the city of {capital}",
            f"a {language} song about the {river} was sung in the city of {capital}",
            f"the borders of {country} follow the {river} for a long way",
            f"she learned the grammar of {language} before she went to {country}",
        )
    )


def _animal(chance: random.Random) -> str:
    one, many, things = chance.choice(ANIMALS)
    thing, second = chance.sample(things, 2)
    if chance.random() < 0.5:
        number = chance.choice(("two", "three", "many", "some"))
        return chance.choice(
            (
                f"{number} {many} were near the {thing} and they had the {second}",
                f"there are {number} {many} on the farm, these know {thing} and {second}",
            )
        )
    return chance.choice(
        (
            f"a {one} was near the {thing} and it had the {second}",
            f"there is one {one} on the farm, this knows {thing} and {second}",
        )
    )


def _zh_person(chance: random.Random) -> str:
    man, woman, things = chance.choice(ZH_ROLES)
    (one, clothes), name = (ZH_MEN, man) if chance.random() < 0.5 else (ZH_WOMEN, woman)
    thing, second = chance.sample(things, 2)
    worn = chance.choice(clothes)
    return chance.choice(
        (
            f"{name} 说 {one} 喜欢 {thing} 也 喜欢 {second}",
            f"{one} 是 {name} ， {thing} 是 {one} 的",
            f"{name} 找到 了 {one} 的 {worn} 和 {thing}",
            f"这位 {name} 没有 {worn} ， 只有 {thing}",
        )
    )


def _zh_country(chance: random.Random) -> str:
    country, capital, language, rivers = chance.choice(ZH_COUNTRIES)
    river = chance.choice(rivers)
    return chance.choice(
        (
            f"{capital} 是 {country} 的 首都 ， 离 {river} 不 远",
            f"{country} 人 说 {language} ， 也 在 {river} 上 划船",
            f"{capital} 市长 用 {language} 开会 ， 城市 很 大",
            f"{country} 政府 在 城市 {capital} 开会",
            f"{country} 的 边界 沿着 {river} 很 长",
            f"去 {country} 以前 ， 我 学 了 {language} 的 语法",
        )
    )
