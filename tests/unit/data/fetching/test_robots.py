"""robots.txt by RFC 9309; where Python's own parser knows the rules, the verdicts are the same."""

from __future__ import annotations

import random
from urllib.robotparser import RobotFileParser

import pytest

from llmos.data.fetching.robots import EVERYTHING, NOTHING, fits, parse

SITE = "https://x.example"


@pytest.mark.parametrize(
    ("rule", "path", "is_about"),
    [
        ("/", "/a", True),
        ("/a", "/ab", True),
        ("/a/", "/a", False),
        ("/*.pdf", "/x/y.pdf?z", True),
        ("/*.pdf$", "/x/y.pdf", True),
        ("/*.pdf$", "/x/y.pdf?z", False),
        ("/a*b*c", "/a-b-c-d", True),
        ("/a*b*c", "/a-c-b", False),
        ("/a*a$", "/a", False),
        ("/fish*", "/fish", True),
        ("/$", "/", True),
        ("/$", "/a", False),
        ("*/x", "/a/x", True),
        ("/目录", "/目录/页", True),
    ],
)
def test_a_rule_fits_a_path(rule: str, path: str, is_about: bool) -> None:
    assert fits(rule, path) is is_about


def test_a_rule_of_many_stars_takes_no_time() -> None:
    assert not fits("/" + "*a" * 20_000 + "$", "/" + "a" * 5000 + "b")


def test_the_longest_rule_counts_and_of_two_alike_the_milder() -> None:
    robots = parse("User-agent: *\nDisallow: /a\nAllow: /a/b\nAllow: /c\nDisallow: /c")
    assert robots.allows(f"{SITE}/a/b/c") and not robots.allows(f"{SITE}/a/c")
    assert robots.allows(f"{SITE}/c") and robots.allows(SITE)


def test_a_group_that_names_the_crawler_comes_before_that_for_all() -> None:
    text = (
        "\ufeff# a comment\nUser-Agent: other\nUser-agent: LLMOS/1.0\nDisallow: /private # here\n"
        "crawl-delay: 2.5\n\nUser-agent: *\nDisallow: /\n\nuser-agent: llmos\ndisallow: /more\n"
    )
    robots = parse(text)
    assert robots.delay_s == 2.5
    found = [robots.allows(f"{SITE}{path}") for path in ("/", "/private/x", "/more", "/other")]
    assert found == [True, False, False, True]
    assert not parse(text, "stranger").allows(f"{SITE}/")


@pytest.mark.parametrize("text", ["", "nonsense", "Disallow: /", "User-agent: *\nDisallow:", "\0"])
def test_what_says_nothing_allows_everything(text: str) -> None:
    assert parse(text).allows(f"{SITE}/x") and EVERYTHING.allows(SITE)
    assert not NOTHING.allows(f"{SITE}/x")


def test_escapes_are_the_same_however_they_are_written() -> None:
    robots = parse("User-agent: *\nDisallow: /%E7%9B%AE\nDisallow: /a b\nDisallow: /*?sort=")
    blocked = ("/目/x", "/%e7%9b%ae", "/a%20b", "/list?x=1&sort=up", "/list?sort=up")
    verdicts = {path: robots.allows(f"{SITE}{path}") for path in blocked}
    assert verdicts == {**dict.fromkeys(blocked, False), "/list?x=1&sort=up": True}


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "soon", ""])
def test_a_delay_that_is_none_is_passed_over(value: str) -> None:
    assert parse(f"User-agent: *\nCrawl-delay: {value}\nDisallow: /x").delay_s == 0


def test_it_agrees_with_pythons_parser_where_rules_do_not_contend() -> None:
    draw = random.Random(0)
    names = ["a", "b", "cc", "d.html", "目"]
    for _ in range(200):
        paths = {"/" + "/".join(draw.choices(names, k=draw.randint(1, 3))) for _ in range(6)}
        agent = draw.choice(["*", "llmos", "other"])
        text = f"User-agent: {agent}\n" + "".join(f"Disallow: {path}\n" for path in sorted(paths))
        theirs = RobotFileParser()
        theirs.parse(text.splitlines())
        ours = parse(text)
        for _ in range(20):
            url = SITE + "/" + "/".join(draw.choices(names, k=draw.randint(1, 4)))
            assert ours.allows(url) == theirs.can_fetch("llmos", url), (text, url)
