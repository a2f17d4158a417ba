"""The label log, the current labels, the split counts, and what models predict."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from visionloop_labeling.schema.base import RowId, Table, UtcDateTime


class LabelEvent(Table):
    """Somebody said something about an image. Never changed, never deleted."""

    __tablename__ = "label_event"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sequence"),
        Index(None, "item_id"),
        Index(None, "dataset_id", "author", "sequence"),
        Index(None, "dataset_id", "kind", "author_kind", "at"),  # labels a day, by who spoke
        # What became of suggestions, by model version.
        Index(
            "ix_label_event_suggestion",
            "dataset_id",
            "suggested_by",
            "suggestion",
            sqlite_where=text("suggestion <> ''"),
            postgresql_where=text("suggestion <> ''"),
        ),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    event_id: Mapped[str] = mapped_column(String(36), unique=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    kind: Mapped[str] = mapped_column(String(7), default="label")  # see fold.EventKind
    # The label of a submitted row, whose sender may not know of the label that is there.
    from_row: Mapped[bool] = mapped_column(default=False)
    # What it says the image shows (see `annotation`); None for events that say nothing of that.
    annotation: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    # The first class of the annotation, for joins; None where it names none.
    class_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))
    undoes: Mapped[int | None] = mapped_column(BigInteger)  # the sequence that an undo takes back
    note: Mapped[str] = mapped_column(String(2000), default="")  # why flagged, why skipped
    author_kind: Mapped[str] = mapped_column(String(6))
    author: Mapped[str] = mapped_column(String(200))
    base_sequence: Mapped[int | None] = mapped_column(BigInteger)
    # Whether it became the current label when it came: the answer its author got.
    applied: Mapped[bool]
    # The model version whose suggestion the author saw ("name:7"), and what he did with it.
    suggested_by: Mapped[str] = mapped_column(String(200), default="")
    suggestion: Mapped[str] = mapped_column(String(8), default="")  # accepted edited rejected
    seconds: Mapped[float | None] = mapped_column(Float)  # that the author looked at it
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it was said, where it had to wait before it was recorded: feedback, in the inbox.
    said_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LabelHead(Table):
    """The current label of an image: a fold over its events. No label, no row."""

    __tablename__ = "label_head"

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    event_row_id: Mapped[int] = mapped_column(ForeignKey("label_event.id"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    class_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))
    annotation: Mapped[dict[str, Any]] = mapped_column(JSON)
    author_kind: Mapped[str] = mapped_column(String(6))
    # Two rows with the same image say different things, and nobody has decided since.
    disputed: Mapped[bool]

    __table_args__ = (Index(None, "class_id", "item_id"),)  # a class's images, a page at a time


class LabelHeadClass(Table):
    """The classes that a current label names beside its first, which is in `LabelHead`.

    Whoever looks for the images of a class asks both (`classes.naming`); most labels have no row.
    """

    __tablename__ = "label_head_class"
    __table_args__ = (Index(None, "class_id"),)

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"), primary_key=True)


class SplitCount(Table):
    """How many images with an accepted label of a class stand in a split: for the deficit rule."""

    __tablename__ = "split_count"

    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"), primary_key=True)
    split: Mapped[str] = mapped_column(String(5), primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger)


class Prediction(Table):
    """What a model version says about an image. Never mixed with labels."""

    __tablename__ = "prediction"

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    model: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    # [[class key, probability], …], most probable first
    scores: Mapped[list[Any]] = mapped_column(JSON)
    class_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))  # the first
    probability: Mapped[float] = mapped_column(Float)  # of the first
    margin: Mapped[float] = mapped_column(Float)  # to the second
    sure: Mapped[bool]  # above the bundle's threshold
    at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index(None, "class_id", "probability"),)
