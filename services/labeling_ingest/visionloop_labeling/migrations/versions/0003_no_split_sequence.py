"""Groups forget which label gave them their split: nothing ever asked."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not by a batch: SQLite drops a column itself, without a copy of the table.
    op.drop_column("image_group", "split_sequence")
