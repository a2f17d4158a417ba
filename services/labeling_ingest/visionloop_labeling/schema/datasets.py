"""Datasets, their classes and attributes, and what became of classes."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from visionloop_labeling.schema.base import RowId, Table, UtcDateTime


class Dataset(Table):
    """A named set of images with its classes. Locking this row orders all its writers."""

    __tablename__ = "dataset"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    # What it was made with, for ever (datasets.DatasetSettings): task, split ratios, policies.
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    # What may change at any time (datasets.Preferences): instructions, whose suggestions.
    preferences: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    last_sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    last_position: Mapped[int] = mapped_column(BigInteger, default=0)
    labelled: Mapped[int] = mapped_column(BigInteger, default=0)
    # Images by their place in the work (`fold.ItemState`); the others are open. Counted as they
    # change, because counting a million rows for every image that is shown takes too long.
    items_labelled: Mapped[int] = mapped_column(BigInteger, default=0)
    items_in_review: Mapped[int] = mapped_column(BigInteger, default=0)
    items_skipped: Mapped[int] = mapped_column(BigInteger, default=0)
    # Counts class events: what the classes mean, as of which change.
    class_version: Mapped[int] = mapped_column(Integer, default=0)


class LabelClass(Table):
    """A class of a dataset. `key` is its id everywhere outside and never changes.

    A class that was merged or split or retired stays: labels that name it keep their meaning.
    Reading a label follows `merged_into_id`; a class that was split leaves its images to be
    labelled again.
    """

    __tablename__ = "label_class"
    __table_args__ = (UniqueConstraint("dataset_id", "key"), UniqueConstraint("dataset_id", "name"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    key: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(7), default="active")  # active retired merged split
    merged_into_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))
    split_from_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))
    place: Mapped[int] = mapped_column(Integer, default=0)  # order on the page
    hotkey: Mapped[str] = mapped_column(String(1), default="")
    colour: Mapped[str] = mapped_column(String(7), default="")  # "#rrggbb"
    help: Mapped[str] = mapped_column(String(2000), default="")


class ClassEvent(Table):
    """A change of a dataset's classes. Never changed, never deleted."""

    __tablename__ = "class_event"
    __table_args__ = (UniqueConstraint("dataset_id", "class_version"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    class_version: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(8))  # see classes.ClassEventKind
    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    author: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class LabelAttribute(Table):
    """What labellers say about an image beside its class: a choice, a number, a colour."""

    __tablename__ = "label_attribute"
    __table_args__ = (UniqueConstraint("dataset_id", "name"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    name: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(6))  # choice number colour
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)  # choices; minimum, maximum, unit
    retired: Mapped[bool] = mapped_column(default=False)
