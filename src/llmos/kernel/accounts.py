"""The live accounts of all owners: what they may do now, what they use, and writing it down.

Requests, tokens and running jobs are counted in memory; every few seconds what came together goes
to the table ``usage_daily`` in one transaction, so a crash forgets those seconds at most. The rules
are `quotas`', the counters `tabs`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection

from llmos.errors import NotFoundError
from llmos.kernel import energy, quotas, usage_store
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.quotas import EVERYONE, UNLIMITED, Limits, Verdict
from llmos.kernel.tabs import Account, Counts, Tab
from llmos.kernel.transitions import Audit
from llmos.kernel.usage_store import UsageKey
from llmos.security.actors import OPERATORS
from llmos.storage.database import Database

SETTLE_S = 5.0
"""Seconds between two writes of what was used."""
JOBS = ""
"""In place of a model: what jobs computed."""
_NOTHING = Counts()

log = logging.getLogger(__name__)


class Accounts:
    """Belongs to one event loop; what takes a connection runs in the thread that writes.

    Args:
        clock: Unix seconds.
        running: returns the jobs that compute, and the seconds that each attempt has run.
        read_joules: returns what the machine took since the last call; None: it does not tell.
        audit: see `transitions.Audit`.
        on_change: called when somebody may do what it could not before, or the other way round.
    """

    def __init__(
        self,
        db: Database,
        clock: Callable[[], float],
        *,
        running: Callable[[], Iterable[tuple[Job, float]]] = list,
        read_joules: Callable[[], float | None] | None = None,
        audit: Audit | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._running = running
        self._read_joules = read_joules
        self._audit = audit
        self._on_change = on_change
        self._rows: dict[str, Limits] = {}
        self._accounts: dict[str, Account] = {}
        self._tabs: dict[tuple[str, str], Tab] = {}
        self._day_ends_at = quotas.day_ends_at(clock())
        self._charged_s: dict[tuple[int, int], float] = {}  # of attempts, by job and fence
        self._jobs_s: defaultdict[int, float] = defaultdict(float)  # since the last settling
        self._settled_at = clock()
        self._unwritten: dict[UsageKey, Counts] = {}
        self._unwritten_joules: defaultdict[int, float] = defaultdict(float)
        self._settling = asyncio.Lock()
        self._ending = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read limits and what was used today, then write down what is used until `stop`."""
        today = quotas.day_of(self._clock())
        self._rows = await self._db.read(usage_store.read_limits)
        used = await self._db.read(lambda connection: usage_store.used_in(connection, today))
        for owner, (num_tokens, compute_s) in used.items():
            account = self._account(owner)
            account.tokens += num_tokens
            account.compute_s += compute_s
        self._apply_limits()
        self._loop = asyncio.create_task(self._run(), name="accounts")

    async def stop(self) -> None:
        """Write down what was used to the end."""
        self._ending.set()
        if self._loop is not None:
            await self._loop

    # -- requests --------------------------------------------------------------------------------

    def begin(self, owner: str) -> Account:
        """Let an owner's request to a model begin; give what this returns to `end`.

        Raises:
            RateLimitError: too many come, or are under way.
            QuotaExceededError: the day's tokens or compute seconds are used up.
        """
        account, now = self._account(owner), self._clock()
        if now >= self._day_ends_at:
            self._turn_day(now)
        limits = account.limits
        if limits is not UNLIMITED:
            self._admit(owner, quotas.check(limits, account.used(), now))
            if limits.requests_per_s is not None:
                account.bucket = account.bucket.take(limits.requests_per_s, now)
        account.num_live += 1
        return account

    def end(self, account: Account) -> None:
        """Note that a request has ended."""
        account.num_live -= 1

    def standings(self, owner: str) -> tuple[Verdict | None, Verdict | None]:
        """Return how an owner stands with its rate of requests and its tokens of the day; None
        where there is no limit."""
        account, now = self._account(owner), self._clock()
        return (
            quotas.requests(account.limits, account.bucket, now),
            quotas.tokens(account.limits, account.tokens, now),
        )

    def tab(self, owner: str, model: str) -> Tab:
        """Return an owner's tab at a model (``name:number``), or for `JOBS`."""
        key = (owner, model.partition(":")[0])
        if (tab := self._tabs.get(key)) is None:
            tab = self._tabs[key] = Tab(self._account(owner), key[1], self._clock)
        return tab

    # -- jobs ------------------------------------------------------------------------------------

    def charge_running(self) -> None:
        """Charge the owners of running jobs for what those computed since the last time."""
        for job, seconds in self._running():
            self._charge(job, seconds)

    def worker_ended(self, job: Job, seconds: float) -> None:
        """Charge what an attempt that ran so many seconds in all was not charged for."""
        self._charge(job, seconds)
        self._charged_s.pop((job.id, job.fence), None)

    async def job_ended(self, job: Job) -> None:
        """Count a job that has ended."""
        counts = self.tab(job.owner, JOBS).counts
        counts.jobs += 1
        counts.failed += job.state is JobState.FAILED

    def may_compute(self, owner: str) -> bool:
        """Whether jobs of an owner may start, or go on: it has compute seconds of today left."""
        account = self._account(owner)
        verdict = quotas.compute(account.limits, account.compute_s, self._clock())
        return verdict is None or verdict.is_granted

    def next_spent_s(self) -> float:
        """Return in how many seconds the jobs that run now may have used up their owner's compute
        seconds; infinity: they will not."""
        next_s = math.inf
        for owner, num_running in Counter(job.owner for job, _ in self._running()).items():
            account = self._account(owner)
            verdict = quotas.compute(account.limits, account.compute_s, self._clock())
            if verdict is not None and verdict.is_granted:
                next_s = min(next_s, verdict.remaining / num_running)
        return next_s

    def check_submission(self, connection: Connection, owner: str) -> None:
        """Refuse one more job of an owner whose queue is full.

        Raises:
            QuotaExceededError: it is.
        """
        if (most := self.limits_of(owner).queue_depth) is not None:
            depth = usage_store.queue_depth(connection, owner, most)
            self._admit(owner, quotas.at_once("queue_depth", most, depth))

    # -- limits ----------------------------------------------------------------------------------

    def limits_of(self, owner: str) -> Limits:
        """Return an owner's limits: its own, or everybody's."""
        row = self.row_of(owner)
        return UNLIMITED if row is None else self._rows[row]

    def row_of(self, owner: str) -> str | None:
        """Return for whom an owner's limits were set: for itself, or for all (``*``); None: nobody
        limits it. Those of all do not hold for llmos and its admin."""
        if owner in self._rows:
            return owner
        is_free = not owner or owner in OPERATORS
        return EVERYONE if EVERYONE in self._rows and not is_free else None

    def limits(self) -> dict[str, Limits]:
        """Return the limits that were set, by owner, those of ``*`` for all others."""
        return dict(sorted(self._rows.items()))

    async def set_limits(self, owner: str, limits: Limits, actor: str) -> None:
        """Let an owner, or all without limits of their own (``*``), have these from now on."""

        def change(connection: Connection) -> None:
            now = self._clock()
            usage_store.write_limits(connection, owner, limits, now)
            self._audited(connection, actor, "quota.set", owner, dataclasses.asdict(limits), now)

        await self._db.write(change)
        self._rows[owner] = limits
        self._apply_limits()

    async def remove_limits(self, owner: str, actor: str) -> None:
        """Let an owner have everybody's limits again.

        Raises:
            NotFoundError: it has none of its own.
        """

        def change(connection: Connection) -> None:
            if not usage_store.remove_limits(connection, owner):
                raise NotFoundError(f"{owner} has no quota: `llmos quotas` shows those there are.")
            self._audited(connection, actor, "quota.remove", owner, {}, self._clock())

        await self._db.write(change)
        self._rows.pop(owner, None)
        self._apply_limits()

    async def used_by(self, owner: str) -> dict[str, float]:
        """Return what an owner uses of each kind of limit now, or used today."""

        def stored(connection: Connection) -> tuple[int, int]:
            depth = usage_store.queue_depth(connection, owner)
            return usage_store.stored_bytes(connection, owner), depth

        self.charge_running()
        account = self._account(owner)
        stored_bytes, queue_depth = await self._db.read(stored)
        return {
            "concurrency": account.num_live,
            "tokens_per_day": account.tokens,
            "compute_s_per_day": account.compute_s,
            "stored_bytes": stored_bytes,
            "queue_depth": queue_depth,
        }

    # -- what was used ---------------------------------------------------------------------------

    async def usage(self, first_day: str, last_day: str, **told: Any) -> list[dict[str, Any]]:
        """Return what was used, up to this moment: see `usage_store.read_usage`."""
        await self.settle()
        return await self._db.read(
            lambda connection: usage_store.read_usage(connection, first_day, last_day, **told)
        )

    async def settle(self) -> None:
        """Give out the energy taken since the last time, and write down what was used."""
        async with self._settling:
            self.charge_running()
            joules = None
            if self._read_joules is not None:
                joules = await asyncio.to_thread(self._read_joules)
            now = self._clock()
            if now >= self._day_ends_at:
                self._turn_day(now, joules)
            else:
                self._collect(now, joules)
            await self._write()

    # -- inside ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._ending.is_set():
            wait_s = min(SETTLE_S, max(self._day_ends_at - self._clock(), 0.0))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait_s)
            try:
                await self.settle()
            except Exception:  # the accounts' top loop: what could not be written waits
                log.exception("what was used could not be written down yet")

    def _account(self, owner: str) -> Account:
        if (account := self._accounts.get(owner)) is None:
            account = self._accounts[owner] = Account(owner)
            account.limit(self.limits_of(owner))
        return account

    def _admit(self, owner: str, verdict: Verdict | None) -> None:
        if verdict is not None and not verdict.is_granted:
            raise quotas.refusal(owner, verdict)

    def _apply_limits(self) -> None:
        for account in self._accounts.values():
            account.limit(self.limits_of(account.owner))
        self._on_change()

    def _audited(
        self,
        connection: Connection,
        actor: str,
        action: str,
        owner: str,
        detail: dict[str, Any],
        now: float,
    ) -> None:
        if self._audit is not None:
            self._audit(connection, actor, action, f"quota:{owner}", detail, now)

    def _charge(self, job: Job, seconds: float) -> None:
        key = (job.id, job.fence)
        more_s = max(seconds - self._charged_s.get(key, 0.0), 0.0)
        self._charged_s[key] = seconds
        self._jobs_s[job.id] += more_s
        self.tab(job.owner, JOBS).computed(more_s)

    def _turn_day(self, now: float, joules: float | None = None) -> None:
        """Begin a new day: what was used goes to the old one, and everybody starts at nothing."""
        self.charge_running()
        self._collect(now, joules)
        self._day_ends_at = quotas.day_ends_at(now)
        for account in self._accounts.values():
            account.tokens, account.compute_s = 0, 0.0
        self._on_change()

    def _collect(self, now: float, joules: float | None) -> None:
        """Move what the tabs have to what is to be written, with its energy."""
        day = quotas.day_of(self._day_ends_at - 1)
        taken = {key: tab.take() for key, tab in self._tabs.items() if tab.counts != _NOTHING}
        if joules is not None:
            total_s = sum(counts.compute_s for counts in taken.values())
            per_s = energy.rate(joules, total_s, now - self._settled_at)
            for counts in taken.values():
                counts.joules = counts.compute_s * per_s
            for job_id, seconds in self._jobs_s.items():
                self._unwritten_joules[job_id] += seconds * per_s
            self._settled_at = now
        self._jobs_s.clear()
        for (owner, model), counts in taken.items():
            self._unwritten.setdefault(UsageKey(day, owner, model), Counts()).add(counts)

    async def _write(self) -> None:
        used, self._unwritten = self._unwritten, {}
        joules, self._unwritten_joules = self._unwritten_joules, defaultdict(float)
        if not used and not joules:
            return

        def change(connection: Connection) -> None:
            usage_store.add_usage(connection, used)
            usage_store.add_joules(connection, joules)

        try:
            await self._db.write(change)
        except Exception:
            for key, counts in used.items():
                self._unwritten.setdefault(key, Counts()).add(counts)
            for job_id, more in joules.items():
                self._unwritten_joules[job_id] += more
            raise
