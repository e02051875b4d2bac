"""Addresses that lead to the same page are one, others are not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators.urls import UrlDedup, canonical_url
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply

PAGE = "https://example.org/a/page?x=1&y=2"


@pytest.mark.parametrize(
    "other",
    [
        "http://example.org/a/page?x=1&y=2",
        "HTTPS://WWW.Example.ORG:443/a/page?x=1&y=2",
        "https://example.org/a/page/?y=2&x=1",
        "https://example.org/a/page?x=1&utm_campaign=z&y=2&gclid=q#part",
        " example.org./a/%70age?x=%31&y=2\n",
        "https://user@example.org/a/page?x=1&y=2",
    ],
)
def test_these_lead_to_the_same_page(other: str) -> None:
    assert canonical_url(other) == canonical_url(PAGE)


@pytest.mark.parametrize(
    "other",
    [
        "https://example.com/a/page?x=1&y=2",
        "https://example.org:8080/a/page?x=1&y=2",
        "https://example.org/A/page?x=1&y=2",
        "https://example.org/a/page?x=1&y=3",
        "https://example.org/a/page?x=1",
        "https://example.org/a/page?x=1&y=2&y=2",
        "ftp://example.org/a/page?x=1&y=2",
        "https://news.example.org/a/page?x=1&y=2",
    ],
)
def test_these_do_not(other: str) -> None:
    assert canonical_url(other) != canonical_url(PAGE)


def test_a_host_is_the_same_in_chinese_and_in_ascii() -> None:
    assert canonical_url("http://www.例子.中国/") == canonical_url("https://xn--fsqu00a.xn--fiqs8s")


@given(text=st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_whatever_stands_there_has_one_form(text: str) -> None:
    for url in (text, f"https://example.org/{text}", f"http://{text}"):
        assert canonical_url(f"  {url}\n") == canonical_url(url)


def test_the_address_that_a_page_brings_in_its_meta_counts_as_well() -> None:
    pages = [Record(one, {"text": one}, {"url": "https://b.org/"}) for one in "12"]
    found = apply([UrlDedup()], [*pages, Record("3", {"url": "b.org"}, {"url": "c.org"})])
    assert [one.id for one in found.records] == ["1"] and not found.outcome.rejected


def test_a_record_without_an_address_is_rejected_with_what_to_do() -> None:
    found = apply([UrlDedup()], [Record("1", {"text": "x"}), Record("2", {"url": "a.org"})])
    assert found.outcome.rejected[0]["reason"] == (
        "there is no address in 'url', only text: set `field`"
    )
    assert [one.id for one in found.records] == ["2"]
