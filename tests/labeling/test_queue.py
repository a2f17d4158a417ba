"""The queue: leases, order, what counts as remaining, and that nobody gets another's image."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from support.pictures import noise

from visionloop_labeling import datasets, labels, queue
from visionloop_labeling.fold import ItemState
from visionloop_labeling.heads import remaining
from visionloop_labeling.labels import AuthorKind, EventKind, Statement
from visionloop_labeling.schema import Item, LabelClass, Prediction

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(core, holder: str, n: int, *, state: str = "open", now: datetime = NOW) -> list[str]:
    with core.database.write() as session:
        dataset = datasets.find(session, "cells")
        items = queue.lease(session, dataset, holder, n, ItemState(state), now)
        return [item.sha256 for item in items]


def release(core, holder: str, digests: list[str]) -> int:
    with core.database.write() as session:
        return queue.release(session, datasets.find(session, "cells"), holder, digests)


def say(core, sha256: str, kind: str, author: str = "ann", **fields: object):
    statement = Statement(AuthorKind.HUMAN, author, EventKind(kind), **fields)
    return labels.submit(core.database, "cells", sha256, statement)


def counts(core) -> dict[str, int]:
    with core.database.read() as session:
        return {str(s): n for s, n in remaining(datasets.find(session, "cells")).items()}


def change(core, sha256: str, **values: object) -> None:
    with core.database.write() as session:
        item = labels.find_item(session, datasets.find(session, "cells"), sha256)
        for name, value in values.items():
            setattr(item, name, value)


@pytest.fixture
def waiting(core) -> list[str]:
    """Six images without a label, in the order they came."""
    return [core.add(noise(number)).sha256 for number in range(6)]


def test_images_are_leased_once_in_their_order(core, waiting) -> None:
    assert lease(core, "ann", 2) == waiting[:2]
    assert lease(core, "bob", 2) == waiting[2:4]
    assert lease(core, "ann", 8) == waiting[4:]  # others, not those she holds
    assert lease(core, "bob", 8) == []


def test_priority_comes_before_arrival(core, waiting) -> None:
    change(core, waiting[4], priority=-1.0)
    change(core, waiting[0], priority=0.5)
    assert lease(core, "ann", 6) == [waiting[4], *waiting[1:4], waiting[5], waiting[0]]


def test_a_lease_ends_by_itself_or_by_giving_it_back(core, waiting) -> None:
    lease(core, "ann", 6)
    almost = NOW + queue.LEASE - timedelta(seconds=1)
    assert lease(core, "bob", 1, now=almost) == []
    assert release(core, "bob", waiting) == 0  # they are not his
    assert release(core, "ann", [waiting[3], "0" * 64]) == 1
    assert lease(core, "bob", 6, now=almost) == [waiting[3]]
    assert lease(core, "bob", 6, now=NOW + queue.LEASE) == [
        one for one in waiting if one != waiting[3]
    ]


def test_what_is_said_takes_an_image_out_of_its_queue(core, waiting) -> None:
    lease(core, "ann", 6)
    core.say(waiting[0], "a")
    say(core, waiting[1], "skip")
    say(core, waiting[2], "flag", note="two cells?")
    core.say(waiting[3], "a", "model")  # a model's word leaves the image to people
    assert counts(core) == {"open": 3, "labelled": 1, "review": 1, "skipped": 1}
    later = NOW + queue.LEASE
    assert lease(core, "bob", 6, now=later) == waiting[3:]
    assert lease(core, "bob", 6, state="skipped") == [waiting[1]]
    assert lease(core, "bob", 6, state="review") == [waiting[2]]


def test_skipping_in_review_keeps_the_lease_so_that_another_image_comes(core, waiting) -> None:
    for sha256 in waiting[:2]:
        say(core, sha256, "flag")
    assert lease(core, "ann", 1, state="review") == [waiting[0]]
    say(core, waiting[0], "skip")
    assert lease(core, "ann", 1, state="review") == [waiting[1]]
    assert counts(core)["review"] == 2


def test_the_queue_is_read_in_the_order_of_its_index(core, waiting) -> None:
    """However many images there are, asking for the next ones reads no more than those."""
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        query = queue.waiting(dataset, ItemState.OPEN, NOW).limit(8)
        sqlite = core.database.single_process
        if not sqlite:
            session.execute(text("SET LOCAL enable_seqscan = off"))  # six rows fit a page
        asked = str(query.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
        plan = session.execute(text(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{asked}")).all()
    told = "\n".join(str(row) for row in plan)
    assert "ix_item_queue" in told
    assert "Sort" not in told
    assert "TEMP B-TREE" not in told


def test_a_sample_without_suggestions_stays_one(core, waiting) -> None:
    change(core, waiting[0], why={"reason": "uncertain", "blind": True})
    say(core, waiting[0], "flag")
    say(core, waiting[0], "undo")
    with core.database.read() as session:
        item = labels.find_item(session, datasets.find(session, "cells"), waiting[0])
        assert item.why == {"reason": "label_taken_back", "blind": True}


def test_many_at_once_never_get_the_same_image(core) -> None:
    wanted = [core.add(noise(number)).sha256 for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(lease, core, f"holder-{n % 5}", 3) for n in range(16)]
        given = [sha256 for one in asking for sha256 in one.result()]
    assert len(given) == len(set(given))
    # A row that another is marking is passed over, so some may be left: for the next who asks.
    given += lease(core, "late", 30)
    assert sorted(given) == sorted(wanted)


def test_an_image_is_shown_with_its_label_and_its_suggestion(core, waiting) -> None:
    core.say(waiting[0], "cat", author="ann")
    core.say(waiting[1], "dog")
    with core.database.write() as session:
        dataset = datasets.find(session, "cells")
        keys = {one.name: one for one in session.scalars(select(LabelClass))}
        items = {one.sha256: one for one in session.scalars(select(Item))}
        for version, sure in ((1, False), (2, True)):
            session.add(
                Prediction(
                    item_id=items[waiting[2]].id,
                    model="m",
                    version=version,
                    scores=[["cat", 0.6], ["dog", 0.3], ["gone", 0.1]],
                    class_id=keys["cat"].id,
                    probability=0.6,
                    margin=0.3,
                    sure=sure,
                    at=NOW + timedelta(seconds=version),
                )
            )
        keys["cat"].state, keys["cat"].merged_into_id = "merged", keys["dog"].id
        session.flush()
        labelled, suggested = queue.item_outs(
            session, dataset, [items[waiting[0]], items[waiting[2]]]
        )
        items[waiting[2]].why = {"reason": "uncertain", "blind": True}
        (blind,) = queue.item_outs(session, dataset, [items[waiting[2]]])
    assert (labelled.author, labelled.author_kind, labelled.sequence) == ("ann", "human", 1)
    assert labelled.annotation == {"classes": ["dog"]}  # what the label means now
    assert (labelled.width, labelled.split, labelled.suggestion) == (40, "train", None)
    assert suggested.annotation is None
    assert suggested.suggestion is not None
    assert (suggested.suggestion.version, suggested.suggestion.sure) == (2, True)
    assert suggested.suggestion.scores == [("dog", pytest.approx(0.9))]
    assert blind.suggestion is None
