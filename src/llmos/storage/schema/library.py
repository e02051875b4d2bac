"""Tables of the library: versions, their names, what is deployed and who is asked."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
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
Index("ix_versions_owner", versions.c.owner, versions.c.removed_at)

version_files = Table(
    "version_files",
    metadata,
    Column("version_id", Integer, ForeignKey("versions.id"), primary_key=True),
    Column("filename", String, primary_key=True),
    Column("digest", String, nullable=False, index=True),
    Column("size", Integer, nullable=False),
    Column("owner", String, nullable=False),
)

blob_owners = Table(
    "blob_owners",  # of uploads that no version of that owner names
    metadata,
    Column("owner", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("size_bytes", Integer, nullable=False),
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

deployments = Table(
    "deployments",  # aliases that move by a gate only
    metadata,
    Column("namespace", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("number", Integer, nullable=False),  # what the alias means
    Column("candidate", Integer),  # gets a part of the requests, and may take its place
    Column("weight", Float, nullable=False, default=0.0),  # the candidate's part
    Column("gates", JSON, nullable=False),  # lines of text
    Column("rules", JSON, nullable=False),  # when the candidate is taken back
    Column("owner", String, nullable=False),
    Column("updated_at", Float, nullable=False),
)

deployment_events = Table(
    "deployment_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", String, nullable=False),
    Column("name", String, nullable=False),
    Column("alias", String, nullable=False),
    Column("action", String, nullable=False),  # deploy | canary | promote | rollback
    Column("from_number", Integer),
    Column("to_number", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
)
Index(
    "ix_deployment_events_name",
    deployment_events.c.namespace,
    deployment_events.c.name,
    deployment_events.c.alias,
    deployment_events.c.id,
)

evaluations = Table(
    "evaluations",  # of models on datasets
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", String, nullable=False),
    Column("name", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("dataset", String, nullable=False),
    Column("data_digest", String, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("num_rows", Integer, nullable=False),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
)
Index(
    "ix_evaluations_name",
    evaluations.c.namespace,
    evaluations.c.name,
    evaluations.c.number,
    evaluations.c.id,
)

routes = Table(
    "routes",  # names that clients ask for, and the models behind each
    metadata,
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("targets", JSON, nullable=False),  # [{"model", "weight"}]
    Column("fallbacks", JSON, nullable=False),  # models, in order
    Column("updated_at", Float, nullable=False),
)

outcomes = Table(
    "outcomes",  # how often a model's answers were good, fading
    metadata,
    Column("model", String, primary_key=True),  # name:version
    Column("task", String, primary_key=True),
    Column("language", String, primary_key=True, default=""),
    Column("owner", String, primary_key=True),  # who said so; llmos: what serving showed
    Column("successes", Float, nullable=False, default=0.0),
    Column("failures", Float, nullable=False, default=0.0),
    Column("updated_at", Float, nullable=False),
)
Index("ix_outcomes_owner", outcomes.c.owner, outcomes.c.updated_at)
