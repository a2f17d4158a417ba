"""Annotations of every kind, the queue, imports as jobs, people; classes that change.

Labels so far named one class: their annotation is that class. Images with a label that counts are
done, disputed ones wait for review.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "account",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("password", sa.String(length=300), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("name", name=op.f("uq_account_name")),
    )
    op.create_table(
        "work_lease",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("holder", sa.String(length=80), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_work_lease")),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("fk_api_token_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_api_token_secret_sha256")),
    )
    with op.batch_alter_table("api_token", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_api_token_account_id"), ["account_id"], unique=False)

    op.create_table(
        "import_job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=36), nullable=False),
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("batch", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("upload_key", sa.String(length=200), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("checkpoint", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("message", sa.String(length=1000), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("lease_holder", sa.String(length=80), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_import_job_dataset_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_job")),
        sa.UniqueConstraint(
            "dataset_id", "idempotency_key", name=op.f("uq_import_job_dataset_id_idempotency_key")
        ),
        sa.UniqueConstraint("key", name=op.f("uq_import_job_key")),
    )
    with op.batch_alter_table("import_job", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_import_job_state_id"), ["state", "id"], unique=False)

    op.create_table(
        "label_attribute",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=6), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_label_attribute_dataset_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_attribute")),
        sa.UniqueConstraint("dataset_id", "name", name=op.f("uq_label_attribute_dataset_id_name")),
    )
    op.create_table(
        "login",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column(
            "account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_login_account_id")),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_login")),
    )
    with op.batch_alter_table("login", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_login_account_id"), ["account_id"], unique=False)

    op.create_table(
        "quarantined",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("message", sa.String(length=1000), nullable=False),
        sa.Column("row", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(length=1000), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_quarantined_dataset_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantined")),
        sa.UniqueConstraint("dataset_id", "sha256", name=op.f("uq_quarantined_dataset_id_sha256")),
    )
    op.create_table(
        "quality_flag",
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("flag", sa.String(length=20), nullable=False),
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_quality_flag_dataset_id")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name=op.f("fk_quality_flag_item_id")),
        sa.PrimaryKeyConstraint("dataset_id", "flag", "item_id", name=op.f("pk_quality_flag")),
    )
    op.create_table(
        "source_object",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("source", sa.String(length=400), nullable=False),
        sa.Column("key", sa.String(length=1024), nullable=False),
        sa.Column("etag", sa.String(length=200), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("outcome", sa.String(length=11), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_source_object_dataset_id")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["import_job.id"], name=op.f("fk_source_object_job_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_object")),
        sa.UniqueConstraint(
            "dataset_id",
            "source",
            "key",
            "etag",
            name=op.f("uq_source_object_dataset_id_source_key_etag"),
        ),
    )
    with op.batch_alter_table("source_object", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_source_object_job_id_outcome_id"),
            ["job_id", "outcome", "id"],
            unique=False,
        )

    op.create_table(
        "usage",
        sa.Column(
            "account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_usage_account_id")),
        sa.PrimaryKeyConstraint("account_id", "day", name=op.f("pk_usage")),
    )
    op.create_table(
        "class_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("class_version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("class_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["class_id"], ["label_class.id"], name=op.f("fk_class_event_class_id")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_class_event_dataset_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_class_event")),
        sa.UniqueConstraint(
            "dataset_id", "class_version", name=op.f("uq_class_event_dataset_id_class_version")
        ),
    )
    op.create_table(
        "prediction",
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("class_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("margin", sa.Float(), nullable=False),
        sa.Column("sure", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["class_id"], ["label_class.id"], name=op.f("fk_prediction_class_id")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name=op.f("fk_prediction_item_id")),
        sa.PrimaryKeyConstraint("item_id", "model", "version", name=op.f("pk_prediction")),
    )
    with op.batch_alter_table("prediction", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_prediction_class_id_probability"),
            ["class_id", "probability"],
            unique=False,
        )

    # Blobs are written with what names them from now on; a pending one was named by nothing.
    op.execute("DELETE FROM blob WHERE state = 'pending'")
    with op.batch_alter_table("blob", schema=None) as batch_op:
        batch_op.add_column(sa.Column("quality", sa.JSON(), nullable=True))
        batch_op.drop_column("foreign")

    with op.batch_alter_table("dataset", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("preferences", sa.JSON(), nullable=False, server_default="{}")
        )
        batch_op.add_column(
            sa.Column("class_version", sa.Integer(), nullable=False, server_default="0")
        )
        for state in ("labelled", "in_review", "skipped"):
            batch_op.add_column(
                sa.Column(f"items_{state}", sa.BigInteger(), nullable=False, server_default="0")
            )

    with op.batch_alter_table("ingest_row", schema=None) as batch_op:
        batch_op.alter_column(
            "outcome",
            existing_type=sa.VARCHAR(length=9),
            type_=sa.String(length=11),
            existing_nullable=False,
        )

    with op.batch_alter_table("item", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("state", sa.String(length=8), nullable=False, server_default="open")
        )
        batch_op.add_column(sa.Column("priority", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("why", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("leased_by", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index(batch_op.f("ix_item_leased_by"), ["leased_by"], unique=False)
        batch_op.create_index(
            "ix_item_queue", ["dataset_id", "state", "priority", "position"], unique=False
        )

    with op.batch_alter_table("label_class", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("state", sa.String(length=7), nullable=False, server_default="active")
        )
        batch_op.add_column(
            sa.Column(
                "merged_into_id",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                nullable=True,
            )
        )
        batch_op.add_column(
            sa.Column(
                "split_from_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
            )
        )
        batch_op.add_column(sa.Column("place", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(
            sa.Column("hotkey", sa.String(length=1), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("colour", sa.String(length=7), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("help", sa.String(length=2000), nullable=False, server_default="")
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_label_class_split_from_id"), "label_class", ["split_from_id"], ["id"]
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_label_class_merged_into_id"), "label_class", ["merged_into_id"], ["id"]
        )

    with op.batch_alter_table("label_event", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("kind", sa.String(length=7), nullable=False, server_default="label")
        )
        batch_op.add_column(
            sa.Column("from_row", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("annotation", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("undoes", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column("note", sa.String(length=2000), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("suggested_by", sa.String(length=200), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("suggestion", sa.String(length=8), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("seconds", sa.Float(), nullable=True))
        batch_op.alter_column("class_id", existing_type=sa.INTEGER(), nullable=True)
        batch_op.create_index(
            batch_op.f("ix_label_event_dataset_id_author_sequence"),
            ["dataset_id", "author", "sequence"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_label_event_dataset_id_kind_author_kind_at"),
            ["dataset_id", "kind", "author_kind", "at"],
            unique=False,
        )
        batch_op.create_index(
            "ix_label_event_suggestion",
            ["dataset_id", "suggested_by", "suggestion"],
            unique=False,
            sqlite_where=sa.text("suggestion <> ''"),
            postgresql_where=sa.text("suggestion <> ''"),
        )

    with op.batch_alter_table("label_head", schema=None) as batch_op:
        batch_op.add_column(sa.Column("annotation", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.alter_column("class_id", existing_type=sa.INTEGER(), nullable=True)
        batch_op.create_index(
            batch_op.f("ix_label_head_class_id_item_id"), ["class_id", "item_id"], unique=False
        )

    with op.batch_alter_table("image_group", schema=None) as batch_op:
        batch_op.create_index(
            "ix_image_group_joined",
            ["dataset_id", "size"],
            unique=False,
            sqlite_where=sa.text("size > 1"),
            postgresql_where=sa.text("size > 1"),
        )

    op.create_table(
        "label_head_class",
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("class_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["class_id"], ["label_class.id"], name=op.f("fk_label_head_class_class_id")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name=op.f("fk_label_head_class_item_id")),
        sa.PrimaryKeyConstraint("item_id", "class_id", name=op.f("pk_label_head_class")),
    )
    with op.batch_alter_table("label_head_class", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_label_head_class_class_id"), ["class_id"])

    _fill()


def _fill() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        annotation = "json_build_object('classes', json_build_array(label_class.key))"
    else:
        annotation = "json_object('classes', json_array(label_class.key))"
    for table in ("label_event", "label_head"):
        op.execute(
            f"UPDATE {table} SET annotation = (SELECT {annotation} FROM label_class "  # noqa: S608
            f"WHERE label_class.id = {table}.class_id)"
        )
    op.execute("UPDATE label_class SET place = id")
    op.execute(
        "UPDATE item SET state = 'labelled' WHERE id IN (SELECT item_id FROM label_head "
        "WHERE author_kind IN ('human', 'import') AND NOT disputed)"
    )
    op.execute(
        "UPDATE item SET state = 'review' WHERE id IN "
        "(SELECT item_id FROM label_head WHERE disputed)"
    )
    op.execute("""UPDATE item SET why = '{"reason": "disputed"}' WHERE state = 'review'""")
    for column, state in (
        ("items_labelled", "labelled"),
        ("items_in_review", "review"),
        ("items_skipped", "skipped"),
    ):
        op.execute(
            f"UPDATE dataset SET {column} = (SELECT count(*) FROM item "  # noqa: S608
            f"WHERE item.dataset_id = dataset.id AND item.state = '{state}')"
        )
    # It was not noted before; an import's label came with a row, a person's or an app's by itself.
    op.execute("UPDATE label_event SET from_row = (author_kind = 'import')")
