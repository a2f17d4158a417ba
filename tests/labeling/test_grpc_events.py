"""Events and annotations over gRPC, by the client that apps use, against the real server."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fresh_database import fresh_sqlite
from support.pictures import noise

from visionloop.errors import ConflictError, InvalidInputError
from visionloop.images import Limits
from visionloop.labeling_client import (
    Annotation,
    Box,
    DatasetSettings,
    LabelingClient,
    Mask,
    Polygon,
    SubmitImage,
)
from visionloop.objectstore import open_store
from visionloop_labeling.database import open_database
from visionloop_labeling.grpc_api import GrpcServer
from visionloop_labeling.service import LabelingService


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelingClient]:
    """A client of a server in this process, on a loop of its own."""
    folder: Path = tmp_path_factory.mktemp("grpc")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[LabelingService, GrpcServer]:
        database = open_database(fresh_sqlite(folder / "l.db"))
        service = LabelingService(database, open_store(f"file://{folder / 's'}"), Limits())
        server = GrpcServer(service, "127.0.0.1", 0)
        await server.start()
        return service, server

    service, server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    with LabelingClient(f"127.0.0.1:{server.port}") as made:
        yield made
    asyncio.run_coroutine_threadsafe(server.stop(1.0), loop).result(60)
    service.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


SAID = Annotation(
    classes=("Street",),
    boxes=(Box("Car", 1.5, 2, 10, 12, {"seen": "whole"}),),
    shapes=(
        Polygon("Road", ((0, 30), (40, 30), (40, 40))),
        Mask("Sky", (400, 1200), height=40, width=40),
    ),
    attributes={"weather": "rain", "speed": 31.5},
    note="at dusk",
)


def test_an_annotation_comes_back_as_it_was_sent(client) -> None:
    client.create_dataset("streets", DatasetSettings(task="detection"))
    row = SubmitImage("streets", "b", 0, noise(1), annotation=SAID)
    (receipt,) = client.submit_images([row])
    assert receipt.outcome == "accepted", receipt.message
    (event,) = client.history("streets", receipt.sha256)
    found = event.annotation
    assert found is not None
    assert (event.kind, event.class_name, event.applied) == ("label", "Street", True)
    assert (found.classes, found.attributes, found.note) == (
        ("Street",),
        SAID.attributes,
        "at dusk",
    )
    (box,) = found.boxes
    assert box == Box("Car", 1.5, 2, 10, 12, {"seen": "whole"}, class_id=box.class_id)
    assert box.class_id
    assert [shape.label for shape in found.shapes] == ["Road", "Sky"]
    assert found.shapes[0].points == SAID.shapes[0].points
    assert found.shapes[1].counts == (400, 1200)
    nothing = client.submit_label(
        "streets", receipt.sha256, Annotation(nothing_there=True), author_kind="human"
    )
    assert (nothing.state, nothing.class_id, nothing.current) == ("labelled", "", True)
    last = client.history("streets", receipt.sha256)[-1].annotation
    assert last == Annotation(nothing_there=True)


def test_a_soft_label_and_a_weight_come_back_as_they_were_sent(client) -> None:
    client.create_dataset("soft")
    said = Annotation(probabilities={"good": 0.25, "cracked": 0.75}, weight=2.0)
    (receipt,) = client.submit_images([SubmitImage("soft", "b", 0, noise(3), annotation=said)])
    assert receipt.outcome == "accepted", receipt.message
    (event,) = client.history("soft", receipt.sha256)
    assert event.annotation is not None
    assert event.class_name == "cracked"
    assert (event.annotation.probabilities, event.annotation.weight) == (said.probabilities, 2.0)
    (label,) = client.export_labels("soft")
    assert label.annotation.probabilities == said.probabilities


def test_every_kind_of_event_goes_over_the_wire(client) -> None:
    client.create_dataset("cells")
    (receipt,) = client.submit_images([SubmitImage("cells", "b", 0, noise(2), "crack")])
    sha256 = receipt.sha256

    def say(kind, **fields):
        return client.submit_event(
            "cells", sha256, kind, author_kind="human", author="ann", **fields
        )

    assert say("skip", note="blurred").state == "skipped"
    assert say("undo").state == "open"  # an app's label waits for people
    labelled = client.submit_label("cells", sha256, "fine", author_kind="human", author="ann")
    assert (labelled.state, labelled.label_sequence) == ("labelled", labelled.sequence)
    assert say("flag", note="sure?").state == "review"
    assert say("unflag").state == "labelled"
    undone = say("undo", undoes=6)
    assert (undone.state, undone.label_sequence) == ("review", labelled.sequence)
    assert say("retract").state == "open"
    events = client.history("cells", sha256)
    assert [event.kind for event in events] == [
        *("label", "skip", "undo", "label", "flag", "unflag", "undo", "retract"),
    ]
    assert [event.undone for event in events] == [
        *(False, True, False, False, False, True, False, False),
    ]
    assert (events[1].note, events[6].undoes) == ("blurred", 6)


def test_refusals_say_what_and_where(client) -> None:
    client.create_dataset("refused")
    beside = Annotation(boxes=(Box("a", 100, 0, 5, 5),))
    receipts = list(
        client.submit_images(
            [
                SubmitImage("refused", "b", 0, noise(3), annotation=beside),
                SubmitImage("refused", "b", 1, noise(4), annotation=Annotation(classes=("",))),
                SubmitImage("refused", "b", 2, noise(5), "a"),
            ]
        )
    )
    assert [one.outcome for one in receipts] == ["rejected", "rejected", "accepted"]
    assert [one.field for one in receipts[:2]] == ["annotation.boxes.0", "annotation.classes.0"]
    sha256 = receipts[2].sha256
    with pytest.raises(ConflictError, match="has said nothing"):
        client.submit_event("refused", sha256, "undo", author_kind="human", author="ann")
    with pytest.raises(InvalidInputError, match="kind is 'praise'"):
        client.submit_event("refused", sha256, "praise")
    with pytest.raises(InvalidInputError, match="cannot be sent"):
        client.submit_label("refused", sha256, Annotation(boxes=(Box("a", "x", 0, 1, 1),)))
