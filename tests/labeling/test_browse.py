"""Finding images by conditions, whoever leads; the overview's numbers, counted another way."""

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select, text, update
from support.pictures import noise
from support.waiting import wait_for

from visionloop.errors import InvalidInputError
from visionloop_labeling import browse, datasets, overview
from visionloop_labeling.browse import NO_SPLIT, Order, Wanted
from visionloop_labeling.fold import AuthorKind, ItemState
from visionloop_labeling.overview import UNASSIGNED, Overview, Overviews, count
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelEvent,
    LabelHead,
    Prediction,
    QualityFlag,
)
from visionloop_labeling.splits import SPLITS
from visionloop_labeling.taxonomy import Taxonomy

IMAGES = 40
LABELLED = 30


@pytest.fixture
def full(core):
    """Forty images: thirty labelled, two of them disputed, some remarked on, some predicted."""
    receipts = core.submit_all(
        (noise(n), "abc"[n % 3] if n < LABELLED else None) for n in range(IMAGES)
    )
    core.say(receipts[0].sha256, "b", "app")
    core.say(receipts[1].sha256, "a", "app")
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        items = session.scalars(select(Item).order_by(Item.position)).all()
        keys = {one.key: one.id for one in session.scalars(select(LabelClass))}
        for number, item in enumerate(items):
            if number % 7 == 0:
                session.add(QualityFlag(dataset_id=dataset.id, flag="dark", item_id=item.id))
            for version in (1, 2):
                if number % 2:
                    session.add(prediction(item, keys, "ab"[(number // 2 + version) % 2], version))
        items[39].why = {"blind": True}
    return core


def prediction(item: Item, keys: dict[str, int], key: str, version: int) -> Prediction:
    probability = 0.5 + item.position / 100
    return Prediction(
        item_id=item.id,
        model="m",
        version=version,
        scores=[[key, probability]],
        class_id=keys[key],
        probability=probability,
        margin=0.1,
        sure=True,
        at=datetime.now(UTC) + timedelta(seconds=version),
    )


def found(core, wanted: Wanted, limit: int = 15) -> list[int]:
    """The positions of all images of a search, page by page."""
    positions, after = [], ""
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        for _ in range(IMAGES + 1):
            page = browse.find(session, dataset, wanted, after=after, limit=limit)
            assert len(page.items) <= limit
            positions += [item.position for item in page.items]
            after = page.after
            if not after:
                return positions
    raise AssertionError("the pages have no end")


class Everything:
    """All images with all that is asked about, read once: a search by one plain look."""

    def __init__(self, core) -> None:
        with core.database.read() as session:
            self.rows = (
                session.execute(
                    select(Item, ImageGroup.split, LabelClass.key)
                    .join(ImageGroup, ImageGroup.id == Item.group_id)
                    .outerjoin(LabelHead, LabelHead.item_id == Item.id)
                    .outerjoin(LabelClass, LabelClass.id == LabelHead.class_id)
                )
                .tuples()
                .all()
            )
            keys = {one.id: one.key for one in session.scalars(select(LabelClass))}
            flags = select(QualityFlag.item_id, QualityFlag.flag)
            self.flagged = set(session.execute(flags).tuples())
            self.newest = {
                one.item_id: keys[one.class_id or 0]
                for one in session.scalars(select(Prediction).order_by(Prediction.version))
            }

    def fitting(self, wanted: Wanted) -> set[int]:
        return {
            item.position
            for item, split, key in self.rows
            if (wanted.state in (None, item.state))
            and (not wanted.class_id or key == wanted.class_id)
            and (not wanted.split or (split or NO_SPLIT) == wanted.split)
            and (not wanted.flag or (item.id, wanted.flag) in self.flagged)
            and (
                not wanted.predicted
                or (self.newest.get(item.id) == wanted.predicted and not item.why.get("blind"))
            )
        }


CONDITIONS = {
    "state": (None, ItemState.OPEN, ItemState.LABELLED, ItemState.REVIEW),
    "class_id": ("", "a", "c"),
    "split": ("", "train", "test", NO_SPLIT),
    "flag": ("", "dark", "blurred"),
    "predicted": ("", "a", "b"),
}


def test_every_search_finds_what_a_look_at_everything_finds(full) -> None:
    """Every one and every two conditions, and some of more."""
    everything = Everything(full)
    for number, values in enumerate(itertools.product(*CONDITIONS.values())):
        given = sum(bool(value) for value in values)
        if given > 2 and number % 25:
            continue
        wanted = Wanted(*values)
        positions = found(full, wanted)
        assert len(set(positions)) == len(positions), wanted
        assert set(positions) == everything.fitting(wanted), wanted
        assert positions == sorted(positions)
        if given < 2:
            assert found(full, Wanted(*values, order=Order.NEWEST)) == positions[::-1]


def test_orders(full) -> None:
    with full.database.write() as session:
        session.execute(update(Item).where(Item.position == 36).values(priority=-1.5))
        session.execute(update(Item).where(Item.position == 33).values(priority=2.25))
    queue = found(full, Wanted(state=ItemState.OPEN, order=Order.QUEUE), limit=2)
    assert queue == [36, 31, 32, 34, 35, 37, 38, 39, 40, 33]
    sure = found(full, Wanted(predicted="a", order=Order.SURE), limit=3)
    assert sure == sorted(Everything(full).fitting(Wanted(predicted="a")), reverse=True)
    assert found(full, Wanted(predicted="a", order=Order.UNSURE), limit=3) == sure[::-1]


def test_the_merged_class_is_found_with_the_one_it_means(full) -> None:
    both = found(full, Wanted(class_id="a")) + found(full, Wanted(class_id="b"))
    with full.database.write() as session:
        classes = Taxonomy(session, datasets.find(session, "cells", lock=True), "me")
        classes.merge(classes.existing("b"), classes.existing("a"))
    assert found(full, Wanted(class_id="a"), limit=4) == sorted(both)


def test_a_search_that_finds_little_stops_and_goes_on(full, monkeypatch) -> None:
    monkeypatch.setattr(browse, "MAX_SEARCHED", 8)
    monkeypatch.setattr(browse, "_CHUNK", 4)
    wanted = Wanted(split="test")
    with full.database.read() as session:
        dataset = datasets.find(session, "cells")
        first = browse.find(session, dataset, wanted, limit=6)
        assert (first.short, len(first.items) < 6, first.after != "") == (True, True, True)
    assert set(found(full, wanted, limit=6)) == Everything(full).fitting(wanted)


def test_what_makes_no_sense_is_refused(core) -> None:
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        for wanted, after, field in (
            (Wanted(order=Order.QUEUE), "", "order"),
            (Wanted(order=Order.SURE), "", "order"),
            (Wanted(split="none"), "", "split"),
            (Wanted(class_id="nothing"), "", "class_id"),
            (Wanted(), "x", "after"),
            (Wanted(), "arrival:1,2", "after"),
            (Wanted(), "arrival:--", "after"),
            (Wanted(), "arrival:" + 30 * "9", "after"),
            (Wanted(), "arrival:-1e300", "after"),
            (Wanted(ItemState.OPEN, order=Order.QUEUE), "queue:-0.5," + 19 * "9", "after"),
        ):
            with pytest.raises(InvalidInputError) as refusal:
                browse.find(session, dataset, wanted, after=after)
            assert refusal.value.field == field


def counted(core) -> Overview:
    with core.database.read() as session:
        return count(session, datasets.find(session, "cells"))


def test_the_overview_equals_a_count_of_everything(full) -> None:
    full.add(noise(100), "a", group="g")
    full.add(noise(101), "b", group="g")
    numbers = counted(full)
    with full.database.read() as session:
        rows = (
            session.execute(
                select(Item, ImageGroup, LabelHead, LabelClass.key)
                .join(ImageGroup, ImageGroup.id == Item.group_id)
                .outerjoin(LabelHead, LabelHead.item_id == Item.id)
                .outerjoin(LabelClass, LabelClass.id == LabelHead.class_id)
            )
            .tuples()
            .all()
        )
        events = session.scalars(select(LabelEvent)).all()
    assert (numbers.images, numbers.labelled) == (42, 32)
    states = Counter(item.state for item, *_ in rows)
    assert numbers.states == {state: states[state] for state in ItemState}
    assert states[ItemState.REVIEW] == 2
    splits = Counter(group.split or UNASSIGNED for _, group, *_ in rows)
    assert numbers.splits == {split: splits[split] for split in (*SPLITS, UNASSIGNED)}
    for one in numbers.classes:
        per_split = Counter(
            group.split
            for _, group, head, key in rows
            if key == one.key and head is not None and AuthorKind(head.author_kind).accepted
        )
        assert one.splits == {split: per_split[split] for split in SPLITS}
        assert one.labelled == sum(key == one.key for *_, key in rows)
    sizes = Counter(group.id for _, group, *_ in rows)
    assert numbers.joined == sum(n for n in sizes.values() if n > 1) == 2
    assert [(one.least, one.groups) for one in numbers.groups if one.groups] == [(2, 1)]
    assert numbers.flags == {"dark": 6, "tiny": 42}
    today = numbers.days[-1]
    kinds = Counter(one.author_kind for one in events)
    assert (today.date, today.total) == (datetime.now(UTC).date(), len(events))
    assert today.labels == dict(kinds)
    assert len(numbers.days) == 30


def test_days_and_suggestions_are_told_apart(full) -> None:
    now = datetime.now(UTC)
    with full.database.write() as session:
        events = session.scalars(select(LabelEvent).order_by(LabelEvent.sequence)).all()
        for number, one in enumerate(events[:8]):
            one.at = now - timedelta(days=number * 5)
            one.suggested_by = "m:1" if number % 2 else "m:2"
            one.suggestion = ("accepted", "edited", "rejected")[number % 3]
    numbers = counted(full)
    per_day = Counter(one.at.date() for one in events)
    assert {day.date: day.total for day in numbers.days if day.total} == {
        day: n for day, n in per_day.items() if now.date() - day < timedelta(days=30)
    }
    assert [(s.model, s.accepted, s.edited, s.rejected) for s in numbers.suggestions] == [
        ("m:1", 1, 2, 1),
        ("m:2", 2, 1, 1),
    ]


def test_an_overview_is_kept_while_nothing_changes_and_counted_again_after(
    core, monkeypatch
) -> None:
    monkeypatch.setattr(overview, "_REUSE", 1.0)
    core.add(noise(1), "a")
    overviews = Overviews(core.database)
    first = overviews.of("cells")
    assert overviews.of("cells") is first
    core.add(noise(2), "a")
    wait_for(lambda: overviews.of("cells") is not first)  # at most as long as counting took
    assert overviews.of("cells").images == 2
    kept = overviews.of("cells")
    with core.database.write() as session:
        classes = Taxonomy(session, datasets.find(session, "cells", lock=True), "me")
        classes.rename(classes.existing("a"), "aa")
    assert overviews.of("cells") is not kept
    assert [one.name for one in overviews.of("cells").classes] == ["aa"]


def test_the_queries_of_large_datasets_use_their_indexes(core) -> None:
    """The leaders' queries and the overview's counts: no walk over images, no sort of many."""
    core.submit_all((noise(n), "ab"[n % 2]) for n in range(12))
    seen: list[tuple[str, object]] = []
    engine = core.database._engine
    event.listen(engine, "before_cursor_execute", lambda *a: seen.append((a[2], a[3])))
    with core.database.read() as session:
        dataset = session.scalar(select(Dataset))
        seen.clear()
        for wanted in (
            Wanted(),
            Wanted(class_id="a"),
            Wanted(flag="dark"),
            Wanted(state=ItemState.LABELLED, order=Order.QUEUE),
        ):
            browse.find(session, dataset, wanted, limit=2)
        count(session, dataset)
        asked = [one for one in seen if one[0].startswith("SELECT")]
        explain = "EXPLAIN QUERY PLAN " if core.database.single_process else "EXPLAIN "
        if not core.database.single_process:
            # So small a table is read whole unless that is forbidden.
            session.execute(text("SET enable_seqscan = off"))
        connection = session.connection()
        for statement, parameters in asked:
            lines = connection.exec_driver_sql(explain + statement, parameters)
            plan = " ".join(str(cell) for line in lines for cell in line)
            assert "SCAN item" not in plan.replace("SCAN item USING", ""), (statement, plan)
            assert "Seq Scan on item" not in plan, (statement, plan)
            assert "Seq Scan on label_event" not in plan, (statement, plan)
