"""What a model version said of an image, in the terms of its dataset's queue and of people."""

from collections.abc import Mapping
from datetime import UTC, datetime

from visionloop.client import Recognition
from visionloop_labeling import acquisition
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.schema import LabelClass
from visionloop_labeling.stable_models import StableModel


class Answer:
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
