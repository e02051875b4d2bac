"""Annotation: tasks, items, turns, labels, consents; verdicts on answers, each counted once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables."""
    _tasks()
    _items()
    _turns()
    _labels()
    op.create_table(
        "annotation_consents",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("after_id", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "annotator", name=op.f("pk_annotation_consents")),
    )
    _verdicts()


def _tasks() -> None:
    op.create_table(
        "annotation_tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("scheme", sa.JSON(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=False),
        sa.Column("consent", sa.String(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("annotators", sa.JSON(), nullable=False),
        sa.Column("order", sa.String(), nullable=False),
        sa.Column("lease_s", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("left_out", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_annotation_tasks_job_id_jobs")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_tasks")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_annotation_tasks_owner", "annotation_tasks", ["owner", "id"], unique=False)


def _items() -> None:
    op.create_table(
        "annotation_items",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("row", sa.String(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("rank", sa.Float(), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("suggestion", sa.JSON(), nullable=True),
        sa.Column("suggested_by", sa.String(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("final_id", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["annotation_tasks.id"],
            name=op.f("fk_annotation_items_task_id_annotation_tasks"),
        ),
        sa.PrimaryKeyConstraint("task_id", "place", name=op.f("pk_annotation_items")),
    )
    op.create_index(
        "ix_annotation_items_open",
        "annotation_items",
        ["task_id", "is_open", "rank", "place"],
        unique=False,
    )


def _turns() -> None:
    op.create_table(
        "annotation_turns",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("leased_until", sa.Float(), nullable=True),
        sa.Column("label_id", sa.Integer(), nullable=True),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "annotator", "place", name=op.f("pk_annotation_turns")),
    )
    op.create_index(
        "ix_annotation_turns_place", "annotation_turns", ["task_id", "place"], unique=False
    )
    op.create_index(
        "ix_annotation_turns_state",
        "annotation_turns",
        ["task_id", "state", "annotator"],
        unique=False,
    )


def _labels() -> None:
    op.create_table(
        "annotation_labels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("skipped", sa.Boolean(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("flag", sa.String(), nullable=True),
        sa.Column("suggested_by", sa.String(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_labels")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_annotation_labels_place", "annotation_labels", ["task_id", "place"], unique=False
    )
    op.create_index(
        "ix_annotation_labels_task", "annotation_labels", ["task_id", "id"], unique=False
    )


def _verdicts() -> None:
    op.create_table(
        "verdicts",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("good", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "answer", name=op.f("pk_verdicts")),
    )
    op.create_index("ix_verdicts_owner", "verdicts", ["owner", "at"], unique=False)
