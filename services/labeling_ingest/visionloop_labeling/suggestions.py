"""Asking the inference service what waiting images show: suggestions, and the order of the queue.

For each dataset the stable version of its model is asked (the model that the dataset prefers, or
the one that was trained on it): first for the images people will see next, then for the others in
the order they arrived. What it answers is stored once per image, model and version as a
`Prediction`, never as a label, and the image's place in the queue follows from it (`acquisition`).
A new version is asked anew, and so is one that comes back after another, since people see the
newest answer.

Nobody waits for this. When the inference service is away or overloaded the turn fails and the loop
leaves it alone for a growing while; labelling goes on in the order there was, without suggestions.
Its own traffic goes first: these requests have the lowest priority.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session, aliased

from visionloop.client import Client, Recognition
from visionloop.errors import (
    CorruptError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    UnavailableError,
)
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import acquisition, datasets
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.fold import ItemState
from visionloop_labeling.schema import Blob, Dataset, Item, LabelClass, Prediction, SplitCount
from visionloop_labeling.stable_models import StableModel, StableModels

GROUP: Final = 32  # images asked for at once
_GROUP_BYTES: Final = 64 * 2**20
_NEXT: Final = 128  # images at the top of the queue that are looked after first
_SWEEP: Final = 2048  # images looked through at once
_CLASSES: Final = 20  # likeliest classes that are kept of an answer
_LOW_PRIORITY: Final = 3  # behind everything that production asks (see Recognize)
_TIMEOUT: Final = 30.0  # seconds
_WITHOUT_MODEL_SECONDS: Final = 60.0
_REMEMBERED: Final = 1000  # worths, for the places of images that are asked at random
_WAITING: Final = (ItemState.OPEN, ItemState.REVIEW)
_OURS: Final = frozenset({"uncertain", "rare", "random"})  # reasons that may be replaced
_AWAY: Final = (UnavailableError, OverloadedError, DeadlineExceededError)
_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    """An image to ask for."""

    item: int
    sha256: str
    size: int


class _Progress:
    """How far one dataset's images have been shown to one version."""

    def __init__(self) -> None:
        self.position = 0  # of the last image in the order of arrival
        self.refused: set[int] = set()  # images that the version gave no answer for
        self.worths: deque[float] = deque(maxlen=_REMEMBERED)


class Suggester:
    """Shows waiting images to their models. Used by one thread."""

    def __init__(self, database: Database, store: ObjectStore, client: Client) -> None:
        self._database = database
        self._store = store
        self._client = client
        self._models = StableModels(store)
        self._progress: dict[tuple[str, StableModel], _Progress] = {}
        self._later: dict[str, float] = {}  # datasets to leave alone, until when (monotonic)
        self._random = random.Random()  # noqa: S311 - a place in a queue, no secret
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="suggestions")

    def work(self) -> bool:
        """Asks for one group of images of each dataset; whether more wait.

        Raises UnavailableError, OverloadedError and the like for the inference service, the store
        and the database.
        """
        with self._database.read() as session:
            names = {
                dataset.name: datasets.preferences_of(dataset).suggestions_model
                for dataset in session.scalars(select(Dataset).order_by(Dataset.name))
            }
        more, away = False, None
        for name, preferred in names.items():
            if self._later.get(name, 0.0) > time.monotonic():
                continue
            try:
                more |= self._work_on(name, preferred)
            except _AWAY as error:  # perhaps only for this model
                away = error
        if away is not None:
            raise away
        return more

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work_on(self, dataset_name: str, preferred: str) -> bool:
        try:
            model = self._models.of(dataset_name, preferred)
            return model is not None and self._suggest(dataset_name, model)
        except (NotFoundError, InvalidInputError, RefusedError, CorruptError) as error:
            # This dataset's trouble alone: its model is not served, or not yet.
            _log.warning("no suggestions for now: %s", error, extra={"dataset": dataset_name})
            self._later[dataset_name] = time.monotonic() + _WITHOUT_MODEL_SECONDS
            return False

    def _suggest(self, dataset_name: str, model: StableModel) -> bool:
        progress = self._progress_of(dataset_name, model)
        with self._database.read() as session:
            dataset = datasets.find(session, dataset_name)
            wanted, finished = _choose(session, dataset, model, progress)
        if wanted:
            answers = self._ask(wanted, model)
            kept = self._keep(dataset_name, model, answers, progress.worths)
            progress.refused |= {asked.item for asked in wanted} - kept
            metrics.SUGGESTIONS.labels("predicted").inc(len(kept))
            metrics.SUGGESTIONS.labels("refused").inc(len(wanted) - len(kept))
        return not finished

    def _progress_of(self, dataset_name: str, model: StableModel) -> _Progress:
        key = (dataset_name, model)
        if key not in self._progress:
            outdated = [old for old in self._progress if old[0] == dataset_name]
            for old in outdated:
                del self._progress[old]
            self._progress[key] = _Progress()
            _log.info(
                "asking for suggestions", extra={"dataset": dataset_name, "model": str(model)}
            )
        return self._progress[key]

    def _ask(self, wanted: Sequence[_Asked], model: StableModel) -> dict[int, Recognition]:
        """The answers by item; images without one are left out."""
        images = dict(zip(wanted, self._pool.map(self._image, wanted), strict=True))
        there = {asked: image for asked, image in images.items() if image is not None}
        began = time.monotonic()
        results = self._client.recognize(
            list(there.values()),
            model=model.name,
            version=str(model.version),
            top_k=_CLASSES,
            priority=_LOW_PRIORITY,
            timeout=_TIMEOUT,
        )
        metrics.SUGGESTION_SECONDS.observe(time.monotonic() - began)
        return {
            asked.item: result
            for asked, result in zip(there, results, strict=True)
            if result.error is None and result.labels
        }

    def _image(self, asked: _Asked) -> bytes | None:
        try:
            return self._store.get(blob_key(asked.sha256)).data
        except NotFoundError:
            return None  # the reconciler says so

    def _keep(
        self,
        dataset_name: str,
        model: StableModel,
        answers: Mapping[int, Recognition],
        worths: deque[float],
    ) -> set[int]:
        """Stores the answers that name classes of the dataset; the items they are for."""
        with self._database.write() as session:
            dataset = datasets.find(session, dataset_name, lock=True)
            book = ClassBook(session, dataset)
            book.learn(label.class_id for one in answers.values() for label in one.labels)
            deficits = acquisition.deficits(_labelled(session, dataset))
            said = {item: _Answer(one, book, deficits) for item, one in answers.items()}
            found = {item: answer for item, answer in said.items() if answer.scores}
            if not found:
                return set()
            session.execute(
                delete(Prediction).where(
                    Prediction.item_id.in_(found),
                    Prediction.model == model.name,
                    Prediction.version == model.version,
                )
            )
            insert_missing(session, Prediction, [a.row(item, model) for item, a in found.items()])
            worths.extend(answer.worth for answer in found.values())
            for item in session.scalars(select(Item).where(Item.id.in_(found)).order_by(Item.id)):
                self._place(item, found[item.id], model, worths)
        return set(found)

    def _place(
        self, item: Item, answer: "_Answer", model: StableModel, worths: Sequence[float]
    ) -> None:
        """The image's place in the queue, and what people are told of it."""
        if item.state != ItemState.OPEN:
            return  # it is waiting for a reason of its own
        at_random, blind = acquisition.is_random(item.sha256), acquisition.is_blind(item.sha256)
        # Any other image's place: so each tenth of the queue has its share of random ones.
        worth = self._random.choice(worths) if at_random else answer.worth
        item.priority = -worth
        why: dict[str, Any] = {"model": str(model)}
        if item.why.get("reason", "uncertain") in _OURS:
            why["reason"] = "random" if at_random else answer.reason(blind=blind)
        if at_random:
            why["share"] = acquisition.RANDOM_SHARE
        if blind:
            why["blind"] = True  # and not a word of what the model thinks
        elif why.get("reason") == "uncertain":
            why["between"] = answer.between()
        kept = {name: said for name, said in item.why.items() if name not in ("blind", "between")}
        item.why = {**kept, **why}


class _Answer:
    """What a version said of an image, in the classes that the dataset has."""

    def __init__(
        self, recognition: Recognition, book: ClassBook, deficits: Mapping[str, float]
    ) -> None:
        self.scores = [
            (label.class_id, label.probability)
            for label in recognition.labels
            if book.find(label.class_id) is not None
        ]
        first: LabelClass | None = book.find(self.scores[0][0]) if self.scores else None
        self._class_id = None if first is None else first.id
        meant = "" if first is None else book.meaning(first).key
        self._sure = not recognition.not_sure
        ranked = [probability for _, probability in self.scores]
        self._probability = ranked[0] if ranked else 0.0
        self._margin = self._probability - (ranked[1] if len(ranked) > 1 else 0.0)
        self._doubtful: list[list[object]] = [
            [key, round(probability, 3)] for key, probability in self.scores[:2]
        ]
        if recognition.multi_label and ranked:
            # Each class is a question of its own: the doubt is that about the nearest threshold.
            distances = {
                label.class_id: abs(label.probability - (label.threshold or 0.0))
                for label in recognition.labels
            }
            key, probability = min(self.scores, key=lambda score: distances[score[0]])
            self._margin = distances[key]
            self._doubtful = [[key, round(probability, 3)]]
        deficit = deficits.get(meant, 0.0)
        self._rare = acquisition.DEFICIT_WEIGHT * deficit > 1.0 - self._margin
        self.worth = acquisition.worth(self._margin, deficit)

    def row(self, item: int, model: StableModel) -> dict[str, object]:
        """As it is stored."""
        return {
            "item_id": item,
            "model": model.name,
            "version": model.version,
            "scores": [[key, round(probability, 6)] for key, probability in self.scores],
            "class_id": self._class_id,
            "probability": self._probability,
            "margin": self._margin,
            "sure": self._sure,
            "at": datetime.now(UTC),
        }

    def reason(self, *, blind: bool) -> str:
        """The word for people; to whom the suggestion is hidden it must not tell the class."""
        return "rare" if self._rare and not blind else "uncertain"

    def between(self) -> list[list[object]]:
        """The two likeliest classes, or the one class that the doubt is about."""
        return self._doubtful


def _choose(
    session: Session, dataset: Dataset, model: StableModel, progress: _Progress
) -> tuple[list[_Asked], bool]:
    """Whom to ask for next, and whether those were all."""
    wanted: dict[int, _Asked] = {}
    for state in _WAITING:
        _add(wanted, _unasked(session, dataset, model, state), progress.refused)
    if len(wanted) >= GROUP:
        return _bounded(wanted.values()), False
    swept, end = _sweep(session, dataset, model, progress)
    _add(wanted, swept, progress.refused)
    chosen = _bounded(wanted.values())
    finished = len(chosen) == len(wanted)
    if finished:
        # What is left out now would be passed over for good, so the place is kept until then.
        progress.position = end
    return chosen, finished and end >= dataset.last_position


def _add(wanted: dict[int, _Asked], found: Iterable[_Asked], refused: set[int]) -> None:
    wanted.update({asked.item: asked for asked in found if asked.item not in refused})


def _bounded(wanted: Iterable[_Asked]) -> list[_Asked]:
    """As many as are asked for at once, by number and by bytes; at least one."""
    chosen: list[_Asked] = []
    size = 0
    for asked in wanted:
        size += asked.size
        if chosen and (len(chosen) == GROUP or size > _GROUP_BYTES):
            break
        chosen.append(asked)
    return chosen


def _unasked(
    session: Session, dataset: Dataset, model: StableModel, state: ItemState
) -> list[_Asked]:
    """Those without an answer among the images that people will see next."""
    top = (
        select(Item.id, Item.sha256, Item.priority, Item.position)
        .where(Item.dataset_id == dataset.id, Item.state == state)
        .order_by(Item.priority, Item.position)
        .limit(_NEXT)
        .subquery()
    )
    query = (
        select(top.c.id, top.c.sha256, Blob.size)
        .join(Blob, Blob.sha256 == top.c.sha256)
        .outerjoin(Prediction, _answered(top.c.id, model))
        .where(Prediction.item_id.is_(None))
        .order_by(top.c.priority, top.c.position)
    )
    return [_Asked(*row) for row in session.execute(query).tuples()]


def _sweep(
    session: Session, dataset: Dataset, model: StableModel, progress: _Progress
) -> tuple[list[_Asked], int]:
    """Those without an answer among the images that arrived next, and where that ends.

    Positions are given for ever and in the order of commits, so whatever arrives later stands
    behind; what comes to wait again (a label taken back) is found at the top of the queue.
    """
    end = min(progress.position + _SWEEP, dataset.last_position)
    query = (
        select(Item.id, Item.sha256, Blob.size)
        .join(Blob, Blob.sha256 == Item.sha256)
        .outerjoin(Prediction, _answered(Item.id, model))
        .where(
            Item.dataset_id == dataset.id,
            Item.position > progress.position,
            Item.position <= end,
            Item.state.in_(_WAITING),
            Prediction.item_id.is_(None),
        )
        .order_by(Item.position)
        .limit(GROUP + 1 + len(progress.refused))
    )
    found = [_Asked(*row) for row in session.execute(query).tuples()]
    return found, end


def _answered(item_id: Any, model: StableModel) -> Any:
    """That the version answered, and no other version of the model after it."""
    newer = aliased(Prediction)
    outdated = select(newer.item_id).where(
        newer.item_id == Prediction.item_id,
        newer.model == Prediction.model,
        newer.at > Prediction.at,
    )
    return and_(
        Prediction.item_id == item_id,
        Prediction.model == model.name,
        Prediction.version == model.version,
        ~outdated.correlate(Prediction).exists(),
    )


def _labelled(session: Session, dataset: Dataset) -> dict[str, int]:
    """Accepted labels of each class that can still be chosen."""
    query = (
        select(LabelClass.key, func.coalesce(func.sum(SplitCount.images), 0))
        .outerjoin(SplitCount, SplitCount.class_id == LabelClass.id)
        .where(LabelClass.dataset_id == dataset.id, LabelClass.state == "active")
        .group_by(LabelClass.key)
    )
    return {key: int(images) for key, images in session.execute(query).tuples()}
