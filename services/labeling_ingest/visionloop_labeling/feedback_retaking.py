"""Refused feedback taken again, once the cause is gone, or thrown away: one, or all that is alike.

An app that calls a class otherwise does so in all its corrections: what is said of one holds for
all that name the same (`Naming`).
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from visionloop.errors import NotFoundError, RefusedError, VisionloopError
from visionloop.feedback import FOLDER, parse_feedback
from visionloop.objectstore import ObjectStore
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import refused_feedback
from visionloop_labeling.feedback_effect import AS_SAID, OURS, UNKNOWN_CLASS, FeedbackEffect
from visionloop_labeling.refused_feedback import RefusedFeedback

RETAKE_SECONDS: Final = 20.0  # of one call; somebody waits for it
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Naming:
    """Feedback that was put aside because it says `said`, which is no class of the dataset."""

    dataset: str
    said: str

    def fits(self, one: RefusedFeedback) -> bool:
        """Whether it is such."""
        shown = None if one.header is None else one.header.shown
        alike = (one.reason, one.dataset) == (UNKNOWN_CLASS, self.dataset)
        return alike and self.said in (shown or ())


@dataclass(frozen=True, slots=True)
class Retaken:
    """What became of feedback that was taken again, or thrown away: how much was, how much cannot
    be yet, and behind which name nobody has looked yet, "" where all was looked at."""

    taken: int
    left: int
    next: str


class Retaking:
    """What was put aside in one store. Safe to use from several threads."""

    def __init__(self, store: ObjectStore, effect: FeedbackEffect) -> None:
        self._store = store
        self._effect = effect

    def retry(self, name: str, meant: Mapping[str, str] = AS_SAID) -> str:
        """Takes a feedback again; what became of it: labelled, outdated, reported or repeated.

        `meant` says by which id or name the dataset has what the app called otherwise. Raises
        NotFoundError, and RefusedError where it still cannot take effect: it stays then.
        """
        key = FOLDER + name
        data = refused_feedback.content(self._store, name)
        try:
            outcome = self._effect.of(key, parse_feedback(data, key), meant)
        except OURS:
            raise
        except VisionloopError as error:
            raise RefusedError(f"it cannot be used yet: {error}") from error
        refused_feedback.remove(self._store, name)
        metrics.FEEDBACK_DRAINED.labels(outcome).inc()
        extra = {"key": key, "outcome": outcome, "meant": dict(meant)}
        _log.info("a feedback was taken again", extra=extra)
        return outcome

    def retry_all(self, after: str = "", naming: Naming | None = None, meant: str = "") -> Retaken:
        """Takes what was put aside again, in the order of names behind `after`, one at least, and
        for RETAKE_SECONDS.

        With `naming` only such, with `meant` as if it named that class. Raises what the store or
        the database raises when it is away; what was taken is taken then.
        """
        classes = {naming.said: meant} if naming is not None and meant else AS_SAID
        return self._all(after, naming, lambda name: self._is_taken(name, classes))

    def throw_away_all(self, naming: Naming, after: str = "") -> Retaken:
        """Removes such feedback for good, in the order and for the time of `retry_all`.

        Raises what the store raises when it is away; what is removed is removed then.
        """
        return self._all(after, naming, self._is_thrown_away)

    def _all(self, after: str, naming: Naming | None, work: Callable[[str], bool]) -> Retaken:
        began = time.monotonic()
        taken = left = 0
        for one in refused_feedback.each(self._store, after):
            if naming is None or naming.fits(one):
                try:
                    done = work(one.name)
                    taken, left = taken + done, left + (not done)
                except NotFoundError:
                    pass  # another replica's, just now
            if time.monotonic() - began >= RETAKE_SECONDS:
                return Retaken(taken, left, next=one.name)
        return Retaken(taken, left, next="")

    def _is_taken(self, name: str, meant: Mapping[str, str]) -> bool:
        try:
            self.retry(name, meant)
        except RefusedError:
            return False
        except (NotFoundError, *OURS):
            raise
        except Exception:  # noqa: BLE001 - logged with its trace
            # A fault of ours must not keep back those behind it.
            _log.exception("a feedback could not be taken again", extra={"key": FOLDER + name})
            return False
        return True

    def _is_thrown_away(self, name: str) -> bool:
        refused_feedback.remove(self._store, name)
        return True
