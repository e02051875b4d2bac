"""Which model answers a request that names none: ``auto``, a task, or a configured route.

A task's request goes to one of the models made for it that its key may use and that are an
operator's or its owner's own; `kernel.router` says to which, by what evaluation and serving
measured. A route's goes to one of the route's by their weights. What became of it is noted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmos.engines.base import is_cpu
from llmos.errors import (
    DeadlineExceededError,
    InvalidModelError,
    InvalidRequestError,
    LlmosError,
    ModelNotFoundError,
    UnsupportedTaskError,
)
from llmos.kernel.outcomes import Outcomes
from llmos.kernel.router import assess, route, split
from llmos.kernel.telemetry import Telemetry
from llmos.library.deployed import PRODUCTION
from llmos.library.refs import is_name
from llmos.library.routes import Route, Routes, Target
from llmos.security.actors import OPERATORS, SYSTEM, Actor
from llmos.storage.database import Database
from llmos.tasks.candidates import Candidate, Candidates, Catalog
from llmos.tasks.context import TaskContext
from llmos.tasks.paces import CPU, GPU, Paces
from llmos.tasks.plan import Plan
from llmos.tasks.shortlist import TASK_NAMES, alike, allowed, steady, suited, without_doubles
from llmos.tasks.suitability import Need, unsuited
from llmos.tasks.survey import Found, Survey, asked_of

AUTO = "auto"
RESERVED = frozenset({AUTO, *TASK_NAMES})
"""Names that no route may have."""
MAX_ATTEMPTS = 3
"""Models that are tried for a request of a task; a route's fallbacks are all tried."""


class Trials(Protocol):
    """Names whose requests are split for a while to try a version; deployments' candidates."""

    def has_any(self) -> bool: ...

    def route(self, name: str) -> Route | None: ...

    def observe(self, name: str, model: str, good: bool, seconds: float | None) -> None: ...


class Choosing:
    """Chooses models for requests. Belongs to the event loop.

    Args:
        trials: asked for names that are no route's, and told what came of them.
        rng: the exploration's, and the weights'.
    """

    def __init__(
        self,
        candidates: Candidates,
        routes: Routes,
        outcomes: Outcomes,
        survey: Survey,
        *,
        rng: random.Random,
        trials: Trials | None = None,
    ) -> None:
        self.routes = routes
        self.outcomes = outcomes
        self._candidates = candidates
        self._survey = survey
        self._rng = rng
        self._trials = trials

    def may_choose(self, name: str) -> bool:
        """Whether ``name`` may be anything but one model's: a look into a few dicts. While a
        version is tried, any plain name may be that of a task whose default it is."""
        if name in RESERVED or name in self.routes or self._trial(name) is not None:
            return True
        return self._trials is not None and self._trials.has_any() and is_name(name)

    def _trial(self, name: str) -> Route | None:
        return None if self._trials is None else self._trials.route(name)

    async def start(self) -> None:
        """Remember how earlier requests went."""
        await self.outcomes.start()

    async def stop(self) -> None:
        """Write down how the last ones went."""
        await self.outcomes.stop()

    async def choose(
        self, actor: Actor, name: str, kinds: Collection[str], need: Need
    ) -> Plan | None:
        """Return what to try for a request; None: ``name`` is a model's, or of a task that
        somebody gave one.

        Args:
            kinds: tasks whose models can serve the request.

        Raises:
            ModelNotFoundError: there is no model for this task.
            UnsupportedTaskError: the task is not what was asked at this address.
            PermissionDeniedError: the key is for none of the models.
            NoModelFitsError, OutOfMemoryError: constraints, or memory, exclude them all.
            InvalidRequestError: none can take the request, or they would answer different things.
        """
        if (plan := await self._tried(actor, name, name, kinds, need)) is not None:
            return plan
        catalog = await self._candidates.catalog()
        if name in catalog.names:
            return None
        if (its_route := self.routes.find(name, actor)) is not None:
            return await self._by_weights(actor, its_route, kinds, need)
        default = catalog.defaults.get(name)
        if default is not None and (default.is_chosen or name not in RESERVED):
            return await self._tried(actor, name, default.model, kinds, need)
        if name not in RESERVED:
            return None  # other users' route
        wanted = frozenset(kinds) & TASK_NAMES.get(name, frozenset(kinds))
        if not wanted:
            raise UnsupportedTaskError(
                f"{name!r} is not what is asked for here, which is {' or '.join(sorted(kinds))}: "
                f"ask for that, for {AUTO!r}, or for a model by its name.",
                param="model",
            )
        return await self._by_measure(actor, name, wanted, need, catalog)

    async def explain(
        self, actor: Actor, name: str, kinds: Collection[str], need: Need
    ) -> dict[str, Any]:
        """Return, as plain JSON, which model would answer and why, without asking it.

        Raises:
            LlmosError: as `choose`, or ``name`` is no model either.
        """
        plan = await self.choose(actor, name, kinds, need)
        if plan is None:
            one = await self._candidates.target(name)
            one = one.made_for(kinds) or one
            need = self._survey.expected(need, [one])
            found = self._survey.look(allowed(actor, [one]), need, actor)
            verdicts = tuple(assess(asked_of(need), replica) for replica in found.replicas)
            plan = found.plan(name, "named", [one.ref], verdicts)
        return plan.explained()

    async def judge(
        self,
        actor: Actor,
        ref: str,
        task: str | None,
        language: str,
        good: bool,
        answer: str | None = None,
    ) -> dict[str, Any]:
        """Note a person's verdict on an answer of the model ``ref``; return what it is for.

        Args:
            answer: its id, where it has one: what is said of it again counts instead of what was.

        Raises:
            ModelNotFoundError: there is no such model.
            InvalidRequestError: it is for another task.
            PermissionDeniedError: the actor may not use it.
        """
        one = await self._candidates.target(ref)
        allowed(actor, [one])
        kinds = {one.task} if task is None else TASK_NAMES.get(task, frozenset({task}))
        if (made := one.made_for(kinds)) is None:
            raise InvalidRequestError(f"{one.ref} is for {one.task!r}, not {task!r}.", param="task")
        one = made
        await self.outcomes.judge(actor, one.ref, one.task, language, good, answer)
        return {"model": one.ref, "task": one.task, "language": language, "good": good}

    def ended(
        self, plan: Plan, attempt: int, need: Need, error: LlmosError | None, seconds: float
    ) -> None:
        """Note how a try ended after so many seconds; what is neither an answer nor the model's
        fault is not counted."""
        one = plan.order[attempt]
        if error is None or plan.is_to_blame(attempt, error, seconds):
            # clients can make up languages: only those that the model names are told apart
            language = need.language if need.pair is not None and one.knows(need.pair) else ""
            # whose deadline it is, or whose route, speaks for themselves alone
            is_theirs = plan.is_own_route or isinstance(error, DeadlineExceededError)
            owner = plan.owner if is_theirs else SYSTEM.owner
            self.outcomes.note(one.ref, one.task, language, error is None, owner)
            if self._trials is not None and (tried := plan.trials.get(one.ref)) is not None:
                timed = seconds if one.ref in plan.warm else None
                self._trials.observe(tried, one.ref, error is None, timed)
        if error is None and one.ref in plan.warm and one.spec.engine == "pipelines":
            self._survey.paces.took(one, need.prompt_tokens, need.output_tokens, seconds)

    # -- tasks -----------------------------------------------------------------------------------

    async def _by_measure(
        self, actor: Actor, name: str, tasks: frozenset[str], need: Need, catalog: Catalog
    ) -> Plan:
        made_for = [made for one in catalog.candidates if (made := one.made_for(tasks))]
        open_to = [one for one in made_for if _is_open(one, actor)]
        if not open_to:
            raise ModelNotFoundError(
                f"there is no model for {' or '.join(sorted(tasks))} here: `llmos catalog` shows "
                "some to pull, `llmos list` those there are",
                param="model",
            )
        fitting = suited(without_doubles(allowed(actor, open_to)), need)
        fitting = alike(fitting, catalog, tasks)
        if tasks == {"embed"}:
            fitting = [steady(fitting, catalog)]
        need = self._survey.expected(need, fitting)
        found = self._survey.look(fitting, need, actor)
        choice = route(asked_of(need), found.replicas, self._rng)
        order = choice.ranked()[:MAX_ATTEMPTS]
        plan = found.plan(
            name, "fixed" if len(fitting) == 1 else "measured", order, choice.verdicts
        )
        return plan if tasks == {"embed"} else await self._with_trials(plan, need, actor)

    # -- versions that are tried -----------------------------------------------------------------

    async def _tried(
        self, actor: Actor, name: str, ref: str, kinds: Collection[str], need: Need
    ) -> Plan | None:
        """Return what to try for a name that means ``ref``; None: no version is tried as that."""
        if self._trial(ref) is None:
            return None
        its_route = Route(name, (Target(ref),), (), SYSTEM.owner, 0.0)
        return await self._by_weights(actor, its_route, kinds, need)

    async def _with_trials(self, plan: Plan, need: Need, actor: Actor) -> Plan:
        """Return a plan with versions that are tried in the place of those in production, as often
        as their weights say. What one of the two alone could answer compares nothing."""
        for at, one in enumerate(plan.order):
            name = f"{one.names[0]}@{PRODUCTION}"
            trial = self._trial(name)
            versions = [] if trial is None else [target.model for target in trial.targets]
            if trial is None or one.ref not in versions:
                continue
            (other,) = (ref for ref in versions if ref != one.ref)
            if (found := await self._instead(one, other, need, actor)) is None:
                continue
            plan = replace(plan, trials={**plan.trials, one.ref: name})
            if self._drawn(trial) == other:
                plan = found.put_into(plan, at, name, asked_of(need))
        return plan

    async def _instead(self, one: Candidate, ref: str, need: Need, actor: Actor) -> Found | None:
        """Return the version ``ref`` if it can take a request in the place of another."""
        try:
            other = (await self._candidates.target(ref)).made_for({one.task})
        except LlmosError:
            return None
        if other is None or other.labels != one.labels or not _is_open(other, actor):
            return None
        if unsuited(other, need) is not None:
            return None
        found = self._survey.look([other], need, actor)
        return found if assess(asked_of(need), found.replicas[0]).excluded is None else None

    def _drawn(self, trial: Route) -> str:
        """Return one of the versions that a name means, by its weight."""
        weights = [target.weight for target in trial.targets]
        return self._rng.choices([target.model for target in trial.targets], weights)[0]

    # -- routes ----------------------------------------------------------------------------------

    async def _by_weights(
        self, actor: Actor, its_route: Route, kinds: Collection[str], need: Need
    ) -> Plan:
        behind = await self._behind(its_route)
        there = allowed(actor, behind.there.values())
        usable = [made for one in there if (made := one.made_for(kinds))]
        if wrong := [one for one in there if not one.made_for(kinds)]:
            raise UnsupportedTaskError(
                f"{its_route.name!r} is for {wrong[0].task!r}, not for "
                f"{' or '.join(sorted(kinds))}.",
                param="model",
            )
        able = suited(usable, need)
        need = self._survey.expected(need, able)
        found = self._survey.look(able, need, actor, behind.shares)
        asked = asked_of(need)
        verdicts = {one.key: assess(asked, one) for one in found.replicas}
        fitting = [key for key, verdict in verdicts.items() if verdict.excluded is None]
        targets = [one for one in found.replicas if one.key in behind.shares]
        order = [key for key in behind.spares if key in fitting]
        if not order or any(one.key in fitting for one in targets):
            choice = split(asked, targets or found.replicas, self._rng)
            verdicts |= {verdict.key: verdict for verdict in choice.verdicts}
            order = [choice.replica.key, *(key for key in order if key != choice.replica.key)]
        plan = found.plan(its_route.name, "weights", order, tuple(verdicts.values()))
        is_own = its_route.owner not in OPERATORS
        return replace(plan, is_own_route=is_own, trials=behind.trials(fitting))

    async def _behind(self, its_route: Route) -> _Behind:
        """Return what a route leads to; the name of a deployment to the versions that it means.

        Raises:
            ModelNotFoundError, InvalidModelError, UnsupportedTaskError: nothing that is there.
        """
        behind = _Behind()
        missing: LlmosError | None = None
        for ref, weight, tried in self._refs_behind(its_route):
            try:
                one = await self._candidates.target(ref)
            except (ModelNotFoundError, InvalidModelError, UnsupportedTaskError) as error:
                missing = missing or error
                continue
            behind.add(one, weight, tried)
        if not behind.there and missing is not None:
            raise missing
        return behind

    def _refs_behind(self, its_route: Route) -> Iterator[tuple[str, float | None, str | None]]:
        """Yield the references of a route, their weights (a fallback has none), and the name of the
        deployment that each stands for."""
        for target in its_route.targets:
            if (trial := self._trial(target.model)) is None:
                yield target.model, target.weight, None
                continue
            for part in trial.targets:
                yield part.model, target.weight * part.weight, target.model
        for ref in its_route.fallbacks:
            if (trial := self._trial(ref)) is None:
                yield ref, None, None
            else:
                yield self._drawn(trial), None, ref


@dataclass(frozen=True, slots=True)
class _Behind:
    """The models of a route that are there, the targets' shares, and the fallbacks' refs."""

    there: dict[str, Candidate] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    spares: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    """Targets that the route itself names."""
    tried: dict[str, str] = field(default_factory=dict)
    """Names of deployments, by the versions that these led to."""

    def add(self, one: Candidate, weight: float | None, tried: str | None) -> None:
        """Take in a model that is there."""
        self.there.setdefault(one.ref, one)
        if weight is None:
            self.spares.append(one.ref)
        else:
            self.shares[one.ref] = self.shares.get(one.ref, 0.0) + weight
        if tried is not None:
            self.tried.setdefault(one.ref, tried)
        elif weight is not None:
            self.named.add(one.ref)

    def trials(self, fitting: Collection[str]) -> dict[str, str]:
        """Return the names of deployments, by the versions that they led to; without those of which
        one version was more likely to be asked this than its weight says."""
        unfair = {
            name for ref, name in self.tried.items() if ref in self.named or ref not in fitting
        }
        return {ref: name for ref, name in self.tried.items() if name not in unfair}


def open_choosing(
    db: Database,
    tasks: TaskContext,
    telemetry: Telemetry,
    clock: Callable[[], float],
    rng: random.Random,
    trials: Trials | None = None,
) -> Choosing:
    """Return the choosing of one home, its routes read. ``clock`` tells Unix seconds."""
    routes = Routes(db, tasks.library, clock, RESERVED)
    routes.load()
    outcomes = Outcomes(db, clock)
    paces = Paces(telemetry, CPU if is_cpu(tasks.settings.device) else GPU)
    survey = Survey(outcomes, paces, tasks.residency, tasks.capacity_bytes)
    return Choosing(Candidates(db, tasks), routes, outcomes, survey, rng=rng, trials=trials)


def _is_open(one: Candidate, actor: Actor) -> bool:
    """Whether an actor's requests may go to a model that they do not name."""
    return one.owner in OPERATORS or one.owner == actor.owner
