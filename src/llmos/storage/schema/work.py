"""Tables of the kernel: jobs and all that makes, follows and measures them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
)

from llmos.storage.schema.base import metadata

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # train, import, pull, …
    Column("name", String, nullable=False),
    Column("params", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float),  # when it first could run; its age counts from here
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("attempt", Integer, nullable=False, default=0),  # starts so far
    Column("failures", Integer, nullable=False, default=0),  # attempts it is to blame for
    Column("max_attempts", Integer, nullable=False, default=3),
    Column("fence", Integer, nullable=False, default=0),
    Column("lease_expires_at", Float),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("reserved_bytes", Integer, nullable=False, default=0),
    Column("threads", Integer, nullable=False, default=0),
    Column("progress", JSON),  # {"step", "total", "message"}
    Column("error", JSON),  # {"code", "message"}
    Column("result", JSON),
    Column("idempotency_key", String),  # who submits with the same one again gets the same job
    Column("request_digest", String),  # of what was asked for with that key
    Column("run_id", Integer, ForeignKey("runs.id")),  # the pipeline run it is a step of
    Column("compute_s", Float, nullable=False, default=0.0),  # of all attempts, pauses left out
    Column("joules", Float),  # None: the machine does not tell
    Column("asker", JSON),  # whose terms hold for what it asks of the server; None: it may not
    UniqueConstraint("owner", "idempotency_key"),
)
Index("ix_jobs_queue", jobs.c.state, jobs.c.priority, jobs.c.owner, jobs.c.kind, jobs.c.id)
Index("ix_jobs_not_before", jobs.c.state, jobs.c.not_before)
Index("ix_jobs_owner_id", jobs.c.owner, jobs.c.id)
Index("ix_jobs_run_id", jobs.c.run_id, sqlite_where=jobs.c.run_id.is_not(None))

job_after = Table(
    "job_after",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id"), primary_key=True),
    Column("after_id", Integer, ForeignKey("jobs.id"), primary_key=True, index=True),
    Column("owner", String, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("type", String, nullable=False),  # state | log | metric
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("owner", String, nullable=False),
)
Index("ix_job_events_job_id_id", job_events.c.job_id, job_events.c.id)
Index("ix_job_events_owner_id", job_events.c.owner, job_events.c.id)

runs = Table(
    "runs",  # of pipelines
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("pipeline", JSON, nullable=False),  # the steps, checked
    Column("state", String, nullable=False),  # running | succeeded | failed | cancelled
    Column("error", JSON),  # {"code", "message"}
    Column("schedule_id", Integer),  # what started it; None: a person
    Column("actor", JSON, nullable=False),  # whose terms hold for all its steps
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
)
Index("ix_runs_state", runs.c.state, runs.c.id)
Index("ix_runs_owner", runs.c.owner, runs.c.id)
Index("ix_runs_schedule_id", runs.c.schedule_id, runs.c.id)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("cron", String, nullable=False),  # five fields
    Column("timezone", String, nullable=False, default="UTC"),
    Column("pipeline", JSON, nullable=False),
    Column("next_at", Float, nullable=False, index=True),
    Column("last_at", Float),
    Column("last_error", String),  # why its last run could not be started
    Column("key_id", String, nullable=False),  # the key that made it: its runs may do what that may
    Column("owner", String, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,  # its runs name it: a number is never given out again
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("url", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("events", JSON, nullable=False),  # job.succeeded, …
    Column("owner", String, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",  # of events to webhooks
    metadata,
    Column("id", Integer, primary_key=True),
    Column("webhook_id", Integer, ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("event", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String, nullable=False),  # pending | delivered | dead
    Column("attempt", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False),
    Column("error", String),  # of the last attempt
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,  # receivers know a delivery again by its number
)
Index("ix_deliveries_due", deliveries.c.state, deliveries.c.webhook_id, deliveries.c.not_before)

measurements = Table(
    "measurements",  # what jobs and models really took, beside what was predicted
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # a job kind, or "model"
    Column("subject", String, nullable=False),  # what of that kind: a digest, an architecture
    Column("declared_bytes", Integer, nullable=False),  # by the job kind or the manifest
    Column("predicted_bytes", Integer, nullable=False),  # reserved before it began
    Column("measured_bytes", Integer, nullable=False),
    Column("predicted_s", Float),
    Column("measured_s", Float),
    Column("at", Float, nullable=False),
    Column("owner", String, nullable=False),
)
Index("ix_measurements_kind", measurements.c.kind, measurements.c.subject, measurements.c.id)
