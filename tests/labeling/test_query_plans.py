"""The queries whose time must not grow with other people's images are served by indexes."""

from datetime import UTC, datetime

import pytest
from support.pictures import noise

from bench.query_plans import captured, explained
from visionloop_labeling import browse, datasets, exports, history, queue, snapshots
from visionloop_labeling.browse import NO_SPLIT, Order, Wanted
from visionloop_labeling.fold import ItemState
from visionloop_labeling.learned_labels import LearnedLabels, TrainedOn

# Tables that grow with images. The classes of a dataset are few, and read as a whole.
LARGE = {
    "item", "blob", "image_group", "label_head", "label_head_class", "label_event",
    "near_duplicate", "prediction", "quality_flag",
}  # fmt: skip


def check(core, queries) -> list[str]:
    plans = explained(core.database, queries, tiny=True)
    for plan in plans:
        assert not plan.scanned & LARGE, f"{plan.sql}\n\n{plan.text}"
    return [plan.text for plan in plans]


def fill(core) -> None:
    core.submit_all((noise(n), "ab"[n % 2]) for n in range(12))
    core.add(noise(20), "a", author_kind="app")
    core.add(noise(21))


def test_the_next_image_is_found_by_the_index_of_the_queue(core) -> None:
    fill(core)
    with captured() as queries, core.database.write() as session:
        dataset = datasets.find(session, "cells")
        items = queue.lease(session, dataset, "ann", 1, ItemState.OPEN, datetime.now(UTC))
        assert len(items) == 1
        queue.item_outs(session, dataset, items)
    texts = check(core, queries)
    [leasing] = [text for text in texts if "ix_item_queue" in text]
    # The index gives the order as well: nothing is sorted.
    assert "TEMP B-TREE" not in leasing
    assert "Sort" not in leasing


def test_a_cut_reads_its_dataset_by_indexes(core) -> None:
    fill(core)
    with captured() as queries:
        snapshots.cut(core.database, core.store, "cells")
    texts = check(core, queries)
    assert len(texts) >= 8
    [rows] = [
        plan.text
        for plan in explained(core.database, queries, tiny=True)
        if "ORDER BY item.sha256" in plan.sql
    ]
    assert "uq_item_dataset_id" in rows or "dataset_id=?" in rows
    assert "TEMP B-TREE" not in rows
    assert "Sort" not in rows


def test_the_labels_that_a_version_learned_are_one_look(core) -> None:
    fill(core)
    trained_on = TrainedOn("cells", core.cut().manifest.id)
    learned = LearnedLabels(core.database, core.store)
    with captured() as queries:
        assert learned.middle(trained_on) is not None
    assert len(check(core, queries)) == 1


def test_an_export_walks_along_the_positions(core) -> None:
    fill(core)
    with captured() as queries:
        assert sum(1 for _ in exports.current(core.database, "cells").images) == 13
    texts = check(core, queries)
    assert not any("TEMP B-TREE" in text or "Sort" in text for text in texts)


WANTED = [
    Wanted(),
    Wanted(order=Order.NEWEST),
    Wanted(state=ItemState.OPEN),
    Wanted(state=ItemState.REVIEW, order=Order.QUEUE),
    Wanted(class_id="a"),
    Wanted(class_id="a", split="train", order=Order.NEWEST),
    Wanted(split=NO_SPLIT),
    Wanted(flag="dark"),
    Wanted(state=ItemState.LABELLED, flag="blurred", class_id="b"),
    Wanted(predicted="a", order=Order.SURE),
    Wanted(predicted="a", order=Order.UNSURE, state=ItemState.OPEN),
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_page_of_images_is_read_by_indexes(core, wanted: Wanted) -> None:
    fill(core)
    with captured() as queries, core.database.read() as session:
        dataset = datasets.find(session, "cells")
        page = browse.find(session, dataset, wanted, limit=3)
        queue.item_outs(session, dataset, page.items)
        if page.after:
            browse.find(session, dataset, wanted, after=page.after, limit=3)
    check(core, queries)


def test_the_history_of_an_image_and_of_a_person_are_read_by_indexes(core) -> None:
    fill(core)
    with captured() as queries, core.database.read() as session:
        dataset = datasets.find(session, "cells")
        [first, *_] = history.recent(session, dataset, limit=5)
        assert history.recent(session, dataset, author=first.author, limit=5)
        assert history.of_image(session, "cells", first.sha256)
    check(core, queries)
