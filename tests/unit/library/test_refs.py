"""ModelRef: what parses, what is refused, and that nothing parsed can leave a directory."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import InvalidNameError
from llmos.library.refs import ModelRef, is_name, parse_name

_EVIL = ["..", "../", "..\\", "/", "\\", "//", "~", "%2e%2e", "%2f", "\0", "\n", "\r", " ", "\t"]
_EVIL += [
    "\u202e",
    "\u2215",
    "\uff0e\uff0e",
    "é",
    "模型",
    "a\u0301",
    "$(id)",
    "`id`",
    ";",
    "|",
    "&",
]
_EVIL += [
    "'",
    '"',
    "<script>",
    "{{7*7}}",
    "${x}",
    "%s",
    "*",
    "?",
    "#",
    "+",
    "=",
    ",",
    "!",
    "^",
    "\x7f",
]
_FORMS = ["{}", "a{}", "{}a", "a{}b", "ns/{}", "{}/a", "a:{}", "a@{}"]
NASTY = [form.format(evil) for evil, form in itertools.product(_EVIL, _FORMS)]
NASTY.remove("a/b")  # a namespace and a name
NASTY += [
    "",
    "/",
    ":",
    "@",
    ":1",
    "@latest",
    "a:",
    "a@",
    "a:0",
    "a:01",
    "a:-1",
    "a:1.5",
    "a:x",
    "a:1:2",
]
NASTY += [
    "a@b@c",
    "a@b:1",
    "a/b/c",
    "/a",
    "a/",
    "a//b",
    "-a",
    ".a",
    "_a",
    ".",
    "...",
    "a..b",
    "a" * 129,
]
NASTY += [
    "n" * 129 + "/a",
    "a@" + "x" * 129,
    "a:9999999999",
    "a:１",
    "a:²",
    "a\n",
    "\na",
    "a:1\n",
    "a@b\n",
]
NASTY += [
    "C:\\a",
    "file:///etc/passwd",
    "http://x/y",
    "....//",
    "a/./b",
    "a/../b",
    "sha256:" + "0" * 64,
]


def test_there_are_two_hundred_nasty_strings() -> None:
    assert len(set(NASTY)) >= 200


@pytest.mark.parametrize("text", NASTY)
def test_nasty_names_are_refused_with_one_printable_line(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        ModelRef.parse(text)
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("a", ModelRef("", "a")),
        ("my-model", ModelRef("", "my-model")),
        ("Qwen2.5-0.5B", ModelRef("", "Qwen2.5-0.5B")),
        ("team/a:3", ModelRef("team", "a", 3)),
        ("a@production", ModelRef("", "a", None, "production")),
        ("team/a:12@b", ModelRef("team", "a", 12, "b")),
        ("a" * 128, ModelRef("", "a" * 128)),
    ],
)
def test_a_valid_ref_parses_and_prints_back(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    assert str(ref) == text


@given(st.text(max_size=40))
def test_whatever_parses_prints_back_and_stays_inside_a_directory(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except InvalidNameError:
        return
    assert str(ref) == text
    root = Path("/root-of-names")
    for part in (ref.namespace or ref.name, ref.name, ref.alias or ref.name):
        assert (root / part).resolve().parent == root


def test_a_new_name_has_neither_version_nor_alias() -> None:
    assert parse_name("team/a").full_name == "team/a"
    for text in ("a:1", "a@b"):
        with pytest.raises(InvalidNameError, match="leave out the version"):
            parse_name(text)


def test_an_alias_follows_the_rule_of_names() -> None:
    assert is_name("production")
    assert not is_name("a/b")
    assert not is_name("a..b")
