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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

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
from visionloop_labeling.asking import Progress, ToAsk, choose
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.fold import ItemState
from visionloop_labeling.model_answers import Answer
from visionloop_labeling.schema import Dataset, Item, LabelClass, Prediction, SplitCount
from visionloop_labeling.stable_models import StableModel, StableModels

_CLASSES: Final = 20  # likeliest classes that are kept of an answer
_LOW_PRIORITY: Final = 3  # behind everything that production asks (see Recognize)
_TIMEOUT: Final = 30.0  # seconds
_WITHOUT_MODEL_SECONDS: Final = 60.0
_OURS: Final = frozenset({"uncertain", "rare", "random"})  # reasons that may be replaced
_AWAY: Final = (UnavailableError, OverloadedError, DeadlineExceededError)
_log = logging.getLogger(__name__)


class Suggester:
    """Shows waiting images to their models. Used by one thread."""

    def __init__(self, database: Database, store: ObjectStore, client: Client) -> None:
        self._database = database
        self._store = store
        self._client = client
        self._models = StableModels(store)
        self._progress: dict[tuple[str, StableModel], Progress] = {}
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
            wanted, finished = choose(session, dataset, model, progress)
        if wanted:
            answers = self._ask(wanted, model)
            kept = self._keep(dataset_name, model, answers, progress.worths)
            progress.refused |= {asked.item for asked in wanted} - kept
            metrics.SUGGESTIONS.labels("predicted").inc(len(kept))
            metrics.SUGGESTIONS.labels("refused").inc(len(wanted) - len(kept))
        return not finished

    def _progress_of(self, dataset_name: str, model: StableModel) -> Progress:
        key = (dataset_name, model)
        if key not in self._progress:
            outdated = [old for old in self._progress if old[0] == dataset_name]
            for old in outdated:
                del self._progress[old]
            self._progress[key] = Progress()
            _log.info(
                "asking for suggestions", extra={"dataset": dataset_name, "model": str(model)}
            )
        return self._progress[key]

    def _ask(self, wanted: Sequence[ToAsk], model: StableModel) -> dict[int, Recognition]:
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

    def _image(self, asked: ToAsk) -> bytes | None:
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
            said = {item: Answer(one, book, deficits) for item, one in answers.items()}
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
        self, item: Item, answer: Answer, model: StableModel, worths: Sequence[float]
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


def _labelled(session: Session, dataset: Dataset) -> dict[str, int]:
    """Accepted labels of each class that can still be chosen."""
    query = (
        select(LabelClass.key, func.coalesce(func.sum(SplitCount.images), 0))
        .outerjoin(SplitCount, SplitCount.class_id == LabelClass.id)
        .where(LabelClass.dataset_id == dataset.id, LabelClass.state == "active")
        .group_by(LabelClass.key)
    )
    return {key: int(images) for key, images in session.execute(query).tuples()}
