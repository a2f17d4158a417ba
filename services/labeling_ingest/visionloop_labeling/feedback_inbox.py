"""Draining the feedback that inference left in the store: what apps say of predictions.

Each feedback takes effect once (`feedback_effect`): its object is deleted only after the commit, so
a crash anywhere is repaired by doing it again. What cannot take effect (an unknown model, class or
image) is moved to inbox/refused/ beside an object that says why, and never holds up the rest; it is
taken again once the cause is gone (`feedback_retaking`). An image that is named but not there yet
is waited for.
"""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from visionloop.errors import NotFoundError, VisionloopError
from visionloop.failpoints import failpoint
from visionloop.feedback import FOLDER, Feedback, parse_feedback
from visionloop.objectstore import ObjectStore
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import refused_feedback
from visionloop_labeling.feedback_effect import OURS, FeedbackEffect, ImageNotThereError

GROUP: Final = 64  # objects in a turn
_AGAIN_SECONDS: Final = 60.0
_AFTER_FAULT_SECONDS: Final = 600.0
_log = logging.getLogger(__name__)


class FeedbackInbox:
    """The inbox of one store. One thread drains it, as other replicas may."""

    def __init__(self, store: ObjectStore, effect: FeedbackEffect) -> None:
        self._store = store
        self._effect = effect
        self._later: dict[str, float] = {}  # keys that wait, until when on the monotonic clock

    def drain(self) -> bool:
        """Takes up to GROUP feedbacks out of the inbox; whether more may wait.

        Raises what the store or the database raises when it is away; nothing is lost by that.
        """
        for taken, key in enumerate(self._waiting(), start=1):
            metrics.FEEDBACK_DRAINED.labels(self._take(key)).inc()
            if taken == GROUP:
                return True
        return False

    def _waiting(self) -> Iterator[str]:
        listed: set[str] = set()
        for stat in self._store.list(FOLDER):
            listed.add(stat.key)
            if self._later.get(stat.key, 0.0) <= time.monotonic():
                yield stat.key
        self._later = {key: until for key, until in self._later.items() if key in listed}

    def _take(self, key: str) -> str:
        """What became of one feedback."""
        try:
            data = self._store.get(key).data
        except NotFoundError:
            return "repeated"  # another replica has just taken it
        feedback: Feedback | None = None
        try:
            feedback = parse_feedback(data, key)
            outcome = self._effect.of(key, feedback)
            self._store.delete(key)
            failpoint("feedback.deleted")
            if outcome != "repeated":
                waited = datetime.now(UTC) - feedback.header.received
                metrics.FEEDBACK_LAG.observe(waited.total_seconds())
            return outcome
        except ImageNotThereError:
            self._later[key] = time.monotonic() + _AGAIN_SECONDS
            return "deferred"
        except OURS:
            raise
        except VisionloopError as error:
            self._put_aside(key, data, error, feedback)
            self._store.delete(key)
            return "refused"
        except Exception:  # noqa: BLE001 - logged with its trace
            # A fault of ours must not keep back those behind it, nor lose this one.
            _log.exception(
                "a feedback could not be taken; it stays in the inbox", extra={"key": key}
            )
            self._later[key] = time.monotonic() + _AFTER_FAULT_SECONDS
            return "deferred"

    def _put_aside(
        self, key: str, data: bytes, error: VisionloopError, feedback: Feedback | None
    ) -> None:
        """Keeps it where people look for it; the original stays until that is done."""
        dataset = "" if feedback is None else self._effect.dataset_of(feedback)
        aside = refused_feedback.put_aside(
            self._store, key, data, error, feedback=feedback, dataset=dataset
        )
        failpoint("feedback.refused")
        metrics.FEEDBACK_REFUSED.labels(error.reason).inc()
        extra = {"key": aside, "reason": error.reason, "dataset": dataset}
        _log.warning("a feedback was put aside: %s", error, extra=extra)
