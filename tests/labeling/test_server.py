"""The program as apps and operators meet it: gRPC, HTTP, start, drain, bad flags."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.faults import ALWAYS, Fault, faulty_proxy
from support.idle_callers import idle_callers
from support.labeling_server import LabelingServer, running_labeling
from support.pictures import noise
from support.process_tree import descriptors
from support.stores import S3Server

from visionloop.objectstore import open_store
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.snapshot import SnapshotRepository

SERVICE = "visionloop.v1.LabelingIngest"


MAX_IMAGE_BYTES = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[LabelingServer]:
    environment = {"VISIONLOOP_MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES)}
    with running_labeling(tmp_path_factory.mktemp("labeling"), **environment) as running:
        yield running


@pytest.fixture
def dataset(server: LabelingServer) -> str:
    return server.create_dataset(f"d{uuid.uuid4().hex[:12]}").name


def row(dataset: str, ordinal: int, label: str | None = "a", **fields) -> pb.SubmitImageRequest:
    values = {
        "dataset": dataset,
        "batch": "b",
        "ordinal": ordinal,
        "image": noise(ordinal),
        "author_kind": pb.AUTHOR_KIND_IMPORT,
        **fields,
    }
    if label is not None:
        values["label"] = pb.Label(class_name=label)
    return pb.SubmitImageRequest(**values)


def test_images_labels_history_export_and_snapshot(server: LabelingServer, dataset: str) -> None:
    rows = [
        row(dataset, n, "ab"[n % 2], attributes={"n": str(n)}, source=f"{n}.png") for n in range(20)
    ]
    rows.insert(10, row(dataset, 99, image=b"GIF8"))
    receipts = server.submit(rows)
    assert [receipt.ordinal for receipt in receipts] == [request.ordinal for request in rows]
    outcomes = [receipt.outcome for receipt in receipts]
    assert outcomes.count(pb.SubmitImageReceipt.ACCEPTED) == 20
    assert outcomes[10] == pb.SubmitImageReceipt.REJECTED
    assert receipts[10].reason == "not_an_image"
    assert all(receipt.replayed for receipt in server.submit(rows))

    event = str(uuid.uuid4())
    correction = pb.SubmitLabelRequest(
        dataset=dataset,
        sha256=receipts[0].sha256,
        label=pb.Label(class_name="c"),
        event_id=event,
        author_kind=pb.AUTHOR_KIND_HUMAN,
        author="ada",
        base_sequence=1,
    )
    answer = server.stub.SubmitLabel(correction)
    assert (answer.sequence, answer.class_id, answer.current) == (21, "c", True)
    assert server.stub.SubmitLabel(correction) == answer

    history = server.stub.GetHistory(
        pb.GetHistoryRequest(dataset=dataset, sha256=receipts[0].sha256)
    ).events
    assert [(e.class_name, e.current, e.author) for e in history] == [
        ("a", False, ""),
        ("c", True, "ada"),
    ]
    assert history[1].event_id == event
    assert history[1].author_kind == pb.AUTHOR_KIND_HUMAN

    exported = list(server.stub.ExportLabels(pb.ExportLabelsRequest(dataset=dataset)))
    assert [label.source for label in exported] == [f"{n}.png" for n in range(20)]
    assert (exported[0].class_name, exported[0].author_kind) == ("c", pb.AUTHOR_KIND_HUMAN)
    assert dict(exported[3].attributes) == {"n": "3"}
    assert {label.split for label in exported} == {"train", "val", "test"}

    cut = server.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=dataset))
    assert cut.created
    assert sum(cut.split_images.values()) == 20
    read = SnapshotRepository(open_store(server.store)).read(dataset, "latest")
    assert read.manifest.id == cut.id
    assert {(r.sha256, r.split, r.class_id) for r in read.rows} == {
        (label.sha256, label.split, label.class_id) for label in exported
    }

    summary = next(
        one
        for one in server.stub.ListDatasets(pb.ListDatasetsRequest()).datasets
        if one.name == dataset
    )
    assert (summary.images, summary.labelled) == (20, 20)
    assert [one.name for one in summary.classes] == ["a", "b", "c"]


def test_receipts_come_while_the_stream_is_open(server: LabelingServer, dataset: str) -> None:
    """One row, its receipt, the next row: nothing waits for a batch to fill or a stream to end."""
    arrived = threading.Semaphore(1)

    def requests() -> Iterator[pb.SubmitImageRequest]:
        for number in range(5):
            assert arrived.acquire(timeout=60)
            yield row(dataset, number)

    for count, receipt in enumerate(server.stub.SubmitImages(requests(), timeout=60)):
        assert receipt.ordinal == count
        arrived.release()
    assert count == 4


def test_two_streams_with_the_same_rows_make_them_once(
    server: LabelingServer, dataset: str
) -> None:
    rows = [row(dataset, n) for n in range(24)]
    answers: list[list[pb.SubmitImageReceipt]] = [[], []]

    def send(number: int) -> None:
        answers[number] = server.submit(rows)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.sha256 for r in answers[0]] == [r.sha256 for r in answers[1]]
    for first, second in zip(*answers, strict=True):
        assert (first.replayed, second.replayed) in ((True, False), (False, True))
    exported = list(server.stub.ExportLabels(pb.ExportLabelsRequest(dataset=dataset)))
    assert len(exported) == 24


def test_a_cancelled_stream_leaves_the_service_whole(server: LabelingServer, dataset: str) -> None:
    def endless() -> Iterator[pb.SubmitImageRequest]:
        number = 0
        while True:
            yield row(dataset, number % 40)
            number += 1

    call = server.stub.SubmitImages(endless(), timeout=60)
    for _, receipt in zip(range(10), call, strict=False):
        assert receipt.outcome == pb.SubmitImageReceipt.ACCEPTED
    call.cancel()
    receipts = server.submit([row(dataset, n) for n in range(40)])
    assert {receipt.outcome for receipt in receipts} == {pb.SubmitImageReceipt.ACCEPTED}


def test_an_oversized_image_is_one_refused_row(server: LabelingServer, dataset: str) -> None:
    big = row(dataset, 1, image=noise(1) + bytes(21 * 2**20))
    receipts = server.submit([row(dataset, 0), big, row(dataset, 2)])
    assert [r.reason for r in receipts] == ["", "too_many_bytes", ""]


@pytest.mark.parametrize(
    ("call", "request_message", "code", "words"),
    [
        ("CreateDataset", pb.CreateDatasetRequest(name="A b"), "INVALID_ARGUMENT", "lower-case"),
        ("CreateSnapshot", pb.CreateSnapshotRequest(dataset="none"), "NOT_FOUND", '"none"'),
        (
            "SubmitLabel",
            pb.SubmitLabelRequest(dataset="none", sha256="0" * 64, label=pb.Label(class_name="a")),
            "NOT_FOUND",
            "make it first",
        ),
        (
            "SubmitLabel",
            pb.SubmitLabelRequest(dataset="none", sha256="0" * 64),
            "INVALID_ARGUMENT",
            "label is empty",
        ),
        (
            "SubmitLabel",
            pb.SubmitLabelRequest(
                dataset="none", label=pb.Label(class_name="a"), author_kind=17, sha256="0" * 64
            ),
            "INVALID_ARGUMENT",
            "author_kind",
        ),
        ("GetHistory", pb.GetHistoryRequest(dataset="x", sha256="1"), "NOT_FOUND", '"x"'),
    ],
)
def test_mistakes_get_a_code_and_words(
    server: LabelingServer, call: str, request_message, code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(server.stub, call)(request_message)
    assert caught.value.code().name == code
    assert words in caught.value.details()


def test_an_empty_dataset_has_no_snapshot(server: LabelingServer, dataset: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=dataset))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "label some images first" in caught.value.details()


def test_a_thousand_idle_connections_lock_nobody_out(server: LabelingServer) -> None:
    before = descriptors(server.process.pid)
    with idle_callers(server.http_address, 1200) as idle:
        for _ in range(3):
            assert server.get("/healthz")[0] == 200
        assert descriptors(server.process.pid) < before + 1100
        assert idle[0].recv(1) == b""  # the first ones made room
        idle[-1].sendall(b"\r\n\r\n")  # and the last ones are still there
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200 OK")


def test_health_and_reflection(server: LabelingServer) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    listed = next(reflection.ServerReflectionInfo(iter([request]))).list_services_response
    assert SERVICE in {service.name for service in listed.service}


def test_metrics_tell_what_was_done(server: LabelingServer, dataset: str) -> None:
    waiting = f'visionloop_dataset_images{{dataset="{dataset}",split="unassigned"}}'
    server.submit([row(dataset, 0, label=None)])
    # On a busy machine counting may take long enough to be left alone for a while.
    server.wait(lambda: f"{waiting} 1.0" in server.get("/metrics")[1])
    server.submit([row(dataset, 1, image=b"x"), row(dataset, 2, image=noise(0))])
    server.wait(lambda: f"{waiting} 0.0" in server.get("/metrics")[1])
    text = server.get("/metrics")[1]
    for counted in (
        'visionloop_ingest_images_total{outcome="accepted",way="grpc"}',
        'visionloop_ingest_images_total{outcome="duplicate",way="grpc"}',
        'visionloop_ingest_images_total{outcome="rejected",way="grpc"}',
        'visionloop_duplicates_total{kind="exact"}',
        'visionloop_label_events_total{author_kind="import",kind="label"}',
    ):
        assert float(text.split(f"\n{counted} ")[1].split("\n")[0]) >= 1
    for line in (
        "visionloop_ingest_rejected_total{reason=",
        "visionloop_ingest_seconds_count",
        'visionloop_reconciler_changes_total{kind="missing"} 0.0',  # rare events begin at zero
        'visionloop_background_runs_total{loop="feedback",outcome="failed"} 0.0',
        f'visionloop_dataset_images{{dataset="{dataset}",split="train"}} 1.0',
        "grpc_server_handled_total",
    ):
        assert line in text


def test_the_start_page_shows_datasets_and_escapes_them(
    server: LabelingServer, dataset: str
) -> None:
    server.submit([row(dataset, 0, "<script>alert(1)</script>")])
    status, page = server.get("/")
    assert status == 200
    assert dataset in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.s3
def test_a_store_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, s3_server: S3Server, s3_url: str
) -> None:
    """A thread that waits for an answer cannot be ended, and waits longer than a pod's grace."""
    with faulty_proxy(s3_server.endpoint) as proxy:
        flags, environment = ("--drain-seconds=1",), {"AWS_ENDPOINT_URL": proxy.url}
        with running_labeling(tmp_path, *flags, store=s3_url, **environment) as server:
            proxy.faults = [Fault("*", "hang", ALWAYS)]
            asked = len(proxy.requests)
            server.wait(lambda: len(proxy.requests) > asked)  # by the feedback inbox
            assert server.terminate() == 0
            assert "left behind" in server.log.read_text()


def test_drain_answers_what_was_read_and_exits_0(tmp_path: Path) -> None:
    """SIGTERM while a client is sending: each row read is answered, the rest may be sent again.

    A client that sends nothing more, and keeps its stream open, does not hold it up.
    """
    with running_labeling(tmp_path) as server:
        assert json.loads(server.get("/readyz")[1]) == {"status": "ready"}
        server.create_dataset("d")
        sent: list[int] = []
        hold = threading.Event()

        def idle() -> Iterator[pb.SubmitImageRequest]:
            yield row("d", 0, batch="idle")
            hold.wait(60)

        waiting = server.stub.SubmitImages(idle(), timeout=60)
        next(waiting)

        def endless() -> Iterator[pb.SubmitImageRequest]:
            while True:
                sent.append(len(sent))
                yield row("d", sent[-1], image=noise(sent[-1] % 200), label=str(sent[-1] % 3))

        call = server.stub.SubmitImages(endless(), timeout=60)
        receipts = [next(call) for _ in range(5)]
        terminated = threading.Thread(target=server.terminate)
        terminated.start()
        with pytest.raises(grpc.RpcError) as caught:
            receipts.extend(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as ended:
            next(waiting)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        hold.set()
        assert [receipt.ordinal for receipt in receipts] == list(range(len(receipts)))
        terminated.join()
        assert server.process.returncode == 0
        assert "left behind" not in server.log.read_text()
    with running_labeling(tmp_path) as server:
        again = server.submit(
            row("d", n, image=noise(n % 200), label=str(n % 3)) for n in range(len(receipts))
        )
        assert all(receipt.replayed for receipt in again)
        assert [r.sha256 for r in again] == [r.sha256 for r in receipts]
        exported = list(server.stub.ExportLabels(pb.ExportLabelsRequest(dataset="d")))
        assert len(exported) <= len(receipts)


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "visionloop_labeling", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_bad_start_is_one_line_and_exit_code_64() -> None:
    done = run("--database=sqlite:///l.db")
    assert done.returncode == 64
    assert "--store" in done.stderr
    assert done.stderr.startswith("visionloop-labeling: ")
    assert done.stderr.count("\n") == 1


def test_an_unreachable_postgres_says_so(tmp_path: Path) -> None:
    done = run(
        f"--store=file://{tmp_path}/s", "--database=postgresql://me:secret@127.0.0.1:1/labels"
    )
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    assert "cannot be used" in done.stderr
    assert "secret" not in done.stderr


def test_a_second_program_on_the_same_sqlite_file_is_refused(server: LabelingServer) -> None:
    done = run(
        f"--store={server.store}", f"--database={server.database}", "--http-port=0",
        "--grpc-port=0",
    )  # fmt: skip
    assert done.returncode == 64
    assert f"in use by process {server.process.pid}" in done.stderr
    assert server.get("/readyz")[0] == 200


def test_a_taken_port_is_named(server: LabelingServer, tmp_path: Path) -> None:
    port = server.http_address.rpartition(":")[2]
    done = run(
        f"--store=file://{tmp_path}/s", f"--database=sqlite:///{tmp_path}/l.db",
        f"--http-port={port}", "--grpc-port=0",
    )  # fmt: skip
    assert done.returncode == 64
    assert port in done.stderr


def test_flags_come_from_the_environment_too(server: LabelingServer, dataset: str) -> None:
    large = row(dataset, 0, image=b"x" * (MAX_IMAGE_BYTES + 1))
    assert server.submit([large])[0].reason == "too_many_bytes"


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    """As in a cluster whose pods have no other addresses."""
    with running_labeling(tmp_path, "--host=::1", "--probe-port=0") as running:
        assert running.grpc_address.startswith("[::1]:")
        health = health_pb2_grpc.HealthStub(running.channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        assert running.get("/healthz")[0] == 200
