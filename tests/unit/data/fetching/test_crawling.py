"""The crawler: polite, within bounds whatever the site is, and gone on with after it was killed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.siteserver import HTML, Reply, Request, Site, page
from tests.unit.data.data_jobs import only
from tests.unit.data.fetching.conftest import Fetching

from llmos.data.datasets import adding, jobs
from llmos.data.fetching import crawling
from llmos.data.fetching.crawling import JOURNAL, Crawl, collected, read_journal
from llmos.errors import (
    CancelledError,
    DataError,
    ForbiddenAddressError,
    InvalidRequestError,
    OutboundError,
)
from llmos.kernel.context import JobContext
from llmos.security.outbound import Outbound

TEXT = "This page is about {}. " + "Its text is long enough to be taken for what a page holds. " * 4


class Clock:
    """Seconds that pass by sleeping alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Crawling:
    """Crawls of a site, one after the other in the same folder."""

    def __init__(self, home: Fetching, site: Site) -> None:
        self.home, self.site, self.clock = home, site, Clock()
        self.at: list[float] = []

    def context(self, start: str = "/", **bounds: Any) -> JobContext:
        params = {"name": "pages", "url": self.site.url + start, "depth": 9, "rate": 1.0, **bounds}
        context = self.home.context(jobs.check_crawl(params), "shared")
        context.checkpoint_dir.mkdir(exist_ok=True)
        return context

    def run(self, start: str = "/", **bounds: Any) -> Crawl:
        context = self.context(start, **bounds)
        outbound = Outbound(allow_private=True)
        url = crawling.normal(self.site.url + start)
        assert url is not None
        crawl = Crawl(context, url, outbound, self.clock, self.clock.sleep)
        crawl.run()
        return crawl

    def visits(self) -> list[crawling.Visit]:
        return list(read_journal(self.home.root / "shared" / JOURNAL))

    def outcomes(self) -> dict[str, str]:
        return {one.url.removeprefix(self.site.url): one.outcome for one in self.visits()}

    def kept(self) -> list[str]:
        return [path for path, outcome in self.outcomes().items() if outcome == "kept"]


@pytest.fixture
def crawling_of(home: Fetching, site: Site) -> Crawling:
    return Crawling(home, site)


def small(site: Site) -> None:
    """A site of a few pages."""
    site.page("/", "Home", TEXT.format("home"), ["/a", "/b?x=1", "/c/", "https://other.example/"])
    site.page("/a", "A", TEXT.format("a"), ["/", "/a/deep"])
    site.page("/b?x=1", "B", TEXT.format("b"), [])
    site.page("/c/", "C", TEXT.format("c"), ["../a", "/private/x", "/a#top", "mailto:a@b.example"])
    site.page("/a/deep", "Deep", TEXT.format("deep"), ["/a/deeper"])
    site.page("/a/deeper", "Deeper", TEXT.format("deeper"), [])
    site.page("/private/x", "Private", TEXT.format("private"), [])


def test_a_site_becomes_a_dataset(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(crawling, "time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    small(site)
    site.pages["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /private/", kind="text/plain")
    params = {"name": "pages", "url": f"{site.url}/", "rate": 10.0, "license": "CC0-1.0"}
    context = home.context(jobs.check_crawl(params))
    version = only(adding.run(context))
    rows = home.rows(version)
    paths = [row["url"].removeprefix(site.url) for row in rows]
    assert paths == ["/", "/a", "/c/", "/b?x=1", "/a/deep"]
    assert rows[1]["id"] == rows[1]["url"] and rows[1]["title"] == "A"
    assert rows[1]["text"].startswith("A\nThis page is about a.")
    source = version.manifest["source"]
    assert source["pages"] == {"kept": 5, "robots.txt says no": 1}
    assert source["url"] == source["from"] == f"{site.url}/"
    assert "/private/x" not in site.asked() and site.requests[0].path == "/robots.txt"
    agents = {one.headers["user-agent"] for one in site.requests}
    assert len(agents) == 1 and agents.pop().startswith("llmos (+https://")


def test_depth_and_pages_bound_a_crawl(crawling_of: Crawling, site: Site) -> None:
    small(site)
    crawling_of.run(depth=1)
    assert crawling_of.kept() == ["/", "/a", "/c/", "/b?x=1"]
    crawling_of.home.root /= "other"
    crawling_of.home.root.mkdir()
    crawling_of.run(pages=2)
    assert crawling_of.kept() == ["/", "/a"]


def test_pages_are_asked_for_no_faster_than_is_polite(crawling_of: Crawling, site: Site) -> None:
    small(site)
    at = watched(crawling_of, site)
    crawling_of.run(rate=0.5)
    assert len(at) == 8 and all(b - a >= 2 for a, b in pairwise(at))
    assert max(crawling_of.clock.slept) <= crawling.SLICE_S, "it can be cancelled meanwhile"


def test_a_site_that_asks_for_more_time_gets_it(crawling_of: Crawling, site: Site) -> None:
    small(site)
    at = watched(crawling_of, site)
    site.pages["/robots.txt"] = Reply(b"User-agent: llmos\nCrawl-delay: 7", kind="text/plain")
    crawling_of.run(depth=1)
    assert all(b - a >= 7 for a, b in pairwise(at[1:]))


def test_a_site_that_asks_for_days_is_left(crawling_of: Crawling, site: Site) -> None:
    small(site)
    site.pages["/robots.txt"] = Reply(b"User-agent: *\nCrawl-delay: 86400", kind="text/plain")
    with pytest.raises(DataError, match="86400 s between pages"):
        crawling_of.run()
    assert sum(crawling_of.clock.slept) < 60 and crawling_of.visits() == []


def test_rows_that_are_a_blob_already_are_not_written_over(
    crawling_of: Crawling, site: Site
) -> None:
    small(site)
    crawl = crawling_of.run()
    context = crawling_of.context()
    (digest,) = collected(context, site.url, crawl.outcomes).files.values()
    blob = context.blobs.path(digest)
    rows = context.checkpoint_dir / crawling.ROWS
    rows.hardlink_to(blob)  # as after `kill -9` behind the rows' storing
    inode = blob.stat().st_ino
    collected(context, site.url, crawl.outcomes)
    assert context.blobs.path(digest).stat().st_ino != inode
    context.blobs.verify(digest)


def watched(crawling_of: Crawling, site: Site) -> list[float]:
    """Note when each request comes."""
    at: list[float] = []

    class Watched(list[Request]):
        def append(self, request: Request) -> None:
            at.append(crawling_of.clock())
            super().append(request)

    site.requests = Watched()
    return at


@pytest.mark.parametrize("status", [500, 503, 429])
def test_without_robots_txt_for_sure_nothing_is_read(
    crawling_of: Crawling, site: Site, status: int
) -> None:
    small(site)
    site.pages["/robots.txt"] = Reply(b"", status)
    with pytest.raises(OutboundError, match="nothing is read without") as failed:
        crawling_of.run()
    assert failed.value.retryable and site.asked() == []


def test_a_site_of_no_robots_txt_is_open(crawling_of: Crawling, site: Site) -> None:
    site.page("/", "Home", TEXT, [])
    site.pages["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /", 403)
    crawling_of.run()
    assert crawling_of.kept() == ["/"]


def test_a_site_that_is_closed_gives_nothing(home: Fetching, site: Site) -> None:
    small(site)
    site.pages["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /", kind="text/plain")
    params = jobs.check_crawl({"name": "pages", "url": f"{site.url}/"})
    with pytest.raises(DataError, match=r"no page was kept: robots.txt says no 1"):
        adding.run(home.context(params))
    assert site.asked() == []


def test_a_crawl_that_is_killed_goes_on_and_asks_for_nothing_twice(
    crawling_of: Crawling, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(site)
    whole = crawling_of.run()
    expected = crawling_of.visits()
    assert whole.outcomes["kept"] == 7
    crawling_of.home.root /= "other"
    crawling_of.home.root.mkdir()
    site.requests.clear()

    def dies_at(number: int) -> None:
        kept = Crawl._apply

        def apply(self: Crawl, visit: crawling.Visit) -> None:
            kept(self, visit)
            if self._asked == number:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Crawl, "_apply", apply)
            crawling_of.run()

    for number in (1, 3, 4):
        dies_at(number)
    with (crawling_of.home.root / "shared" / JOURNAL).open("ab") as journal:
        journal.write(b'{"url": "torn off in the mid')
    again = crawling_of.run()
    assert [one.url for one in crawling_of.visits()] == [one.url for one in expected]
    assert again.outcomes == whole.outcomes
    asked = site.asked()
    assert len(asked) == len(set(asked)) == 7
    context = crawling_of.context()
    found = collected(context, f"{site.url}/", again.outcomes)
    (digest,) = found.files.values()
    rows = [json.loads(line) for line in context.blobs.read_bytes(digest).splitlines()]
    assert [row["url"] for row in rows] == [one.url for one in expected if one.row]


def test_a_crawl_gives_way(crawling_of: Crawling, site: Site) -> None:
    small(site)
    context = crawling_of.context()
    clock = crawling_of.clock

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(site.asked()) == 2:
            context.leave()

    crawl = Crawl(context, f"{site.url}/", Outbound(allow_private=True), clock, sleep)
    with pytest.raises(CancelledError):
        crawl.run()
    assert len(crawling_of.visits()) == 2
    crawling_of.run()
    assert len(crawling_of.kept()) == 7


# -- traps -----------------------------------------------------------------------------------------


def test_a_calendar_without_end_is_left_at_the_last_page(crawling_of: Crawling, site: Site) -> None:
    def month(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(b"", 404)
        number = int(request.path.rpartition("=")[2] or 0) if "=" in request.path else 0
        links = [f"/?month={number + 1}", f"/?month={number - 1}", "/article"]
        return Reply(page(f"Month {number}", TEXT.format(number), links))

    site.other = month
    site.page("/article", "Article", TEXT.format("article"), [])
    crawling_of.run(pages=12, depth=20)
    assert len(site.asked()) == 12
    assert site.asked()[1] == "/article", "pages without a query come first"


def test_session_ids_make_no_new_pages(crawling_of: Crawling, site: Site) -> None:
    number = 0

    def home(request: Request) -> Reply:
        nonlocal number
        number += 1
        links = [f"/?PHPSESSID={number}", f"/a;jsessionid={number}", f"/?utm_source={number}"]
        return Reply(page("Home", TEXT, links))

    site.pages["/"] = home
    site.page("/a", "A", TEXT.format("a"), [])
    crawling_of.run()
    assert site.asked() == ["/", "/a"]


def test_the_same_text_under_other_addresses_is_kept_once_and_not_followed(
    crawling_of: Crawling, site: Site
) -> None:
    def any_page(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(b"", 404)
        return Reply(page("Same", TEXT, [f"{request.path}{n}" for n in range(3)]))

    site.other = any_page
    crawling_of.run(depth=20)
    assert crawling_of.kept() == ["/"]
    assert set(crawling_of.outcomes().values()) == {"kept", "the same text again"}
    assert len(site.asked()) == 4


def test_redirects_that_lead_around_end(crawling_of: Crawling, site: Site) -> None:
    site.page("/", "Home", TEXT, ["/round", "/away", "/moved", "/self"])
    site.pages["/round"] = Reply(status=302, headers={"Location": "/round2"})
    site.pages["/round2"] = Reply(status=302, headers={"Location": "/round"})
    site.pages["/self"] = Reply(status=301, headers={"Location": "/self"})
    site.pages["/away"] = Reply(status=302, headers={"Location": "https://other.example/"})
    site.pages["/moved"] = Reply(status=308, headers={"Location": "/private/there"})
    site.page("/private/there", "There", TEXT.format("there"), [])
    crawling_of.run()
    assert crawling_of.outcomes() == {
        "/": "kept", "/round": "moved", "/away": "leads to another site", "/moved": "moved",
        "/self": "moved", "/round2": "moved", "/private/there": "kept",
    }  # fmt: skip


def test_a_redirect_is_no_way_around_robots_txt(crawling_of: Crawling, site: Site) -> None:
    site.page("/", "Home", TEXT, ["/moved"])
    site.pages["/moved"] = Reply(status=302, headers={"Location": "/private/there"})
    site.pages["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /private", kind="text/plain")
    crawling_of.run()
    assert "/private/there" not in site.asked()


def test_a_first_page_that_redirects_for_ever_is_an_error(
    crawling_of: Crawling, site: Site
) -> None:
    def on(request: Request) -> Reply:
        if request.path == "/robots.txt":
            return Reply(b"", 404)
        return Reply(status=302, headers={"Location": f"{request.path}x"})

    site.other = on
    with pytest.raises(DataError, match="redirects without end"):
        crawling_of.run()


def test_a_redirect_leads_into_no_other_network(
    crawling_of: Crawling, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/"] = Reply(status=302, headers={"Location": "http://169.254.169.254/latest/"})
    context = crawling_of.context()
    outbound = Outbound(allow_private=False)
    real = outbound._address

    async def address(target: Any) -> str:
        return "127.0.0.1" if target.port else await real(target)

    monkeypatch.setattr(outbound, "_address", address)
    clock = crawling_of.clock
    with pytest.raises(ForbiddenAddressError):
        Crawl(context, f"{site.url}/", outbound, clock, clock.sleep).run()


def test_what_is_no_page_is_passed_over_with_its_reason(
    crawling_of: Crawling, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "MAX_PAGE_BYTES", 50_000)
    links = ["/huge", "/picture", "/gone", "/empty", "/zipped", "/typeless", "/text", "/denied"]
    site.page("/", "Home", TEXT, links)
    site.pages["/huge"] = Reply(page("Huge", "x " * 40_000, []))
    site.pages["/picture"] = Reply(b"\x89PNG", kind="image/png")
    site.pages["/empty"] = Reply(b"")
    site.pages["/zipped"] = Reply(b"x", headers={"Content-Encoding": "gzip"})
    site.pages["/typeless"] = Reply(b"x", kind="")
    site.pages["/text"] = Reply("一段文字".encode(), kind="text/plain")
    site.pages["/denied"] = Reply(b"", 403)
    crawling_of.run()
    assert crawling_of.outcomes() == {
        "/": "kept", "/huge": "larger than a page may be", "/picture": "not a page: image/png",
        "/gone": "HTTP 404", "/empty": "not HTML", "/zipped": "it is sent compressed, unasked",
        "/typeless": "not a page: application/octet-stream", "/text": "kept",
        "/denied": "HTTP 403",
    }  # fmt: skip


def test_a_busy_site_is_asked_again_when_it_says(crawling_of: Crawling, site: Site) -> None:
    replies = [Reply(status=503, headers={"Retry-After": "40"}), Reply(status=429)]

    def busy(request: Request) -> Reply:
        return replies.pop(0) if replies else Reply(page("A", TEXT.format("a"), []))

    site.page("/", "Home", TEXT, ["/a"])
    site.pages["/a"] = busy
    at = watched(crawling_of, site)
    crawling_of.run()
    assert crawling_of.kept() == ["/", "/a"]
    assert at[3] - at[2] >= 40 and at[4] - at[3] >= crawling.PAUSES_S[1]


def test_a_site_that_fails_again_and_again_is_left_for_another_attempt(
    crawling_of: Crawling, site: Site
) -> None:
    site.page("/", "Home", TEXT, [f"/{n}" for n in range(20)])
    site.other = lambda request: Reply(b"", 404 if request.path == "/robots.txt" else 500)
    with pytest.raises(OutboundError, match="HTTP 500") as failed:
        crawling_of.run()
    assert failed.value.retryable
    assert len(crawling_of.visits()) == crawling.MAX_FAILURES
    site.other = lambda request: Reply(page("T", TEXT.format(request.path), []))
    crawling_of.run()
    assert len(crawling_of.kept()) == 1 + 20 - (crawling.MAX_FAILURES - 1)


def test_a_first_page_that_cannot_be_had_is_worth_another_attempt(
    crawling_of: Crawling, site: Site
) -> None:
    site.pages["/"] = Reply(status=500)
    with pytest.raises(OutboundError, match="cannot be had"):
        crawling_of.run()
    assert crawling_of.visits() == []


def test_a_page_that_never_ends_is_given_up(
    crawling_of: Crawling, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "PAGE_S", 0.2)
    site.page("/", "Home", TEXT, ["/slow"])
    site.pages["/slow"] = Reply(b"x", headers={"Transfer-Encoding": "chunked"}, kind=HTML)
    site.pages["/slow"].body = b"1\r\nx\r\n"  # type: ignore[union-attr]
    crawling_of.run()
    assert crawling_of.outcomes()["/slow"] == "it takes more than 0.2 s"


def test_the_queue_has_an_end(
    crawling_of: Crawling, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "MAX_QUEUED", 5)
    site.other = lambda request: Reply(b"", 404)
    site.page("/", "Home", TEXT, [f"/{n}" for n in range(100)])
    crawling_of.run()
    assert len(site.asked()) == 5


def test_a_journal_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    assert list(read_journal(path)) == []
    line = msgspec.json.encode(crawling.Visit("https://x.example/", 0, "kept")) + b"\n"
    path.write_bytes(line * 2 + line[:-3])
    assert len(list(read_journal(path))) == 2
    assert path.read_bytes() == line * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "hf://owner/name"}, "url must begin with https"),
        ({"url": ""}, "url must begin with https:// or http://$"),
        ({"url": "file:///tea.html"}, "url must begin with https:// or http://$"),
        ({"pages": 0}, "pages must be a whole number, 1 to 10000"),
        ({"pages": 1.5}, "pages must be a whole number"),
        ({"depth": 21}, "depth must be"),
        ({"depth": True}, "depth must be"),
        ({"rate": 0}, "rate must be a number, 0.01 to 10"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"speed": 1}, "unknown parameter speed"),
        ({"files": {"a.txt": "sha256:" + "0" * 64}}, "not both"),
    ],
)
def test_a_wrong_crawl_is_refused_at_once(changes: dict[str, Any], said: str) -> None:
    good = {"name": "x", "url": "https://x.example/"}
    checked = jobs.check_crawl(good)
    assert (checked["depth"], checked["pages"], checked["rate"]) == (2, 100, 1.0)
    assert jobs.check_crawl(checked) == checked
    with pytest.raises(InvalidRequestError, match=said):
        jobs.check_crawl(good | changes)
