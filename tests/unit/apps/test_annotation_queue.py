"""The queue of a labelling task: nothing lost, nothing twice to the same annotator, never more at
an item than may be, whoever comes in whatever order and is late.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmos.apps.annotating import Annotation
from llmos.apps.annotation_queue import MAX_CHANGES
from llmos.apps.annotation_rows import (
    AnnotationNotFoundError,
    Item,
    NewTask,
    Said,
    Task,
    Turn,
)
from llmos.data.annotation.scheme import scheme_of
from llmos.errors import (
    ConflictError,
    InvalidRequestError,
    LlmosError,
    NotFoundError,
    PermissionDeniedError,
)
from llmos.security.actors import Actor
from llmos.security.audit import list_events, verify
from llmos.storage.memory import MemoryDatabase

ALICE, BOB, EVE = (Actor(f"k-{name}", name, "user") for name in ("alice", "bob", "eve"))
ADMIN = Actor("k0", "admin", "admin")
PEOPLE = {one.owner: one for one in (ALICE, BOB, EVE)}
SCHEME = scheme_of({"kind": "classification", "fields": ["text"], "labels": ["good", "坏"]})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Home:
    """A store, its clock, and a task that Alice runs."""

    def __init__(self) -> None:
        self.db = MemoryDatabase()
        self.clock = Clock()
        self.store = Annotation(self.db, self.clock)

    async def task(self, items: int = 3, **values: Any) -> Task:
        given: dict[str, Any] = {"annotators": ("bob", "eve"), "lease_s": 60.0, "order": "dataset"}
        new = NewTask("reviews", "news:1", SCHEME, **given | values)
        task = await self.store.create(ALICE, new)
        rows = [(Item(n, f"r{n}", {"text": f"第 {n} one"}), float(n)) for n in range(items)]
        await self.store.add_items(ALICE, task.id, rows)
        return await self.store.open(ALICE, task.id, {})


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.db.close()


async def place(home: Home, actor: Actor, task: Task) -> int | None:
    turn = await home.store.next(actor, task.id)
    return None if turn is None else turn.item.place


async def test_each_item_goes_to_one_until_all_are_labelled(home: Home) -> None:
    task = await home.task(items=2)
    assert await place(home, BOB, task) == 0
    assert await place(home, EVE, task) == 1
    await home.store.label(BOB, task.id, 0, Said("good"))
    assert await place(home, BOB, task) is None, "the other one is Eve's"
    await home.store.label(EVE, task.id, 1, Said("坏"))
    assert await place(home, EVE, task) is None
    assert (await home.store.own(BOB, task.id))["left"] == 0
    assert verify(home.db) == 4, "made, opened, labelled twice"


async def test_what_is_not_answered_is_given_again_and_in_time_to_another(home: Home) -> None:
    task = await home.task(items=1)
    turn = await home.store.next(BOB, task.id)
    assert isinstance(turn, Turn) and turn.leased_until == 1060.0
    home.clock.now += 30
    again = await home.store.next(BOB, task.id)
    assert again is not None and (again.item, again.leased_until) == (turn.item, 1090.0)
    assert await place(home, EVE, task) is None
    home.clock.now = 1090.0
    assert await place(home, EVE, task) == 0
    with pytest.raises(ConflictError, match="is others' now"):
        await home.store.label(BOB, task.id, 0, Said("good"))
    await home.store.label(EVE, task.id, 0, Said(skip=True))
    label = await home.store.label(BOB, task.id, 0, Said("good"))
    assert label["value"] == "good", "nobody else has it: being late does no harm"


async def test_a_label_is_changed_and_the_history_keeps_all(home: Home) -> None:
    task = await home.task(items=1)
    await home.store.next(BOB, task.id)
    for value in ("good", "坏"):
        await home.store.label(BOB, task.id, 0, Said(value))
        home.clock.now += 1
    newest, oldest = await home.store.history(BOB, task.id, 10**9, 10)
    assert (newest["value"], oldest["value"]) == ("坏", "good")
    assert (newest["annotator"], newest["actor"], newest["at"]) == ("bob", "k-bob", 1001.0)
    assert await home.store.history(EVE, task.id, 10**9, 10) == [], "another's is not told"
    assert len(await home.store.history(ALICE, task.id, 10**9, 10)) == 2
    detail = [event.detail for event in list_events(home.db) if event.action == "annotation.label"]
    assert len(detail) == 2 and "坏" not in json.dumps(detail, ensure_ascii=False)
    with pytest.raises(InvalidRequestError, match="that is all"):
        for _ in range(MAX_CHANGES):
            await home.store.label(BOB, task.id, 0, Said("good"))


async def test_what_one_skips_is_for_others_and_comes_not_back(home: Home) -> None:
    task = await home.task(items=1)
    assert await place(home, BOB, task) == 0
    await home.store.label(BOB, task.id, 0, Said(skip=True, flag="half a sentence"))
    assert await place(home, BOB, task) is None
    assert await place(home, EVE, task) == 0
    await home.store.label(EVE, task.id, 0, Said("good"))
    own = await home.store.own(BOB, task.id)
    assert (own["labelled"], own["skipped"], own["flagged"], own["left"]) == (0, 1, 1, 0)
    with pytest.raises(ConflictError):
        await home.store.label(BOB, task.id, 0, Said("good"))


async def test_only_what_was_given_can_be_labelled(home: Home) -> None:
    task = await home.task()
    for number in (0, 99):
        with pytest.raises(NotFoundError, match="were not given"):
            await home.store.label(BOB, task.id, number, Said("good"))
    await home.store.next(BOB, task.id)
    with pytest.raises(InvalidRequestError, match="none of the labels: good, 坏"):
        await home.store.label(BOB, task.id, 0, Said("bad"))


async def test_to_a_stranger_a_task_is_not_there(home: Home) -> None:
    task = await home.task(annotators=("bob",))
    store = home.store
    for ask in (
        store.get(EVE, task.id),
        store.next(EVE, task.id),
        store.label(EVE, task.id, 0, Said("good")),
        store.own(EVE, task.id),
        store.history(EVE, task.id, 1, 1),
        store.consent(EVE, task.id, True),
        store.change(EVE, task.id, closed=True),
        store.remove(EVE, task.id),
        store.decide(EVE, task.id, 0, "good"),
        store.agreement(EVE, task.id),
        store.get(ALICE, task.id + 1),
    ):
        with pytest.raises(AnnotationNotFoundError, match="There is no annotation task"):
            await ask
    assert await store.visible(EVE) == []
    for theirs in (
        store.change(BOB, task.id, closed=True),
        store.remove(BOB, task.id),
        store.decide(BOB, task.id, 0, "good"),
        store.agreement(BOB, task.id),
        store.add_items(BOB, task.id, []),
    ):
        with pytest.raises(PermissionDeniedError, match="another owner's"):
            await theirs
    with pytest.raises(PermissionDeniedError, match="none of the annotators"):
        await store.next(ALICE, task.id)
    assert [one.id for one in await store.visible(ADMIN)] == [task.id]
    await store.change(ALICE, task.id, annotators=["eve"])
    assert await place(home, EVE, task) == 0
    with pytest.raises(AnnotationNotFoundError):
        await store.next(BOB, task.id)


async def test_who_does_not_agree_labels_nothing_and_who_agrees_no_more_never_did(
    home: Home,
) -> None:
    task = await home.task(items=1, consent="Your labels are published.")
    with pytest.raises(ConflictError, match="asks for your consent"):
        await home.store.next(BOB, task.id)
    await home.store.consent(BOB, task.id, True)
    await home.store.next(BOB, task.id)
    await home.store.label(BOB, task.id, 0, Said("good"))
    await home.store.consent(EVE, task.id, True)
    assert await place(home, EVE, task) is None
    await home.store.consent(BOB, task.id, False)
    assert await place(home, EVE, task) == 0, "it is others' again"
    assert len(await home.store.history(ALICE, task.id, 10**9, 9)) == 1, "the history keeps it"
    from llmos.apps import annotation_reading as reading

    def labels(conn: Any, one: Task) -> Any:
        return [item["labels"] for item in reading.labelled(conn, one, -1, 10)]

    assert await home.store.ask(ALICE, task.id, labels) == [[]]
    await home.store.consent(BOB, task.id, True)
    assert await home.store.ask(ALICE, task.id, labels) == [[]], "what he said before that is gone"
    plain = await home.task()
    with pytest.raises(ConflictError, match="asks for no consent"):
        await home.store.consent(BOB, plain.id, True)


async def test_nothing_is_given_out_before_all_is_there_or_after_the_end(home: Home) -> None:
    task = await home.store.create(ALICE, NewTask("x", "news:1", SCHEME))
    with pytest.raises(ConflictError, match="has not all its items yet"):
        await home.store.next(ALICE, task.id)
    item = Item(0, "r0", {"text": "one"})
    for _ in range(2):  # a job that was killed sends some again
        await home.store.add_items(ALICE, task.id, [(item, 0.0)])
    await home.store.open(ALICE, task.id, {"no text": 2})
    with pytest.raises(ConflictError, match="has all its items"):
        await home.store.add_items(ALICE, task.id, [(item, 0.0)])
    assert await place(home, ALICE, task) == 0, "without annotators the owner is one"
    await home.store.change(ALICE, task.id, closed=True)
    for late in (
        home.store.next(ALICE, task.id),
        home.store.label(ALICE, task.id, 0, Said("good")),
    ):
        with pytest.raises(ConflictError, match="is closed"):
            await late
    await home.store.change(ALICE, task.id, closed=False)
    await home.store.label(ALICE, task.id, 0, Said("good"))
    removed = await home.store.remove(ALICE, task.id)
    assert removed.left_out == {"no text": 2} and await home.store.visible(ALICE) == []


async def test_the_least_sure_come_first_and_keep_what_was_suggested(home: Home) -> None:
    task = await home.task(items=3, order="uncertain")
    suggestions = [
        {"place": 0, "value": "good", "confidence": 0.9},
        {"place": 2, "value": "坏", "confidence": 0.6},
    ]
    with pytest.raises(InvalidRequestError, match="none of the labels"):
        wrong = [{"place": 1, "value": "bad", "confidence": 0.5}]
        await home.store.suggest(ALICE, task.id, "m:1", wrong)
    ranked = [(Item(n, f"r{n}", {"text": "x"}), 1.0 + n / 3) for n in range(3)]
    other = await home.store.create(ALICE, NewTask("u", "news:1", SCHEME, order="uncertain"))
    await home.store.add_items(ALICE, other.id, ranked)
    await home.store.open(ALICE, other.id, {})
    await home.store.suggest(ALICE, other.id, "m:1", suggestions)
    order = []
    while (turn := await home.store.next(ALICE, other.id)) is not None:
        order.append((turn.item.place, turn.item.suggestion, turn.item.suggested_by))
        await home.store.label(ALICE, other.id, turn.item.place, Said("good"))
    assert order == [(2, "坏", "m:1"), (0, "good", "m:1"), (1, None, None)]
    history = await home.store.history(ALICE, other.id, 10**9, 10)
    assert [one["suggested_by"] for one in history] == [None, "m:1", "m:1"]


async def test_a_reviewer_decides_and_nobody_is_given_it_then(home: Home) -> None:
    task = await home.task(items=2, overlap=2)
    for actor, value in ((BOB, "good"), (EVE, "坏")):
        await home.store.next(actor, task.id)
        await home.store.label(actor, task.id, 0, Said(value))
    from llmos.apps import annotation_reading as reading

    def review(conn: Any, one: Task) -> Any:
        return reading.review(conn, one, -1, 10, False)

    (found,), end = await home.store.ask(ALICE, task.id, review)
    assert (found["place"], found["settled"], end) == (0, None, None)
    assert [(one["annotator"], one["value"]) for one in found["labels"]] == [
        *(("bob", "good"), ("eve", "坏")),
    ]
    await home.store.decide(ALICE, task.id, 0, "good")
    await home.store.decide(ALICE, task.id, 1, "坏")
    assert (await home.store.ask(ALICE, task.id, review)) == ([], None)
    assert await place(home, BOB, task) is None
    told = await home.store.ask(ALICE, task.id, reading.progress)
    assert (told["items"], told["complete"], told["decided"], told["labels"]) == (2, 2, 2, 2)
    assert (await home.store.agreement(ALICE, task.id))["alpha"] == {"nominal": 0.0}
    with pytest.raises(NotFoundError):
        await home.store.decide(ALICE, task.id, 7, "good")


class Queue(RuleBasedStateMachine):
    """Three annotators at five items, each of which two are to label; some are late, some skip,
    some change their mind."""

    ITEMS, OVERLAP = 5, 2

    def __init__(self) -> None:
        super().__init__()
        import asyncio

        self.loop = asyncio.new_event_loop()
        self.home = Home()
        self.task = self.run(
            self.home.task(items=self.ITEMS, overlap=self.OVERLAP, annotators=tuple(PEOPLE))
        )
        self.answers: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self.held: dict[str, tuple[int, float]] = {}
        self.given: defaultdict[str, set[int]] = defaultdict(set)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def live(self) -> dict[str, int]:
        now = self.home.clock.now
        return {who: place for who, (place, until) in self.held.items() if until > now}

    def takers(self, place: int) -> set[str]:
        labelled = {who for who, what in self.answers[place].items() if what == "labelled"}
        return labelled | {who for who, held in self.live().items() if held == place}

    @rule(who=st.sampled_from(sorted(PEOPLE)))
    def comes(self, who: str) -> None:
        before = self.live().get(who)
        turn = self.run(self.home.store.next(PEOPLE[who], self.task.id))
        free = [
            place
            for place in range(self.ITEMS)
            if who not in self.answers[place] and len(self.takers(place) - {who}) < self.OVERLAP
        ]
        if turn is None:
            assert not free, "nothing is lost"
            return
        place = turn.item.place
        if before is None:
            assert place == min(free), "in order"
        else:
            assert place == before, "the same until it is answered"
        assert who not in self.answers[place], "never twice"
        self.held[who] = place, turn.leased_until
        self.given[who].add(place)

    @rule(who=st.sampled_from(sorted(PEOPLE)), skip=st.booleans(), number=st.integers(0, 4))
    def answers_one(self, who: str, skip: bool, number: int) -> None:
        may = number in self.given[who]
        counted = self.takers(number)
        fits = who in counted or len(counted) < self.OVERLAP
        said = Said(skip=True) if skip else Said("good")
        try:
            self.run(self.home.store.label(PEOPLE[who], self.task.id, number, said))
        except LlmosError as error:
            expected = NotFoundError if not may else ConflictError
            assert type(error) is expected and not (may and (skip or fits)), error
            return
        assert may and (skip or fits)
        self.answers[number][who] = "skipped" if skip else "labelled"
        if self.held.get(who, (None, 0.0))[0] == number:
            del self.held[who]

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.home.clock.now += seconds

    @precondition(lambda self: self.home.clock.now > 1000.0)
    @invariant()
    def counts_are_true(self) -> None:
        for place in range(self.ITEMS):
            assert len(self.takers(place)) <= self.OVERLAP

    def teardown(self) -> None:
        """Whoever still has something to do does it: then every item has its labels, or nobody is
        left who has not seen it."""
        self.home.clock.now += 100
        for _ in range(2):
            for who, actor in PEOPLE.items():
                while (turn := self.run(self.home.store.next(actor, self.task.id))) is not None:
                    place = turn.item.place
                    assert who not in self.answers[place]
                    self.run(self.home.store.label(actor, self.task.id, place, Said("good")))
                    self.answers[place][who] = "labelled"
        for place in range(self.ITEMS):
            said = self.answers[place]
            labelled = [what for what in said.values() if what == "labelled"]
            assert len(labelled) == self.OVERLAP or len(said) == len(PEOPLE)
        self.loop.close()
        self.home.db.close()


Queue.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestQueue = Queue.TestCase


@given(lines=st.lists(st.sampled_from(["good", "坏"]), max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_newest_label_is_the_one_that_counts(lines: list[str]) -> None:
    import asyncio

    async def run() -> None:
        home = Home()
        task = await home.task(items=1)
        await home.store.next(BOB, task.id)
        for value in lines:
            await home.store.label(BOB, task.id, 0, Said(value))
        from llmos.apps import annotation_reading as reading

        found = await home.store.ask(
            ALICE, task.id, lambda conn, one: list(reading.units(conn, one))
        )
        assert found == ([{"bob": lines[-1]}] if lines else [])
        for upto in range(len(lines) + 1):
            page = await home.store.ask(
                ALICE, task.id, lambda conn, one, n=upto: reading.labelled(conn, one, -1, 10, n)
            )
            told = [label["value"] for item in page for label in item["labels"]]
            assert told == lines[max(0, upto - 1) : upto], "an export is of its moment"
        home.db.close()

    asyncio.run(run())


async def test_tasks_that_are_being_filled_count_as_large_as_they_may_become(home: Home) -> None:
    new = NewTask("reviews", "news:1", SCHEME)
    made = [await home.store.create(ALICE, new) for _ in range(5)]
    with pytest.raises(ConflictError, match="64 MiB for each that has not all its items yet"):
        await home.store.create(ALICE, new)
    await home.store.create(BOB, new)
    await home.store.open(ALICE, made[0].id, {})
    await home.store.create(ALICE, new)


async def test_a_task_whose_job_was_never_queued_is_gone_at_the_next_start(home: Home) -> None:
    kept = await home.task()
    lost = await home.store.create(ALICE, NewTask("reviews", "news:1", SCHEME))
    await home.store.start()
    assert [task.id for task in await home.store.visible(ALICE)] == [kept.id]
    (event,) = list_events(home.db, limit=1)
    assert (event.actor, event.action) == ("kernel", "annotation.remove")
    assert event.object == f"annotation:{lost.id}"
