"""Classes that change: labels stay as they were said, what follows from them does not."""

import re
from pathlib import Path

import pytest
from sqlalchemy import select
from support.label_tables import make_images, tables
from support.pictures import noise

import visionloop_labeling
from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop_labeling import classes as class_module
from visionloop_labeling import datasets, labels
from visionloop_labeling.annotation import Draft, DraftBox
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.labels import AuthorKind, EventKind, LabelLog, Statement
from visionloop_labeling.queue import item_outs
from visionloop_labeling.rebuild import rebuild
from visionloop_labeling.schema import Item, LabelClass, LabelEvent, SplitCount
from visionloop_labeling.taxonomy import RESERVED_KEYS, Taxonomy, changes


def change(core, what: str, key: str, *args: object, dataset: str = "cells", **fields: object):
    """One change of a class in a transaction of its own; `args` that name classes are keys."""
    with core.database.write() as session:
        taxonomy = Taxonomy(session, datasets.find(session, dataset, lock=True), "rae")
        one = taxonomy.existing(key)
        if what == "merge":
            args = (taxonomy.existing(str(args[0])),)
        return getattr(taxonomy, what)(one, *args, **fields)


def state_of(core, sha256: str) -> tuple[str, str, dict[str, object]]:
    """The first class, the place in the work, and why."""
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        (one,) = item_outs(session, dataset, [labels.find_item(session, dataset, sha256)])
    annotation = one.annotation or {}
    return (annotation.get("classes") or [""])[0], str(one.state), one.why


def counts(core) -> dict[tuple[str, str], int]:
    with core.database.read() as session:
        query = select(LabelClass.key, SplitCount.split, SplitCount.images).join(
            SplitCount, SplitCount.class_id == LabelClass.id
        )
        return {(key, split): images for key, split, images in session.execute(query) if images}


def said(core) -> list[object]:
    """Every event as it is stored."""
    with core.database.read() as session:
        query = select(LabelEvent).order_by(LabelEvent.sequence)
        return [(one.annotation, one.class_id) for one in session.scalars(query)]


def check_rebuild(core, dataset_name: str = "cells") -> None:
    """The tables are those that a rebuild gives."""
    with core.database.write() as session:
        before = tables(session, datasets.find(session, dataset_name))
        session.expunge_all()
        dataset = datasets.find(session, dataset_name, lock=True)
        assert rebuild(session, dataset).differing == 0
        assert tables(session, dataset) == before


def test_a_renamed_class_keeps_its_id_and_is_found_by_its_old_name(core) -> None:
    first = core.add(noise(1), "Cat").sha256
    key = core.labels()[first].class_key
    change(core, "rename", key, "Feline")
    assert core.labels()[first].class_name == "Feline"
    again = core.add(noise(2), "Cat").sha256  # the old file has more rows
    assert core.labels()[again].class_key == key
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        new = Taxonomy(session, dataset, "rae").add("Cat")  # somebody wants another one of the name
        assert new.key != key
    newest = core.add(noise(3), "Cat").sha256
    assert core.labels()[newest].class_key == new.key
    with pytest.raises(ConflictError, match='a class "Cat"'):
        change(core, "rename", key, "Cat")


def test_merging_changes_what_labels_mean_and_not_what_was_said(core) -> None:
    cats = [core.add(noise(n), "cat").sha256 for n in range(4)]
    dogs = [core.add(noise(n), "dog").sha256 for n in range(4, 7)]
    before, splits = said(core), {s: one.split for s, one in core.labels().items()}
    apart = counts(core)
    change(core, "merge", "cat", "dog")
    assert {state_of(core, s)[:2] for s in (*cats, *dogs)} == {("dog", "labelled")}
    merged = counts(core)
    assert {key for key, _ in merged} == {"dog"}
    assert sum(merged.values()) == 7
    assert said(core) == before
    assert {s: one.split for s, one in core.labels().items()} == splits
    later = core.add(noise(8), "cat").sha256  # rows that still say so mean the other
    assert state_of(core, later)[0] == "dog"
    check_rebuild(core)
    change(core, "restore", "cat")
    assert state_of(core, cats[0])[0] == "cat"
    assert state_of(core, later)[0] == "dog"
    assert {key: n for key, n in counts(core).items() if key[0] == "cat"} == {
        key: n for key, n in apart.items() if key[0] == "cat"
    }
    check_rebuild(core)


def test_merges_are_followed_to_their_end(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    for other in "bc":
        core.add(noise(ord(other)), other)
    change(core, "merge", "a", "b")
    change(core, "merge", "b", "c")
    assert state_of(core, sha256)[0] == "c"
    assert sum(counts(core).values()) == 3
    with pytest.raises(ConflictError, match="was merged"):
        change(core, "merge", "c", "a")
    with pytest.raises(InvalidInputError, match="into itself"):
        change(core, "merge", "c", "c")
    change(core, "restore", "b")
    assert state_of(core, sha256)[0] == "b"
    check_rebuild(core)


def test_splitting_asks_again_for_the_images_of_that_class_alone(core) -> None:
    cat = core.add(noise(1), "cat").sha256
    dog = core.add(noise(2), "dog").sha256
    guess = core.add(noise(3), "cat", author_kind="model").sha256
    flagged = core.add(noise(4), "cat").sha256
    flag = Statement(AuthorKind.HUMAN, "ann", EventKind.FLAG)
    labels.submit(core.database, "cells", flagged, flag)
    before = said(core)
    parts = change(core, "split", "cat", ["tabby", "dog"])
    assert [part.key for part in parts] == ["tabby", "dog"]
    assert state_of(core, cat) == ("cat", "open", {"reason": "class_split"})
    assert state_of(core, dog)[1] == "labelled"
    assert state_of(core, guess)[1:] == ("open", {})
    assert state_of(core, flagged)[1] == "review"
    assert said(core) == before
    check_rebuild(core)
    core.say(cat, "tabby")
    assert state_of(core, cat)[:2] == ("tabby", "labelled")
    chosen = Draft(classes=("cat",)).annotation(str)
    human = Statement(AuthorKind.HUMAN, "ann", annotation=chosen)
    with pytest.raises(InvalidInputError, match="was split"):
        labels.submit(core.database, "cells", dog, human)
    late = core.add(noise(5), "cat").sha256  # a row is kept, and its image waits
    assert state_of(core, late)[:2] == ("cat", "open")
    check_rebuild(core)
    change(core, "restore", "cat")
    assert state_of(core, late)[:2] == ("cat", "labelled")
    assert state_of(core, cat)[0] == "tabby"
    assert state_of(core, guess)[1] == "open"
    check_rebuild(core)


def test_the_sample_without_suggestions_stays_one_when_a_class_is_split(core) -> None:
    hidden, shown = (core.add(noise(number), "cat").sha256 for number in (1, 2))
    with core.database.write() as session:
        item = labels.find_item(session, datasets.find(session, "cells", lock=True), hidden)
        item.why = {"model": "m:3", "blind": True}
    change(core, "split", "cat", ["tabby", "lion"])
    assert state_of(core, hidden)[1:] == ("open", {"reason": "class_split", "blind": True})
    assert state_of(core, shown)[1:] == ("open", {"reason": "class_split"})
    change(core, "restore", "cat")
    assert state_of(core, hidden)[1:] == ("labelled", {"blind": True})
    assert state_of(core, shown)[1:] == ("labelled", {})


def test_an_image_with_a_split_class_among_others_waits(core) -> None:
    core.create("many", DatasetSettings(task="multi_label"))
    corner = {"x": 0, "y": 0, "width": 9, "height": 9}
    with core.database.write() as session:
        dataset = datasets.find(session, "many", lock=True)
        items = make_images(session, dataset, 3)
        log = LabelLog(session, dataset)
        for item, names, boxed in zip(
            items, (["a", "b"], ["a"], []), ([], ["b"], ["a"]), strict=True
        ):
            boxes = tuple(DraftBox(class_name=name, **corner) for name in boxed)
            draft = Draft(classes=tuple(names), boxes=boxes)
            log.record(item, Statement(AuthorKind.HUMAN, "ann", annotation=draft))
    change(core, "split", "b", ["b1", "b2"], dataset="many")
    with core.database.read() as session:
        states = session.scalars(select(Item.state).order_by(Item.position)).all()
        assert states == ["open", "open", "labelled"]
    change(core, "merge", "a", "b1", dataset="many")
    check_rebuild(core, "many")
    change(core, "restore", "b", dataset="many")
    check_rebuild(core, "many")
    with core.database.read() as session:
        assert set(session.scalars(select(Item.state))) == {"labelled"}


def test_a_retired_class_is_not_offered_and_its_labels_count(core) -> None:
    sha256 = core.add(noise(1), "cat").sha256
    change(core, "retire", "cat")
    assert state_of(core, sha256)[:2] == ("cat", "labelled")
    human = Statement(AuthorKind.HUMAN, "ann", annotation=Draft(classes=("cat",)).annotation(str))
    with pytest.raises(InvalidInputError, match='class "cat" was retired'):
        labels.submit(core.database, "cells", sha256, human)
    with pytest.raises(ConflictError, match="was retired; restore it"):
        change(core, "retire", "cat")
    change(core, "restore", "cat")
    assert not labels.submit(core.database, "cells", sha256, human).replayed


def test_every_change_is_noted_with_its_number(core) -> None:
    core.add(noise(1), "a")
    with core.database.write() as session:
        classes = Taxonomy(session, datasets.find(session, "cells", lock=True), "rae")
        b = classes.add("b")
        classes.describe(b, hotkey="X", colour="#FF0000", help_text="Look\n closely ", place=7)
        classes.describe(b, hotkey="x")  # nothing new
        classes.rename(b, "bee")
        classes.rename(b, "bee")
        classes.split(classes.existing("a"), ["a1", "a2"])
        assert (b.hotkey, b.colour, b.help, b.place) == ("x", "#ff0000", "Look\nclosely", 7)
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        found = changes(session, dataset)
        assert dataset.class_version == len(found)
        parts = session.scalars(select(LabelClass).where(LabelClass.split_from_id.is_not(None)))
        assert {part.name for part in parts} == {"a1", "a2"}
    assert [(one.class_version, str(one.kind), one.class_key) for one in found] == [
        (1, "add", "b"),
        (2, "describe", "b"),
        (3, "rename", "b"),
        (4, "split", "a"),
    ]
    assert found[2].detail == {"from": "b", "to": "bee"}
    assert {one.author for one in found} == {"rae"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_cannot_be_done_is_refused_in_words(core) -> None:
    for name in "ab":
        core.add(noise(ord(name)), name)
    change(core, "describe", "a", hotkey="1")
    for what, args, fields, error, words in (
        ("describe", (), {"hotkey": "1"}, ConflictError, 'of class "a"'),
        ("describe", (), {"hotkey": "s"}, InvalidInputError, "except b, c, d, f, h, n, s, z"),
        ("describe", (), {"hotkey": "12"}, InvalidInputError, "hotkey '12'"),
        ("describe", (), {"colour": "red"}, InvalidInputError, "#rrggbb"),
        ("describe", (), {"help_text": "x" * 2001}, InvalidInputError, "limit is 2000"),
        ("describe", (), {"help_text": "a\0"}, InvalidInputError, r"U\+0000"),
        ("rename", (" ",), {}, InvalidInputError, "name is empty"),
        ("rename", ("a",), {}, ConflictError, 'a class "a"'),
        ("split", (["x"],), {}, InvalidInputError, "2 to 100"),
        ("split", (["x", "x "],), {}, InvalidInputError, "1 different names"),
        ("split", (["b", "x"],), {}, InvalidInputError, "the class itself"),
    ):
        with pytest.raises(error, match=words):
            change(core, what, "b", *args, **fields)
    with pytest.raises(NotFoundError, match="no class 'zebra'"):
        change(core, "retire", "zebra")
    change(core, "retire", "a")
    change(core, "describe", "b", hotkey="1")  # what is not offered holds no key
    change(core, "restore", "a")
    with core.database.read() as session:
        keys = {one.key: one.hotkey for one in session.scalars(select(LabelClass))}
    assert keys == {"a": "", "b": "1"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_too_many_classes_add_none(core, monkeypatch) -> None:
    monkeypatch.setattr(class_module, "MAX_CLASSES", 3)
    core.add(noise(1), "a")
    core.create("many", DatasetSettings(task="multi_label"))
    draft = Draft(classes=("w", "x", "y", "z"))
    receipt = core.add(noise(2), dataset="many", annotation=draft)
    assert (receipt.outcome, receipt.field) == ("rejected", "label")
    assert "limit is 3" in receipt.message
    with core.database.read() as session:
        assert session.scalars(select(LabelClass.name)).all() == ["a"]


def test_the_page_and_the_service_reserve_the_same_letters() -> None:
    package = Path(visionloop_labeling.__file__).parent
    script = (package / "static/label/keys.js").read_text()
    [letters] = re.findall(r"RESERVED = new Set\(\[(.*?)\]\)", script)
    assert sorted(re.findall(r'"(.)"', letters)) == sorted(RESERVED_KEYS)
