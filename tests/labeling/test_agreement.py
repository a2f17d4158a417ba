"""Suggestions in the metrics: what people did with them, and how often they said the same."""

from datetime import UTC, datetime

from sqlalchemy import select
from support.pictures import noise

from visionloop.telemetry import metrics
from visionloop_labeling import datasets, labels
from visionloop_labeling.annotation import Draft
from visionloop_labeling.labels import AuthorKind, EventKind, LabelLog, Statement
from visionloop_labeling.schema import LabelClass, Prediction


def test_only_suggestions_of_ours_are_series_in_the_metrics(core) -> None:
    sha256 = core.add(noise(1)).sha256
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        log = LabelLog(session, dataset)
        draft = Draft(classes=("a",))
        said = Statement(
            annotation=draft,
            author_kind=AuthorKind.HUMAN,
            author="ada",
            suggested_by="whatever a caller writes:1",
            suggestion="accepted",
        )
        log.record(labels.find_item(session, dataset, sha256), said)
    before = counted("other")
    log.measure()
    assert counted("other") == before + 1
    assert counted("whatever a caller writes:1") == 0


def test_agreement_is_counted_with_the_suggestion_in_view_and_without(core) -> None:
    """Once an image, by the first person's label; what a class means now counts."""
    digests = [core.add(noise(n)).sha256 for n in range(4)]
    core.say(core.add(noise(9)).sha256, "dog")
    core.say(core.add(noise(8)).sha256, "cat")
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        keys = {one.name: one for one in session.scalars(select(LabelClass))}
        keys["cat"].merged_into_id, keys["cat"].state = keys["dog"].id, "merged"
        items = [labels.find_item(session, dataset, digest) for digest in digests]
        for item in items:
            item.why = {"model": "m:3", "blind": True}
            session.add(
                Prediction(
                    item_id=item.id, model="m", version=3, scores=[[keys["cat"].key, 0.9]],
                    class_id=keys["cat"].id, probability=0.9, margin=0.9, sure=True,
                    at=datetime(2026, 1, 1, tzinfo=UTC),
                )
            )  # fmt: skip
        items[0].why = items[1].why = {"model": "m:3"}
        session.flush()
        log = LabelLog(session, dataset)
        agreed = agreement("m:3")
        for item, name, shown in (
            (items[0], "dog", "accepted"),
            (items[1], "bird", "rejected"),
            (items[1], "dog", "accepted"),  # a change of mind
            (items[2], "dog", ""),
            (items[3], "bird", ""),
        ):
            said = Statement(
                annotation=Draft(classes=(name,)),
                author_kind=AuthorKind.HUMAN,
                author="ada",
                suggested_by="m:3" if shown else "",
                suggestion=shown,
            )
            log.record(item, said)
        log.record(items[2], Statement(AuthorKind.HUMAN, "ada", EventKind.SKIP))
    assert agreement("m:3") == agreed
    log.measure()
    for arm in (("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")):
        assert agreement("m:3")[arm] == agreed[arm] + 1, arm


def agreement(model: str) -> dict[tuple[str, str], float]:
    """Labels by whether the suggestion was shown, and whether they agreed."""
    found = metrics.values()["visionloop_suggestion_agreement_total"]
    arms = [(shown, agreed) for shown in ("yes", "no") for agreed in ("yes", "no")]
    return {arm: found.get((model, *arm), [0.0])[0] for arm in arms}


def counted(model: str) -> float:
    found = metrics.values()["visionloop_suggestion_outcomes_total"]
    return found.get((model, "accepted"), [0.0])[0]
