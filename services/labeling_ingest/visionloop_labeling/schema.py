"""The tables: what is stored about datasets, images and labels.

The object store holds the bytes, this database what is known about them. Label events are the
truth and are only ever appended; `LabelHead` (the current label) and `SplitCount` are folds over
them, written in the same transaction and rebuildable. The same tables run on SQLite and Postgres.

Times are UTC; SQLite forgets the zone, so `UtcDateTime` gives it back. Digests are 64 hex digits.
The sequence of a label event is taken from `Dataset.last_sequence` under the dataset's lock, so
that the order of commits is the order of sequences: a reader who saw n has seen everything below.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BLOB_PENDING = "pending"
BLOB_STORED = "stored"

# SQLite hands out row ids only for INTEGER PRIMARY KEY, Postgres needs the wide type named.
_Id = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """In: UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Out: aware, also where the database forgot the zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables; constraints get stable names, so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Dataset(Table):
    """A named set of images with its classes. Locking this row orders all its writers."""

    __tablename__ = "dataset"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    last_sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    last_position: Mapped[int] = mapped_column(BigInteger, default=0)
    labelled: Mapped[int] = mapped_column(BigInteger, default=0)


class LabelClass(Table):
    """A class of a dataset. `key` is its id everywhere outside and never changes."""

    __tablename__ = "label_class"
    __table_args__ = (UniqueConstraint("dataset_id", "key"), UniqueConstraint("dataset_id", "name"))

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    key: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(200))


class Blob(Table):
    """One object in the store. `pending` is the intent, written before the object is."""

    __tablename__ = "blob"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    size: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(40))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    pixel_sha256: Mapped[str] = mapped_column(String(64))
    # What near duplicates are found by (see `duplicates`); empty where the image is too small or
    # too flat to have one. Eight bytes suffice: a newcomer's eight orientations are compared.
    phash: Mapped[bytes] = mapped_column(LargeBinary)
    thumbnail: Mapped[bytes] = mapped_column(LargeBinary)
    # True when the object was in the store before our intent: then it is not ours to remove.
    foreign: Mapped[bool]
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index(None, "pixel_sha256"), Index(None, "state"))


class ImageGroup(Table):
    """Images that must share a split. The split is given once and never changes."""

    __tablename__ = "image_group"
    __table_args__ = (UniqueConstraint("dataset_id", "key"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    key: Mapped[str] = mapped_column(String(80))
    split: Mapped[str | None] = mapped_column(String(5))
    split_sequence: Mapped[int | None] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(Integer, default=0)


class Item(Table):
    """An image of a dataset. `position` is its place in the order of arrival."""

    __tablename__ = "item"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sha256"),
        UniqueConstraint("dataset_id", "position"),
        Index(None, "dataset_id", "declared_group"),
        Index(None, "group_id"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    position: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("blob.sha256"))
    group_id: Mapped[int] = mapped_column(ForeignKey("image_group.id"))
    declared_group: Mapped[str] = mapped_column(String(200), default="")
    attributes: Mapped[dict[str, str]] = mapped_column(JSON)
    source: Mapped[str] = mapped_column(String(1000), default="")
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class NearDuplicate(Table):
    """Two images that show the same: equal pixels, or alike in one of eight orientations."""

    __tablename__ = "near_duplicate"
    __table_args__ = (Index(None, "earlier_id"),)

    later_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    earlier_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    distance: Mapped[int] = mapped_column(Integer)  # bits between the pHashes
    correlation: Mapped[float]  # of the thumbnails; 1.0 for equal pixels
    orientation: Mapped[int] = mapped_column(Integer)  # index into duplicates.ORIENTATIONS


class LabelEvent(Table):
    """Somebody said what an image shows. Never changed, never deleted."""

    __tablename__ = "label_event"
    __table_args__ = (UniqueConstraint("dataset_id", "sequence"), Index(None, "item_id"))

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    event_id: Mapped[str] = mapped_column(String(36), unique=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"))
    author_kind: Mapped[str] = mapped_column(String(6))
    author: Mapped[str] = mapped_column(String(200))
    base_sequence: Mapped[int | None] = mapped_column(BigInteger)
    # Whether it became the current label when it came: the answer its author got.
    applied: Mapped[bool]
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class LabelHead(Table):
    """The current label of an image: a fold over its events."""

    __tablename__ = "label_head"

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    event_row_id: Mapped[int] = mapped_column(ForeignKey("label_event.id"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"))
    author_kind: Mapped[str] = mapped_column(String(6))
    # Two rows with the same image name different classes, and nobody has decided since.
    disputed: Mapped[bool]


class SplitCount(Table):
    """How many accepted labels of a class stand in a split; what the deficit rule reads."""

    __tablename__ = "split_count"

    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"), primary_key=True)
    split: Mapped[str] = mapped_column(String(5), primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger)


class IngestBatch(Table):
    """A named import; with a row's ordinal it is the idempotency key."""

    __tablename__ = "ingest_batch"
    __table_args__ = (UniqueConstraint("dataset_id", "name"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    name: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class IngestRow(Table):
    """The stored receipt of one row, with the digest of what was asked."""

    __tablename__ = "ingest_row"

    batch_id: Mapped[int] = mapped_column(ForeignKey("ingest_batch.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    request_digest: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(9))
    sha256: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(40))
    message: Mapped[str] = mapped_column(String(1000))
    field: Mapped[str] = mapped_column(String(80))
    source: Mapped[str] = mapped_column(String(1000))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
