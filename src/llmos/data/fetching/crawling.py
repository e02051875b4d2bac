"""A polite crawler: one site, one request at a time, no faster than asked or than robots.txt says,
nearest pages first. What may have no end has one: depth, pages, bytes and seconds of a page.

Every page is in a journal before the next is asked for, so that a crawl that is killed goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from llmos.data.fetching import pages, robots
from llmos.data.fetching.pages import Site, normal
from llmos.data.fetching.robots import Robots
from llmos.data.fetching.sources import Found, without_secrets
from llmos.data.fetching.web import AGENT
from llmos.data.pipeline.work import give_way
from llmos.errors import DataError, ForbiddenAddressError, InvalidRequestError, OutboundError
from llmos.security.outbound import MAX_REDIRECTS, Outbound
from llmos.settings import load_settings
from llmos.storage.files import write_all

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

JOURNAL, ROWS = "crawl.jsonl", "pages.jsonl"
MAX_PAGE_BYTES = 4 * 2**20
PAGE_S = 30.0
"""For everything that one page takes."""
PAUSES_S = (5.0, 30.0)
"""Before a page that could not be had is asked for again, unless the site names a time."""
MAX_PAUSE_S = 120.0
MAX_DELAY_S = 600.0
"""Between pages; a site that asks for more is not crawled."""
MAX_FAILURES = 5
"""Pages in a row that cannot be had; then the attempt is given up."""
MAX_QUEUED = 50_000
SAME_TEXT_CHARS = 200
"""From so long on, the same text again means the same page under another address."""
SLICE_S = 0.2
MOVED, KEPT = "moved", "kept"


class Visit(msgspec.Struct):
    """What came of a URL: a line of the journal.

    Attributes:
        depth: links from the first page.
        outcome: KEPT, MOVED, or why there is no row.
        links: URLs to ask for, one link further; of a redirect its target, no further.
        asked: whether the site was asked for it.
    """

    url: str
    depth: int
    outcome: str
    row: dict[str, str] | None = None
    links: list[str] = []
    asked: bool = True
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site answers; ``problem`` where there is no body that could be read."""

    status: int = 0
    headers: Any = None
    body: bytes = b""
    target: str | None = None
    problem: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether it may be had later."""
        return self.status in (0, 408, 425, 429) or self.status >= 500


class Crawl:
    """One crawl, in the folder of its job.

    Args:
        clock: seconds that only grow.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        context: JobContext,
        start: str,
        outbound: Outbound,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        params = context.params
        self._context = context
        self._start = start
        self._outbound = outbound
        self._clock, self._sleep = clock, sleep
        self._depth, self._pages = int(params["depth"]), int(params["pages"])
        self._interval_s = 1 / float(params["rate"])
        self._next_at = clock()
        self._site: Site | None = None
        self._robots: dict[Site, Robots] = {}
        self._queue: list[tuple[int, bool, int, str]] = []
        self._queued: set[bytes] = set()
        self._visited: set[bytes] = set()
        self._texts: set[bytes] = set()
        self._asked = self._failures = self._moves = 0
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        """Crawl to the end, from where the journal ends.

        Raises:
            OutboundError: the site cannot be reached, or fails again and again.
            ForbiddenAddressError, InvalidRequestError: it may not be asked.
            CancelledError: the job is to end.
        """
        self._add(self._start, 0)
        path = self._context.checkpoint_dir / JOURNAL
        for visit in read_journal(path):
            self._apply(visit)
        if self._visited:
            self._context.log(f"going on after {self._asked:,} pages")
        with asyncio.Runner() as runner, path.open("ab", buffering=0) as journal:
            try:
                while self._asked < self._pages and (found := self._next()) is not None:
                    give_way(self._context)
                    visit = self._visit(runner, *found)
                    self._note(journal.fileno(), visit)
                    self._apply(visit)
                    self._report(visit)
            finally:
                runner.run(self._outbound.close())

    # -- what is to be asked for -----------------------------------------------------------------

    def _add(self, url: str, depth: int) -> None:
        key = _key(url)
        if key not in self._queued and len(self._queued) < MAX_QUEUED:
            self._queued.add(key)
            # Of pages as near, those without a query come first: calendars and searches have one.
            heapq.heappush(self._queue, (depth, "?" in url, len(self._queued), url))

    def _next(self) -> tuple[str, int] | None:
        while self._queue:
            depth, _, _, url = heapq.heappop(self._queue)
            if _key(url) not in self._visited:
                return url, depth
        return None

    def _apply(self, visit: Visit) -> None:
        """Take into account what came of a URL, now or before the job was killed."""
        self._visited.add(_key(visit.url))
        self.outcomes[visit.outcome] += 1
        self._asked += visit.asked
        self._failures = self._failures + 1 if visit.failed else 0
        if self._site is None and visit.outcome == MOVED:
            self._moves += 1
        elif self._site is None:
            self._site = Site.of(visit.url)
        if visit.row is not None:
            self._texts.add(_key(visit.row["text"]))
        for url in visit.links:
            self._add(url, visit.depth + (visit.outcome != MOVED))

    # -- a page ----------------------------------------------------------------------------------

    def _visit(self, runner: asyncio.Runner, url: str, depth: int) -> Visit:
        rules = self._rules(runner, url)
        if not rules.allows(url):
            return Visit(url, depth, "robots.txt says no", asked=False)
        answer = self._answer(runner, url, rules.delay_s)
        if answer.is_busy:
            reason = answer.problem or f"HTTP {answer.status}"
            if self._failures + 1 >= MAX_FAILURES or not self._visited:
                raise OutboundError(f"{without_secrets(url)} cannot be had: {reason}")
            return Visit(url, depth, reason, failed=True)
        if answer.target is not None:
            return self._moved(url, depth, answer.target)
        if answer.status != 200 or answer.problem:
            return Visit(url, depth, answer.problem or f"HTTP {answer.status}")
        return self._read(url, depth, answer)

    def _moved(self, url: str, depth: int, target: str) -> Visit:
        found = normal(target)
        if found is not None and self._site is not None:
            found = self._site.own(found)
        if self._moves >= MAX_REDIRECTS:
            raise DataError(f"{without_secrets(self._start)} redirects without end", param="url")
        if found is None:
            return Visit(url, depth, "leads to another site")
        return Visit(url, depth, MOVED, links=[] if found == url else [found])

    def _read(self, url: str, depth: int, answer: Answer) -> Visit:
        site = self._site or Site.of(url)
        kind, charset = media_type(answer.headers.get("content-type", ""))
        told = answer.headers.get("x-robots-tag", "")
        page = pages.read(answer.body, kind, charset, url, told)
        links: list[str] = []
        if depth < self._depth:
            own = (site.own(link) for link in page.links)
            links = [link for link in own if link and _key(link) not in self._queued]
        if page.row is None:
            return Visit(url, depth, page.reason, links=links)
        if _key(page.row["text"]) in self._texts:
            is_same = len(page.row["text"]) >= SAME_TEXT_CHARS
            return Visit(url, depth, "the same text again", links=[] if is_same else links)
        return Visit(url, depth, KEPT, page.row, links)

    # -- asking ----------------------------------------------------------------------------------

    def _rules(self, runner: asyncio.Runner, url: str) -> Robots:
        """Return what a site's robots.txt says, which is asked for once.

        Raises:
            OutboundError: it cannot be had, and so nothing may be read.
        """
        site = Site.of(url)
        if site not in self._robots:
            address = f"{site.scheme}://{site.netloc}/robots.txt"
            answer = self._answer(runner, address, 0.0, is_page=False)
            if answer.is_busy or answer.problem:
                reason = answer.problem or f"HTTP {answer.status}"
                raise OutboundError(f"{address} cannot be had ({reason}): nothing is read without")
            text = answer.body.decode("utf-8", "replace") if answer.status == 200 else ""
            self._robots[site] = rules = robots.parse(text)
            if rules.delay_s > MAX_DELAY_S:
                raise DataError(
                    f"{address} asks for {rules.delay_s:g} s between pages, and a crawl waits "
                    f"{MAX_DELAY_S:g} s at most: ask the site's owner for its pages",
                    param="url",
                )
            if rules.delay_s > self._interval_s:
                self._context.log(f"{address} asks for {rules.delay_s:g} s between pages")
        return self._robots[site]

    def _answer(
        self, runner: asyncio.Runner, url: str, delay_s: float, *, is_page: bool = True
    ) -> Answer:
        """Ask for a URL when its turn has come, again later where the site is busy."""
        for pause_s in (*PAUSES_S, None):
            self._wait()
            try:
                answer = runner.run(self._ask(url, is_page=is_page))
            except ForbiddenAddressError:
                raise
            except InvalidRequestError as error:
                answer = Answer(404, problem=error.message)
            self._next_at = self._clock() + max(self._interval_s, delay_s)
            if not answer.is_busy or pause_s is None:
                break
            told = (answer.headers or {}).get("retry-after", "")
            wanted_s = float(told) if told.isdecimal() else pause_s
            self._next_at = self._clock() + max(min(wanted_s, MAX_PAUSE_S), self._interval_s)
        return answer

    async def _ask(self, url: str, *, is_page: bool) -> Answer:
        headers = {"User-Agent": AGENT, "Accept": "text/html, text/plain;q=0.9, */*;q=0.1"}
        most = MAX_PAGE_BYTES if is_page else robots.MAX_BYTES
        get = self._outbound.get if is_page else self._outbound.follow
        try:
            async with asyncio.timeout(PAGE_S), get(url, headers) as received:
                status, told = received.status, received.headers
                target = received.target() if is_page else None
                if target is not None or status != 200:
                    return Answer(status, told, target=target)
                if told.get("content-encoding", "identity").lower() != "identity":
                    return Answer(status, told, problem="it is sent compressed, unasked")
                if is_page and (kind := media_type(told.get("content-type", ""))[0]) not in (
                    pages.KINDS
                ):
                    return Answer(status, told, problem=f"not a page: {kind or 'of no type'}")
                body = b""
                async for part in received.parts:
                    body += part
                    if len(body) > most and is_page:
                        return Answer(status, told, problem="larger than a page may be")
                    if len(body) > most:
                        break
                return Answer(status, told, body[:most])
        except TimeoutError:
            return Answer(problem=f"it takes more than {PAGE_S:g} s")
        except OutboundError as error:
            return Answer(problem=error.message)

    def _wait(self) -> None:
        while (rest_s := self._next_at - self._clock()) > 0:
            self._sleep(min(rest_s, SLICE_S))
            give_way(self._context)

    # -- telling ---------------------------------------------------------------------------------

    def _note(self, journal: int, visit: Visit) -> None:
        write_all(journal, msgspec.json.encode(visit) + b"\n")
        os.fsync(journal)

    def _report(self, visit: Visit) -> None:
        total = max(min(self._pages, self._asked + len(self._queue)), self._asked + 1)
        self._context.progress(self._asked, total, without_secrets(visit.url)[:200])
        if visit.failed:
            self._context.log(f"{without_secrets(visit.url)[:200]}: {visit.outcome}")


def fetch(context: JobContext, url: str) -> Found:
    """Crawl a site and store its rows. For what is raised see `sources.fetched`."""
    start = normal(url)
    if start is None:
        raise DataError(f"{without_secrets(url)[:200]} is no page's address", param="url")
    settings = load_settings({"home": context.home})
    outbound = Outbound(allow_private=settings.allow_private_webhooks)
    crawl = Crawl(context, start, outbound, time.monotonic, time.sleep)
    crawl.run()
    return collected(context, start, crawl.outcomes)


def collected(context: JobContext, start: str, outcomes: Counter[str]) -> Found:
    """Store the rows of a journal as one file.

    Raises:
        DataError: there are none.
    """
    told = dict(sorted(outcomes.items(), key=lambda one: (-one[1], one[0])))
    listed = ", ".join(f"{outcome} {count:,}" for outcome, count in told.items())
    if not outcomes[KEPT]:
        raise DataError(f"{without_secrets(start)}: no page was kept: {listed}", param="url")
    path = context.checkpoint_dir / ROWS
    path.unlink(missing_ok=True)  # one from before may be a blob's own file
    with path.open("wb") as file:
        for visit in read_journal(context.checkpoint_dir / JOURNAL):
            if visit.row is not None:
                file.write(msgspec.json.encode(visit.row) + b"\n")
    digest = context.blobs.put_file(path, link=True).digest
    path.unlink()
    context.log(listed)
    name = f"{urlsplit(start).hostname}.jsonl"
    return Found({name: digest}, {"url": without_secrets(start), "pages": told})


def read_journal(path: Path) -> Iterator[Visit]:
    """Yield the visits of a journal, and take off a last line that was not finished."""
    if not path.exists():
        return
    num_bytes = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            num_bytes += len(line)
            yield msgspec.json.decode(line, type=Visit)
    os.truncate(path, num_bytes)


def media_type(header: str) -> tuple[str, str]:
    """Return the type and the charset of a Content-Type."""
    message = Message()
    message["Content-Type"] = header or "application/octet-stream"
    return message.get_content_type(), str(message.get_content_charset() or "")


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
