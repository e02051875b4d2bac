"""A simulated 24 GB device under random loads: the real `decide`, `what_to_do`, estimates and
ledger; what models and jobs truly take differs from what is declared."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import Counter, defaultdict, deque

import pytest

from llmos.errors import OutOfMemoryError
from llmos.kernel.estimates import (
    MODEL,
    OF_JOBS,
    OF_MODELS,
    Measurement,
    predict_bytes,
    relative_error,
)
from llmos.kernel.ledger import FREE_SHARE, Ledger, job_key
from llmos.kernel.measurements import MAX_ROWS
from llmos.kernel.outgrowth import (
    Await,
    Keep,
    Reading,
    Refuse,
    Reserve,
    Room,
    Stop,
    floor_of,
    idle_bytes,
    what_to_do,
)
from llmos.kernel.scheduler import decide
from llmos.kernel.state import (
    ActiveJob,
    Drain,
    Evict,
    Load,
    ReadyJob,
    RefuseJob,
    RefuseModel,
    ResidentModel,
    Resume,
    Start,
    State,
    WantedModel,
)
from llmos.types import Priority

GB = 10**9
DEVICE_BYTES = 24 * GB
CAPACITY_BYTES = int(DEVICE_BYTES * FREE_SHARE)
NUM_LOADS = 1000
NUM_MODELS = 14
RAMP_S = 10
"""A job's memory grows for so long from its start."""
NOISE = 0.03


@dataclasses.dataclass
class SimModel:
    key: str
    declared_bytes: int
    true_bytes: int
    wanted_bytes: int = 0
    """What to reserve; 0: what is predicted."""
    state: str = "absent"
    lease_ends: list[float] = dataclasses.field(default_factory=list)
    waiting_since: list[float] = dataclasses.field(default_factory=list)
    draining_since: float | None = None
    last_used_at: float = 0.0
    turn_ends_at: float = 0.0
    predicted_bytes: int = 0
    num_known: int = 0

    @property
    def holds_memory(self) -> bool:
        """Of the device, not of the ledger, which has it from before its load."""
        return self.state in ("ready", "unloading")


@dataclasses.dataclass
class SimJob:
    id: int
    subject: str
    declared_bytes: int
    true_bytes: int
    reserved_bytes: int
    queued_at: float
    num_known: int
    """Measurements of its subject when it was submitted."""
    failures: int = 0
    age_s: int = 0
    lasts_s: int = 0
    more_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        return int(self.true_bytes * min(self.age_s / RAMP_S, 1.0))


class Device:
    """Models, jobs, and what is remembered of them; one step is a second."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.ledger = Ledger(CAPACITY_BYTES)
        self.models = {f"m{at}": self._new_model(f"m{at}") for at in range(NUM_MODELS)}
        self.ratios = {f"s{at}": self.rng.uniform(0.5, 1.7) for at in range(6)}
        self.queued: dict[int, SimJob] = {}
        self.running: dict[int, SimJob] = {}
        self.history: dict[tuple[str, str], deque[Measurement]] = defaultdict(
            lambda: deque(maxlen=MAX_ROWS)
        )
        self.errors: dict[str, list[tuple[int, float]]] = {"job": [], MODEL: []}
        """Of predictions put to the test, with the number of measurements they were made from."""
        self.num_jobs = 0
        self.num_loads = 0
        self.did: Counter[str] = Counter()
        self.most_bytes = 0

    def _new_model(self, key: str) -> SimModel:
        declared_bytes = int(self.rng.uniform(0.5, 7.0) * GB)
        return SimModel(key, declared_bytes, int(declared_bytes * self.rng.uniform(0.7, 1.3)))

    @property
    def taken_bytes(self) -> int:
        """What is truly taken of the device."""
        models = (one.true_bytes for one in self.models.values() if one.holds_memory)
        return sum(models) + sum(job.held_bytes for job in self.running.values())

    # -- what comes ------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Let requests for models, and jobs, come in as chance has it."""
        if self.rng.random() < 0.6:
            self._request(self.models[f"m{min(int(self.rng.expovariate(0.2)), NUM_MODELS - 1)}"])
        if self.rng.random() < 0.25 and len(self.queued) < 20:
            self._submit()

    def _request(self, model: SimModel) -> None:
        if model.state == "ready" and model.draining_since is None:
            model.lease_ends.append(self.now + self.rng.expovariate(0.2))
            model.last_used_at = self.now
        else:
            model.waiting_since.append(self.now)

    def _submit(self) -> None:
        subject = self.rng.choice(sorted(self.ratios))
        declared_bytes = int(self.rng.uniform(0.5, 4.0) * GB)
        ratio = self.ratios[subject] * self.rng.lognormvariate(0.0, NOISE)
        predicted_bytes = predict_bytes(declared_bytes, self.history["job", subject], OF_JOBS)
        self.num_jobs += 1
        self.queued[self.num_jobs] = SimJob(
            self.num_jobs,
            subject,
            declared_bytes,
            int(declared_bytes * ratio),
            min(predicted_bytes, CAPACITY_BYTES),
            self.now,
            len(self.history["job", subject]),
        )

    # -- a step ----------------------------------------------------------------------------------

    def step(self) -> None:
        self.now += 1.0
        self._let_models_be()
        self._let_jobs_be()
        self._watch()
        for action in decide(self._state()):
            self._do(action)
        self.check()

    def check(self) -> None:
        """The promises."""
        assert self.ledger.reserved_bytes <= CAPACITY_BYTES
        self.most_bytes = max(self.most_bytes, self.taken_bytes)
        assert self.taken_bytes <= DEVICE_BYTES
        for model in self.models.values():
            assert model.state == "ready" or not model.lease_ends, "a model in use is gone"

    def _let_models_be(self) -> None:
        """End leases, unloads, and the oldest load: the engine loads one model after another."""
        is_loading = False
        for model in self.models.values():
            model.lease_ends = [end for end in model.lease_ends if end > self.now]
            if model.lease_ends:
                model.last_used_at = self.now
            if model.state == "unloading":
                self.ledger.release(model.key)
                model.state = "absent"
            elif model.state == "loading" and not is_loading:
                is_loading = True
                self._loaded(model)

    def _loaded(self, model: SimModel) -> None:
        """As `Residency` does: the ledger is corrected, or the model is unloaded again."""
        model.state = "ready"
        self.check()  # until now the ledger had it as predicted
        self._remember(MODEL, model.key, model.declared_bytes, model.true_bytes)
        self._note_error(MODEL, model.num_known, model.predicted_bytes, model.true_bytes)
        model.wanted_bytes = model.true_bytes
        try:
            self.ledger.correct(model.key, model.true_bytes)
        except OutOfMemoryError:
            self.did["too large"] += 1
            model.state = "unloading"
            return
        model.turn_ends_at = self.now + 5.0
        self._admit(model)

    def _admit(self, model: SimModel) -> None:
        model.draining_since = None
        model.last_used_at = self.now
        model.lease_ends += [self.now + self.rng.expovariate(0.2) for _ in model.waiting_since]
        model.waiting_since.clear()

    def _let_jobs_be(self) -> None:
        """Let running jobs grow, those that are held apart, and end."""
        for job in list(self.running.values()):
            job.age_s += not job.more_bytes
            if job.age_s >= job.lasts_s:
                self._remember("job", job.subject, job.declared_bytes, job.true_bytes)
                self._test_prediction(job)
                self._end(job)

    def _end(self, job: SimJob) -> None:
        del self.running[job.id]
        self.ledger.release(job_key(job.id))

    def _remember(self, kind: str, subject: str, declared: int, measured: int) -> None:
        row = Measurement(kind, subject, declared, 0, measured, None, None, self.now, "o")
        self.history[kind, subject].append(row)

    def _test_prediction(self, job: SimJob) -> None:
        if not job.failures:  # what is reserved after one was not predicted
            self._note_error("job", job.num_known, job.reserved_bytes, job.true_bytes)

    def _note_error(self, kind: str, num_known: int, predicted: int, measured: int) -> None:
        error = relative_error(predicted, measured)
        assert error is not None
        self.errors[kind].append((num_known, abs(error)))

    # -- the watch, as `MemoryWatch` does it -----------------------------------------------------

    def _watch(self) -> None:
        available_bytes: float = DEVICE_BYTES - self.taken_bytes
        for job in list(self.running.values()):
            reserved_bytes = self.ledger.reserved(job_key(job.id))
            assert reserved_bytes is not None
            reading = Reading(reserved_bytes, job.held_bytes, job.held_bytes, job.age_s - RAMP_S)
            room = Room(
                self.ledger.free_bytes,
                idle_bytes(self._resident()),
                CAPACITY_BYTES,
                available_bytes,
                floor_of(DEVICE_BYTES),
            )
            verdict = what_to_do(reading, room)
            self.did[type(verdict).__name__] += 1
            match verdict:
                case Keep():
                    job.more_bytes = 0
                case Await(num_bytes):
                    job.more_bytes = num_bytes
                case Reserve(num_bytes):
                    self.did["grown" if num_bytes > reserved_bytes else "lowered"] += 1
                    self.ledger.correct(job_key(job.id), num_bytes)
                    job.more_bytes = 0
                case Stop(num_bytes):
                    available_bytes += job.held_bytes
                    self._stop(job, num_bytes)
                case Refuse():
                    self._end(job)

    def _stop(self, job: SimJob, num_bytes: int) -> None:
        self._remember("job", job.subject, job.declared_bytes, job.held_bytes)
        self._test_prediction(job)
        self._end(job)
        job.failures, job.age_s, job.more_bytes = job.failures + 1, 0, 0
        job.reserved_bytes = max(job.reserved_bytes, num_bytes)
        if job.failures < 3:
            self.queued[job.id] = job

    # -- the scheduler ---------------------------------------------------------------------------

    def _resident(self) -> tuple[ResidentModel, ...]:
        return tuple(
            ResidentModel(
                one.key,
                self.ledger.reserved(one.key) or 0,
                one.state,
                len(one.lease_ends),
                one.last_used_at,
                1.0,
                1.0,
                Priority.STANDARD if one.lease_ends else Priority.BACKGROUND,
                one.turn_ends_at,
                one.draining_since,
            )
            for one in self.models.values()
            if one.state != "absent"
        )

    def _to_reserve(self, model: SimModel) -> int:
        history = self.history[MODEL, model.key]
        predicted = predict_bytes(model.declared_bytes, history, OF_MODELS)
        return model.wanted_bytes or predicted

    def _state(self) -> State:
        return State(
            self.now,
            self.ledger.free_bytes,
            CAPACITY_BYTES,
            max_workers=3,
            idle_s=120.0,
            ageing_s=300.0,
            ready=tuple(
                ReadyJob(job.id, "o", Priority.BACKGROUND, job.queued_at, job.reserved_bytes)
                for job in self.queued.values()
            ),
            active=tuple(
                ActiveJob(
                    job.id,
                    1,
                    "o",
                    self.now + 30,
                    self.ledger.reserved(job_key(job.id)) or 0,
                    more_bytes=job.more_bytes,
                )
                for job in self.running.values()
            ),
            models=self._resident(),
            wanted=tuple(
                WantedModel(one.key, self._to_reserve(one), Priority.STANDARD, one.waiting_since[0])
                for one in self.models.values()
                if one.state == "absent" and one.waiting_since
            ),
        )

    def _do(self, action: object) -> None:
        match action:
            case Start(job_id):
                job = self.queued.pop(job_id)
                self.ledger.reserve(job_key(job_id), job.reserved_bytes)
                job.lasts_s = RAMP_S + int(self.rng.expovariate(0.02))
                self.running[job_id] = job
                self.num_loads += 1
            case Load(key, num_bytes):
                model = self.models[key]
                self.ledger.reserve(key, num_bytes)
                model.state, model.predicted_bytes = "loading", num_bytes
                model.num_known = len(self.history[MODEL, key])
                self.num_loads += 1
            case Evict(key):
                model = self.models[key]
                assert model.state == "ready"
                assert not model.lease_ends, "a model in use was to be evicted"
                model.state, model.draining_since = "unloading", None
                # Whoever asks from now on finds the estimates alone, as after a restart.
                model.wanted_bytes = 0
            case Drain(key):
                self.models[key].draining_since = self.now
            case Resume(key):
                self.models[key].turn_ends_at = self.now + 5.0
                self._admit(self.models[key])
            case RefuseModel(key):
                self.models[key].waiting_since.clear()
            case RefuseJob(job_id):
                del self.queued[job_id]
            case _:
                raise AssertionError(f"unexpected: {action}")


@pytest.fixture(scope="module")
def devices() -> list[Device]:
    """Three devices that each have seen a thousand loads; `Device.step` asserts the promises."""
    made = [Device(seed) for seed in range(3)]
    for device in made:
        while device.num_loads < NUM_LOADS:
            device.arrive()
            device.step()
    return made


def test_a_thousand_random_loads_overrun_nothing_and_evict_no_model_in_use(
    devices: list[Device],
) -> None:
    for device in devices:
        assert device.num_loads >= NUM_LOADS
        assert CAPACITY_BYTES * 0.9 < device.most_bytes <= DEVICE_BYTES  # it was well used
    did = sum((device.did for device in devices), Counter())
    exercised = ("grown", "lowered", "Await", "Stop", "too large")
    assert all(did[what] for what in exercised), did


def test_predictions_get_better_with_every_job_and_model(devices: list[Device]) -> None:
    def median_error(kind: str, least_known: int, most_known: int) -> float:
        pairs = [pair for device in devices for pair in device.errors[kind]]
        return statistics.median(e for n, e in pairs if least_known <= n <= most_known)

    unknown, little, well = (median_error("job", *n) for n in ((0, 0), (1, 4), (10, MAX_ROWS)))
    assert well < little < unknown
    assert well < 0.1 < 0.2 < unknown
    assert median_error(MODEL, 0, 0) > 0.1
    assert median_error(MODEL, 1, MAX_ROWS) == pytest.approx(0.0, abs=1e-6)
