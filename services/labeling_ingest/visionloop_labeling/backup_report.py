"""What the latest backup came to, left where the service can read it: it has no key for backups.

The pod that made the backup is gone when somebody asks; every replica tells it to Prometheus.
"""

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import Field

from visionloop.errors import NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.record import Record, parse_record, record_bytes
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.backup import DAY

KEY: Final = "derived/backup.json"  # among what may be deleted, and is in no backup


class BackupReport(Record):
    """What `derived/backup.json` says of the latest complete day."""

    format_version: Literal[1] = 1
    day: str
    damaged: int = Field(ge=0, description="objects of the store that were not copied")


def leave(store: ObjectStore, report: BackupReport) -> None:
    """Takes the place of the report before."""
    store.put(KEY, record_bytes(report))


def tell(store: ObjectStore) -> bool:
    """Brings the gauges up to date; without a report they tell nothing. False: no work is left."""
    try:
        report = parse_record(BackupReport, store.get(KEY).data, KEY)
    except NotFoundError:
        metrics.BACKUP_TIMESTAMP.withdraw()
        metrics.BACKUP_DAMAGED_OBJECTS.withdraw()
        return False
    began = datetime.strptime(report.day, DAY).replace(tzinfo=UTC)
    metrics.BACKUP_TIMESTAMP.set(began.timestamp())
    metrics.BACKUP_DAMAGED_OBJECTS.set(report.damaged)
    return False
