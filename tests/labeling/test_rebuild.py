"""The tables that follow from the label log: found to differ, written anew, and left alone."""

import json

import pytest
from sqlalchemy import select, update
from support.label_tables import tables
from support.pictures import noise

from visionloop.errors import ConfigurationError, NotFoundError
from visionloop_labeling import datasets, rebuild_command
from visionloop_labeling import rebuild as module
from visionloop_labeling.database import open_database
from visionloop_labeling.schema import Item, LabelClass, LabelEvent, LabelHead, SplitCount


@pytest.fixture
def labelled(core, database_url: str, monkeypatch) -> list[str]:
    """Seven labelled images, two said anew by a person, one skipped; the database is closed."""
    monkeypatch.setenv("VISIONLOOP_DATABASE", database_url)
    monkeypatch.setattr(module, "_PAGE", 3)
    receipts = core.submit_all((noise(n), "ab"[n % 2]) for n in range(7))
    digests = [receipt.sha256 for receipt in receipts]
    core.say(digests[0], "b")
    core.say(digests[1], "c")
    core.database.close()
    return digests


def run(capsys, *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = rebuild_command.run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def stored(database_url: str) -> dict[str, object]:
    database = open_database(database_url)
    try:
        with database.read() as session:
            return tables(session, datasets.find(session, "cells"))
    finally:
        database.close()


def test_tables_that_agree_with_the_log_stay_as_they_are(
    labelled, database_url: str, capsys
) -> None:
    before = stored(database_url)
    assert run(capsys) == (0, {"cells": {"images": 7, "differing": 0, "shown": []}})
    assert stored(database_url) == before


def test_what_differs_is_told_and_written_anew(labelled, database_url: str, capsys) -> None:
    before = stored(database_url)
    database = open_database(database_url)
    with database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        ids = {item.sha256: item.id for item in session.scalars(select(Item))}
        lost, wrong, moved = (ids[digest] for digest in (labelled[2], labelled[3], labelled[4]))
        session.delete(session.get_one(LabelHead, lost))
        first = session.scalars(select(LabelEvent).order_by(LabelEvent.sequence)).first()
        other = session.scalars(select(LabelClass.id).where(LabelClass.key == "c")).one()
        assert first is not None
        session.execute(
            update(LabelHead)
            .where(LabelHead.item_id == wrong)
            .values(class_id=other, event_row_id=first.id)
        )
        session.execute(update(Item).where(Item.id == moved).values(state="open"))
        session.execute(update(SplitCount).values(images=SplitCount.images + 1))
        dataset.labelled = 99
    database.close()
    broken = stored(database_url)

    code, told = run(capsys, "--check", "cells")
    assert code == rebuild_command.DIFFERENCES
    assert stored(database_url) == broken  # nothing was changed
    found = {(one["of"], one["what"]) for one in told["cells"]["shown"]}
    assert {
        (labelled[2], "label.sequence"),
        (labelled[3], "label.class_id"),
        (labelled[3], "label.event_row_id"),
        (labelled[4], "state"),
        ("counters of the dataset", "labelled"),
    } <= found
    assert any(of == "images of a class in a split" for of, _ in found)
    assert not {of for of, _ in found} & {labelled[0], labelled[1], labelled[5], labelled[6]}

    code, again = run(capsys)
    assert (code, again) == (0, told)
    assert stored(database_url) == before
    assert run(capsys, "--check")[1]["cells"]["differing"] == 0


def test_what_cannot_be_rebuilt_is_said(labelled, database_url: str, monkeypatch) -> None:
    with pytest.raises(NotFoundError, match="dogs"):
        rebuild_command.run(["dogs"])
    monkeypatch.setenv("VISIONLOOP_DATABASE", "")
    with pytest.raises(ConfigurationError, match="VISIONLOOP_DATABASE"):
        rebuild_command.run(["cells"])


def test_a_mistyped_file_is_not_made_and_found_in_order(tmp_path, monkeypatch) -> None:
    missing = tmp_path / "data" / "typo.db"
    monkeypatch.setenv("VISIONLOOP_DATABASE", f"sqlite:///{missing}")
    with pytest.raises(ConfigurationError, match=r"there is no database .*typo\.db"):
        rebuild_command.run(["--check"])
    assert not missing.parent.exists()
