"""How often people say what a model says, with its suggestion in view and without.

The first label that a person gives an image is held against the model's likeliest class: in view
where the page told that it showed the suggestion, hidden where the image is of the blind sample
(`acquisition`). The share that agrees without seeing it is the model's precision as people would
have it; how much higher the share is with it in view is how far people follow it.

Counted in the metrics, once the transaction is committed; a later change of mind counts no more.
"""

from sqlalchemy.orm import Session

from visionloop.telemetry import labeling as metrics
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.fold import AuthorKind, EventKind, Standing
from visionloop_labeling.schema import Item, LabelEvent, Prediction

_UNKNOWN = "other"


class Agreement:
    """What became of suggestions within one transaction."""

    def __init__(self, session: Session, classes: ClassBook) -> None:
        self._session = session
        self._classes = classes
        self._outcomes: list[tuple[str, str]] = []  # model version, what was done with its word
        self._agreed: list[tuple[str, str, str]] = []  # model version, shown, agreed

    def note(self, item: Item, event: LabelEvent, before: Standing) -> None:
        """An event on an image that stood so before."""
        shown = bool(event.suggestion)
        named = event.suggested_by if shown else _hidden(item)
        if not named:
            return
        said = self._prediction(item, named)
        if shown:
            self._outcomes.append((_UNKNOWN if said is None else named, event.suggestion))
        decides = event.kind == EventKind.LABEL and event.author_kind == AuthorKind.HUMAN
        if said is None or not decides or before.author_kind is AuthorKind.HUMAN:
            return
        meant = {one.id for one in self._classes.meanings(event.annotation or {})}
        agreed = self._meaning_of(said) in meant
        self._agreed.append((named, "yes" if shown else "no", "yes" if agreed else "no"))

    def measure(self) -> None:
        """Counts them, once the transaction is committed."""
        for named, done in self._outcomes:
            metrics.SUGGESTION_OUTCOMES.labels(named, done).inc()
        for labels in self._agreed:
            metrics.SUGGESTION_AGREEMENT.labels(*labels).inc()

    def _prediction(self, item: Item, named: str) -> Prediction | None:
        """What that version said of the image; a caller may name anything."""
        model, _, version = named.rpartition(":")
        if not (version.isascii() and version.isdecimal() and len(version) < 10):
            return None
        return self._session.get(Prediction, (item.id, model, int(version)))

    def _meaning_of(self, said: Prediction) -> int | None:
        """The row id of what its likeliest class means now."""
        likeliest = self._classes.find(said.scores[0][0]) if said.scores else None
        return None if likeliest is None else self._classes.meaning(likeliest).id


def _hidden(item: Item) -> str:
    """The model version whose suggestion is kept from people; "" where none is."""
    return str(item.why.get("model", "")) if item.why.get("blind") else ""
