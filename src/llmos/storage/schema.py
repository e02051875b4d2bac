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
