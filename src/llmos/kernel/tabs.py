"""Counters of what owners use, made for the token path: taking note is an addition or two.

They only count. What is allowed is `quotas`' business, what is kept `accounts`'.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from llmos.errors import LlmosError
from llmos.kernel import quotas
from llmos.kernel.quotas import UNLIMITED, Bucket, Limits, Used
from llmos.types import GenerateWork, PipelineOut, Work


@dataclass(slots=True)
class Counts:
    """What was used: of one model by one owner in one day, or since the last look.

    Attributes:
        requests: answers asked of a model, failed ones included.
        cached_tokens: of the prompt tokens, those found in the prefix cache.
        jobs: jobs that ended.
        joules: None: the machine does not tell.
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    jobs: int = 0
    compute_s: float = 0.0
    joules: float | None = None

    def add(self, more: Counts) -> None:
        """Add what was used besides."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        if more.joules is not None:
            self.joules = (self.joules or 0.0) + more.joules


_SUMMED = [one.name for one in dataclasses.fields(Counts) if one.name != "joules"]


@dataclass(slots=True, eq=False)
class Account:
    """One owner: its limits, what it has under way and what it used in this UTC day."""

    owner: str
    limits: Limits = UNLIMITED
    bucket: Bucket = field(default_factory=Bucket)
    num_live: int = 0
    tokens: int = 0
    """Those of prompts that are still to be read included."""
    compute_s: float = 0.0
    most_tokens: float = math.inf
    """Of a day: the limit as the token path wants it."""

    def used(self) -> Used:
        """Return what the rules want to know."""
        return Used(self.bucket, self.num_live, self.tokens, self.compute_s)

    def limit(self, limits: Limits) -> None:
        """Let other limits hold from now on."""
        self.limits = limits
        most = limits.tokens_per_day
        self.most_tokens = math.inf if most is None else most


@dataclass(slots=True, eq=False)
class Tab:
    """What one owner used of one model since the last look; of jobs, where ``model`` is empty.

    Args:
        clock: Unix seconds.
    """

    account: Account
    model: str
    clock: Callable[[], float]
    counts: Counts = field(default_factory=Counts)

    def reserve(self, num_prompt: int) -> None:
        """Charge a prompt that is about to be read.

        Raises:
            QuotaExceededError: the day's tokens or compute seconds do not allow it.
        """
        account = self.account
        if account.limits is not UNLIMITED:
            now = self.clock()
            verdicts = (
                quotas.tokens(account.limits, account.tokens, now, num_prompt + 1),
                quotas.compute(account.limits, account.compute_s, now),
            )
            for verdict in verdicts:
                if verdict is not None and not verdict.is_granted:
                    raise quotas.refusal(account.owner, verdict)
        account.tokens += num_prompt

    def give_back(self, num_prompt: int) -> None:
        """Take back the charge for a prompt that was not read after all."""
        self.account.tokens = max(self.account.tokens - num_prompt, 0)

    def read(self, num_prompt: int, num_cached: int = 0) -> None:
        """Count a prompt that was charged before."""
        self.counts.prompt_tokens += num_prompt
        self.counts.cached_tokens += num_cached

    def wrote(self, num_tokens: int) -> None:
        """Charge and count tokens of an answer."""
        self.counts.completion_tokens += num_tokens
        self.account.tokens += num_tokens

    def computed(self, seconds: float) -> None:
        """Charge and count compute."""
        self.counts.compute_s += seconds
        self.account.compute_s += seconds

    def take(self) -> Counts:
        """Return what was counted since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    @property
    def is_spent(self) -> bool:
        """Whether the owner has had its tokens of this day."""
        return self.account.tokens >= self.account.most_tokens

    def refusal(self) -> LlmosError | None:
        """Return what to tell whoever goes on when they are; None while they are not."""
        account = self.account
        verdict = quotas.tokens(account.limits, account.tokens, self.clock())
        if verdict is None or verdict.is_granted:
            return None
        return quotas.refusal(account.owner, verdict)


class WorkTab:
    """The tab of one work: its prompt is charged at once, and given back if it is never read.

    Args:
        is_first: of its request; the prompt that later works share with it is not charged again.

    Raises:
        QuotaExceededError: see `Tab.reserve`.
    """

    __slots__ = ("_num_cached", "_num_prompt", "_was_read", "tab")

    def __init__(self, tab: Tab, work: Work, *, is_first: bool) -> None:
        self.tab = tab
        self._num_cached = 0
        self._was_read = False
        if isinstance(work, GenerateWork):
            self._num_prompt = len(work.prompt_ids) if is_first else 0
        else:
            self._num_prompt = len(work.input_ids)
        tab.reserve(self._num_prompt)

    def found(self, num_cached: int) -> None:
        """Note how many of the prompt's tokens the prefix cache had."""
        self._num_cached = min(num_cached, self._num_prompt)

    def wrote(self, num_tokens: int) -> None:
        """Count tokens of the answer; the first say that the prompt was read."""
        self.tab.wrote(num_tokens)
        if not self._was_read:
            self._read()

    def made(self, out: PipelineOut) -> None:
        """Count a forward task, which is done at once."""
        self._read()
        self.tab.wrote(len(out.token_ids))

    def end(self) -> None:
        """Give the prompt back, unless it was read."""
        if not self._was_read:
            self._was_read = True
            self.tab.give_back(self._num_prompt)

    def _read(self) -> None:
        self._was_read = True
        self.tab.read(self._num_prompt, self._num_cached)
