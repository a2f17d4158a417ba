"""Who does the work that only one replica may do at a time."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from visionloop_labeling.schema.base import Table, UtcDateTime


class WorkLease(Table):
    """A named task (reconcile, drain-feedback, suggest …) and the replica that has it."""

    __tablename__ = "work_lease"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    holder: Mapped[str] = mapped_column(String(80))
    until: Mapped[datetime] = mapped_column(UtcDateTime)
