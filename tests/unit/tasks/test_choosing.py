"""Which models a request may go to, in which order, and what is learned from it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    LlmosError,
    ModelNotFoundError,
    NoModelFitsError,
    OutOfMemoryError,
    OverloadedError,
    PermissionDeniedError,
    UnsupportedTaskError,
)
from llmos.kernel.telemetry import Telemetry
from llmos.library import evaluations
from llmos.library.artifacts import Library
from llmos.library.routes import Route, Target
from llmos.security.actors import SYSTEM, Actor
from llmos.settings import Settings
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.storage.schema import jobs
from llmos.tasks.choosing import MAX_ATTEMPTS, Choosing, open_choosing
from llmos.tasks.context import TaskContext
from llmos.tasks.plan import Plan
from llmos.tasks.suitability import Need
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizers
from llmos.types import FileRef, JobResult, NewVersion, Priority

ADMIN = Actor("k0", "admin", "admin")
ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
CHAT = Need(prompt_tokens=20, output_tokens=20, is_chat=True)
TEMPLATE = "{{ messages[-1].content }}"
CHATS = frozenset({"chat"})
KINDS = {name: frozenset({name}) for name in ("chat", "translate", "classify", "embed", "rerank")}


class Residency:
    """What is in memory, as a test says."""

    def __init__(self) -> None:
        self.loaded: list[dict[str, Any]] = []

    def status(self) -> list[dict[str, Any]]:
        return self.loaded


@dataclasses.dataclass
class World:
    """A library in memory and the choosing over it."""

    database: MemoryDatabase
    blobs: MemoryBlobStore
    library: Library
    residency: Residency
    choosing: Choosing
    trials: Trials
    telemetry: Telemetry

    def add(
        self,
        name: str,
        task: str = "chat",
        owner: str = "admin",
        files: Mapping[str, FileRef] = MappingProxyType({}),
        **manifest: Any,
    ) -> str:
        values = {"task": task, "engine": "echo", "architecture": "e", "model_type": "e"}
        values |= {"context_tokens": 100}
        if task == "chat":
            values["chat_template"] = TEMPLATE
        content = json.dumps([name, owner, manifest], default=str).encode()
        config = self.blobs.put_bytes(content)
        new = NewVersion("model", name, {"config.json": config, **files}, {**values, **manifest})
        return self.library.add(new, owner).ref

    def load(self, ref: str, **status: Any) -> None:
        key = self.library.resolve(ref).digest
        idle = {"running": [0, 0, 0, 0], "waiting": [0, 0, 0, 0], "load_s": 0.0}
        idle |= {"state": "ready", "draining": False}
        self.residency.loaded.append({"key": key, **idle, **status})

    def evaluate(
        self,
        ref: str,
        owner: str = "admin",
        data: str = "a",
        task: str = "classify",
        **metrics: Any,
    ) -> None:
        """Leave what an evaluate job measured."""
        params: dict[str, Any] = {"model": ref, "task": task, "dataset": "news"}
        params["data"] = {"news.tsv": f"sha256:{data * 64}"}
        values = {"kind": "evaluate", "name": "", "params": params, "state": "running"}
        values |= {"priority": 1, "owner": owner, "created_at": 0.0}

        def write(conn: sa.Connection) -> None:
            (number,) = conn.execute(jobs.insert().values(**values)).inserted_primary_key or ()
            job: Any = SimpleNamespace(id=number, params=params, owner=owner)
            evaluations.commit(conn, job, JobResult({"rows": 10, "metrics": metrics}), 0.0)

        self.database.write_sync(write)

    async def plan(
        self,
        name: str = "auto",
        need: Need = CHAT,
        task: str = "chat",
        actor: Actor = ADMIN,
        **constraints: Any,
    ) -> Plan:
        wanted = dataclasses.replace(need, **constraints)
        plan = await self.choosing.choose(actor, name, KINDS.get(task, frozenset({task})), wanted)
        assert plan is not None
        return plan

    async def refs(self, *arguments: Any, **more: Any) -> list[str]:
        return sorted(one.key for one in (await self.plan(*arguments, **more)).verdicts)


class Trials:
    """Names whose requests are split for a while, as a test says."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.seen: list[tuple[str, str, bool]] = []
        self.took: list[float | None] = []

    def has_any(self) -> bool:
        return bool(self.routes)

    def route(self, name: str) -> Route | None:
        return self.routes.get(name)

    def put(self, name: str, *weights: float) -> None:
        """Split a name's requests between the versions 1, 2, …"""
        model = name.partition("@")[0]
        targets = [Target(f"{model}:{at}", weight) for at, weight in enumerate(weights, 1)]
        self.routes[name] = Route(name, tuple(targets), (), "llmos", 0.0)

    def observe(self, name: str, model: str, good: bool, seconds: float | None) -> None:
        self.seen.append((name, model, good))
        self.took.append(seconds)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database, blobs, residency = MemoryDatabase(), MemoryBlobStore(), Residency()
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    library = Library(database, blobs, clock, tmp_path)
    context = TaskContext(
        library,
        residency,  # type: ignore[arg-type]
        Tokenizers(blobs),
        Templates(),
        Settings(device="cpu"),
        capacity_bytes=10**9,
        changes=database.num_commits,
    )
    trials, telemetry = Trials(), Telemetry()
    choosing = open_choosing(database, context, telemetry, clock, random.Random(0), trials)
    await choosing.start()
    yield World(database, blobs, library, residency, choosing, trials, telemetry)
    await choosing.stop()
    await context.close()
    database.close()


# -- tasks -----------------------------------------------------------------------------------------


async def test_a_request_is_given_to_the_models_of_its_task(world: World) -> None:
    for name, task in (("talker", "chat"), ("writer", "generate"), ("vectors", "embed")):
        world.add(name, task)
    assert await world.refs() == ["talker:1"]
    assert await world.refs("chat") == ["talker:1"]
    everything = frozenset({"chat", "generate"})
    text = Need(20, 20)
    plan = await world.choosing.choose(ADMIN, "auto", everything, text)
    assert plan is not None
    assert sorted(one.key for one in plan.verdicts) == ["talker:1", "writer:1"]
    assert (await world.plan("embed", text, "embed")).order[0].ref == "vectors:1"


async def test_a_model_for_several_tasks_is_chosen_for_each_by_its_own_numbers(
    world: World,
) -> None:
    heads = {"classify": ["a", "b"], "rate": [], "embed": []}
    metrics = {"validation_loss": 0.1, "rate/validation": {"spearman": 0.4}}
    metrics |= {"classify/validation": {"accuracy": 0.9}, "rate/test": {"spearman": 0.3}}
    world.add("several", "classify", labels=["a", "b"], heads=heads, metrics=metrics)
    world.add("rater", "rate", metrics={"test": {"spearman": 0.5}})
    text = Need(20)
    plan = await world.plan("classify", text, "classify")
    assert (plan.order[0].ref, plan.order[0].metrics) == (
        "several:1",
        {"validation": {"accuracy": 0.9}},
    )
    plan = await world.plan("rate", text, "rate")
    rated = {one.ref: one for one in plan.order}
    assert {*rated} == {"several:1", "rater:1"}
    several = rated["several:1"]
    assert (several.task, several.labels) == ("rate", frozenset())
    assert several.metrics == {"validation": {"spearman": 0.4}, "test": {"spearman": 0.3}}
    assert await world.refs("embed", text, "embed") == ["several:1"]
    with pytest.raises(ModelNotFoundError, match="no model for rerank"):
        await world.plan("rerank", text, "rerank")
    noted = await world.choosing.judge(ADMIN, "several", "rate", "", good=True)
    assert noted["task"] == "rate"
    explained = await world.choosing.explain(ADMIN, "several", {"rate"}, text)
    assert explained["model"] == "several:1"


async def test_a_task_asked_at_the_wrong_address_or_without_a_model_is_refused(
    world: World,
) -> None:
    world.add("talker")
    with pytest.raises(UnsupportedTaskError, match="not what is asked for here") as wrong:
        await world.plan("translate")
    assert wrong.value.param == "model"
    with pytest.raises(ModelNotFoundError, match="no model for rerank") as none:
        await world.plan("rerank", Need(5), "rerank")
    assert none.value.param == "model"


async def test_a_models_own_name_and_a_chosen_default_are_no_choice(world: World) -> None:
    world.add("talker")
    choose = world.choosing.choose
    assert not world.choosing.may_choose("talker")
    assert world.choosing.may_choose("auto")
    world.library.set_task_default("chat", "talker", SYSTEM)
    assert await choose(ADMIN, "chat", CHATS, CHAT) is not None
    world.library.set_task_default("chat", "talker", ADMIN)
    assert await choose(ADMIN, "chat", CHATS, CHAT) is None
    assert await choose(ADMIN, "auto", CHATS, CHAT) is not None
    world.add("sentiment", "classify", labels=["a", "b"])
    assert await choose(ADMIN, "sentiment", KINDS["classify"], Need(5)) is None


async def test_what_is_pulled_or_removed_counts_from_the_next_request_on(world: World) -> None:
    world.add("one")
    assert await world.refs() == ["one:1"]
    world.add("two")
    assert await world.refs() == ["one:1", "two:1"]
    world.add("two")
    assert await world.refs() == ["one:1", "two:2"]
    world.library.set_alias("two:1", "production", ADMIN)
    assert await world.refs() == ["one:1", "two:1"]
    world.library.remove("one", ADMIN)
    assert await world.refs() == ["two:1"]


async def test_another_users_model_is_never_chosen_and_ones_own_is(world: World) -> None:
    world.add("common")
    world.add("alices", owner="alice")
    assert await world.refs(actor=ALICE) == ["alices:1", "common:1"]
    assert await world.refs(actor=BOB) == await world.refs(actor=ADMIN) == ["common:1"]


async def test_a_key_limited_to_models_chooses_among_these(world: World) -> None:
    for name in ("a", "b", "c"):
        world.add(name)
    limited = dataclasses.replace(ALICE, models=frozenset({"a", "b"}))
    assert await world.refs(actor=limited) == ["a:1", "b:1"]
    for_none = dataclasses.replace(ALICE, models=frozenset({"x"}))
    with pytest.raises(PermissionDeniedError):
        await world.plan(actor=for_none)


async def test_a_quantised_double_is_no_candidate_of_its_own(world: World) -> None:
    ref = world.add("m")
    digest = world.library.resolve(ref).digest
    world.add("m-int8", quantization={"base_digest": digest})
    world.add("other-int8", quantization={"base_digest": "sha256:gone"})
    assert await world.refs() == ["m:1", "other-int8:1"]


async def test_who_cannot_take_the_request_is_left_out_and_said_to_where_nobody_can(
    world: World,
) -> None:
    world.add("short", context_tokens=10)
    world.add("long", context_tokens=1000)
    world.add("told", chat_template="{{ tools }}" + TEMPLATE, context_tokens=1000)
    assert await world.refs(prompt_tokens=500) == ["long:1", "told:1"]
    assert await world.refs(has_tools=True) == ["told:1"]
    with pytest.raises(InvalidRequestError, match="context of") as refused:
        await world.plan(prompt_tokens=5000)
    assert refused.value.param == "messages"


async def test_a_translation_goes_to_who_knows_the_pair(world: World) -> None:
    pairs: Callable[..., dict[str, Any]] = lambda *pairs: {  # noqa: E731
        "translation": {"prefix": "", "pairs": list(pairs)}
    }
    world.add("both", "translate", **pairs(["en", "zh"], ["zh", "en"]))
    world.add("one", "translate", **pairs(["en", "zh"]))
    world.add("opus", "translate", **pairs(), languages=["de", "en"])
    world.add("any", "translate", **pairs())

    async def refs(*pair: str) -> list[str]:
        need = Need(5, 5, language="_".join(pair), pair=(pair[0], pair[1]))
        return await world.refs("translate", need, "translate")

    assert await refs("en", "zh") == ["any:1", "both:1", "one:1"]
    assert await refs("zh", "en") == ["any:1", "both:1"]
    assert await refs("en", "de") == ["any:1", "opus:1"]
    world.library.remove("any", ADMIN)
    with pytest.raises(InvalidRequestError, match="does not translate fr to it") as refused:
        await refs("fr", "it")
    assert refused.value.param == "target_lang"


async def test_classifiers_of_different_labels_are_not_mixed(world: World) -> None:
    mood, spam = ["good", "bad"], ["spam", "ham"]
    world.add("mood", "classify", labels=mood)
    world.add("mood2", "classify", labels=mood[::-1])
    need = Need(5)
    assert await world.refs("auto", need, "classify") == ["mood2:1", "mood:1"]
    world.add("spam", "classify", labels=spam)
    with pytest.raises(InvalidRequestError, match="different labels") as refused:
        await world.plan("auto", need, "classify")
    assert refused.value.param == "model"
    world.library.set_task_default("sentiment", "mood", SYSTEM)
    assert await world.refs("auto", need, "classify") == ["mood2:1", "mood:1"]
    assert await world.refs("sentiment", need, "classify") == ["mood2:1", "mood:1"]


async def test_vectors_come_from_one_model_whatever_the_load(world: World) -> None:
    world.add("first", "embed")
    world.add("second", "embed")
    need = Need(5)
    assert await world.refs("auto", need, "embed") == ["first:1"]
    world.load("second:1")
    assert await world.refs("auto", need, "embed") == ["first:1"]
    world.add("measured", "embed", metrics={"ndcg": 0.7})
    assert await world.refs("auto", need, "embed") == ["measured:1"]
    world.library.set_task_default("embeddings", "second", ADMIN)
    assert await world.refs("embed", need, "embed") == ["second:1"]


async def test_what_was_measured_decides(world: World) -> None:
    world.add("good", metrics={"test": {"accuracy": 0.95}})
    world.add("poor", metrics={"test": {"accuracy": 0.05}})
    world.add("unknown")
    for _ in range(30):
        for ref in ("good:1", "poor:1", "unknown:1"):
            world.choosing.outcomes.note(ref, "chat", "", True)
    plans = [await world.plan() for _ in range(30)]
    counts = Counter(plan.order[0].ref for plan in plans)
    assert counts["good:1"] > 26
    assert plans[0].unmeasured == {"unknown:1"}
    assert all(len(plan.order) <= MAX_ATTEMPTS for plan in plans)


async def test_what_evaluations_measured_counts_from_the_next_request_on(world: World) -> None:
    world.add("m", "classify", metrics={"test": {"f1": 0.9}})
    world.add("alices", "classify", owner="alice")
    need = Need(5)

    async def quality(ref: str, actor: Actor = ADMIN) -> float:
        plan = await world.plan("auto", need, "classify", actor)
        return next(one.quality for one in plan.verdicts if one.key == ref)

    assert await quality("m:1") == 0.9
    world.evaluate("m:1", "bob", f1=0.1)
    world.evaluate("alices:1", "bob", f1=1.0)
    assert await quality("m:1") == 0.9
    assert await quality("alices:1", ALICE) == 0.5
    world.evaluate("alices:1", "alice", f1=0.75)
    world.evaluate("m:1", f1=0.7)
    world.evaluate("m:1", f1=0.8)
    assert await quality("m:1") == 0.8
    assert await quality("alices:1", ALICE) == 0.75
    with pytest.raises(NoModelFitsError):
        await world.plan("auto", need, "classify", min_quality=0.85)


async def test_an_evaluation_for_one_task_of_several_counts_for_that_alone(world: World) -> None:
    heads = {"classify": ["a", "b"], "rate": []}
    metrics = {"classify/test": {"accuracy": 0.9}, "rate/test": {"spearman": 0.3}}
    world.add("several", "classify", labels=["a", "b"], heads=heads, metrics=metrics)
    world.evaluate("several:1", accuracy=0.6)
    world.evaluate("several:1", task="rate", spearman=0.2)

    async def measured(task: str) -> Any:
        plan = await world.plan("auto", Need(5), task)
        return plan.order[0].metrics

    assert await measured("classify") == {"test": {"accuracy": 0.9}, "news": {"accuracy": 0.6}}
    assert await measured("rate") == {"test": {"spearman": 0.3}, "news": {"spearman": 0.2}}
    several = world.library.resolve("several:1")
    found = world.database.read_sync(lambda conn: evaluations.measured(conn, several))
    assert {"news/accuracy", "rate/news/spearman"} <= found.metrics.keys()


async def test_losses_of_evaluations_compare_models_of_one_tokenizer_on_one_dataset(
    world: World,
) -> None:
    tokenizer = world.blobs.put_bytes(b"tokens")
    for name in ("good", "poor"):
        world.add(name, files={"tokenizer.json": tokenizer})
    world.evaluate("good:1", loss=0.1)
    world.evaluate("poor:1", loss=2.0, data="b")
    assert (await world.plan()).unmeasured == {"good:1", "poor:1"}
    world.evaluate("poor:1", loss=2.0)
    plan = await world.plan()
    qualities = {one.key: one.quality for one in plan.verdicts}
    assert qualities == pytest.approx({"good:1": math.exp(-0.1), "poor:1": math.exp(-2.0)})
    assert [one.ref for one in (await world.plan(min_quality=0.8)).order] == ["good:1"]
    world.add("other", files={"tokenizer.json": world.blobs.put_bytes(b"letters")})
    world.evaluate("other:1", loss=0.01)
    assert (await world.plan()).unmeasured == {"good:1", "poor:1", "other:1"}


async def test_what_is_in_memory_goes_before_what_must_be_loaded(world: World) -> None:
    world.add("cold", weights_bytes=10**10)
    world.add("warm", weights_bytes=10**10)
    world.load("warm")
    plan = await world.plan(priority=Priority.INTERACTIVE)
    latency = {one.key: one.latency_ms for one in plan.verdicts}
    assert latency["cold:1"] - latency["warm:1"] == pytest.approx(20_200)
    assert plan.warm == {"warm:1"}
    world.residency.loaded[0]["draining"] = True
    assert (await world.plan()).warm == frozenset()


async def test_a_queue_is_waited_for_as_many_at_a_time_as_run(world: World) -> None:
    for name in ("busy", "free"):
        world.add(name, weights_bytes=10**10)
    world.load("free", running=[4, 0, 0, 0])
    world.load("busy", running=[0, 4, 0, 0], waiting=[2, 6, 100, 0])
    verdicts = {one.key: one.latency_ms for one in (await world.plan()).verdicts}
    assert verdicts["busy:1"] == pytest.approx(verdicts["free:1"] * 3)
    first = {
        one.key: one.latency_ms
        for one in (await world.plan(priority=Priority.INTERACTIVE)).verdicts
    }
    assert first["busy:1"] == pytest.approx(first["free:1"] * 1.5)


async def test_of_several_engines_the_one_with_the_least_to_do_counts(world: World) -> None:
    world.add("m", weights_bytes=10**10)
    alone = (await world.plan()).verdicts[0].latency_ms
    world.load("m", running=[1, 0, 0, 0])
    free = (await world.plan()).verdicts[0].latency_ms
    assert free < alone
    busy = {"running": [4, 0, 0, 0], "waiting": [8, 0, 0, 0]}
    world.load("m", **busy)
    assert (await world.plan()).verdicts[0].latency_ms == pytest.approx(free)
    world.load("m", state="loading")
    world.load("m", draining=True)
    plan = await world.plan()
    assert plan.verdicts[0].latency_ms == pytest.approx(free)
    assert plan.warm == {"m:1"}
    world.residency.loaded[0].update(busy)
    assert (await world.plan()).verdicts[0].latency_ms == pytest.approx(3 * free)


async def test_an_answer_is_expected_to_be_as_long_as_others_were(world: World) -> None:
    world.add("m", weights_bytes=10**10)
    world.load("m")
    before = (await world.plan(output_tokens=256)).verdicts[0].latency_ms
    tally = world.telemetry.of("m:1").classes[Priority.STANDARD]
    tally.generated_tokens, tally.outcomes["ok"] = 320, 10
    after = (await world.plan(output_tokens=256)).verdicts[0].latency_ms
    assert before - after == pytest.approx(1000 * (256 - 32))  # a token a second
    limited = (await world.plan(output_tokens=8)).verdicts[0].latency_ms
    assert after - limited == pytest.approx(1000 * (32 - 8))


async def test_constraints_exclude_and_name_themselves(world: World) -> None:
    world.add("good", metrics={"test": {"accuracy": 0.9}}, weights_bytes=10**10)
    world.add("quick", metrics={"test": {"accuracy": 0.4}}, weights_bytes=10**7)
    plan = await world.plan(min_quality=0.8)
    assert [one.ref for one in plan.order] == ["good:1"]
    assert {one.key: one.excluded for one in plan.verdicts}["quick:1"] == "min_quality"
    assert [one.ref for one in (await world.plan(max_latency_ms=5000)).order] == ["quick:1"]
    assert [one.ref for one in (await world.plan(max_cost=1.0)).order] == ["quick:1"]
    with pytest.raises(NoModelFitsError) as refused:
        await world.plan(min_quality=0.95)
    assert (refused.value.param, refused.value.status) == ("min_quality", 400)


async def test_what_can_never_fit_the_memory_is_not_tried(world: World) -> None:
    huge = {"engine": "native", "parameters": 10**10, "weights_bytes": 4 * 10**10}
    world.add("huge", **huge)
    with pytest.raises(OutOfMemoryError):
        await world.plan()
    world.add("small")
    assert [one.ref for one in (await world.plan()).order] == ["small:1"]


async def test_a_choice_is_explained_in_plain_json(world: World) -> None:
    world.add("good", metrics={"test": {"accuracy": 0.9}})
    world.add("unknown")
    plan = await world.plan()
    why = json.loads(json.dumps(plan.explained(0, [("gone:1", "engine_error")])))
    assert (why["name"], why["task"], why["rule"]) == ("auto", "chat", "measured")
    assert why["model"] == plan.order[0].ref
    assert why["failed"] == [{"model": "gone:1", "code": "engine_error"}]
    by_model = {one["model"]: one for one in why["candidates"]}
    assert by_model["good:1"]["quality"] == 0.9
    assert by_model["good:1"]["measured"]
    assert not by_model["unknown:1"]["measured"]
    assert all(one["latency_ms"] > 0 and one["excluded"] is None for one in why["candidates"])
    assert (await world.choosing.explain(ADMIN, "good", CHATS, CHAT))["rule"] == "named"


# -- routes ----------------------------------------------------------------------------------------


def route(world: World, *targets: Target, fallbacks: list[str] | None = None) -> None:
    world.choosing.routes.put("support", targets, fallbacks or [], ADMIN)


async def test_a_route_splits_by_weight_and_has_its_fallbacks_in_order(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        world.add(name)
    route(world, Target("a", 3), Target("b", 1), fallbacks=["d", "c"])
    plans = [await world.plan("support") for _ in range(60)]
    counts = Counter(plan.order[0].ref for plan in plans)
    assert set(counts) == {"a:1", "b:1"}
    assert 35 < counts["a:1"] < 55
    assert {tuple(one.ref for one in plan.order[1:]) for plan in plans} == {("d:1", "c:1")}
    assert {plan.rule for plan in plans} == {"weights"}


async def test_a_routes_fallback_may_be_one_of_its_models(world: World) -> None:
    for name in ("stable", "canary"):
        world.add(name)
    route(world, Target("stable", 1), Target("canary", 1), fallbacks=["stable"])
    plans = [await world.plan("support") for _ in range(30)]
    orders = {tuple(one.ref for one in plan.order) for plan in plans}
    assert orders == {("stable:1",), ("canary:1", "stable:1")}


async def test_a_route_goes_on_without_what_was_removed_or_does_not_fit(world: World) -> None:
    world.add("quick", weights_bytes=10**7)
    world.add("slow", weights_bytes=10**10)
    world.add("gone")
    route(world, Target("slow"), Target("gone"), fallbacks=["quick"])
    world.library.remove("gone", ADMIN)
    assert {one.ref for one in (await world.plan("support")).order} == {"slow:1", "quick:1"}
    plan = await world.plan("support", max_latency_ms=5000)
    assert [one.ref for one in plan.order] == ["quick:1"]
    with pytest.raises(NoModelFitsError) as refused:
        await world.plan("support", min_quality=0.5)
    assert refused.value.param == "min_quality"
    for name in ("slow", "quick"):
        world.library.remove(name, ADMIN)
    with pytest.raises(ModelNotFoundError):
        await world.plan("support")


async def test_a_route_is_for_its_task_its_owner_and_the_keys_models(world: World) -> None:
    world.add("talker")
    route(world, Target("talker"))
    with pytest.raises(UnsupportedTaskError, match="'support' is for 'chat'"):
        await world.plan("support", task="embed")
    limited = dataclasses.replace(ALICE, models=frozenset({"other"}))
    with pytest.raises(PermissionDeniedError):
        await world.plan("support", actor=limited)
    world.choosing.routes.put("mine", [Target("talker")], [], ALICE)
    assert (await world.plan("mine", actor=ALICE)).order[0].ref == "talker:1"
    assert await world.choosing.choose(BOB, "mine", CHATS, CHAT) is None


async def test_a_model_made_later_takes_its_name_back_from_a_route(world: World) -> None:
    world.add("talker")
    route(world, Target("talker"))
    world.add("support")
    assert await world.choosing.choose(ADMIN, "support", CHATS, CHAT) is None


async def test_a_trial_splits_a_name_and_is_told_how_each_answer_went(world: World) -> None:
    world.add("m")
    world.add("m")
    assert not world.choosing.may_choose("m@production")
    world.trials.put("m@production", 0.5, 0.5)
    assert world.choosing.may_choose("m@production")
    plan = await world.plan("m@production")
    assert plan.order[0].ref in ("m:1", "m:2")
    world.choosing.ended(plan, 0, CHAT, None, 1.0)
    world.choosing.ended(plan, 0, CHAT, EngineError(), 1.0)
    world.choosing.ended(plan, 0, CHAT, OverloadedError(), 1.0)
    ref = plan.order[0].ref
    assert world.trials.seen == [("m@production", ref, True), ("m@production", ref, False)]


async def test_a_route_to_a_deployment_gives_its_candidate_its_share(world: World) -> None:
    for name in ("m", "m", "other"):
        world.add(name)
    world.library.set_alias("m:1", "production", ADMIN)
    route(world, Target("m@production", 2), Target("other", 1), fallbacks=["m@production"])
    world.trials.put("m@production", 0.75, 0.25)
    plans = [await world.plan("support") for _ in range(300)]
    counts = Counter(plan.order[0].ref for plan in plans)
    assert counts["m:1"] / 300 == pytest.approx(0.5, abs=0.1)
    assert counts["m:2"] / 300 == pytest.approx(1 / 6, abs=0.07)
    assert {ref for plan in plans for ref in plan.trials} == {"m:1", "m:2"}
    assert {one.ref for plan in plans for one in plan.order[1:]} == {"m:1", "m:2"}
    plan = next(plan for plan in plans if plan.order[0].ref == "m:2")
    world.choosing.ended(plan, 0, CHAT, None, 1.0)
    plan = next(plan for plan in plans if plan.order[0].ref == "other:1")
    world.choosing.ended(plan, 0, CHAT, None, 1.0)
    assert world.trials.seen == [("m@production", "m:2", True)]


async def test_what_a_route_names_itself_says_nothing_of_a_trial(world: World) -> None:
    world.add("m"), world.add("m")
    world.library.set_alias("m:1", "production", ADMIN)
    route(world, Target("m@production"), Target("m:2"), fallbacks=["m:1"])
    world.trials.put("m@production", 0.5, 0.5)
    plan = await world.plan("support")
    assert plan.trials == {}


async def test_what_one_version_alone_could_answer_says_nothing_of_a_trial(world: World) -> None:
    world.add("m", metrics={"test": {"accuracy": 0.5}})
    world.add("m", metrics={"test": {"accuracy": 0.9}}, context_tokens=50)
    world.library.set_alias("m:1", "production", ADMIN)
    world.trials.put("m@production", 0.5, 0.5)
    good, long = Need(5, min_quality=0.8, is_chat=True), Need(80, is_chat=True)
    for need, ref in ((good, "m:2"), (long, "m:1")):
        plan = await world.plan("m@production", need)
        assert ([one.ref for one in plan.order], plan.trials) == ([ref], {})
    assert (await world.plan("auto", long)).trials == {}


async def test_how_long_an_answer_took_counts_unless_its_model_had_to_be_loaded(
    world: World,
) -> None:
    world.add("m"), world.add("m")
    world.trials.put("m@production", 0.5, 0.5)
    world.choosing.ended(await world.plan("m@production"), 0, CHAT, None, 2.0)
    world.load("m:1"), world.load("m:2")
    world.choosing.ended(await world.plan("m@production"), 0, CHAT, None, 2.0)
    assert world.trials.took == [None, 2.0]


async def test_the_default_of_a_task_is_tried_too(world: World) -> None:
    world.add("m"), world.add("m")
    world.library.set_alias("m:1", "production", ADMIN)
    choose = world.choosing.choose
    for task in ("chat", "poems"):
        world.library.set_task_default(task, "m@production", ADMIN)
        assert await choose(ADMIN, task, CHATS, CHAT) is None
    assert not world.choosing.may_choose("poems")
    world.trials.put("m@production", 0.5, 0.5)
    for task in ("chat", "poems"):
        assert world.choosing.may_choose(task)
        plans = [await world.plan(task) for _ in range(30)]
        assert {plan.order[0].ref for plan in plans} == {"m:1", "m:2"}
        assert {(plan.name, plan.rule) for plan in plans} == {(task, "weights")}
    assert await choose(ADMIN, "m", CHATS, CHAT) is None


async def test_auto_tries_the_candidate_of_what_is_in_production(world: World) -> None:
    world.add("m"), world.add("m"), world.add("m")
    world.library.set_alias("m:1", "production", ADMIN)
    world.trials.put("m@production", 0.75, 0.25)
    world.trials.put("m@staging", 0.0, 1.0)
    plans = [await world.plan() for _ in range(300)]
    counts = Counter(plan.order[0].ref for plan in plans)
    assert set(counts) == {"m:1", "m:2"}
    assert counts["m:2"] / 300 == pytest.approx(0.25, abs=0.08)
    plan = next(plan for plan in plans if plan.order[0].ref == "m:2")
    assert plan.explained()["model"] == "m:2"
    scores = {one.key: one.score for one in plan.verdicts}
    assert scores.keys() == {"m:1", "m:2"}
    assert scores["m:2"] == scores["m:1"] > 0.0
    world.choosing.ended(plan, 0, CHAT, EngineError(), 1.0)
    assert world.trials.seen == [("m@production", "m:2", False)]


async def test_auto_tries_no_candidate_that_the_request_is_not_for(world: World) -> None:
    world.add("m", context_tokens=1000, metrics={"test": {"accuracy": 0.9}})
    world.add("m", context_tokens=50)
    world.add("v", "embed"), world.add("v", "embed")
    world.add("w", "classify", labels=["a", "b"])
    world.add("w", "classify", labels=["c", "d"])
    world.add("x", "rerank", owner="alice"), world.add("x", "rerank")
    for name in ("m", "v", "w"):
        world.library.set_alias(f"{name}:1", "production", ADMIN)
        world.trials.put(f"{name}@production", 0.0, 1.0)
    world.library.set_alias("x:2", "production", ADMIN)
    world.trials.put("x@production", 1.0, 0.0)

    async def ref(task: str, need: Need) -> str:
        return (await world.plan("auto", need, task)).order[0].ref

    assert await ref("chat", CHAT) == "m:2"
    assert await ref("chat", dataclasses.replace(CHAT, prompt_tokens=200)) == "m:1"
    assert await ref("chat", dataclasses.replace(CHAT, min_quality=0.5)) == "m:1"
    assert await ref("embed", Need(5)) == "v:1"
    assert await ref("classify", Need(5)) == "w:1"
    assert await ref("rerank", Need(5)) == "x:2"


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (None, (1.0, 0.0)),
        (EngineError(), (0.0, 1.0)),
        (DeadlineExceededError(), (0.0, 1.0)),
        (OutOfMemoryError(), (0.0, 1.0)),
        (OverloadedError(), (0.0, 0.0)),
        (ContextLengthError(), (0.0, 0.0)),
        (InvalidRequestError(), (0.0, 0.0)),
    ],
)
async def test_answers_and_the_models_own_failures_are_counted(
    world: World, error: LlmosError | None, counted: tuple[float, float]
) -> None:
    world.add("m")
    plan = await world.plan()
    world.choosing.ended(plan, 0, CHAT, error, 1.0)
    found = world.choosing.outcomes.counts("m:1", "chat", "", "alice")
    assert found == pytest.approx(counted, rel=1e-4)


async def test_one_tenants_deadlines_and_routes_speak_for_that_tenant_alone(world: World) -> None:
    world.add("m")
    counts = world.choosing.outcomes.counts
    late, broken = DeadlineExceededError(), EngineError()
    plan = await world.plan(actor=ALICE)
    expected_s = plan.verdicts[0].latency_ms / 1000
    world.choosing.ended(plan, 0, CHAT, late, expected_s * 0.5)  # nobody could have met it
    assert counts("m:1", "chat", "", "alice") == (0.0, 0.0)
    world.choosing.ended(plan, 0, CHAT, late, expected_s * 1.5)
    assert counts("m:1", "chat", "", "alice") == pytest.approx((0.0, 1.0), rel=1e-4)
    assert counts("m:1", "chat", "", "bob") == (0.0, 0.0)
    world.choosing.routes.put("mine", [Target("m")], [], ALICE)
    plan = await world.plan("mine", actor=ALICE)
    for error in (broken, late, None):
        world.choosing.ended(plan, 0, CHAT, error, expected_s * 1.5)
    assert counts("m:1", "chat", "", "alice") == pytest.approx((1.0, 3.0), rel=1e-4)
    assert counts("m:1", "chat", "", "bob") == (0.0, 0.0)
    route(world, Target("m"))
    for name in ("support", "auto"):
        world.choosing.ended(await world.plan(name, actor=ALICE), 0, CHAT, broken, 1.0)
    assert counts("m:1", "chat", "", "bob") == pytest.approx((0.0, 2.0), rel=1e-4)


async def test_a_deadline_that_nobody_could_meet_says_nothing_of_a_candidate(world: World) -> None:
    world.add("m"), world.add("m")
    world.trials.put("m@production", 0.5, 0.5)
    plan = await world.plan("m@production", actor=ALICE)
    (expected_ms,) = [it.latency_ms for it in plan.verdicts if it.key == plan.order[0].ref]
    for share in (0.5, 1.5):
        seconds = expected_ms * share / 1000
        world.choosing.ended(plan, 0, CHAT, DeadlineExceededError(), seconds)
    assert world.trials.seen == [("m@production", plan.order[0].ref, False)]


async def test_a_model_that_fails_is_left_for_another(world: World) -> None:
    world.add("broken")
    world.add("sound")
    for _ in range(40):
        plan = await world.plan()
        failed = plan.order[0].ref == "broken:1"
        world.choosing.ended(plan, 0, CHAT, EngineError() if failed else None, 1.0)
    counts = Counter([(await world.plan()).order[0].ref for _ in range(30)])
    assert counts["sound:1"] > 26


async def test_verdicts_move_the_choices_of_who_gave_them(world: World) -> None:
    world.add("a")
    world.add("b")
    for _ in range(5):
        await world.choosing.judge(ALICE, "a", "chat", "", False)
        noted = await world.choosing.judge(ALICE, "b:1", None, "", True)
    assert noted == {"model": "b:1", "task": "chat", "language": "", "good": True}
    alices = Counter([(await world.plan(actor=ALICE)).order[0].ref for _ in range(30)])
    bobs = Counter([(await world.plan(actor=BOB)).order[0].ref for _ in range(30)])
    assert alices["b:1"] > 27
    assert bobs["a:1"] > 5


async def test_a_verdict_needs_a_model_its_task_and_the_right_to_it(world: World) -> None:
    world.add("a")
    with pytest.raises(ModelNotFoundError):
        await world.choosing.judge(ALICE, "none", None, "", True)
    with pytest.raises(InvalidRequestError, match="is for 'chat'") as refused:
        await world.choosing.judge(ALICE, "a", "translate", "", True)
    assert refused.value.param == "task"
    limited = dataclasses.replace(ALICE, models=frozenset({"b"}))
    with pytest.raises(PermissionDeniedError):
        await world.choosing.judge(limited, "a", None, "", True)
