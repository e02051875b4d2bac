"""Every table. Times are Unix seconds, JSON columns hold plain JSON, every row has an owner."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # model | adapter | dataset
    Column("namespace", String, nullable=False, default=""),
    Column("name", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("job_id", Integer, ForeignKey("jobs.id")),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("removed_at", Float),  # a tombstone: the number is never given out again
    UniqueConstraint("kind", "namespace", "name", "number"),
)

version_files = Table(
    "version_files",
    metadata,
    Column("version_id", Integer, ForeignKey("versions.id"), primary_key=True),
    Column("filename", String, primary_key=True),
    Column("digest", String, nullable=False, index=True),
    Column("size", Integer, nullable=False),
    Column("owner", String, nullable=False),
)

lineage = Table(
    "lineage",
    metadata,
    Column("version_id", Integer, ForeignKey("versions.id"), primary_key=True),
    Column("input", String, primary_key=True),  # "name:version" or a digest
    Column("owner", String, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("kind", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("updated_at", Float, nullable=False),
)

task_defaults = Table(
    "task_defaults",
    metadata,
    Column("task", String, primary_key=True),  # e.g. machine_translation
    Column("model", String, nullable=False),  # a ModelRef
    Column("owner", String, nullable=False),
)

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
    Column("run_id", Integer, ForeignKey("runs.id")),  # the pipeline run it is a step of
    Column("compute_s", Float, nullable=False, default=0.0),  # of all attempts, pauses left out
    Column("joules", Float),  # None: the machine does not tell
    UniqueConstraint("owner", "idempotency_key"),
)
Index("ix_jobs_queue", jobs.c.state, jobs.c.priority, jobs.c.owner, jobs.c.id)
Index("ix_jobs_not_before", jobs.c.state, jobs.c.not_before)
Index("ix_jobs_owner_id", jobs.c.owner, jobs.c.id)

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

runs = Table(
    "runs",  # of pipelines
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("pipeline", JSON, nullable=False),  # the steps, checked
    Column("state", String, nullable=False),  # running | succeeded | failed | cancelled
    Column("error", JSON),  # {"code", "message"}
    Column("schedule_id", Integer),  # what started it; None: a person
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
)
Index("ix_runs_state", runs.c.state, runs.c.id)

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
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("url", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("events", JSON, nullable=False),  # job.succeeded, …
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
)

deliveries = Table(
    "deliveries",  # of events to webhooks
    metadata,
    Column("id", Integer, primary_key=True),
    Column("webhook_id", Integer, ForeignKey("webhooks.id"), nullable=False),
    Column("event", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String, nullable=False),  # pending | delivered | dead
    Column("attempt", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False),
    Column("error", String),  # of the last attempt
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
)
Index("ix_deliveries_due", deliveries.c.state, deliveries.c.not_before)

measurements = Table(
    "measurements",  # what jobs and models really took, beside what was predicted
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # a job kind, or "model"
    Column("subject", String, nullable=False),  # what of that kind: a digest, an architecture
    Column("predicted_bytes", Integer, nullable=False),
    Column("measured_bytes", Integer, nullable=False),
    Column("predicted_s", Float),
    Column("measured_s", Float),
    Column("at", Float, nullable=False),
    Column("owner", String, nullable=False),
)
Index("ix_measurements_kind", measurements.c.kind, measurements.c.subject, measurements.c.id)

quotas = Table(
    "quotas",
    metadata,
    Column("owner", String, primary_key=True),  # "*": everybody who has none
    Column("limits", JSON, nullable=False),
    Column("updated_at", Float, nullable=False),
)

usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", String, primary_key=True),  # 2026-11-22, UTC
    Column("owner", String, primary_key=True),
    Column("model", String, primary_key=True),  # a name without version; "" for jobs
    Column("requests", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("prompt_tokens", Integer, nullable=False, default=0),
    Column("cached_tokens", Integer, nullable=False, default=0),
    Column("completion_tokens", Integer, nullable=False, default=0),
    Column("jobs", Integer, nullable=False, default=0),
    Column("compute_s", Float, nullable=False, default=0.0),
    Column("joules", Float),  # None: the machine does not tell
)

uploads = Table(
    "uploads",  # /v1/files
    metadata,
    Column("id", String, primary_key=True),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),  # batch | batch_output
    Column("digest", String, nullable=False, index=True),
    Column("size_bytes", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
)
Index("ix_uploads_owner", uploads.c.owner, uploads.c.created_at)

batches = Table(
    "batches",  # /v1/batches; what becomes of one, its job says
    metadata,
    Column("id", String, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("endpoint", String, nullable=False),
    Column("input_file_id", String, nullable=False),
    Column("output_file_id", String),
    Column("error_file_id", String),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("completion_window", String, nullable=False),
    Column("notes", JSON),  # the client's metadata
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("cancelling_at", Float),
    Column("finalizing_at", Float),
    Column("ended_at", Float),
    Column("ended_as", String),  # completed | failed | expired | cancelled
)
Index("ix_batches_owner", batches.c.owner, batches.c.created_at)

routes = Table(
    "routes",  # names that clients ask for, and the models behind each
    metadata,
    Column("name", String, primary_key=True),
    Column("targets", JSON, nullable=False),  # [{"model", "weight"}]
    Column("fallbacks", JSON, nullable=False),  # models, in order
    Column("owner", String, nullable=False),
    Column("updated_at", Float, nullable=False),
)

outcomes = Table(
    "outcomes",  # how often a model's answers were good, fading
    metadata,
    Column("model", String, primary_key=True),  # name:version
    Column("task", String, primary_key=True),
    Column("language", String, primary_key=True, default=""),
    Column("successes", Float, nullable=False, default=0.0),
    Column("failures", Float, nullable=False, default=0.0),
    Column("updated_at", Float, nullable=False),
    Column("owner", String, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("role", String, nullable=False),  # admin | user
    Column("actions", JSON),  # None: all the role allows
    Column("models", JSON),  # None: all
    Column("best_priority", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("previous_id", String),  # the response this one goes on from
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("size_bytes", Integer, nullable=False),
    Column("input", JSON, nullable=False),  # the items it was asked with
    Column("body", JSON, nullable=False),  # the response as the client got it
)
Index("ix_responses_owner", responses.c.owner, responses.c.created_at, responses.c.size_bytes)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("object", String, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("owner", String, nullable=False),
)
