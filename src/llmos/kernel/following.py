"""Following the events of one job to its end, or of many at once without end: stored and live."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from llmos.kernel.events import EVERYONES_JOBS, EventBus, owners_topic, topic
from llmos.kernel.jobs import JobEvent
from llmos.kernel.queue import JobQueue


async def follow_job(
    queue: JobQueue, bus: EventBus, job_id: int, after_event_id: int
) -> AsyncGenerator[JobEvent, None]:
    """Yield a job's events, each once and in order, until it has ended.

    Of progress (id 0) only the newest is yielded. Close the generator to stop following.

    Raises:
        JobNotFoundError: there is no such job.
    """
    with bus.subscribe(topic(job_id)) as live:
        while True:
            job = await queue.get(job_id)
            while events := await queue.events(job_id, after_event_id):
                for event in events:
                    yield event
                after_event_id = events[-1].id
            if job.state.is_final:
                return
            news: list[JobEvent] = [await anext(live), *live.take_all()]
            for event in [event for event in news if event.type == "progress"][-1:]:
                yield event


async def follow_jobs(
    queue: JobQueue, bus: EventBus, owner: str | None, after_event_id: int
) -> AsyncGenerator[JobEvent, None]:
    """Yield events of all jobs of an owner, or of everyone, each once and in order.

    Of progress (id 0) only the newest of each job is yielded. Close the generator to stop.
    """
    name = EVERYONES_JOBS if owner is None else owners_topic(owner)
    with bus.subscribe(name) as live:
        while True:
            while events := await queue.events_of(owner, after_event_id):
                for event in events:
                    yield event
                after_event_id = events[-1].id
            while True:
                news: list[JobEvent] = [await anext(live), *live.take_all()]
                progress = {event.job_id: event for event in news if event.type == "progress"}
                for event in progress.values():
                    yield event
                if any(event.id > after_event_id for event in news):
                    break
