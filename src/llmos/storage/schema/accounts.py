"""Tables of who may do what, how much of it, and who did."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from llmos.storage.schema.base import metadata

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
    Column("anonymise", JSON),  # None: nothing is hidden
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

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
