"""Blobs, the images of a dataset, their groups and near duplicates, and what is in quarantine."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from visionloop_labeling.schema.base import RowId, Table, UtcDateTime

BLOB_STORED = "stored"
BLOB_MISSING = "missing"  # the store has lost it, or has other bytes under its name


class Blob(Table):
    """One object in the store. The object is there before its row is."""

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
    # Measures and flags of `quality`; None for images from before it was measured.
    quality: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index(None, "pixel_sha256"), Index(None, "state"))


class ImageGroup(Table):
    """Images that must share a split. The split is given once and never changes."""

    __tablename__ = "image_group"
    __table_args__ = (
        UniqueConstraint("dataset_id", "key"),
        # Of the few groups that are larger, so that their sizes can be counted at any time.
        Index(
            "ix_image_group_joined",
            "dataset_id",
            "size",
            sqlite_where=text("size > 1"),
            postgresql_where=text("size > 1"),
        ),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    key: Mapped[str] = mapped_column(String(80))
    split: Mapped[str | None] = mapped_column(String(5))
    size: Mapped[int] = mapped_column(Integer, default=0)


class Item(Table):
    """An image of a dataset. `position` is its place in the order of arrival.

    `state` is its place in the work (see `queue.ItemState`); `priority` orders what waits, `why`
    says it to people. A lease keeps two people from labelling the same image at the same time.
    """

    __tablename__ = "item"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sha256"),
        UniqueConstraint("dataset_id", "position"),
        Index(None, "dataset_id", "declared_group"),
        Index(None, "group_id"),
        # The queue's only query: an index scan in this order, whatever the dataset's size.
        Index("ix_item_queue", "dataset_id", "state", "priority", "position"),
        Index(None, "leased_by"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    position: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("blob.sha256"))
    group_id: Mapped[int] = mapped_column(ForeignKey("image_group.id"))
    declared_group: Mapped[str] = mapped_column(String(200), default="")
    attributes: Mapped[dict[str, str]] = mapped_column(JSON)
    source: Mapped[str] = mapped_column(String(1000), default="")
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(8), default="open")
    # Ascending, so that one index serves both keys: the lowest is next.
    priority: Mapped[float] = mapped_column(Float, default=0.0)
    why: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    leased_by: Mapped[str | None] = mapped_column(String(200))
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class QualityFlag(Table):
    """An image of a dataset that `quality` remarks on: dark, blurred, …. No remark, no row.

    `Blob.quality` says it too; these rows are for counting and finding.
    """

    __tablename__ = "quality_flag"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"), primary_key=True)
    flag: Mapped[str] = mapped_column(String(20), primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)


class NearDuplicate(Table):
    """Two images that show the same: equal pixels, or alike in one of eight orientations."""

    __tablename__ = "near_duplicate"
    __table_args__ = (Index(None, "earlier_id"),)

    later_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    earlier_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    distance: Mapped[int] = mapped_column(Integer)  # bits between the pHashes
    correlation: Mapped[float]  # of the thumbnails; 1.0 for equal pixels
    orientation: Mapped[int] = mapped_column(Integer)  # index into duplicates.ORIENTATIONS


class Quarantined(Table):
    """Bytes that looked like an image and could not be decoded safely; kept aside for people."""

    __tablename__ = "quarantined"
    __table_args__ = (UniqueConstraint("dataset_id", "sha256"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(40))
    message: Mapped[str] = mapped_column(String(1000))
    # What came with it: its label, group, attributes; for when it can be decoded after all.
    row: Mapped[dict[str, Any]] = mapped_column(JSON)
    source: Mapped[str] = mapped_column(String(1000))
    author: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
