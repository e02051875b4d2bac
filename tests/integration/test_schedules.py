"""A schedule in a whole system: the run that a stopped server missed, and whose terms it is on."""

from __future__ import annotations

import contextlib
import time
from contextlib import aclosing
from pathlib import Path

from llmos.errors import ConflictError
from llmos.kernel.cron import Cron
from llmos.kernel.following import follow_jobs
from llmos.settings import Settings
from llmos.system import System, open_system

DAY_S = 86400.0


class Clock:
    """The real time, set ahead by tests."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


async def first_job(system: System) -> int:
    """Wait for the first job there is; return its run."""
    jobs, bus = system.kernel.jobs, system.kernel.events
    async with aclosing(follow_jobs(jobs, bus, None, 0)) as events:
        job = await jobs.get((await anext(events)).job_id)
    assert job.run_id is not None
    return job.run_id


async def test_what_a_stopped_server_missed_runs_once_on_the_terms_of_the_key(
    tmp_path: Path,
) -> None:
    settings, clock = Settings(home=tmp_path), Clock()
    system = open_system(settings, clock)
    (key,) = system.keys.list()
    digest = system.blobs.put_bytes(b"{}").digest
    files = {"config.json": digest, "tokenizer.json": digest, "model.safetensors": digest}
    step = {"kind": "import", "params": {"name": "nightly", "files": files}}
    pipeline = {"name": "nightly", "steps": {"make": step}}
    actor = system.keys.actor_of(key.id)
    await system.runs.check(actor, pipeline)
    cron = Cron.parse("0 2 * * *", "Asia/Shanghai")
    schedule = await system.schedules.add(cron, pipeline, name="nightly", actor=actor)
    await system.start()
    assert await system.runs.list() == []
    await system.close()

    clock.ahead_s = 5 * DAY_S
    system = open_system(settings, clock)
    await system.start()
    try:
        run = await system.runs.get(await first_job(system))
        assert (run.schedule_id, run.name, run.owner) == (schedule.id, "nightly", "admin")
        await system.schedules.stop()
        await system.schedules.step()
        assert [run.id for run in await system.runs.list()] == [run.id]
        after = await system.schedules.get(schedule.id)
        assert after.last_error is None
        assert after.next_at == cron.next_after(clock())
        with contextlib.suppress(ConflictError):  # it has failed already
            await system.runs.cancel(run.id, actor)

        system.keys.revoke(key.id)
        clock.ahead_s += DAY_S
        await system.schedules.step()
        assert len(await system.runs.list()) == 1
        assert "revoked" in ((await system.schedules.get(schedule.id)).last_error or "")
    finally:
        await system.close()


async def test_a_turn_without_enough_to_learn_from_is_left_out(tmp_path: Path) -> None:
    recipe = {
        "name": "starter-chat",
        "task": "chat",
        "model": {"base": "starter-chat@latest"},
        "tokenizer": {"kind": "base"},
        "data": {"path": "feedback:starter-chat"},
        "replay": {"path": "starter:chat", "rows": 100, "share": 0.5},
        "online": {"min_rows": 4},
        "steps": 10,
        "batch_size": 4,
        "optimizer": {"learning_rate": 1e-4},
    }
    step = {"kind": "train", "params": {"recipe": recipe, "name": "starter-chat"}}
    pipeline = {"name": "learn", "steps": {"learn": step}}
    clock = Clock()
    system = open_system(Settings(home=tmp_path), clock)
    (key,) = system.keys.list()
    actor = system.keys.actor_of(key.id)
    await system.runs.check(actor, pipeline)
    cron = Cron.parse("*/5 * * * *", "UTC")
    schedule = await system.schedules.add(cron, pipeline, name="learn", actor=actor)
    try:
        clock.ahead_s = 600.0
        await system.schedules.step()
        assert await system.runs.list() == []
        after = await system.schedules.get(schedule.id)
        assert "0 of at least 4 new lessons" in (after.last_error or "")
        assert after.next_at == cron.next_after(clock())
    finally:
        system.database.close()
        system.lock.release()
