"""One simulated device: its ledger, the models it holds, and their steps taking turns.

What is in memory is for a `Keeper` to say; what is computed, for the batcher of each model. Models
that have work take a step each in turn, all together a round; the tokens of a round come at its
end. (The engine's host picks by urgency, step by step; rounds are what that comes to on average.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from llmos.engines.fairness import VirtualTimes
from llmos.engines.native.batcher import FILLING_SHARE, STREAMING_SHARE
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import LEAST_TURN_S, LOADS_PER_TURN, LONGEST_TURN_S
from llmos.kernel.scheduler import DRAIN_S
from llmos.simulate.clock import Events, picoseconds, seconds
from llmos.simulate.engine import BLOCK_TOKENS, ITL_TARGET_S, SimulatedEngine, Step
from llmos.simulate.hardware import Hardware, Hosted
from llmos.simulate.rounds import Round, rounds_until, take_turns
from llmos.simulate.scenario import has_targets
from llmos.simulate.sequences import Sequence
from llmos.types import Priority

AFTER_LOADS, AFTER_ROUNDS, AFTER_ALL = 1, 2, 3
"""Ranks of what happens at the same time; arrivals come before all of these."""
FULL_STEP_PS = picoseconds(STREAMING_SHARE * ITL_TARGET_S)
"""A step in which rows decode and prompts are computed takes about so long."""
LEAST_FREE_SHARE = 0.05
"""Of such a step, what is taken to be left for prompts however many rows decode."""
TYPICAL_CONTEXT = 1000
BUSY_TOKENS = 256
"""More tokens of prompts than this take several steps."""


class Outlook(NamedTuple):
    """What a new request may expect of a device."""

    queue_s: float
    """Work that is ahead of it."""
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


class Keeper(Protocol):
    """Says what a device loads and evicts."""

    def review(self, device: Device, now_ps: int) -> None:
        """Look at the device and do what is to be done: `Device.load`, `evict` and so on."""
        ...


class Device:
    """See the module.

    Args:
        number: its name, from 0.
        events: where its future is.
        on_end: called with each sequence that ended, and when (picoseconds).
        max_run: steps taken at once at most; 1 plans each.
    """

    def __init__(
        self,
        number: int,
        hardware: Hardware,
        events: Events,
        keeper: Keeper,
        on_end: Callable[[Device, Sequence, int], None],
        max_run: int,
    ) -> None:
        self.number = number
        self.hardware = hardware
        self.ledger = Ledger(hardware.memory_bytes)
        self.models: dict[str, Hosted] = {}
        self._past: dict[str, tuple[float, float]] = {}
        """Demand, and last use, of models that are not known any more."""
        self.num_open = 0
        """Requests that came and have not ended."""
        self.num_urgent = 0
        """Of these, the ones that have targets for their tokens."""
        self.num_loads = self.num_evictions = self.num_rounds = self.num_plans = 0
        self.num_preempted = 0
        self._events = events
        self._keeper = keeper
        self._on_end = on_end
        self._max_run = max_run
        self._busy_ps = 0
        self._round: Round | None = None
        self._round_number = 0
        self._tenants: dict[int, Counter[str]] = {}
        self._virtual = VirtualTimes()
        self._seen: Mapping[str, float] = {}
        self._has_changed = self._have_tenants_changed = True

    # -- what a policy asks ----------------------------------------------------------------------

    def busy_ps(self, now_ps: int) -> int:
        """Return how long it has computed so far."""
        return self._busy_ps + (now_ps - self._round.begun_ps if self._round else 0)

    def outlook(self, priority: Priority) -> Outlook:
        """Return what a new request of a class may expect. Only its class and better ones count:
        their prompts come before its own, and get the time that their rows which decode leave."""
        times, worst = self.hardware.times, max(int(priority), int(Priority.STANDARD))
        decode_ps = pending = 0
        for hosted in self.models.values():
            engine = hosted.engine
            if engine is not None and (num_rows := sum(engine.num_rows[: worst + 1])):
                decode_ps += times.step_ps + num_rows * times.decode(TYPICAL_CONTEXT)
                pending += sum(engine.pending_tokens[: worst + 1])
            for one in hosted.queue:
                pending += one.num_tokens if one.priority <= worst else 0
        free_share = max(LEAST_FREE_SHARE, 1.0 - decode_ps / FULL_STEP_PS)
        token_s = seconds(decode_ps + times.step_ps)
        if pending > BUSY_TOKENS:  # prompts are computed between the tokens
            token_s = max(token_s, seconds(FULL_STEP_PS))
        prefill_s = seconds(times.prefill_ps) / free_share
        return Outlook(pending * prefill_s, 1.0 / prefill_s, 1.0 / token_s)

    def open_of(self, key: str) -> int:
        """Return how many requests for a model are here."""
        hosted = self.models.get(key)
        return hosted.num_users + len(hosted.queue) if hosted else 0

    def urgent_elsewhere(self, key: str) -> int:
        """Return how many requests that have targets are here for other models."""
        hosted = self.models.get(key)
        return self.num_urgent - (hosted.num_urgent if hosted else 0)

    def can_make_room(self) -> bool:
        """Whether one more model could be loaded at once, if need be in place of an idle one."""
        if self.ledger.free_bytes >= self.hardware.model_bytes:
            return True
        return any(one.state == "ready" and not one.num_users for one in self.models.values())

    def is_resident(self, key: str) -> bool:
        """Whether a model is in memory, or on its way."""
        hosted = self.models.get(key)
        return hosted is not None and hosted.state != "absent"

    def wait_s(self, key: str) -> float:
        """Return about how long a model takes until it gives leases."""
        hosted = self.models.get(key)
        if hosted is None or hosted.state != "ready":
            return self.hardware.load_s
        return 0.0 if hosted.draining_since is None else DRAIN_S + self.hardware.load_s

    def holds(self, key: str) -> bool:
        """Whether a model is in memory, or wanted there."""
        return key in self.models

    def resident(self) -> list[str]:
        """Return the models that are in memory, or on their way."""
        return [key for key, hosted in self.models.items() if hosted.state != "absent"]

    # -- requests --------------------------------------------------------------------------------

    def submit(self, key: str, sequence: Sequence, now_ps: int) -> None:
        """Take a request for a model, which is loaded for it if need be."""
        is_urgent = has_targets(sequence.request.priority)
        self.num_open += 1
        self.num_urgent += is_urgent
        hosted = self._known(key)
        hosted.num_urgent += is_urgent
        hosted.use(seconds(now_ps), 1)
        if hosted.gives_leases:
            self._enter(hosted, sequence)
            self._go_on(now_ps)
            return
        if not hosted.queue:
            hosted.wanted_since = seconds(now_ps)
        hosted.queue.append(sequence)
        if hosted.state != "loading":
            self._keeper.review(self, now_ps)

    def _known(self, key: str) -> Hosted:
        """Return a model; one that comes back is as much in demand as it would be had it stayed, as
        `kernel.models.PastDemands` has it."""
        hosted = self.models.get(key)
        if hosted is None:
            hosted = self.models[key] = Hosted(key, self.hardware.model_bytes)
            hosted.demand, hosted.last_used_at = self._past.pop(key, (0.0, 0.0))
        return hosted

    def _enter(self, hosted: Hosted, sequence: Sequence) -> None:
        assert hosted.engine is not None, "only a model that is ready takes requests"
        hosted.held[sequence.request.priority] += 1
        hosted.engine.add(sequence)
        tenants = self._tenants.setdefault(sequence.priority, Counter())
        tenants[sequence.tenant] += 1
        self._has_changed = self._have_tenants_changed = True

    def _leave(self, hosted: Hosted, sequence: Sequence, now_ps: int) -> None:
        is_urgent = has_targets(sequence.request.priority)
        self.num_open -= 1
        self.num_urgent -= is_urgent
        hosted.num_urgent -= is_urgent
        hosted.held[sequence.request.priority] -= 1
        tenants = self._tenants[sequence.priority]
        tenants[sequence.tenant] -= 1
        if not tenants[sequence.tenant]:
            del tenants[sequence.tenant]
        self._has_changed = self._have_tenants_changed = True
        hosted.use(seconds(now_ps))

    # -- models ----------------------------------------------------------------------------------

    def load(self, key: str, now_ps: int) -> None:
        """Begin to load a model. Raises OutOfMemoryError: its bytes are not free."""
        hosted = self._known(key)
        self.ledger.reserve(key, hosted.num_bytes)
        hosted.state = "loading"
        self.num_loads += 1
        hosted.is_called = False
        ready_ps = now_ps + picoseconds(self.hardware.load_s)
        self._events.add(ready_ps, AFTER_LOADS, partial(self._loaded, hosted))

    def preload(self, key: str, num_bytes: int | None = None) -> None:
        """Have a model in memory before the simulation begins, with a cache of another size if so
        asked."""
        hosted = Hosted(key, num_bytes or self.hardware.model_bytes)
        self.models[key] = hosted
        self.ledger.reserve(key, hosted.num_bytes)
        self._be_ready(hosted)

    def _be_ready(self, hosted: Hosted) -> None:
        kv_bytes = hosted.num_bytes - self.hardware.weights_bytes
        num_blocks = kv_bytes // (self.hardware.kv_bytes_per_token * BLOCK_TOKENS)
        hosted.state = "ready"
        hosted.engine = SimulatedEngine(
            self.hardware.times, num_blocks, plans_all=self._max_run == 1
        )

    def _loaded(self, hosted: Hosted, now_ps: int) -> None:
        self._be_ready(hosted)
        self.begin_turn(hosted.key, now_ps)
        self._keeper.review(self, now_ps)

    def begin_turn(self, key: str, now_ps: int) -> None:
        """Let a model give leases, to those who wait for it first, and for a while, as
        `kernel.models.Model.begin_turn` has it."""
        hosted, now = self.models[key], seconds(now_ps)
        drained_s = 0.0 if hosted.draining_since is None else now - hosted.draining_since
        turn_s = min(max(LEAST_TURN_S, LOADS_PER_TURN * self.hardware.load_s), LONGEST_TURN_S)
        hosted.turn_ends_at = now + max(turn_s, drained_s)
        hosted.draining_since = None
        hosted.use(now)
        queue, hosted.queue = hosted.queue, []
        for sequence in queue:
            self._enter(hosted, sequence)
        self._go_on(now_ps)

    def call(self, key: str, now_ps: int) -> None:
        """Ask for a model to be in memory, for requests that are to come."""
        hosted = self._known(key)
        if hosted.state == "absent" and not hosted.queue:
            hosted.is_called, hosted.wanted_since = True, seconds(now_ps)
            self._keeper.review(self, now_ps)

    def call_off(self, key: str) -> None:
        """Take back a call that was not answered yet; no-op where there is none."""
        hosted = self.models.get(key)
        if hosted is not None and hosted.is_called and not hosted.queue:
            self._past[key] = (hosted.demand, hosted.last_used_at)
            del self.models[key]

    def drain(self, key: str, now_ps: int) -> None:
        """Let a model give no new leases."""
        self.models[key].draining_since = seconds(now_ps)

    def evict(self, key: str) -> None:
        """Take a model that nobody uses out of memory."""
        hosted = self.models[key]
        assert hosted.engine is not None and not hosted.num_users, "a busy model is not evicted"
        self.ledger.release(key)
        self._forget(hosted)
        self.num_evictions += 1
        if not hosted.queue and not hosted.is_called:
            self._past[key] = (hosted.demand, hosted.last_used_at)
            del self.models[key]

    def _forget(self, hosted: Hosted) -> None:
        assert hosted.engine is not None
        self.num_plans += hosted.engine.num_plans
        self.num_preempted += hosted.engine.num_preempted
        hosted.engine, hosted.state, hosted.draining_since = None, "absent", None

    def close(self, now_ps: int) -> None:
        """Add up what the engines counted, at the end of a simulation."""
        self._busy_ps, self._round = self.busy_ps(now_ps), None
        for hosted in self.models.values():
            if hosted.engine is not None:
                self._forget(hosted)

    # -- rounds ----------------------------------------------------------------------------------

    def _go_on(self, now_ps: int) -> None:
        """Begin a round, or end the run of rounds under way so that who came can take part."""
        if self._round is None:
            self._begin_round(now_ps)
        elif self._round.times > 1:
            times = rounds_until(self._round, now_ps)
            if times < self._round.times:
                self._round.times = times
                self._schedule(self._round)

    def _schedule(self, current: Round) -> None:
        self._round_number += 1
        end_ps = current.begun_ps + current.length_ps(current.times)
        self._events.add(end_ps, AFTER_ROUNDS, partial(self._end_round, self._round_number))

    def _begin_round(self, now_ps: int) -> None:
        working = [
            (hosted, hosted.engine)
            for hosted in self.models.values()
            if hosted.engine is not None and hosted.engine.has_work
        ]
        if not working:
            return
        if self._has_changed:
            self._settle()
        limit_s = math.inf
        if len(working) > 1 and any(engine.num_streams for _, engine in working):
            limit_s = FILLING_SHARE * ITL_TARGET_S
        taking, until_ps = take_turns(working, now_ps)
        steps: list[tuple[Hosted, Step]] = []
        first_ps, growth_ps, most_steps = 0, 0, self._max_run
        for hosted, engine in taking:
            step = engine.begin(self._seen, limit_s)
            steps.append((hosted, step))
            first_ps += step.first_ps
            growth_ps += step.growth_ps
            most_steps = min(most_steps, step.most_steps)
            self._has_changed |= not step.is_steady
        current = Round(now_ps, first_ps, growth_ps, most_steps, steps)
        if until_ps is not None:
            current.times = rounds_until(current, until_ps)
        self._round = current
        self._schedule(current)

    def _settle(self) -> None:
        """Take the tenants' virtual times anew: they are looked at when the batch changes, and not
        while the same rows decode, where only who waits for a place could gain by it."""
        if self._have_tenants_changed:
            self._virtual.activate({p: tenants for p, tenants in self._tenants.items() if tenants})
            self._have_tenants_changed = False
        self._seen = dict(self._virtual.view())
        self._has_changed = False

    def _end_round(self, number: int, now_ps: int) -> None:
        current = self._round
        if current is None or number != self._round_number:
            return  # it was cut short
        self._round = None
        self._busy_ps += now_ps - current.begun_ps
        self.num_rounds += 1
        first_ps = current.begun_ps + current.first_ps
        ended: list[tuple[Hosted, Sequence]] = []
        for hosted, step in current.steps:
            assert hosted.engine is not None, "a model with work is not evicted"
            done = hosted.engine.finish(step, current.times, first_ps, now_ps)
            self._virtual.charge(step.charged_ps, 1.0)
            if done:
                ended += ((hosted, sequence) for sequence in done)
        ended.sort(key=lambda one: one[1].request.number)
        for hosted, sequence in ended:
            self._leave(hosted, sequence, now_ps)
        if ended and any(one.is_wanted or one.queue for one in self.models.values()):
            self._keeper.review(self, now_ps)
        for _, sequence in ended:
            self._on_end(self, sequence, now_ps)
        if self._round is None:
            self._begin_round(now_ps)
