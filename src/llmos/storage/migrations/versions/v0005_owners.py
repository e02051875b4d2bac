"""Whose the uploaded files are; routes are each owner's; how large kept answers are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table, fill it from what the audit trail tells, and change the others."""
    _blob_owners()
    _routes()
    _answers()
    op.create_index("ix_versions_owner", "versions", ["owner", "removed_at"], unique=False)


def _blob_owners() -> None:
    op.create_table(
        "blob_owners",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "digest", name=op.f("pk_blob_owners")),
    )
    op.execute(
        """
        INSERT INTO blob_owners (owner, digest, size_bytes)
        SELECT DISTINCT keys.owner, audit.object, json_extract(audit.detail, '$.size')
        FROM audit JOIN keys ON keys.id = audit.actor
        WHERE audit.action = 'blobs.create'
        """
    )  # those that are gone already leave it with the next gc


def _routes() -> None:
    op.rename_table("routes", "old_routes")
    op.create_table(
        "routes",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("fallbacks", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("pk_routes")),
    )
    columns = "owner, name, targets, fallbacks, updated_at"
    op.execute(f"INSERT INTO routes ({columns}) SELECT {columns} FROM old_routes")
    op.drop_table("old_routes")


def _answers() -> None:
    with op.batch_alter_table("answers") as answers:
        answers.add_column(
            sa.Column("size_bytes", sa.Integer(), nullable=False, server_default="0")
        )
    op.execute("UPDATE answers SET size_bytes = length(request) + length(outputs)")
    op.drop_index("ix_answers_owner", table_name="answers")
    op.create_index("ix_answers_owner", "answers", ["owner", "at", "size_bytes"], unique=False)
