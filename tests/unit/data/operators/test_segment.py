from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply, tried
from llmos.data.segmentation import segmenter, words_in

CHARACTERS = "我们在北京大学学习自然语言处理和机器翻译"
CHINESE = st.lists(st.sampled_from(CHARACTERS), max_size=15).map("".join)


def test_sentences_and_words_are_lists_of_their_own_fields() -> None:
    operators = [make_operator(name, {}, 0) for name in ("sentences", "words")]
    text = "He left. 我们走吧！"
    (record,) = apply(operators, [Record("1", {"text": text})]).records
    assert record.fields["sentences"] == ["He left.", "我们走吧！"]
    assert record.fields["tokens"] == ["He", "left", ".", "我们", "走", "吧", "！"]
    assert record.text() == text


@given(text=CHINESE)
def test_chinese_words_are_jieba_s(text: str) -> None:
    assert words_in(text) == (segmenter().lcut(text) if text else [])


@given(text=st.text(max_size=40))
def test_words_hold_all_that_is_seen(text: str) -> None:
    assert "".join("".join(words_in(text)).split()) == "".join(text.replace("\x1c", " ").split())


def test_a_text_of_one_sentence_a_line_stays_so() -> None:
    operator = make_operator("sentences", {"into": None}, 0)
    (once,) = tried(operator, "One. Two! 三。四？")
    assert once == "One.\nTwo!\n三。\n四？" and tried(operator, once) == [once]
