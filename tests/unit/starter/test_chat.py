"""Chat records are whole conversations whose answers are right and always the same."""

import re
from collections import Counter

import pytest

from llmos.starter import chat
from llmos.starter.chat import Record, load_chat_lexicon, records
from llmos.starter.grammar import Split, read_tsv

SPLITS: tuple[Split, ...] = ("train", "validation", "test_combinations", "test_templates")
TESTS: tuple[Split, ...] = ("test_combinations", "test_templates")
GREETINGS = ("hi", "hello", "who are you", "hello who are you", "你好", "你是谁")


def key(text: str) -> str:
    return re.sub(r"[^\w+\-=]", "", text).lower()


def exchange(record: Record) -> str:
    """A conversation without its system message and its looks."""
    turns = [m["content"] for m in record["messages"] if m["role"] != "system"]
    return "|".join(map(key, turns))


@pytest.mark.parametrize("split", SPLITS)
def test_same_arguments_give_the_same_records(split: Split) -> None:
    first = list(records(split, 3, 24))
    assert first == list(records(split, 3, 24))
    assert first != list(records(split, 4, 24))


@pytest.mark.parametrize("split", ("train", *TESTS))
def test_rows_are_counted_and_balanced_by_language(split: Split) -> None:
    assert Counter(row["lang"] for row in records(split, 0, 200)) == {"en": 100, "zh": 100}


def test_no_test_conversation_is_trained_on() -> None:
    trained = {exchange(row) for row in records("train", 0, 3000)}
    for split in TESTS:
        assert not trained & {exchange(row) for row in records(split, 0, 200)}


def test_turns_alternate_and_the_assistant_has_the_last_word() -> None:
    for row in records("train", 0, 800):
        roles = [message["role"] for message in row["messages"]]
        if roles[0] == "system":
            roles.pop(0)
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        for message in row["messages"]:
            assert message["content"].strip() == message["content"] != ""
            assert not re.search(r"[{}<>|@]", message["content"]), row


def test_sums_are_right() -> None:
    for category, sign in (("chat_plus", 1), ("chat_minus", -1)):
        for entry in load_chat_lexicon().fillers(category):
            left, right, answer = (int(entry.extra[k]) for k in ("left", "right", "answer"))
            assert left + sign * right == answer
            assert 1 <= answer <= 20


def test_one_question_has_one_answer() -> None:
    answers: dict[str, str] = {}
    for row in records("train", 0, 2500):
        first = [m for m in row["messages"] if m["role"] != "system"][:2]
        question, answer = (m["content"] for m in first)
        assert answers.setdefault(key(question), answer) == answer, question


def test_the_assistant_answers_in_the_language_of_the_user() -> None:
    for row in records("train", 2, 800):
        for message in row["messages"]:
            if message["role"] == "assistant":
                is_chinese = re.search(r"[\u4e00-\u9fff]", message["content"]) is not None
                assert is_chinese or row["lang"] == "en"


def test_a_name_is_remembered() -> None:
    remembered = 0
    for row in records("train", 0, 1500):
        for i, message in enumerate(row["messages"]):
            if found := re.fullmatch(r"(?:Your name is |你叫)(.+)[.。]", message["content"]):
                said = " ".join(earlier["content"] for earlier in row["messages"][:i])
                assert found[1].lower() in said.lower()
                remembered += 1
    assert remembered > 50


def test_common_greetings_are_among_the_templates() -> None:
    said = {key(turns[0]) for _, _, *turns in read_tsv("chat")}
    assert said >= {key(greeting) for greeting in GREETINGS}


def test_there_are_many_templates_in_each_language() -> None:
    counts = Counter(language for _, language, *_ in read_tsv("chat"))
    assert all(counts[language] >= 120 for language in chat.LANGUAGES)
