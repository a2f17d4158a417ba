"""The labeling client against a real gRPC server: its stream survives what connections do."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.labeling_service import MOMENT, Service
from support.waiting import wait_for

from visionloop import labeling_client, labeling_messages
from visionloop.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VisionloopError,
)
from visionloop.labeling_client import (
    DatasetSettings,
    LabelingClient,
    LabelReceipt,
    Receipt,
    SubmitImage,
)
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.resumable import Window


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[LabelingClient]:
    with LabelingClient(service.target, timeout=20) as made:
        yield made


def row(ordinal: int, **changes: object) -> SubmitImage:
    return SubmitImage(
        **{"dataset": "d", "batch": "b", "ordinal": ordinal, "image": b"image", **changes}
    )


# --- a client that is closed, and deadlines that are none


def calls_of(client: LabelingClient) -> list[Callable[[], object]]:
    return [
        client.list_datasets,
        lambda: client.create_snapshot("d"),
        lambda: client.submit_label("d", "0" * 64, "crack"),
        lambda: list(client.export_labels("d")),
        lambda: list(client.export("d")),
        lambda: list(client.submit_images([row(0)])),
    ]


def test_a_closed_client_says_so(service: Service) -> None:
    client = LabelingClient(service.target)
    client.close()
    for call in calls_of(client):
        with pytest.raises(InvalidInputError, match="the client is closed"):
            call()


def test_closing_ends_a_stream_under_way_in_words(client: LabelingClient) -> None:
    """It is not taken for a connection that broke, to be mended by sending again."""

    def source() -> Iterator[SubmitImage]:
        yield row(0)
        client.close()
        yield row(1)

    with pytest.raises(InvalidInputError, match="the client is closed"):
        list(client.submit_images(source()))


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_deadline_that_is_none_is_refused(client: LabelingClient, timeout: float) -> None:
    """0 was the default, without a word."""
    for call in (
        lambda: client.create_snapshot("d", timeout=timeout),
        lambda: list(client.export_labels("d", timeout=timeout)),
        lambda: list(client.export("d", timeout=timeout)),
    ):
        with pytest.raises(InvalidInputError, match="number of seconds above 0"):
            call()


# --- the stream


def test_every_row_gets_its_receipt_in_order(service: Service, client: LabelingClient) -> None:
    receipts = list(client.submit_images(row(n) for n in range(300)))
    assert [receipt.ordinal for receipt in receipts] == list(range(300))
    assert receipts[7] == Receipt("b", 7, "accepted", sha256=f"{7:064x}")
    assert service.servicer.streams == 1


def test_all_of_a_row_arrives(service: Service, client: LabelingClient) -> None:
    sent = row(
        1, label="crack", group="g", attributes={"module": "mono"}, author_kind="human",
        author="ann", source="a.png",
    )  # fmt: skip
    list(client.submit_images([sent, row(2)]))
    first, second = service.servicer.rows[("b", 1)], service.servicer.rows[("b", 2)]
    assert (first.label.class_name, first.group, dict(first.attributes)) == (
        "crack", "g", {"module": "mono"},
    )  # fmt: skip
    assert (first.author_kind, first.author, first.source) == (pb.AUTHOR_KIND_HUMAN, "ann", "a.png")
    assert not second.HasField("label")
    assert second.author_kind == pb.AUTHOR_KIND_APP


def test_no_rows_open_no_stream(service: Service, client: LabelingClient) -> None:
    assert list(client.submit_images([])) == []
    assert service.servicer.streams == 0


def test_receipts_come_while_the_source_waits(client: LabelingClient) -> None:
    """A camera sends one image an hour; its receipt must not wait for the next image."""
    more = threading.Event()

    def source() -> Iterator[SubmitImage]:
        yield row(0)
        assert more.wait(30)
        yield row(1)

    receipts = client.submit_images(source())
    assert next(receipts).ordinal == 0
    more.set()
    assert next(receipts).ordinal == 1
    assert list(receipts) == []


def test_the_source_is_not_read_far_ahead(service: Service, client: LabelingClient) -> None:
    read = []

    def source() -> Iterator[SubmitImage]:
        for n in range(1000):
            read.append(n)
            yield row(n)

    gate = threading.Event()
    service.servicer.interrupt = lambda rows, context: gate.wait(30) and None
    receipts = client.submit_images(source())
    first = threading.Thread(target=lambda: next(receipts))
    first.start()
    wait_for(lambda: len(read) == 65)  # 64 in the window, one waiting for room
    gate.set()
    first.join()
    assert len(list(receipts)) == 999


@pytest.mark.parametrize("period", [1, 7, 40])
def test_a_stream_that_breaks_again_and_again_loses_and_doubles_nothing(
    service: Service, client: LabelingClient, period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeling_client, "FIRST_PAUSE", 0.001)
    breaks = set(range(period, 120, period))

    def interrupt(rows: int, context: grpc.ServicerContext) -> None:
        if rows in breaks:
            breaks.discard(rows)
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    service.servicer.interrupt = interrupt
    receipts = list(client.submit_images(row(n) for n in range(120)))
    assert [receipt.ordinal for receipt in receipts] == list(range(120))
    assert len(service.servicer.rows) == 120
    assert service.servicer.streams > 1


def test_a_service_that_takes_its_time_to_start_is_waited_for(
    service: Service, client: LabelingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(labeling_client.time, "sleep", slept.append)
    service.stop()
    with pytest.raises(UnavailableError):
        list(client.submit_images([row(0)]))
    assert 20 < sum(slept) < 60


def test_a_server_that_restarts_is_found_again(service: Service, client: LabelingClient) -> None:
    receipts = client.submit_images(row(n) for n in range(400))
    seen = [next(receipts).ordinal for _ in range(50)]
    service.stop()
    restart = threading.Timer(0.3, service.start)
    restart.start()
    seen += [receipt.ordinal for receipt in receipts]
    restart.join()
    assert seen == list(range(400))
    assert len(service.servicer.rows) == 400


def test_a_stream_that_ends_too_early_is_taken_up_again(
    service: Service, client: LabelingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = service.servicer.SubmitImages

    def short(
        requests: Iterator[pb.SubmitImageRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SubmitImageReceipt]:
        receipts = original(requests, context)
        yield from itertools.islice(receipts, 10)

    monkeypatch.setattr(labeling_client, "FIRST_PAUSE", 0.001)
    service.stop()
    service.servicer.SubmitImages = short
    service.start()
    receipts = client.submit_images(row(n) for n in range(25))
    assert [receipt.ordinal for receipt in receipts] == list(range(25))
    assert service.servicer.streams == 3


def test_it_gives_up_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeling_client, "FIRST_PAUSE", 0.001)
    with (
        LabelingClient("127.0.0.1:9") as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"),
    ):
        list(client.submit_images([row(0)]))


def test_a_silent_server_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeling_client, "STREAM_SECONDS", 0.5)
    released = threading.Event()
    service.servicer.interrupt = lambda rows, context: released.wait(30) and None
    with (
        LabelingClient(service.target, timeout=0.2) as client,
        pytest.raises(DeadlineExceededError),
    ):
        list(client.submit_images([row(0)]))
    released.set()


def test_a_stream_whose_time_is_over_goes_on_in_a_new_one(
    service: Service, client: LabelingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeling_client, "STREAM_SECONDS", 0.3)
    monkeypatch.setattr(labeling_client, "FIRST_PAUSE", 0.001)

    def slow() -> Iterator[SubmitImage]:
        for n in range(8):
            time.sleep(0.1)
            yield row(n)

    assert [receipt.ordinal for receipt in client.submit_images(slow())] == list(range(8))
    assert service.servicer.streams > 1


def test_an_answer_that_is_no_breakdown_is_raised_at_once(
    service: Service, client: LabelingClient
) -> None:
    def refuse(rows: int, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no dataset d; create it")

    service.servicer.interrupt = refuse
    with pytest.raises(NotFoundError, match="no dataset d"):
        list(client.submit_images([row(0)]))
    assert service.servicer.streams == 1


def test_the_sources_exception_comes_after_the_receipts_before_it(client: LabelingClient) -> None:
    def source() -> Iterator[SubmitImage]:
        yield row(0)
        yield row(1)
        raise KeyError("disk")

    receipts = client.submit_images(source())
    assert [next(receipts).ordinal, next(receipts).ordinal] == [0, 1]
    with pytest.raises(KeyError, match="disk"):
        next(receipts)


def test_rows_that_cannot_be_sent_are_errors_of_the_caller(client: LabelingClient) -> None:
    with pytest.raises(InvalidInputError, match="author_kind is 'robot'"):
        list(client.submit_images([row(0, author_kind="robot")]))
    with pytest.raises(InvalidInputError, match="row -1"):
        list(client.submit_images([row(-1)]))


def test_an_image_too_large_for_a_message_is_rejected_alone(
    service: Service, client: LabelingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeling_messages, "MAX_IMAGE_BYTES", 1000)
    rows = [row(0), row(1, image=bytes(1001)), row(2), row(3, image=bytes(1001))]
    receipts = list(client.submit_images(rows))
    assert [r.outcome for r in receipts] == ["accepted", "rejected", "accepted", "rejected"]
    assert (receipts[1].reason, receipts[1].field) == ("too_many_bytes", "image")
    assert "1,001 bytes" in receipts[1].message
    assert sorted(service.servicer.rows) == [("b", 0), ("b", 2)]


def test_leaving_early_ends_the_stream_and_the_reading(
    service: Service, client: LabelingClient
) -> None:
    ended = threading.Event()
    read = []

    def source() -> Iterator[SubmitImage]:
        for n in range(10_000):
            read.append(n)
            yield row(n)

    service.servicer.interrupt = lambda rows, context: (
        None if rows else context.add_callback(ended.set) and None
    )
    receipts = client.submit_images(source())
    next(receipts)
    receipts.close()
    assert ended.wait(30)
    wait_for(lambda: "submit-images" not in {t.name for t in threading.enumerate()})
    assert len(read) < 10_000


def test_receipts_out_of_turn_are_an_error(service: Service, client: LabelingClient) -> None:
    def wrong(requests: Iterator[object], context: object) -> Iterator[pb.SubmitImageReceipt]:
        next(requests)
        yield pb.SubmitImageReceipt(batch="b", ordinal=99)

    service.stop()
    service.servicer.SubmitImages = wrong
    service.start()
    with pytest.raises(VisionloopError, match="out of turn"):
        list(client.submit_images([row(0)]))


# --- the other calls


def test_every_call_carries_the_token(service: Service) -> None:
    with LabelingClient(service.target, token="secret") as client:
        client.create_dataset("cells")
        client.list_datasets()
        list(client.submit_images([row(0)]))
        client.submit_label("d", "0" * 64, "crack")
        client.create_snapshot("d")
        list(client.export_labels("d"))
        list(client.export("d"))
        client.history("d", "0" * 64)
    rpcs = {method.name for method in pb.DESCRIPTOR.services_by_name["LabelingIngest"].methods}
    assert service.callers.tokens == dict.fromkeys(rpcs, "Bearer secret")


def test_datasets(client: LabelingClient) -> None:
    dataset = client.create_dataset("cells")
    assert (dataset.name, dataset.images, dataset.labelled) == ("cells", 5, 3)
    assert [(c.id, c.name) for c in dataset.classes] == [("c1", "crack")]
    assert dataset.created == MOMENT
    assert [dataset.name for dataset in client.list_datasets()] == ["a", "b"]


def test_settings_of_a_dataset(service: Service, client: LabelingClient) -> None:
    wanted = DatasetSettings("multi_label", (0.5, 0.25, 0.25), train_on_model_labels=True)
    made = client.create_dataset("cells", wanted)
    sent = service.servicer.requests[-1].settings
    assert (sent.task, sent.ratios.val) == (pb.TASK_MULTI_LABEL, 0.25)
    assert (sent.train_on_app_labels, sent.train_on_model_labels) == (True, True)
    assert (made.settings.task, made.settings.splits) == ("detection", (1.0, 0.0, 0.0))
    client.create_dataset("cells")
    assert not service.servicer.requests[-1].HasField("settings")
    with pytest.raises(InvalidInputError, match="task is 'guessing'; it must be classification"):
        client.create_dataset("cells", DatasetSettings("guessing"))
    with pytest.raises(InvalidInputError, match="shares of train, val and test"):
        client.create_dataset("cells", DatasetSettings(splits=(0.8, 0.2)))


def test_labels_and_their_history(service: Service, client: LabelingClient) -> None:
    receipt = client.submit_label("d", "0" * 64, "crack", author_kind="human", base_sequence=4)
    assert receipt == LabelReceipt(sequence=5, class_id="c1", current=True)
    client.submit_label("d", "0" * 64, "crack")
    client.submit_label("d", "0" * 64, "crack", event_id="mine")
    first, second, third = service.servicer.requests
    assert first.event_id != second.event_id
    assert (third.event_id, third.HasField("base_sequence")) == ("mine", False)
    with pytest.raises(ConflictError, match="has come since"):
        client.submit_label("d", "0" * 64, "crack", base_sequence=0)
    (event,) = client.history("d", "0" * 64)
    assert (event.sequence, event.author_kind, event.at, event.current) == (
        1, "import", MOMENT, True,
    )  # fmt: skip


def test_snapshots(client: LabelingClient) -> None:
    snapshot = client.create_snapshot("d")
    assert (snapshot.id, snapshot.created, snapshot.split_images) == (
        "sha256-ab", True, {"train": 8},
    )  # fmt: skip
    assert (snapshot.groups, snapshot.largest_group, snapshot.left_out) == (7, 2, {"no_class": 1})
    with pytest.raises(NotFoundError, match="no dataset none"):
        client.create_snapshot("none")


def test_export(client: LabelingClient) -> None:
    labels = list(client.export_labels("d"))
    assert [label.sha256 for label in labels] == ["0", "1", "2"]
    assert (labels[0].author_kind, labels[0].labelled) == ("human", MOMENT)
    assert labels[0].attributes == {"module": "mono"}
    with pytest.raises(UnavailableError, match="draining"):
        list(client.export_labels("breaks"))


def test_an_export_may_take_longer_than_other_calls(
    service: Service, client: LabelingClient
) -> None:
    list(client.export_labels("d"))
    list(client.export("d"))
    for left in service.servicer.seconds_left:
        assert left is None or left > 1000 > client.timeout
    list(client.export_labels("d", timeout=10))
    assert 0 < service.servicer.seconds_left[-1] < 20


def test_export_as_a_file(service: Service, client: LabelingClient) -> None:
    assert b"".join(client.export("d", "yolo", snapshot="latest")) == b"abc"
    request = service.servicer.requests[-1]
    assert (request.format, request.snapshot) == (pb.ExportRequest.YOLO, "latest")
    pieces = client.export("breaks")
    assert next(pieces) == b"ab"
    with pytest.raises(UnavailableError, match="draining"):
        next(pieces)
    with pytest.raises(InvalidInputError, match="format is 'xml'; it must be csv"):
        list(client.export("d", "xml"))


# --- the window


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.integers(1, 8),
    st.integers(1, 100),
    st.lists(st.integers(1, 9), max_size=20),
)
def test_streams_over_a_window_give_each_item_until_it_is_acknowledged(
    sizes: list[int], max_items: int, max_bytes: int, breaks: list[int]
) -> None:
    items = list(enumerate(sizes))
    window = Window(
        iter(items), size_of=lambda item: item[1], max_items=max_items, max_bytes=max_bytes
    )
    arrived: list[tuple[int, int]] = []
    pauses = iter(breaks)
    while window.first() is not None:
        stream = window.stream()
        left = next(pauses, len(items))
        while left and (oldest := window.first()) is not None:
            assert next(stream) == oldest
            arrived.append(oldest)
            window.acknowledge()
            left -= 1
        stream.stop()
        assert next(stream, None) is None
    assert arrived == items
    assert window.acknowledged == len(items)
    window.close()
