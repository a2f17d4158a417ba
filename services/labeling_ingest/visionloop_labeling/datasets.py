"""Datasets and their classes: made, locked, listed, looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, NotFoundError
from visionloop.record import Record
from visionloop_labeling.annotation import Task
from visionloop_labeling.database import insert_new
from visionloop_labeling.schema import Dataset, LabelClass
from visionloop_labeling.splits import SplitRatios

MAX_INSTRUCTIONS: Final = 20_000  # characters


class DatasetSettings(Record):
    """What a dataset was made with."""

    # What a label says of an image: one class, any number of classes, or boxes.
    task: Task = "classification"
    ratios: SplitRatios = SplitRatios()
    # Whether labels from apps' feedback and from models are put into snapshots, in train only.
    train_on_app_labels: bool = True
    train_on_model_labels: bool = False


class Preferences(Record):
    """What may change at any time."""

    # How to label, for people; shown as text.
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] = ""
    # Whose suggestions labellers see; empty: the newest there are.
    suggestions_model: Annotated[str, Field(max_length=100)] = ""


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A dataset as it is shown to people."""

    name: str
    classes: list[tuple[str, str]]  # (id, name), in the order they appeared
    images: int
    labelled: int
    created: datetime
    settings: DatasetSettings


def create(session: Session, name: str, settings: DatasetSettings | None = None) -> Dataset:
    """The dataset of this name, made if need be. `name` has been validated.

    Raises ConflictError when it exists with other settings than the ones asked for.
    """
    _insert(session, name, settings or DatasetSettings())
    found = find(session, name)
    if settings is not None and settings_of(found) != settings:
        raise ConflictError(
            f'dataset "{name}" exists with other settings ({settings_of(found)!r}); splits are '
            "sticky, so settings never change: make a dataset of another name"
        )
    return found


def create_new(session: Session, name: str, settings: DatasetSettings) -> Dataset:
    """A new dataset. `name` has been validated. Raises ConflictError where it is taken."""
    if not _insert(session, name, settings):
        raise ConflictError(f'there is a dataset "{name}" already; choose another name')
    return find(session, name)


def find(session: Session, name: str, *, lock: bool = False) -> Dataset:
    """The dataset of this name. Raises NotFoundError.

    `lock=True` holds back all other writers of the dataset until the transaction ends. SQLite
    needs no row lock: its write transactions exclude each other from their beginning.
    """
    query = select(Dataset).where(Dataset.name == name)
    if lock:
        # The counters as of the lock, whatever the session has read before. Rows of other tables
        # may still come to refer to the dataset meanwhile (key_share).
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    dataset = session.scalar(query)
    if dataset is None:
        raise NotFoundError(
            f'there is no dataset "{name}"; make it first (CreateDataset, POST /v1/datasets)'
        )
    return dataset


def settings_of(dataset: Dataset) -> DatasetSettings:
    """The settings a dataset was made with."""
    return DatasetSettings.model_validate(dataset.settings)


def preferences_of(dataset: Dataset) -> Preferences:
    """What people set for a dataset."""
    return Preferences.model_validate(dataset.preferences)


def classes_of(session: Session, dataset: Dataset) -> Sequence[LabelClass]:
    """The classes in the order they appeared."""
    query = select(LabelClass).where(LabelClass.dataset_id == dataset.id).order_by(LabelClass.id)
    return session.scalars(query).all()


def summary(session: Session, dataset: Dataset) -> DatasetSummary:
    """The dataset with its classes and counts."""
    return _summary(dataset, [(one.key, one.name) for one in classes_of(session, dataset)])


def summaries(session: Session) -> list[DatasetSummary]:
    """All datasets by name; two queries for all."""
    found = session.scalars(select(Dataset).order_by(Dataset.name)).all()
    classes: dict[int, list[tuple[str, str]]] = {dataset.id: [] for dataset in found}
    query = select(LabelClass.dataset_id, LabelClass.key, LabelClass.name).order_by(LabelClass.id)
    for dataset_id, key, name in session.execute(query).tuples():
        classes[dataset_id].append((key, name))
    return [_summary(dataset, classes[dataset.id]) for dataset in found]


def _summary(dataset: Dataset, classes: list[tuple[str, str]]) -> DatasetSummary:
    return DatasetSummary(
        name=dataset.name,
        classes=classes,
        images=dataset.last_position,
        labelled=dataset.labelled,
        created=dataset.created,
        settings=settings_of(dataset),
    )


def _insert(session: Session, name: str, settings: DatasetSettings) -> bool:
    """Makes a dataset unless there is one of this name; whether it did."""
    wanted = {
        "name": name,
        "created": datetime.now(UTC),
        "settings": settings.model_dump(mode="json"),
        "last_sequence": 0,
        "last_position": 0,
        "labelled": 0,
    }
    return insert_new(session, Dataset, wanted)
