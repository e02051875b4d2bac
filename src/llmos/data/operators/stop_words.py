"""The operator that leaves out the words that say little: for models that count words."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from llmos.data.pipeline.operator import Mapper, TextOptions
from llmos.data.segmentation import JIEBA, words_in

_ENGLISH = """
a about after all also am an and any are as at be been before being below between both but by can
could did do does doing during each few for from further had has have having he her here hers
herself him himself his how i if in into is it it's its itself just me more most my myself of off on
once only or other our ours ourselves out over own same shall she should so some such than that
that's the their theirs them themselves then there these they this those through to too under until
up upon very was we were what when where which while who whom whose why will with would you your
yours yourself yourselves i'm i've i'll i'd you're you've he's she's we're we've they're they've
"""
_CHINESE = """
的 了 是 在 和 与 及 或 也 都 就 而 又 还 很 把 被 让 给 对 从 到 向 往 于 以 为 由 因 着 过 地 得
我 你 您 他 她 它 我们 你们 他们 她们 它们 自己 咱们 这 那 哪 这个 那个 这些 那些 这里 那里 这样
那样 这么 那么 什么 怎么 怎样 谁 吗 呢 吧 啊 呀 嘛 哦 一个 一些 一种 一下 之 其 其中 此 该 各 每 某
所 等 但 但是 可是 而且 并 并且 因为 所以 如果 虽然 然后 于是 以及 或者 还是 只 才 再 已 已经 正在
将 会 要 能 可以 有 上 下 中 里
"""
ENGLISH, CHINESE = frozenset(_ENGLISH.split()), frozenset(_CHINESE.split())
"""Neither has words of negation: what is meant may hang on them."""


class StopWordsOptions(TextOptions):
    also: list[str] = Field(default=[], description="further words that are left out")


class StopWords(Mapper[StopWordsOptions]):
    """Leaves out words that say little, in English and Chinese, and puts a space between others:
    for models that count words.

    Chinese is cut by jieba. Words of negation stay, and so does punctuation.

    >>> tried(StopWords(), "This is not the book that I wanted.", "我们在学校的图书馆看书。")
    ['not book wanted .', '学校 图书馆 看书 。']
    """

    name = "stop_words"
    options_type = StopWordsOptions
    needs: ClassVar[dict[str, str]] = JIEBA

    def change(self, text: str) -> str:
        """Return the words that are left; what is left of these is the same."""
        left_out = ENGLISH | CHINESE | {_plain(word) for word in self.options.also}
        before = None
        while text != before:
            before = text
            # A Chinese word by itself may be cut into shorter ones.
            text = " ".join(word for word in words_in(text) if _plain(word) not in left_out)
        return text


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")
