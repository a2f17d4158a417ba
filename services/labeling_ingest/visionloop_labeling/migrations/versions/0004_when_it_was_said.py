"""Feedback keeps when it was said: it may be taken long after something newer was."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null in all that is there, so no table is copied; and pods of the version before go on.
    op.add_column("label_event", sa.Column("said_at", sa.DateTime(timezone=True), nullable=True))
