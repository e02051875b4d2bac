"""What is hidden of personal data in the requests of a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column."""
    op.add_column("keys", sa.Column("anonymise", sa.JSON(), nullable=True))
